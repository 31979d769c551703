"""A table for the terminal, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from openrlhf_lamer.evaluation.statistics import Estimate

if TYPE_CHECKING:
    import rich.table

Cell = str | int | float | Estimate | None


@dataclass(frozen=True)
class Table:
    """Rows under headings; the first column names the row.

    Attributes:
        name: A word for machines, such as `success`.
        title: A line for people.
        columns: The headings.
        rows: Each with a cell for every heading. None is a cell without a value.
        note: Explanation below the table.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    def __post_init__(self) -> None:
        if strange := [row for row in self.rows if len(row) != len(self.columns)]:
            raise ValueError(f"table {self.name}: {len(self.columns)} columns, but a row of {len(strange[0])}")

    def to_rich(self, width: int | None = None) -> rich.table.Table:
        """Layout for a terminal of `width` characters: intervals go below their values where they don't fit beside."""
        from rich import box
        from rich.table import Table as Grid
        from rich.text import Text

        lines = [self.columns, *([shown(cell) for cell in row] for row in self.rows)]
        needed = sum(2 + max(map(len, column)) for column in zip(*lines, strict=True))
        below = width is not None and needed > width
        # As `Text`, nothing in a label is markup.
        grid = Grid(title=Text(self.title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        grid.padding, grid.caption, grid.caption_justify = (0, 1, 0, 0), Text(self.note), "left"
        for number, column in enumerate(self.columns):
            if number == 0:
                grid.add_column(Text(column), min_width=min(8, max(len(line[0]) for line in lines)))
            else:
                # Folded, so that nothing is lost, such as a panel's name.
                grid.add_column(Text(column), justify="right", overflow="fold")
        for row in self.rows:
            cells = [shown(cell).replace(" [", "\n[" if isinstance(cell, Estimate) and below else " [") for cell in row]
            grid.add_row(*map(Text, cells))
        return grid

    def to_markdown(self) -> str:
        """A Markdown table, ended by a newline."""
        lines = [self.columns, ["---"] + ["---:"] * (len(self.columns) - 1), *self.rows]
        return "".join("| " + " | ".join(_escaped(shown(cell)) for cell in line) + " |\n" for line in lines)

    def to_csv(self) -> str:
        """CSV with one line per row, where an estimate has three columns: itself, `low` and `high`."""
        wide = [any(isinstance(row[i], Estimate) for row in self.rows) for i in range(len(self.columns))]
        ends = ("", " low", " high")
        heads = [name + end for name, w in zip(self.columns, wide, strict=True) for end in (ends if w else ends[:1])]
        rows = [
            [part for cell, w in zip(row, wide, strict=True) for part in _parts(cell)[: 3 if w else 1]]
            for row in self.rows
        ]
        return _csv([heads, *rows])

    def to_json(self) -> dict[str, Any]:
        """The table for JSON: name, title, note, and rows as objects, where an estimate is an object too."""
        rows = [{name: _plain(cell) for name, cell in zip(self.columns, row, strict=True)} for row in self.rows]
        return {"name": self.name, "title": self.title, "note": self.note, "rows": rows}


def long_csv(tables: Iterable[Table]) -> str:
    """Several tables as one CSV: a line for each value, with its table, row and column."""
    lines: list[list[Any]] = [["table", "row", "column", "value", "low", "high"]]
    for table in tables:
        for row in table.rows:
            for column, cell in zip(table.columns[1:], row[1:], strict=True):
                lines.append([table.name, shown(row[0]), column, *_parts(cell)])
    return _csv(lines)


def shown(cell: Cell) -> str:
    """A cell for people."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "–"
    if isinstance(cell, float):
        return f"{cell:.3g}" if abs(cell) < 100 else f"{cell:,.0f}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def _escaped(text: str) -> str:
    """Text for a Markdown table, escaped so that it neither ends its cell nor is HTML."""
    for character, instead in (("\\", "\\\\"), ("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("`", "\\`"), ("*", "\\*")):
        text = text.replace(character, instead)
    return " ".join(text.split())


def _parts(cell: Cell) -> list[Any]:
    parts = [cell.value, cell.low, cell.high] if isinstance(cell, Estimate) else [cell, None, None]
    return ["" if part is None or part != part else part for part in parts]


def _plain(cell: Cell) -> Any:
    def number(value: Any) -> Any:
        return None if value != value else value

    return {key: number(value) for key, value in asdict(cell).items()} if isinstance(cell, Estimate) else number(cell)


def _csv(lines: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()
