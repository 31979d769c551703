"""`openrlhf-lamer analyze`: figures of reflections, and of whether the next episode heeds them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from openrlhf_lamer.cli.errors import fail
from openrlhf_lamer.cli.inputs import entries_of, one_form, show

if TYPE_CHECKING:
    from openrlhf_lamer.evaluation.reflections import Reflections
    from openrlhf_lamer.evaluation.tables import Cell, Table
    from openrlhf_lamer.evaluation.viewer import Entry

ABOUT = {
    "tokens": "tokens of a reflection",
    "characters": "characters of a reflection",
    "valid": "with a remark",
    "novelty": "novelty in the trial",
    "sameness": "sameness between tasks",
    "overlap": "lost actions it names",
    "known": "mistake known",
    "names": "remark names it",
    "avoided": "avoided next",
    "faced": "avoided in its state",
}
"""Names of the figures of `Reflections` in the terminal."""


class By(StrEnum):
    """Content of a column of the table."""

    RUN = "run"
    STEP = "step"
    ATTEMPT = "attempt"


def analyze(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Files that --lamer.trials or `eval` wrote, or folders of runs.", show_default=False),
    ],
    by: Annotated[By, typer.Option(help="One column per run, stretch of training steps, or lost attempt.")] = By.RUN,
    every: Annotated[
        int | None,
        typer.Option(min=1, help="Training steps in a column; by default a fifth of the run.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print every figure as JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print every figure as CSV.")] = False,
) -> None:
    """Measure reflections: length, novelty, what they name, and how often the next episode avoids the mistake.

    The environment defines the mistake, such as the mine that was hit in MineSweeper, or the first move in Sokoban
    after which no solution is left; by default it is the whole sequence of actions. Next episodes are grouped by what
    was said of it: a remark named it, a remark did not, or there was no remark, as with `--memory history`. A
    difference does not prove that the remark caused it: `openrlhf-lamer cross` takes the remark away and compares.
    """
    from openrlhf_lamer.evaluation.measured import measured_on, on
    from openrlhf_lamer.evaluation.reflections import analyse

    one_form(as_json, as_csv)
    read = {name: entries_of(run) for name, run in _names(runs).items()}
    several = len({entry.trial.task.env for entries in read.values() for entry in entries}) > 1
    columns: dict[str, Reflections] = {}
    measured: list[tuple[str, str]] = []
    for name, entries in read.items():
        for env in sorted({entry.trial.task.env for entry in entries}):
            own = [entry for entry in entries if entry.trial.task.env == env]
            for label, part, attempt in _parts(own, by, every, name):
                title = ", ".join(filter(None, (name, env if several else "", label)))
                columns[title] = analyse((entry.trial for entry in part), attempt)
                measured.append((title, measured_on({}, (entry.trial.task for entry in own))))
    table = _long(columns)
    show(_wide(columns, on(measured)), table.to_json(), table, as_json=as_json, as_csv=as_csv)


def _names(runs: list[Path]) -> dict[str, Path]:
    """Name of each run: the part of its path that sets it apart."""
    folders = [run.with_suffix("").parts for run in runs]
    shared = next((n for n, parts in enumerate(zip(*folders, strict=False)) if len(set(parts)) > 1), 0)
    return {
        "/".join(parts[shared:] if len(runs) > 1 else parts[-1:]): run for parts, run in zip(folders, runs, strict=True)
    }


def _parts(entries: list[Entry], by: By, every: int | None, run: str) -> Iterator[tuple[str, list[Entry], int | None]]:
    """The columns of a run: the name of each, its trials, and its only attempt, if any."""
    if by is By.RUN:
        yield "", entries, None
    elif by is By.ATTEMPT:
        for attempt in range(1, max(len(entry.trial.episodes) for entry in entries)):
            yield f"attempt {attempt}", entries, attempt
    else:
        steps = {entry.step for entry in entries if entry.step is not None}
        if any(entry.step is None for entry in entries):
            fail(f"--by step: {run} has trials without a training step; give a file that --lamer.trials wrote")
        first, last = min(steps), max(steps)
        length = every or -(-(last - first + 1) // 5)
        for low in range(first, last + 1, length):
            part = [entry for entry in entries if entry.step in range(low, low + length)]
            if part:
                yield f"steps {low} to {min(low + length - 1, last)}", part, None


def _wide(columns: Mapping[str, Reflections], measured: str) -> Table:
    """One row per figure, for people; figures without cases are left out. `measured` names the tasks behind them."""
    from openrlhf_lamer.evaluation.tables import Table

    found = list(columns.values())
    rows: list[tuple[Cell, ...]] = [
        ("trials", *(each.trials for each in found)),
        ("failed", *(each.failed for each in found)),
        ("lost episodes with a next one", *(each.lost for each in found)),
        ("reflections on them", *(each.reflections for each in found)),
    ]
    for name, about in ABOUT.items():
        for figure in found[0].figures:
            if figure.partition("/")[0] != name:
                continue
            own = [each.figures[figure] for each in found]
            # Where a mistake does not depend on the state, every next episode faces it, and both figures are the same.
            twice = name == "faced" and own == [each.figures[figure.replace(name, "avoided")] for each in found]
            if any(each.cases for each in own) and not twice:
                rows.append((about + figure.removeprefix(name).replace("/", ": "), *map(str, own)))
    note = f"{measured} Means over tasks with 95% intervals; in brackets, how many reflections or episodes they are of."
    return Table("reflections", "Reflections", ("", *columns), tuple(rows), note)


def _long(columns: Mapping[str, Reflections]) -> Table:
    """One row per column and figure, for machines."""
    from openrlhf_lamer.evaluation.tables import Table

    rows: list[tuple[Cell, ...]] = []
    for column, found in columns.items():
        for name in ("trials", "failed", "lost", "reflections"):
            rows.append((column, name, None, getattr(found, name)))
        rows += [(column, name, each.estimate, each.cases) for name, each in found.figures.items()]
    return Table("reflections", "Reflections", ("column", "figure", "value", "cases"), tuple(rows))
