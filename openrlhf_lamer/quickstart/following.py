"""Commands in separate processes, followed by the lines that they write."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from openrlhf_lamer import LamerError


class StageError(LamerError, RuntimeError):
    """A command failed; the message names its log."""

    exit_code = 1


def progress(console: Console) -> Progress:
    """Progress bar with counts and times."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)


def follow(console: Console, command: Sequence[str], log: Path, results: Path, total: int, unit: str) -> None:
    """Run a command with its output added to `log`, and show the number of lines that it has written to `results`.

    Args:
        console: Shows a bar; if it is no terminal, it gets a line every 30 seconds.
        command: The command, an interpreter with `-m MODULE` first.
        log: File of its output.
        results: File that grows by a line a unit.
        total: Number of its lines in the end.
        unit: What a line is, in the plural.

    Raises:
        StageError: The command failed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    console.print(f"[dim]$ {shlex.join(command)}\n  (log: {log})", soft_wrap=True, highlight=False)
    with log.open("a") as output, progress(console) as bar:
        running = bar.add_task(unit, total=total)
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=_environment())
        lines = _LineCount(results)
        try:
            told = time.monotonic()
            while process.poll() is None:
                time.sleep(1)
                done = lines.update()
                bar.update(running, completed=min(done, total))
                if not console.is_terminal and time.monotonic() - told > 30:
                    told = time.monotonic()
                    console.print(f"  {done} of {total} {unit}")
        finally:
            process.terminate()
            process.wait()
        bar.update(running, completed=min(lines.update(), total))
    if process.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise StageError(f"{command[2]} ended with code {process.returncode}; the end of {log}:\n{tail}")


def _environment() -> dict[str, str]:
    """Environment variables that let each process use all cores: engine and trainer take turns."""
    return {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(len(os.sched_getaffinity(0)))}


class _LineCount:
    """Counts the lines of a growing file, reading each byte once."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset, self._lines = path, 0, 0

    def update(self) -> int:
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._offset)
                while chunk := file.read(1 << 20):
                    self._lines += chunk.count(b"\n")
                self._offset = file.tell()
        return self._lines
