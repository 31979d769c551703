"""A run: many trials at once, each written to a folder as it ends. A killed run goes on from that folder.

The folder holds `run.json` (what the run is: settings, version, how many trials), and `trials.jsonl` (each trial as it
ends). The player is passed in.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openrlhf_lamer import LamerError, __version__
from openrlhf_lamer.envs.seeding import below, generator
from openrlhf_lamer.evaluation import viewer
from openrlhf_lamer.files import held, write_json
from openrlhf_lamer.policies.base import EngineGoneError
from openrlhf_lamer.records import FailureKind, SchemaError, Task, Trial

SCHEMA = 1

PLAYED_AGAIN = frozenset({FailureKind.ENGINE, FailureKind.ENGINE_TIMEOUT})
"""A trial that failed for one of these is played again when its run goes on: the engine may answer then."""

Key = tuple[str, int]


class RunError(LamerError, ValueError):
    """A folder that a run cannot use or go on in; the message says how to fix it."""


class RunStoppedError(LamerError, RuntimeError):
    """The engine is gone. What was played is kept, and the same command goes on from there."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Job:
    """One trial to play: sample number `sample` of `task`."""

    task: Task
    sample: int = 0

    @property
    def key(self) -> Key:
        """Key of this job among those of its run."""
        return self.task.id, self.sample

    def seed(self, seed: int) -> int:
        """The trial's own seed in a run of `seed`; it depends on nothing else than on these three."""
        return below(generator("eval", seed, *self.key), 2**31)


def make_jobs(tasks: Sequence[Task], samples: int) -> list[Job]:
    """`samples` trials of each task, task by task."""
    return [Job(task, sample) for task in tasks for sample in range(samples)]


async def run(
    jobs: Sequence[Job],
    play: Callable[[Job], Awaitable[Trial]],
    folder: Path,
    settings: Mapping[str, Any],
    *,
    concurrency: int = 64,
    report: Callable[[Trial], None] = lambda trial: None,
) -> list[Trial]:
    """Play the `jobs` that are not in `folder` yet; returns the trials of all jobs, in their order.

    A free slot takes the next job at once. There may be more jobs than the folder was begun with: it then grows.

    Args:
        jobs: What to play; no two may be of one task and sample.
        play: Plays a job. What it raises ends the run; a trial that failed is a result like any other.
        folder: Where the run lives. One run at a time may use it.
        settings: All that a result depends on, ready for JSON. A run is resumed only with the same settings.
        concurrency: Most trials at once.
        report: Called for each trial: at once for those that are there already, then for each as it ends.

    Raises:
        RunError: The folder is another run's, is in use, or cannot be read.
        RunStoppedError: `play` raised `EngineGoneError`. The trials that were under way are not recorded.
    """
    keys = [job.key for job in jobs]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise RunError(f"task {twice[0]} is listed more than once, but each task is played once per sample; remove one")
    with _lock(folder):
        _agree(folder, settings, len(jobs))
        path = folder / "trials.jsonl"
        done = _finished(path)
        for key in keys:
            if key in done:
                report(done[key])
        waiting = iter([job for job in jobs if job.key not in done])
        with path.open("a", encoding="utf-8") as file:

            async def slot() -> None:
                for job in waiting:
                    trial = await play(job)
                    file.write(trial.to_json() + "\n")
                    file.flush()
                    done[job.key] = trial
                    report(trial)

            slots = [asyncio.create_task(slot()) for _ in range(min(concurrency, len(jobs)))]
            try:
                await asyncio.gather(*slots)
            except EngineGoneError as error:
                there = sum(key in done for key in keys)
                raise RunStoppedError(
                    f"{error}. {there} of {len(jobs)} trials are done and kept in {folder}; "
                    "run the same command again to go on"
                ) from error
            finally:
                for each in slots:
                    each.cancel()
                await asyncio.gather(*slots, return_exceptions=True)
    return [done[key] for key in keys]


def read_trials(folder: Path) -> list[Trial]:
    """The trials of a run, in the order in which they ended.

    Raises:
        RunError: There is no run in the folder, or a line of it is no trial.
    """
    path = folder / "trials.jsonl"
    if not path.is_file():
        raise RunError(f"{folder}: no trials.jsonl there; give a folder that `openrlhf-lamer eval --out` made")
    return [trial for trial, _ in _parse(path)]


