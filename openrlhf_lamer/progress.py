"""Progress bars that also work in a log file or through a pipe: there, they print a line now and then."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from rich.console import Console

EVERY = 20.0
"""Seconds between lines where there is no terminal."""

Advance: TypeAlias = Callable[[int, str], None]
"""Sets how much is done, and the text beside the bar."""

Bar: TypeAlias = Callable[[str, int], Advance]
"""Opens a bar with a text and a total."""


@contextmanager
def bars(console: Console) -> Iterator[Bar]:
    """Progress bars on `console`, one below the other; lines where it is no terminal."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    if not console.is_terminal:
        yield lambda text, total: _Lines(console, text, total)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as shown:

        def bar(text: str, total: int) -> Advance:
            task = shown.add_task(text, total=total)
            return lambda done, text: shown.update(task, completed=done, description=text)

        yield bar


@contextmanager
def counting(text: str, total: int) -> Iterator[Callable[[], None]]:
    """A progress bar on stderr; yields a function that advances it by one."""
    from rich.console import Console

    done = itertools.count(1)
    with bars(Console(stderr=True)) as bar:
        advance = bar(text, total)
        yield lambda: advance(next(done), text)


class _Lines:
    """Progress as lines, at the start, at the end, and in between not more often than every `EVERY` seconds."""

    def __init__(self, console: Console, text: str, total: int) -> None:
        self._console, self._total = console, total
        self._began = self._told = time.monotonic()
        self._ended = False
        self._tell(0, text)

    def __call__(self, done: int, text: str) -> None:
        now, ends = time.monotonic(), done >= self._total and not self._ended
        if now - self._told >= EVERY or ends:
            self._told, self._ended = now, self._ended or ends
            self._tell(done, text)

    def _tell(self, done: int, text: str) -> None:
        seconds = time.monotonic() - self._began
        self._console.print(
            f"{text}: {done} of {self._total}, {seconds:.0f} s", markup=False, soft_wrap=True, highlight=False
        )
