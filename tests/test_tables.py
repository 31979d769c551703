"""One table in four forms: they hold the same."""

from __future__ import annotations

import csv
import io
import json
import math

import pytest
from rich.console import Console

from openrlhf_lamer.evaluation.statistics import NOTHING, Estimate
from openrlhf_lamer.evaluation.tables import Table, long_csv

SHARE = Estimate(0.25, 0.125, 0.5, 8, "%")
TABLE = Table(
    "success",
    "A [bold]title",
    ("method", "tasks", "success@1", "seconds"),
    (("a|b <i>*", 1280, SHARE, 0.5), ("[red]c", 2, NOTHING, None), ("d", 3, None, math.nan)),
    "A note.",
)


def test_json_keeps_every_figure() -> None:
    found = json.loads(json.dumps(TABLE.to_json(), allow_nan=False))
    assert (found["name"], found["title"], found["note"]) == ("success", "A [bold]title", "A note.")
    first, second, third = found["rows"]
    assert first == {
        "method": "a|b <i>*",
        "tasks": 1280,
        "success@1": {"value": 0.25, "low": 0.125, "high": 0.5, "tasks": 8, "unit": "%"},
        "seconds": 0.5,
    }
    assert (second["success@1"]["value"], second["seconds"], third["success@1"], third["seconds"]) == (None,) * 4


def test_csv_keeps_every_figure() -> None:
    first, second, third = csv.DictReader(io.StringIO(TABLE.to_csv()))
    assert (first["method"], int(first["tasks"]), float(first["seconds"])) == ("a|b <i>*", 1280, 0.5)
    assert [float(first[f"success@1{end}"]) for end in ("", " low", " high")] == [0.25, 0.125, 0.5]
    assert (second["success@1"], second["success@1 low"], third["success@1 high"], third["seconds"]) == ("",) * 4


def test_several_tables_are_one_csv_with_a_line_a_figure() -> None:
    lines = list(csv.DictReader(io.StringIO(long_csv([TABLE, TABLE]))))
    assert len(lines) == 2 * 3 * 3
    assert lines[1] == {
        "table": "success",
        "row": "a|b <i>*",
        "column": "success@1",
        "value": "0.25",
        "low": "0.125",
        "high": "0.5",
    }


def test_markdown_has_no_more_cells_and_tags_than_the_table() -> None:
    head, _, first, second, _ = TABLE.to_markdown().splitlines()
    assert head == "| method | tasks | success@1 | seconds |"
    assert first == "| a\\|b &lt;i>\\* | 1,280 | 25.0% [12.5, 50.0] | 0.5 |"
    assert second.endswith("| – | – |")


@pytest.mark.parametrize("width", [44, 120])
def test_the_terminal_shows_labels_as_they_are(width: int) -> None:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(TABLE.to_rich(width))
    text = console.export_text()
    for part in ("A [bold]title", "a|b <i>*", "[red]c", "25.0%", "[12.5, 50.0]", "A note."):
        assert part in text
    assert ("25.0% [12.5, 50.0]" in text) == (width == 120)


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="2 columns, but a row of 1"):
        Table("t", "", ("a", "b"), (("x",),))
