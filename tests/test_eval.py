"""Evaluation runs: their slots stay full, they can be resumed, and concurrency changes no result."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from openrlhf_lamer import __version__
from openrlhf_lamer.agents import Agent
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.evaluation.players import Player, Sampling, playing, scripted
from openrlhf_lamer.evaluation.run import (
    Job,
    RunError,
    RunStoppedError,
    make_jobs,
    read_settings,
    read_trials,
    run,
)
from openrlhf_lamer.policies import EngineGoneError, Generation, Request
from openrlhf_lamer.policies.scripted import RandomPolicy
from openrlhf_lamer.records import Episode, Failure, FailureKind, Stop, Task, Trial
from openrlhf_lamer.tasks import seeded_tasks
from openrlhf_lamer.text_chat import TextChat

TASKS = [Task("toy", seed=seed) for seed in range(5)]
JOBS = make_jobs(TASKS, 2)
SETTINGS = {"model": "a", "sampling": {"temperature": 0.7}}


class Recorder:
    """Only records the jobs that it plays; fails where it is told to."""

    def __init__(self, failures: dict[int, Exception | FailureKind] | None = None) -> None:
        self.played: list[Job] = []
        self.failures = failures or {}
        self.live = self.most = 0

    async def __call__(self, job: Job) -> Trial:
        number = len(self.played)
        self.played.append(job)
        self.live += 1
        self.most = max(self.most, self.live)
        try:
            await asyncio.sleep(0.001 * (number % 3))
        finally:
            self.live -= 1
        wrong = self.failures.get(number)
        if isinstance(wrong, Exception):
            raise wrong
        failure = None if wrong is None else Failure(wrong, "generate", "no")
        return Trial(job.task, (Episode((), Stop.LOST, ""),), failure, sample=job.sample)


def play(folder: Path, player: Recorder, jobs: list[Job] = JOBS, **more: Any) -> list[Trial]:
    return asyncio.run(run(jobs, player, folder, more.pop("settings", SETTINGS), **more))


def keys(trials: list[Trial]) -> list[tuple[str, int]]:
    return [(trial.task.id, trial.sample) for trial in trials]


@pytest.mark.parametrize("concurrency", [1, 3, 64])
def test_every_job_is_played_once_and_comes_back_in_order(tmp_path: Path, concurrency: int) -> None:
    player, reported = Recorder(), []
    trials = play(tmp_path / "run", player, concurrency=concurrency, report=reported.append)
    assert keys(trials) == [job.key for job in JOBS]
    assert sorted(keys(reported)) == sorted(keys(trials))
    assert player.played == JOBS
    assert player.most == min(concurrency, len(JOBS))
    assert sorted(keys(read_trials(tmp_path / "run"))) == sorted(keys(trials))
    assert read_settings(tmp_path / "run")[0] == {"version": __version__, **SETTINGS}


def test_a_finished_run_plays_nothing_and_a_larger_one_the_rest(tmp_path: Path) -> None:
    play(tmp_path, Recorder(), make_jobs(TASKS, 1))
    again, reported = Recorder(), []
    assert keys(play(tmp_path, again, make_jobs(TASKS, 1), report=reported.append)) == keys(reported)
    assert again.played == []
    larger = Recorder()
    assert len(play(tmp_path, larger)) == 10
    assert [job.sample for job in larger.played] == [1] * 5


def test_a_half_written_line_is_played_again_and_nothing_else(tmp_path: Path) -> None:
    play(tmp_path, Recorder())
    path = tmp_path / "trials.jsonl"
    whole = path.read_bytes()
    for cut in (1, 40):
        path.write_bytes(whole[:-cut])
        again = Recorder()
        play(tmp_path, again)
        assert [job.key for job in again.played] == keys([Trial.from_json(whole.decode().splitlines()[-1])])
        assert sorted(path.read_text().splitlines()) == sorted(whole.decode().splitlines())


def test_what_failed_for_want_of_an_engine_is_played_again(tmp_path: Path) -> None:
    kinds = {0: FailureKind.ENGINE, 3: FailureKind.ENGINE_TIMEOUT, 5: FailureKind.ENVIRONMENT, 6: FailureKind.PROMPT}
    first = Recorder(dict(kinds))
    trials = play(tmp_path, first, concurrency=1)
    assert {number for number, trial in enumerate(trials) if trial.failure} == set(kinds)
    again = Recorder()
    trials = play(tmp_path, again)
    assert again.played == [JOBS[0], JOBS[3]]
    assert [number for number, trial in enumerate(trials) if trial.failure] == [5, 6]
    assert sorted(keys(read_trials(tmp_path))) == sorted(job.key for job in JOBS)


def test_an_engine_that_is_gone_stops_the_run_without_a_trace_in_the_trials(tmp_path: Path) -> None:
    with pytest.raises(RunStoppedError, match=r"no answer from x\. 4 of 10 trials .* run the same command again"):
        play(tmp_path, Recorder({4: EngineGoneError("no answer from x")}), concurrency=1)
    assert keys(read_trials(tmp_path)) == [job.key for job in JOBS[:4]]
    again = Recorder()
    assert keys(play(tmp_path, again)) == [job.key for job in JOBS]
    assert again.played == JOBS[4:]


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    play(tmp_path, Recorder())
    other = {"model": "b", "sampling": {"temperature": 0.2}}
    with pytest.raises(RunError) as refused:
        play(tmp_path, Recorder(), settings=other)
    for text in ('model is "a" there and "b" here', "sampling.temperature is 0.7 there and 0.2 here", "another folder"):
        assert text in str(refused.value)
    body = json.loads((tmp_path / "run.json").read_text())
    body["settings"]["version"] = "0.0.1"
    (tmp_path / "run.json").write_text(json.dumps(body))
    with pytest.raises(RunError, match=r'version is "0.0.1" there'):
        play(tmp_path, Recorder())


def test_folders_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(RunError, match="cannot be made a folder"):
        play(file, Recorder())
    (tmp_path / "trials.jsonl").write_text("")
    with pytest.raises(RunError, match=r"no run\.json"):
        play(tmp_path, Recorder())
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(RunError, match="describes no run"):
        play(tmp_path, Recorder())
    with pytest.raises(RunError, match=r"no trials\.jsonl there"):
        read_trials(tmp_path / "none")
    with pytest.raises(RunError, match="more than once"):
        play(tmp_path / "new", Recorder(), JOBS + JOBS[:1])


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    play(tmp_path, Recorder())
    path = tmp_path / "trials.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], lines[1][:30] + "\n", *lines[2:]]))
    with pytest.raises(RunError, match=r"trials\.jsonl, line 2: .*remove that line"):
        play(tmp_path, Recorder())


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    async def meanwhile(job: Job) -> Trial:
        with pytest.raises(RunError, match="in use by another run"):
            await run(JOBS, Recorder(), tmp_path, SETTINGS)
        return await Recorder()(job)

    assert len(asyncio.run(run(JOBS[:1], meanwhile, tmp_path, SETTINGS))) == 1


def test_replies_depend_on_seed_task_and_sample_alone(tmp_path: Path, minesweeper: Agent) -> None:
    jobs = make_jobs([Task("minesweeper", seed=seed) for seed in range(4)], 3)
    actions: dict[Any, list[Any]] = {}
    for name, order, concurrency, seed in (("a", 1, 1, 0), ("b", -1, 12, 0), ("c", 1, 4, 1)):
        play_job = playing(scripted("random"), minesweeper, LamerConfig(), Sampling(), seed)
        trials = asyncio.run(run(jobs[::order], play_job, tmp_path / name, {}, concurrency=concurrency))[::order]
        actions[name] = [[turn.action for turn in trial.turns] for trial in trials]
    assert actions["a"] == actions["b"] != actions["c"]
    assert len({str(each) for each in actions["a"]}) == len(jobs)


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    modules = "cli.eval", "evaluation.run", "evaluation.players", "evaluation.methods", "policies.endpoint"
    code = (
        "import importlib, sys\n"
        f"for name in {modules}: importlib.import_module(f'openrlhf_lamer.{{name}}')\n"
        "print(sorted({'torch', 'ray', 'vllm', 'transformers', 'httpx', 'scipy', 'matplotlib'} & set(sys.modules)))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_evaluation_keeps_its_slots_busy(tmp_path: Path, minesweeper: Agent) -> None:
    """Until the last trial is begun no slot is idle, with an engine that answers every request after 20 ms."""

    class Slow(RandomPolicy):
        async def generate(self, request: Request) -> Generation:
            began = time.perf_counter()
            await asyncio.sleep(0.02)
            asked.append((began, time.perf_counter()))
            return await super().generate(request)

    asked: list[tuple[float, float]] = []
    spans: list[tuple[float, float]] = []
    chat, slots = TextChat(), 8
    plays = playing(Player(Slow(chat), chat, scripted=True), minesweeper, LamerConfig(), Sampling())

    async def timed(job: Job) -> Trial:
        began = time.perf_counter()
        trial = await plays(job)
        spans.append((began, time.perf_counter()))
        return trial

    def share(spans: list[tuple[float, float]], end: float) -> float:
        return sum(max(0.0, min(end, last) - first) for first, last in spans) / (slots * (end - began))

    began = time.perf_counter()
    asyncio.run(run(make_jobs(seeded_tasks("minesweeper", "eval", 40), 1), timed, tmp_path, {}, concurrency=slots))
    ended, last = time.perf_counter(), max(first for first, _ in spans)
    busy, asking = share(spans, last), share(asked, last)
    assert busy > 0.9
    assert 0 < asking <= busy <= 1
    assert 0 < share(spans, ended) <= 1
