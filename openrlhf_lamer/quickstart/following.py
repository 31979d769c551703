"""Commands in separate processes, followed by the lines that they write."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from openrlhf_lamer import LamerError
from openrlhf_lamer.progress import bars


class StageError(LamerError, RuntimeError):
    """A command failed; the message names its log."""

    exit_code = 1


def follow(console: Console, command: Sequence[str], log: Path, results: Path, total: int, unit: str) -> None:
    """Run a command with its output added to `log`, and show the number of lines that it has written to `results`.

    Args:
        console: Shows the progress.
        command: The command, an interpreter with `-m MODULE` first.
        log: File of its output.
        results: File that grows by one line per unit.
        total: Number of lines that it ends up with.
        unit: What a line is, in the plural.

    Raises:
        StageError: The command failed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    _say(console, f"$ {shlex.join(command)}\n  (log: {log})")
    with log.open("a") as output, bars(console) as bar:
        advance = bar(unit, total)
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        lines = _LineCount(results)
        try:
            while process.poll() is None:
                time.sleep(1)
                advance(min(lines.update(), total), unit)
        finally:
            process.terminate()
            process.wait()
        advance(min(lines.update(), total), unit)
    if process.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise StageError(f"{command[2]} ended with code {process.returncode}; the end of {log}:\n{tail}")


def watch(console: Console, command: Sequence[str]) -> None:
    """Run a command that shows its own progress; raises `StageError` if it fails."""
    _say(console, f"$ {shlex.join(command)}")
    code = subprocess.run(command, env={"PYTHONWARNINGS": "ignore", **os.environ}, check=False).returncode
    if code:
        raise StageError(f"{command[2]} ended with code {code}")


def _say(console: Console, text: str) -> None:
    """Print a command, which may have brackets that are no markup."""
    console.print(text, style="dim", markup=False, soft_wrap=True, highlight=False)


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
