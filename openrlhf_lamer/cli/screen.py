"""A turn on a person's screen: the state, the actions, and below them the task, cut to the terminal's height."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

LEAST = 4
"""Fewest lines shown of a state or of a list of actions, however low the terminal is."""

LINES_OF_A_NOTE = 3
"""Most lines of a note below the state."""


@dataclass(frozen=True)
class View:
    """A state before a turn.

    Attributes:
        title: Its place in the trial.
        state: The state as text.
        actions: Actions that the environment lists.
        notes: Name and text of notes that stay in sight, such as the task; empty ones are left out.
    """

    title: str
    state: str
    actions: tuple[str, ...] = ()
    notes: tuple[tuple[str, str], ...] = ()


def show(console: Console, view: View, *, above: int = 0) -> None:
    """Print a state so that it fits into the terminal, less `above` lines and the line that is typed in.

    Where it is too long, the end of the state and of the list of actions are left out, and a line says so. The notes
    come last: what was printed last stays in sight.
    """
    from rich.panel import Panel
    from rich.text import Text

    state, actions, notes = _lines(console, view)
    room = console.height - above - len(notes) - 3  # of these, two for the frame, and one to type in
    # The list of actions shrinks for the state, but only to half of the room; the state gets what is left.
    for_actions = max(min(len(actions), max(room - len(state), room // 2)), min(len(actions), LEAST))
    shown = cut(state, max(room - for_actions, LEAST))
    console.print(Panel(_joined(shown), title=Text(view.title), title_align="left", expand=False))
    for line in (*cut(actions, for_actions), *notes):
        console.print(line, no_wrap=True, overflow="ellipsis")


def height(console: Console, view: View) -> int:
    """Lines that a state takes with nothing left out, and the one to type in."""
    return sum(map(len, _lines(console, view))) + 3


def in_full(console: Console, view: View) -> None:
    """Print a state with nothing left out."""
    from rich.panel import Panel
    from rich.text import Text

    console.print(Panel(Text(view.state), title=Text(view.title), title_align="left", expand=False))
    if view.actions:
        console.print(Text("\n".join(numbered(view.actions))))
    for name, text in view.notes:
        if text:
            console.print(Text.assemble((f"{name}: ", "bold"), text))


def numbered(actions: Iterable[str]) -> list[str]:
    """Actions with the numbers that stand for them."""
    return [f"{number:>3}  {action}" for number, action in enumerate(actions, 1)]


def columns(console: Console, actions: Sequence[str]) -> list[Text]:
    """Numbered actions, row by row, in as many columns as fit."""
    from rich.text import Text

    cells = numbered(actions)
    for beside in range(len(cells), 0, -1):
        widths = [max(map(len, cells[place::beside])) + 1 for place in range(beside)]
        if sum(widths) <= console.width or beside == 1:
            rows = (cells[first : first + beside] for first in range(0, len(cells), beside))
            aligned = ("".join(map(str.ljust, row, widths)).rstrip() for row in rows)
            return [Text(line) for line in aligned]
    return []


def wrapped(console: Console, text: str, width: int) -> list[Text]:
    """Lines of `text` at most `width` wide; consecutive blank lines become one."""
    from rich.text import Text

    lines = [line for part in Text(text).split("\n") for line in (part.wrap(console, width) or [Text()])]
    return [line for line, before in zip(lines, [Text("."), *lines], strict=False) if line.plain or before.plain]


def cut(lines: Sequence[Text], most: int, rest: str = "/all", *, keeps_end: bool = False) -> list[Text]:
    """`lines`, cut to the first or last ones, with a line that counts the others and names the command for them."""
    from rich.text import Text

    if len(lines) <= most:
        return list(lines)
    kept = max(most - 1, 1)
    left = len(lines) - kept
    told = Text(f"… {left} more line{'s' if left > 1 else ''}: {rest}", style="italic")
    return [told, *lines[-kept:]] if keeps_end else [*lines[:kept], told]


def _lines(console: Console, view: View) -> tuple[list[Text], list[Text], list[Text]]:
    """Lines of the state, of the actions, and of the notes."""
    notes = [line for name, text in view.notes if text for line in _note(console, name, text)]
    return wrapped(console, view.state, console.width - 4), columns(console, view.actions), notes


def _joined(lines: Sequence[Text]) -> Text:
    from rich.text import Text

    return Text("\n").join(lines)


def _note(console: Console, name: str, text: str) -> list[Text]:
    from rich.text import Text

    lines = Text.assemble((f"{name}: ", "bold"), " ".join(text.split())).wrap(console, console.width)
    return cut(list(lines), LINES_OF_A_NOTE)
