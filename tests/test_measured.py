"""Results say exactly what they are: their panel, their unit, and what later attempts prove."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from typer.testing import CliRunner

from openrlhf_lamer import panels
from openrlhf_lamer.agents import load_agent
from openrlhf_lamer.cli.main import app
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.evaluation.measured import described, measured_on, on
from openrlhf_lamer.evaluation.outcomes import Outcome, Run
from openrlhf_lamer.evaluation.reflections import analyse
from openrlhf_lamer.evaluation.report import build
from openrlhf_lamer.policies.scripted import RandomPolicy
from openrlhf_lamer.records import Episode, Phase, Stop, Task, Trial, Turn
from openrlhf_lamer.text_chat import TextChat
from openrlhf_lamer.trial import run_trial

DOORS = panels.load("doors/4").tasks()


def random_trials(tasks: Sequence[Task], episodes: int, samples: int = 1) -> list[Trial]:
    """Trials of a player without a tokenizer and without a memory that it reads."""
    chat, agent = TextChat(), load_agent("openrlhf_lamer.agents.doors")[0]
    policy, config = RandomPolicy(chat), LamerConfig(num_episodes=episodes)

    async def play(task: Task, sample: int) -> Trial:
        return await run_trial(task, agent, policy, chat, config, sample=sample, max_new_tokens=10**6, max_length=10**7)

    return [asyncio.run(play(task, sample)) for task in tasks for sample in range(samples)]


def toy(seed: int, tokens: int, won: bool = True) -> Trial:
    """A trial of a player with a tokenizer."""
    turn = Turn(Phase.PLAY, 0, 0, (1,) * 10, (2,) * tokens, None, "", "a", True, 0.0, "s", "")
    return Trial(Task("toy", seed=seed), (Episode((turn,), Stop.WON if won else Stop.LOST, ""),))


class TestNames:
    def test_a_panel_is_called_by_its_name_its_version_and_how_much_of_it_was_played(self) -> None:
        said = {"panel": {"name": "doors/4", "version": 1, "hash": "x"}}
        assert measured_on(said, DOORS) == "doors/4"
        assert measured_on(said, DOORS[:5] * 3) == "doors/4, 5 of its 256 tasks"
        sokoban = {"panel": {"name": "sokoban/3-boxes", "version": 2}}
        assert measured_on(sokoban, panels.load("sokoban/3-boxes").tasks()) == "sokoban/3-boxes, version 2"

    def test_a_training_names_no_panel_but_plays_the_tasks_of_one(self) -> None:
        assert measured_on({}, DOORS) == "doors/4"
        assert measured_on({}, DOORS[1:]) == "doors (doors=4, lamp=False), split eval"

    def test_other_tasks_are_called_by_what_they_share(self) -> None:
        own = [Task("toy", seed=n, options={"size": 3, "mines": n}, split="train") for n in range(2)]
        assert described(own) == "toy (size=3), split train"
        assert described([*own, replace(own[0], split="eval"), Task("game", seed=0)]) == "game and toy (size=3)"
        named = {"panel": {"name": "my.jsonl", "hash": "x"}}
        assert measured_on(named, own) == "my.jsonl: toy (size=3), split train"

    def test_several_results_are_named_together_where_they_are_of_one_panel(self) -> None:
        assert on([("a", "x"), ("b", "x")]) == "Measured on x."
        assert on([("a", "x"), ("b", "y"), ("c", "x")]) == "Measured on x (a, c) and y (b)."


class TestReport:
    def test_every_table_names_the_panel(self) -> None:
        trials = random_trials(DOORS, 2, 2)
        training = [Outcome.of(trial, step, 0) for step, trial in enumerate(trials[:6])]
        report = build([Run.of("a", trials), Run.of("b", trials), Run("c", tuple(training))])
        tables = {table.name: table for table in report.tables}
        assert set(tables) == {"success", "comparison", "pass", "diversity", "training", "trials"}
        assert [row[1] for row in tables.pop("success").rows] == ["doors/4", "doors/4"]
        for name in ("comparison", "pass", "diversity"):
            assert tables[name].note.startswith("Measured on doors/4. ")
        assert tables["training"].note.startswith("Measured on doors (doors=4, lamp=False), split eval. ")
        assert tables["trials"].note.startswith(
            "Measured on doors/4 (a, b) and doors (doors=4, lamp=False), split eval (c). "
        )

    def test_characters_are_not_called_tokens(self) -> None:
        scripted = random_trials(DOORS[:6], 2)
        report = build([Run.of("script", scripted), Run.of("model", [toy(n, 5 + n) for n in range(4)])])
        table = report.tables[-1]
        rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
        lengths = [sum(len(turn.text) + 1 for each in trial.episodes for turn in each.turns) for trial in scripted]
        assert [(row["counted in"], row["reply"]) for row in rows] == [("characters", fmean(lengths)), ("tokens", 6.5)]
        assert "token" not in table.title
        assert "has its characters counted" in table.note
        assert "characters" not in build([Run.of("model", [toy(0, 5)])]).tables[-1].note

    def test_later_attempts_are_no_evidence_without_a_player_without_memory(self) -> None:
        sequential, single = random_trials(DOORS, 3), random_trials(DOORS, 1, 3)
        # This player reads no memory, and its later attempts win all the same.
        first, third = (fmean(trial.won_by(k) for trial in sequential) for k in (1, 3))
        assert third > first + 0.2
        warning = "no evidence of learning to explore"
        assert warning in build([Run.of("memory", sequential)]).tables[0].note
        both = build([Run.of("memory", sequential), Run.of("none", single)]).tables[0].note
        assert warning not in both
        assert "compare success@k with pass@k of the players without one" in both
        elsewhere = Run.of("none", random_trials(DOORS[:9], 1, 3))
        assert warning in build([Run.of("memory", sequential), elsewhere]).tables[0].note
        assert "attempts win more" not in build([Run.of("none", single)]).tables[0].note

    def test_the_title_of_the_page_and_the_viewer_name_the_panel(self, tmp_path: Path) -> None:
        (tmp_path / "trials.jsonl").write_text("".join(f"{each.to_json()}\n" for each in random_trials(DOORS[:3], 2)))
        settings: dict[str, Any] = {"method": "lamer", "player": "script", "panel": {"name": "doors/4", "version": 1}}
        (tmp_path / "run.json").write_text(json.dumps({"schema": 1, "settings": settings, "trials": 3}))
        for command in (["report", str(tmp_path), "--out"], ["view", str(tmp_path), "--out"]):
            result = CliRunner().invoke(app, [*command, str(tmp_path / "page.html")])
            assert result.exit_code == 0, result.output
            html = (tmp_path / "page.html").read_text()
            assert "doors/4, 3 of its 256 tasks" in html
            if command[0] == "report":
                assert "<h1>lamer on doors/4, 3 of its 256 tasks</h1>" in html


@pytest.mark.parametrize("unit", ["tokens", "characters"])
def test_reflections_are_measured_in_their_own_unit(unit: str) -> None:
    trials = random_trials(DOORS[:8], 3)
    reflections = [each.reflection for trial in trials for each in trial.episodes if each.reflection]
    assert reflections
    if unit == "tokens":
        trials = [replace(trial, episodes=tuple(map(as_tokens, trial.episodes))) for trial in trials]
    figures = analyse(trials).figures
    other = "characters" if unit == "tokens" else "tokens"
    assert figures[other].cases == 0
    assert figures[unit].cases == len(reflections)
    lengths = {len(each.sampled_ids) for each in reflections}
    assert {figures[unit].estimate.value} == lengths  # the script always says the same
    assert figures[unit].estimate.unit == unit


def as_tokens(episode: Episode) -> Episode:
    """The episode with prompts that a tokenizer made."""

    def plain(turn: Turn) -> Turn:
        return replace(turn, prompt_ids=(1, 2))

    reflection = episode.reflection and plain(episode.reflection)
    return replace(episode, turns=tuple(map(plain, episode.turns)), reflection=reflection)
