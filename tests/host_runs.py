"""Runs of the real host for `test_e2e.py`: their command lines, processes and results, and checks that hold of each."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import psutil
import pytest

from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.estimate.work import Batch, optimizer_steps
from openrlhf_lamer.integration.rollout.task_stream import trial_seed
from openrlhf_lamer.records import Phase, Trial
from openrlhf_lamer.rows import trial_rows
from openrlhf_lamer.tasks import seeded_tasks, write_dataset

OPTIONS = {"size": 3, "mines": 1}
ACTIVATED = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
"""The environment as after activating the virtual one: `python` is this interpreter."""

SEED = 7
"""The seed of all runs. It sets the order of tasks, and in some orders the learning rate breaks so small a model: its
replies may then differ between engine and trainer for other reasons than weights that were not sent."""

LIMIT = 900
"""Seconds that one run may take, beside another one: a failure of the host can be a hang."""

FOLDER = "LAMER_TEST_FOLDER"
"""Variable in the environment of a run's processes with the run's folder, to tell them from another run's."""


@dataclass(frozen=True)
class Run:
    """A finished run: its log, its folder, its steps' status and its trials."""

    folder: Path
    log: str

    @property
    def steps(self) -> list[dict[str, float]]:
        found = re.findall(r"Global step \d+: (\{.*?\})\s*$", self.log, re.MULTILINE)
        return [
            eval(status, {"nan": math.nan, "inf": math.inf}) for status in found
        ]  # a dict of floats as Python prints it

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "trials.jsonl").read_text().splitlines()]

    def trials(self, step: int, file: str = "trials.jsonl") -> list[Trial]:
        lines = (self.folder / file).read_text().splitlines()
        return [Trial.from_json(line) for line in lines if json.loads(line)["step"] == step]


def arguments(workshop: Path, folder: Path, env: str, *more: str) -> list[str]:
    return [
        *("--actor.model_name_or_path", str(workshop / "model")),
        *("--data.prompt_dataset", str(workshop / env)),
        *("--rollout.batch_size", "4", "--rollout.n_samples_per_prompt", "4", "--rollout.micro_batch_size", "4"),
        *("--train.batch_size", "16", "--train.micro_batch_size", "4", "--rollout.max_new_tokens", "48"),
        *("--data.max_len", "2048", "--algo.advantage.is_correction_level", "token", "--actor.adam.lr", "1e-3"),
        *("--train.seed", str(SEED), "--ckpt.output_dir", str(folder / "out"), "--ckpt.path", str(folder / "ckpt")),
        *("--lamer.trials", str(folder / "trials.jsonl")),
        *more,
    ]


def start(command: Sequence[str], folder: Path, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **(env or {}), FOLDER: str(folder)},
        )


def processes(folder: Path) -> list[psutil.Process]:
    """Processes of the runs in a folder, Ray's included; not those of other runs on this machine."""
    found: set[psutil.Process] = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(FOLDER) == str(folder):
                # Children too: Ray's workers overwrite their environment with their titles.
                found |= {process, *process.children(recursive=True)}
    return list(found)


