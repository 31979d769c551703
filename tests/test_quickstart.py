"""The quickstart's parts, small; the whole of it is `make quickstart`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from openrlhf_lamer.agents import Agent
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.evaluation.statistics import success
from openrlhf_lamer.metrics import summarize
from openrlhf_lamer.quickstart.memory import PeakMemory
from openrlhf_lamer.quickstart.report import Measurements, write_report
from openrlhf_lamer.quickstart.settings import Settings
from openrlhf_lamer.records import Trial
from openrlhf_lamer.tasks import seeded_tasks
from openrlhf_lamer.warmstart.players.minesweeper import FalliblePlayer

pytest.importorskip("torch")

from openrlhf_lamer.warmstart.demonstrations import Rules, demonstrate
from openrlhf_lamer.warmstart.imitation import Imitation, imitate
from openrlhf_lamer.warmstart.model import build_model, build_tokenizer


@pytest.fixture(scope="module")
def trials(chat: Chat, minesweeper: Agent) -> list[Trial]:
    config = LamerConfig(context="episode", env_options={"size": 4, "mines": 2})
    return demonstrate(
        seeded_tasks("minesweeper", "train", 60, options=config.env_options),
        Rules(minesweeper, config, 200, 9000),
        chat,
        lambda seed: FalliblePlayer(chat, seed, minesweeper, config),
    )


def test_the_player_errs_and_remarks_on_it(trials: list[Trial]) -> None:
    found = summarize(trials, 3, 0.6)
    assert 0.05 < found["success@1"] < 0.5
    assert found["success@3"] > found["success@1"]
    assert found["invalid_actions"] == 0
    assert found["reflection_valid"] == 1
    lost = [trial for trial in trials if len(trial.episodes) > 1]
    for trial in lost:
        episode = trial.episodes[0]
        if "*" in episode.final_observation:
            assert episode.remark == f"Mine: {episode.turns[-1].action}."


def test_a_player_that_recalls_every_time_hits_no_mine_twice(chat: Chat, minesweeper: Agent) -> None:
    config = LamerConfig(context="episode", env_options={"size": 3, "mines": 2})
    tasks = seeded_tasks("minesweeper", "train", 60, options=config.env_options)
    shares: dict[float, float] = {}
    for recall in (0.0, 1.0):
        trials = demonstrate(
            tasks,
            Rules(minesweeper, config, 200, 9000),
            chat,
            lambda seed, recall=recall: FalliblePlayer(chat, seed, minesweeper, config, recall=recall),
        )
        hit = [[e.turns[-1].action for e in trial.episodes if "*" in e.final_observation] for trial in trials]
        shares[recall] = sum(len(set(mines)) < len(mines) for mines in hit) / len(hit)
    assert shares[1.0] == 0.0
    assert shares[0.0] > 0.2


def test_imitation_lowers_the_loss(trials: list[Trial], chat: Chat) -> None:
    model = build_model(chat.tokenizer, hidden=32, layers=1, heads=2, max_length=9000, seed=0)
    losses: list[float] = []
    imitate(
        model,
        trials[:10],
        Imitation(batch_tokens=1024, learning_rate=5e-3),
        lambda done, loss: losses.append(loss),
    )
    assert losses[-1] < losses[0] - 0.3


def test_cells_and_tags_are_one_token_each() -> None:
    tokenizer: Any = build_tokenizer(["Row 1: ? . 1 2 *", "Not (1, 2). <action>(1, 2)</action>"] * 10, 300, 64)
    assert tokenizer.tokenize(" ? . 1 2 *") == ["Ġ?", "Ġ.", "Ġ1", "Ġ2", "Ġ*"]
    text = "Not (1, 2). <action>(1, 2)</action>"
    assert tokenizer.tokenize(text) == ["Not", "Ġ", "(1,Ġ2)", ".", "Ġ<action>", "(1,Ġ2)", "</action>"]
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_the_report_says_what_was_measured(tmp_path: Path, trials: list[Trial]) -> None:
    """After is before with 20 more tasks won."""
    before = trials[:60]
    winner = next(trial for trial in trials if trial.won)
    lost = [trial.task for trial in before if not trial.won][:20]
    after = [replace(winner, task=trial.task) if trial.task in lost else trial for trial in before]
    with (tmp_path / "trials.jsonl").open("w") as file:
        for step, own in ((1, trials[:20]), (2, trials[20:40])):
            for trial in own:
                file.write(f'{trial.to_json()[:-1]},"step":{step},"group":0}}\n')
    measured = Measurements(Settings(), before, after, {"training": 60.0}, 90.0, 3 * 2**30)
    report = write_report(tmp_path, measured)
    page = (tmp_path / "report.md").read_text()
    for name, panel in (("before", before), ("after", after)):
        assert f"| {name} | 60 tasks | success | {' | '.join(str(success(panel, k)) for k in (1, 2, 3))} |" in page
    assert measured.verdict.endswith("] points: a gain.")
    assert measured.verdict in page
    assert "Peak memory of all processes: 3.0 GiB" in page
    assert "</html>" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "learning-curve.png").read_bytes().startswith(b"\x89PNG")
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["success"]["success@3"]["after"][0] == success(after, 3).value
    assert results["steps"] == 2
    (training,) = [table for table in report.tables if table.name == "training"]
    assert training.rows[0][2] == success(trials[:20], 1)


def test_no_gain_is_called_no_gain(trials: list[Trial]) -> None:
    measured = Measurements(Settings(), trials, trials, {}, 1.0, 1)
    assert "no gain is shown" in measured.verdict


def test_memory_is_measured() -> None:
    pytest.importorskip("psutil")
    import time

    with PeakMemory(interval=0.01) as memory:
        time.sleep(0.3)
    assert memory.peak > 10 * 2**20
