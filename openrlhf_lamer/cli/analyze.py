"""`openrlhf-lamer analyze`: what reflections say, and whether the next episode heeds them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openrlhf_lamer.cli.errors import fail

if TYPE_CHECKING:
    from openrlhf_lamer.evaluation.reflections import Reflections
    from openrlhf_lamer.evaluation.viewer import Entry


class By(StrEnum):
    """What a column of the table is."""

    RUN = "run"
    STEP = "step"
    ATTEMPT = "attempt"


def analyze(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Files that --lamer.trials or `eval` wrote, or folders of runs.", show_default=False),
    ],
    by: Annotated[By, typer.Option(help="A column a run, a stretch of training steps, or a lost attempt.")] = By.RUN,
    every: Annotated[
        int | None,
        typer.Option(min=1, help="Training steps in a column; by default a fifth of the run.", show_default=False),
    ] = None,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", help="File that gets a line a column and figure.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object with an entry a column.")] = False,
) -> None:
    """Measure reflections: length, novelty, what they name, and how often the next episode avoids the mistake.

    The mistake is MineSweeper's mine that was hit, Sokoban's first move after which no solution is left, and
    elsewhere the whole sequence of actions. Next episodes are set apart by what was said of it: a remark
    named it, a remark did not, or there was no remark, as with `--memory history`. Such a difference is no
    proof that the remark made it: `openrlhf-lamer cross` takes the remark away and looks.
    """
    from rich.console import Console
    from rich.table import Table

    from openrlhf_lamer.evaluation.reflections import analyse

    read = {name: _entries(run) for name, run in _names(runs).items()}
    several = len({entry.trial.task.env for entries in read.values() for entry in entries}) > 1
    columns: dict[str, Reflections] = {}
    for name, entries in read.items():
        for env in sorted({entry.trial.task.env for entry in entries}):
            own = [entry for entry in entries if entry.trial.task.env == env]
            for label, part, attempt in _parts(own, by, every, name):
                title = ", ".join(filter(None, (name, env if several else "", label)))
                columns[title] = analyse((entry.trial for entry in part), attempt)
    if csv_file is not None:
        _write_csv(csv_file, columns)
    if as_json:
        typer.echo(json.dumps({name: _figures(found) for name, found in columns.items()}))
        return
    table = Table(title="Reflections, shares with 95% Wilson intervals and what they are of")
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right")
    shown = [_shown(found) for found in columns.values()]
    for figure in shown[0]:
        cells = [column[figure] for column in shown]
        if any(cells):
            table.add_row(figure, *cells)
    Console().print(table)


def _names(runs: list[Path]) -> dict[str, Path]:
    """What to call each run: the part of its path that sets it apart."""
    folders = [run.with_suffix("").parts for run in runs]
    shared = next((n for n, parts in enumerate(zip(*folders, strict=False)) if len(set(parts)) > 1), 0)
    return {
        "/".join(parts[shared:] if len(runs) > 1 else parts[-1:]): run for parts, run in zip(folders, runs, strict=True)
    }


def _entries(run: Path) -> list[Entry]:
    """The trials of a file, or of `trials.jsonl` in a run's folder."""
    from openrlhf_lamer.evaluation import viewer
    from openrlhf_lamer.records import SchemaError

    file = run / "trials.jsonl" if run.is_dir() else run
    try:
        with file.open(encoding="utf-8") as lines:
            entries = viewer.read(lines)
    except (OSError, UnicodeDecodeError, SchemaError) as error:
        fail(f"{file}: {error}")
    if not entries:
        fail(f"{file}: no trials there; give a file that --lamer.trials or `openrlhf-lamer eval` wrote")
    return entries


def _parts(entries: list[Entry], by: By, every: int | None, run: str) -> Iterator[tuple[str, list[Entry], int | None]]:
    """The columns of a run: what to call each, its trials, and the one attempt to look at, if any."""
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


def _figures(found: Reflections) -> dict[str, Any]:
    """Every figure, JSON-ready; shares with their counts and interval."""
    from dataclasses import asdict

    from openrlhf_lamer.evaluation.statistics import Proportion

    def plain(value: Any) -> Any:
        if isinstance(value, Proportion):
            return asdict(value) | {"share": value.share if value.total else None}
        return {key: plain(item) for key, item in value.items()} if isinstance(value, Mapping) else value

    return {name: plain(getattr(found, name)) for name in found.__dataclass_fields__}


def _shown(found: Reflections) -> dict[str, str]:
    """The table's rows."""

    def number(value: float | None, percent: bool = True) -> str:
        return "" if value is None else f"{100 * value:.1f}%" if percent else f"{value:.1f}"

    def share(value: Any) -> str:
        return f"{value} ({value.total})" if value.total else ""

    rows = {
        "trials (failed)": f"{found.trials} ({found.failed})",
        "lost episodes with a next one": str(found.lost),
        "reflections": str(found.reflections),
        "tokens of a reflection": number(found.tokens, percent=False),
        "with a remark": share(found.valid),
        "novelty in the trial": number(found.novelty),
        "sameness between tasks": number(found.sameness),
        "lost actions it names": number(found.overlap),
        "mistake known": share(found.known),
        "remark names it": share(found.names),
    }
    for said, avoided in found.avoided.items():
        rows[f"avoided next, {said}"] = share(avoided)
    for said, faced in found.faced.items():
        # Where a mistake is one in any state, that is the same once more.
        rows[f"  of those in its state again, {said}"] = "" if found.avoided[said] == faced else share(faced)
    return rows


def _write_csv(path: Path, columns: Mapping[str, Reflections]) -> None:
    """A line for each column and figure: its value, and the counts and interval of a share."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("column", "figure", "value", "low", "high", "successes", "total"))
            for column, found in columns.items():
                for figure, value in _flat(_figures(found)):
                    if isinstance(value, dict):
                        row = (value[key] for key in ("share", "low", "high", "successes", "total"))
                        writer.writerow((column, figure, *row))
                    else:
                        writer.writerow((column, figure, value, "", "", "", ""))
    except OSError as error:
        fail(f"--csv {path}: {error}")


def _flat(figures: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Figures by what was said are figures of their own."""
    flat = []
    for name, value in figures.items():
        inner = isinstance(value, dict) and "share" not in value
        flat += [(f"{name}/{said}", item) for said, item in value.items()] if inner else [(name, value)]
    return flat