def stop(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Kill a run with all its processes, Ray's included."""
    for each in processes(folder):
        with contextlib.suppress(psutil.Error):
            each.kill()
    process.wait()


def finish(process: subprocess.Popen[bytes], folder: Path) -> Run:
    try:
        code = process.wait(LIMIT)
    finally:
        stop(process, folder)
    log = (folder / "log").read_text(errors="replace")
    assert code == 0, log[-6000:]
    return Run(folder, log)


def check(
    run: Run,
    steps: int | None,
    *,
    config: LamerConfig,
    env: str | None,
    trials: int | None = 16,
    frozen: int = 0,
    epochs: int = 1,
    engine_kl: float | None = 1e-2,
) -> None:
    """Check what holds for every run: sound weights in the engine, nothing lost, nothing doubled, true metrics.

    `steps` and `trials` are None where the run itself decides on them, `env` where trials are of several games. In the
    first `frozen` steps only the critic learns. `engine_kl` is how far engine and trainer may differ, None where it
    isn't logged.
    """
    assert len(run.steps) == steps if steps else run.steps
    numbers = [record["step"] for record in run.records]
    first = min(numbers)
    for number, status in enumerate(run.steps, start=first):
        own = run.trials(number)
        assert len(own) == trials if trials else own and len(own) % 4 == 0
        assert all(trial.failure is None for trial in own)
        rows = [row for trial in own for row in trial_rows(trial, train_reflection=config.train_reflection)]
        trained = [u for trial in own for u in trial.turns if config.train_reflection or u.phase is Phase.PLAY]
        assert status["lamer/rows"] == len(rows)
        for name in {trial.task.env for trial in own} if env is None else {env}:
            played = [trial for trial in own if trial.task.env == name]
            most = max(len(trial.episodes) for trial in played) if config.turn_budget else config.num_episodes
            for k in range(1, most + 1):
                assert status[f"lamer/{name}/success@{k}"] == pytest.approx(fmean(trial.won_by(k) for trial in played))
        if number - first < frozen:
            assert "lamer/rows_trained" not in status
            continue
        if engine_kl is not None:
            assert math.isfinite(status["vllm_kl"])
            if number > first:
                assert abs(status["vllm_kl"]) < engine_kl  # a broken weight sync leaves with code 0
        assert math.isfinite(status["policy_loss"])
        assert status["actor_grad_norm"] > 0
        assert status["lamer/rows_trained"] == epochs * len(rows)
        assert status["lamer/tokens_trained"] == epochs * sum(len(turn.sampled_ids) for turn in trained)
        assert sum(len(turn.sampled_ids) for turn in trained) == sum(row.sampled for row in rows)
        updates = optimizer_steps(len(rows), Batch(4, 4, 16, config.updates))  # as `estimate` tells them
        assert status["lamer/optimizer_steps"] == epochs * updates
        assert status["lamer/tokens_in_rows"] == sum(len(row.ids) for row in rows)
        # Random states differ soon, but all prompts of a game begin alike.
        assert status["lamer/tokens_processed"] < status["lamer/tokens_in_rows"]
    for record in run.records:
        if "advantages" in record:
            turns = sum(len(e["turns"]) + (e["reflection"] is not None) for e in record["episodes"])
            assert len(record["advantages"]) == len(record["returns"]) == turns
            assert all(math.isfinite(value) for value in record["advantages"])


def check_evaluations(run: Run, steps: Sequence[int], episodes: int) -> None:
    """Check `evaluations.jsonl`: at each of these steps, a trial of each of the 6 tasks, of up to `episodes`."""
    lines = (run.folder / "evaluations.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [step for step in steps for _ in range(6)]
    for step in steps:
        trials = run.trials(step, "evaluations.jsonl")
        assert len({trial.task.id for trial in trials}) == 6
        assert all(trial.failure is None and trial.task.split == "eval" for trial in trials)
        assert max(len(trial.episodes) for trial in trials) == episodes


def seeds(numbers: range) -> list[int]:
    """Seeds of the trials of the prompts with these numbers."""
    return [trial_seed(SEED, "train", number, sample) for number in numbers for sample in range(4)]


def kill_engine(folder: Path) -> int:
    """Kill the only rollout engine of the run in a folder, as the kernel does when memory is short; its process id."""
    (engine,) = (each for each in processes(folder) if "ray::LamerRolloutActor" in " ".join(each.cmdline()))
    engine.kill()
    return engine.pid


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def logged_to(folder: Path) -> set[str]:
    """Names of all figures that were logged to TensorBoard, and of all texts."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: set[str] = set()
    for file in folder.rglob("events.out.*"):
        events = EventAccumulator(str(file))
        events.Reload()
        found |= {*events.Tags()["scalars"], *events.Tags()["tensors"]}
    return found


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model that speaks the format of both games, and prompt datasets."""
    from openrlhf_lamer.agents import load_agent
    from openrlhf_lamer.chat import Chat
    from openrlhf_lamer.policies.scripted import RandomPolicy
    from openrlhf_lamer.warmstart.demonstrations import Rules, demonstrate
    from openrlhf_lamer.warmstart.imitation import Imitation, imitate
    from openrlhf_lamer.warmstart.model import build_model, build_tokenizer, save

    folder = tmp_path_factory.mktemp("e2e")
    agents = {name: load_agent(f"openrlhf_lamer.agents.{name}")[0] for name in ("minesweeper", "sokoban")}
    options = {"minesweeper": OPTIONS, "sokoban": {}}

    def shown(chat: Chat, number: int) -> dict[str, list[Trial]]:
        return {
            name: demonstrate(
                seeded_tasks(name, "train", number, first=1000, options=options[name]),
                Rules(agent, LamerConfig(context="turn", max_turns=2, num_episodes=2), 400, 1 << 20),
                chat,
                lambda seed: RandomPolicy(chat, seed),
            )
            for name, agent in agents.items()
        }

    crude = Chat(build_tokenizer(["x"], 300, 1 << 20))
    corpus = [crude.decode(u.ids) for own in shown(crude, 10).values() for t in own for u in t.turns]
    chat = Chat(build_tokenizer(corpus, 768, 2048))
    model = build_model(chat.tokenizer, hidden=64, layers=2, heads=2, max_length=2048, seed=0)
    trials = [trial for own in shown(chat, 100).values() for trial in own]
    loss = imitate(model, trials, Imitation(passes=3, learning_rate=5e-3, prompt_weight=3))
    assert loss < 1.5
    save(model, chat.tokenizer, folder / "model")
    for name in agents:
        write_dataset(folder / name / "train.jsonl", seeded_tasks(name, "train", 16, options=options[name]))
        write_dataset(folder / name / "eval.jsonl", seeded_tasks(name, "eval", 6, options=options[name]))
    return folder