def read_entries(file: Path, last: int | None = None) -> Iterator[viewer.Entry]:
    """Trials of a file that a training wrote, or only its last ones; none without a file.

    Raises:
        RunError: The file cannot be read.
    """
    if not file.is_file():
        return
    try:
        with file.open(encoding="utf-8") as lines:
            wanted: Iterable[str] = lines if last is None else deque(lines, maxlen=last)
            yield from viewer.each(wanted)
    except (OSError, UnicodeDecodeError, SchemaError) as error:
        raise RunError(f"{file}: {error}") from error


def read_evaluations(file: Path) -> dict[int, list[Trial]]:
    """Trials of a training's evaluations by step; empty without a file.

    An evaluation that a resumed training repeated counts as repeated, and one that is not complete is left out.

    Raises:
        RunError: The file cannot be read, or is of something else.
    """
    found: dict[int, dict[Key, Trial]] = {}
    for entry in read_entries(file):
        if entry.step is None:
            raise RunError(f"{file} has trials without a step; give what --lamer.eval_trials wrote")
        found.setdefault(entry.step, {})[entry.trial.task.id, entry.trial.sample] = entry.trial
    most = max(map(len, found.values()), default=0)
    return {step: list(own.values()) for step, own in sorted(found.items()) if len(own) == most}


def read_settings(folder: Path) -> tuple[dict[str, Any], int]:
    """The settings of a run, and how many trials it has in all; raises `RunError` where the folder has none."""
    path = folder / "run.json"
    try:
        found = json.loads(path.read_text("utf-8"))
        if found["schema"] != SCHEMA:
            raise RunError(f"{path} is of schema {found['schema']}; this version of openrlhf-lamer reads {SCHEMA}")
        return dict(found["settings"]), int(found["trials"])
    except OSError as error:
        raise RunError(f"{path}: {error.strerror}; give a folder that `openrlhf-lamer eval --out` made") from error
    except (ValueError, LookupError, TypeError) as error:
        if isinstance(error, RunError):
            raise
        raise RunError(f"{path} describes no run ({error!r}); give another folder") from error


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process only; a process that is killed lets go of it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder} cannot be made a folder ({error.strerror}); give another one") from error

    def refuse() -> None:
        raise RunError(f"{folder} is in use by another run; wait for it, or give another folder")

    with held(folder / ".lock", refuse):
        yield


def _agree(folder: Path, settings: Mapping[str, Any], trials: int) -> None:
    """Check that the folder is this run's, or make it so."""
    mine = json.loads(json.dumps({"version": __version__, **settings}))
    if (folder / "run.json").is_file():
        theirs, _ = read_settings(folder)
        if different := list(_differences(theirs, mine)):
            raise RunError(
                f"{folder} holds a run with other settings: {'; '.join(different)}. "
                "Give another folder, or the settings that it was begun with"
            )
    elif (folder / "trials.jsonl").exists():
        raise RunError(f"{folder} has trials but no run.json that says what they are of; give another folder")
    write_json(folder / "run.json", {"schema": SCHEMA, "settings": mine, "trials": trials})


def _differences(theirs: Any, mine: Any, name: str = "") -> Iterator[str]:
    if isinstance(theirs, dict) and isinstance(mine, dict):
        for key in {**theirs, **mine}:
            yield from _differences(theirs.get(key), mine.get(key), f"{name}.{key}" if name else key)
    elif theirs != mine:
        yield f"{name} is {_shown(theirs)} there and {_shown(mine)} here"


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) < 100 else f"{text[:100]}..."


def _finished(path: Path) -> dict[Key, Trial]:
    """Trials that need not be played again; all other lines, such as a last one that was cut, are removed."""
    if not path.exists():
        return {}
    kept: dict[Key, tuple[Trial, str]] = {}
    for trial, line in _parse(path):
        if trial.failure is None or trial.failure.kind not in PLAYED_AGAIN:
            kept.setdefault((trial.task.id, trial.sample), (trial, line))
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as file:
        file.writelines(line for _, line in kept.values())
    part.replace(path)
    return {key: trial for key, (trial, _) in kept.items()}


def _parse(path: Path) -> Iterator[tuple[Trial, str]]:
    """Each trial of a file with its line; a last line without its end is no trial yet."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                text = line.decode("utf-8")
                yield Trial.from_json(text), text
            except (SchemaError, UnicodeDecodeError) as error:
                raise RunError(f"{path}, line {number}: {error}; remove that line, or give another folder") from error
