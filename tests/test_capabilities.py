"""The table of docs/capabilities.md, against the checks of the driver and the runs of the end-to-end tests."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
from e2e_commands import RUNS
from script_folder import importable

pytest.importorskip("openrlhf")

with importable(""):
    capabilities: Any = importlib.import_module("capabilities")

PAGE = (Path(__file__).parent.parent / "docs" / "capabilities.md").read_text()


def shown() -> dict[Any, str]:
    """Mark of each cell on the page."""
    rows = [line.strip("|").split("|") for line in PAGE.splitlines() if line.startswith("| ")]
    estimators = [name.strip(" `") for name in rows[0][1:]]
    return {
        capabilities.Cell(row[0].strip(), estimator, context): mark
        for row in rows[1:]
        for estimator, marks in zip(estimators, row[1:], strict=True)
        for context, mark in zip(capabilities.CONTEXTS, marks.split(), strict=True)
    }


def test_every_option_estimator_and_context_is_on_the_page() -> None:
    assert list(shown()) == capabilities.cells()


def test_a_part_of_the_cells_is_as_the_checks_say() -> None:
    notes = dict(re.findall(r"^(\d+)\. (.*)$", PAGE, re.MULTILINE))
    with capabilities.stage() as base:
        for cell, mark in list(shown().items())[::11]:
            reason = capabilities.refusal(cell, base)
            if reason is None:
                assert mark == (capabilities.TESTED if cell.tested else capabilities.WORKS), cell
            else:
                assert notes[mark] == reason, cell


def test_what_is_marked_as_tested_is_in_a_run() -> None:
    marked = [cell for cell, mark in shown().items() if mark == capabilities.TESTED]
    assert marked
    for cell in marked:
        wanted = " ".join(capabilities.OPTIONS[cell.option])
        assert any(wanted in " ".join(run) or not wanted for run in RUNS.values()), cell


@pytest.mark.parametrize("name", RUNS)
def test_every_run_is_one_of_the_end_to_end_tests(name: str) -> None:
    sources = [file.read_text() for file in Path(__file__).parent.glob("test_e2e*.py")]
    prefix = name.split(" of ")[0] + " of " if name.startswith("forest of ") else name
    assert any(f'RUNS["{name}"]' in source or f'RUNS[f"{prefix}' in source for source in sources)
