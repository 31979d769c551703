"""Commands as stages: each fills a folder, is run once, and goes on or begins again if it was cut off."""

from __future__ import annotations

import json
import math
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from openrlhf_lamer.files import held, write_json
from openrlhf_lamer.quickstart.following import StageError, follow, watch
from openrlhf_lamer.quickstart.memory import PeakMemory

NOTE = "stage.json"
"""File in a stage's folder with its `Note`."""

TRIALS, EVALUATIONS = "trials.jsonl", "evaluations.jsonl"
"""Files of a training: its trials, and those of its evaluations."""


@dataclass(frozen=True)
class Stage:
    """A command that fills a folder.

    Attributes:
        name: Name for people.
        folder: Folder that only this stage fills.
        command: The command, an interpreter first.
        results: File that grows by one line per trial while it runs; None if the command shows its own progress.
        trials: Number of lines that the file ends up with.
        resumes: File whose presence says that the same command goes on from what is in the folder; None if the
            command always begins again.
    """

    name: str
    folder: Path
    command: tuple[str, ...]
    results: Path | None = None
    trials: int = 0
    resumes: Path | None = None

    @property
    def said(self) -> str:
        """The command as text, whatever interpreter runs it."""
        return shlex.join(["python", *self.command[1:]])

    @property
    def finished(self) -> bool:
        """Whether the stage was run to its end.

        Raises:
            StageError: The folder was begun by another command.
        """
        note = read_note(self.folder)
        if note.command not in ("", self.said):
            raise StageError(
                f"{self.folder} was made by another command than {self.name} has now. Remove it, or give another "
                f"--out. Then: {note.command}. Now: {self.said}"
            )
        return note.finished


@dataclass(frozen=True)
class Note:
    """Note about a stage in its folder.

    Attributes:
        command: Command that began it, as text; empty if none has.
        finished: Whether it was run to its end.
        seconds: Seconds of the run that finished it.
        peak_bytes: Peak memory of that run, all processes together, in bytes.
    """

    command: str = ""
    finished: bool = False
    seconds: float = 0.0
    peak_bytes: int = 0


def read_note(folder: Path) -> Note:
    """Note in a stage's folder; an empty one if no stage has begun there."""
    note = folder / NOTE
    return Note(**json.loads(note.read_text("utf-8"))) if note.is_file() else Note()


def ours(*words: str) -> tuple[str, ...]:
    """A command of this package, run by this interpreter."""
    return (sys.executable, "-m", "openrlhf_lamer.cli.main", *words)


def task_stages(
    folder: Path, env: str, options: Mapping[str, Any], number: int, panel: str | None, size: int
) -> list[Stage]:
    """Stages that write tasks: those of training to `train/train.jsonl`, and those of evaluations to `eval/eval.jsonl`.

    Args:
        folder: Folder of both.
        env: The environment.
        options: Its options.
        number: Number of training tasks.
        panel: Frozen panel of the evaluations; None for the first `size` tasks of the split `eval`.
        size: Tasks of an evaluation.
    """
    game = ("--env", env, "--options", json.dumps(dict(options)))
    held_out = (*game, "--split", "eval", "--num", str(size))
    which = {
        "train": (*game, "--split", "train", "--num", str(number)),
        "eval": held_out if panel is None else ("--panel", panel),
    }
    return [
        Stage(f"{name} tasks", folder / name, ours("prepare", "tasks", *words, "--out", str(folder / name)))
        for name, words in which.items()
    ]


def run(
    stages: Sequence[Stage],
    console: Console,
    minutes: float = math.inf,
    after: Callable[[Stage], None] = lambda stage: None,
    clock: Callable[[], float] = time.monotonic,
) -> list[Stage]:
    """Run what is not finished, one stage at a time; returns the stages that the budget left no time for.

    Args:
        stages: In an order in which each needs only earlier ones.
        console: Shows progress.
        minutes: Budget. A stage that was begun within it is run to its end.
        after: Called after each stage that was run.
        clock: Gives the time in seconds.

    Raises:
        StageError: A stage failed, or its folder was begun by another command.
    """
    began = clock()
    ahead = [stage for stage in stages if not stage.finished]
    for number, stage in enumerate(ahead):
        used = (clock() - began) / 60
        if used >= minutes:
            return ahead[number:]
        done = len(stages) - len(ahead) + number
        budget = "" if math.isinf(minutes) else f"; {used:.0f} of {minutes:g} minutes"
        console.rule(f"[bold]{stage.name}[/] ({done + 1} of {len(stages)}{budget})")
        with _held(stage, console):
            # Another process may have run it since.
            if not stage.finished:
                _run(stage, console)
        after(stage)
    return []


@contextmanager
def _held(stage: Stage, console: Console) -> Iterator[None]:
    """Keep other processes out of a stage's folder; the lock is beside it, since a stage may begin by removing it."""
    stage.folder.parent.mkdir(parents=True, exist_ok=True)
    with held(
        stage.folder.with_name(f".{stage.folder.name}.lock"),
        lambda: console.print(f"Another process runs this stage in {stage.folder}: waiting for it", soft_wrap=True),
    ):
        yield


def _run(stage: Stage, console: Console) -> None:
    goes_on = stage.resumes is not None and stage.resumes.exists()
    if stage.folder.exists() and not goes_on:
        shutil.rmtree(stage.folder)
    stage.folder.mkdir(parents=True, exist_ok=True)
    write_json(stage.folder / NOTE, asdict(Note(stage.said)))
    began = time.monotonic()
    try:
        with PeakMemory() as memory:
            if stage.results is None:
                watch(console, stage.command)
            else:
                follow(console, stage.command, stage.folder / "log", stage.results, stage.trials, "trials")
    except StageError as error:
        raise StageError(f"{stage.name}: {error}") from error
    write_json(stage.folder / NOTE, asdict(Note(stage.said, True, time.monotonic() - began, memory.peak)))
