"""Runs stages in their order. A finished stage is not run again, and one that was cut off goes on if it can."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from stages import EVALUATIONS, NOTE, TRIALS, Stage, read_note

from openrlhf_lamer.evaluation.run import write_json
from openrlhf_lamer.quickstart.following import StageError, follow


def finished(stage: Stage) -> bool:
    """Whether a stage was run to its end.

    Raises:
        StageError: The folder was begun by another command.
    """
    command, ended = read_note(stage.folder)
    if command not in ("", _said(stage)):
        raise StageError(
            f"{stage.folder} was made by another command than {stage.name} has now. Remove it, or give another --out. "
            f"Then: {command}. Now: {_said(stage)}"
        )
    return ended


def run(
    stages: Sequence[Stage],
    minutes: float,
    console: Console,
    after: Callable[[Stage], None] = lambda stage: None,
    clock: Callable[[], float] = time.monotonic,
) -> list[Stage]:
    """Run what is not finished, one stage at a time; returns the stages that the budget left no time for.

    Args:
        stages: In the order in which they need each other.
        minutes: Budget. A stage that was begun within it is run to its end.
        console: Shows progress.
        after: Called after each stage that was run.
        clock: Seconds.

    Raises:
        StageError: A stage failed, or its folder was begun by another command.
    """
    began = clock()
    ahead = [stage for stage in stages if not finished(stage)]
    for number, stage in enumerate(ahead):
        used = (clock() - began) / 60
        if used >= minutes:
            return ahead[number:]
        done = len(stages) - len(ahead) + number
        console.rule(f"[bold]{stage.name}[/] ({done + 1} of {len(stages)}; {used:.0f} of {minutes:g} minutes)")
        _run(stage, console)
        after(stage)
    return []


def _run(stage: Stage, console: Console) -> None:
    if stage.resumes is not None and stage.resumes.exists():
        for name in (TRIALS, EVALUATIONS):
            _drop_half_line(stage.folder / name)
    elif stage.folder.exists():
        shutil.rmtree(stage.folder)
    stage.folder.mkdir(parents=True, exist_ok=True)
    write_json(stage.folder / NOTE, {"command": _said(stage), "finished": False})
    follow(console, stage.command, stage.folder / "log", stage.results, stage.trials, "trials")
    write_json(stage.folder / NOTE, {"command": _said(stage), "finished": True})


def _said(stage: Stage) -> str:
    """The command without its interpreter."""
    return shlex.join(["python", *stage.command[1:]])


def _drop_half_line(file: Path) -> None:
    """Cut off a last line without its end, which a killed process left."""
    if file.is_file():
        content = file.read_bytes()
        file.write_bytes(content[: content.rfind(b"\n") + 1])
