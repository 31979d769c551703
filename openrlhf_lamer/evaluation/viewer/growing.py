"""Lines of a file that another process writes, each of them read once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CHUNK = 1 << 24
"""Most bytes of one reading, so that a long file is shown before it is read to its end."""

TAIL = 4096
"""Bytes that are compared before the place reached so far: if they changed, the file is another one."""


@dataclass(frozen=True, slots=True)
class Line:
    """A whole line.

    Attributes:
        start: Its first byte in the file.
        text: Its text, without its end. Bytes that are no UTF-8 are replaced.
    """

    start: int
    text: str


@dataclass(frozen=True, slots=True)
class Reading:
    """Result of a reading.

    Attributes:
        lines: The lines that have ended since the last reading.
        restarted: Whether the file is another one than before, so that earlier lines no longer count.
        missing: Whether there is no file.
        more: Whether the file has more bytes than were read.
    """

    lines: tuple[Line, ...] = ()
    restarted: bool = False
    missing: bool = False
    more: bool = False


class GrowingFile:
    """A file that grows, is cut or replaced, or does not exist yet.

    A line counts once its end is written. A file that is shorter than what was read, or has other bytes before that
    place, is read from its beginning; reading goes on in a copy that has only grown, such as `rsync` makes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._forget()

    def _forget(self) -> None:
        self._at = 0
        self._tail = self._half = b""

    def read(self, most: int = CHUNK) -> Reading:
        """The lines that have ended since the last call, from at most `most` bytes; raises `OSError`."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._at - len(self._tail))
                restarted = file.read(len(self._tail)) != self._tail
                if restarted:
                    self._forget()
                    file.seek(0)
                content, more = file.read(most), bool(file.read(1))
        except FileNotFoundError:
            restarted = self._at > 0
            self._forget()
            return Reading(restarted=restarted, missing=True)
        start = self._at - len(self._half)
        self._at += len(content)
        self._tail = (self._tail + content)[-TAIL:]
        *whole, self._half = (self._half + content).split(b"\n")
        lines = []
        for line in whole:
            lines.append(Line(start, line.decode("utf-8", "replace")))
            start += len(line) + 1
        return Reading(tuple(lines), restarted, more=more)

    def line_at(self, start: int) -> str:
        """The line that begins at this byte, read once more; raises `OSError`."""
        with self.path.open("rb") as file:
            file.seek(start)
            return file.readline().decode("utf-8", "replace")
