"""Tables of finished runs in the paper's layout, next to the paper's figures: CSV, Markdown and PNG."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from plans import Cell, Evaluation, Experiment, Setup

from openrlhf_lamer import manifest
from openrlhf_lamer import panels as frozen
from openrlhf_lamer.evaluation.outcomes import Run, read_runs
from openrlhf_lamer.evaluation.plots import Panel, Series, draw
from openrlhf_lamer.evaluation.report.evaluations import ODDS
from openrlhf_lamer.evaluation.run import RunError
from openrlhf_lamer.evaluation.statistics import NOTHING, Estimate, exactly, pass_at_k, share, won
from openrlhf_lamer.evaluation.tables import Table
from openrlhf_lamer.panels import Ceilings

ATTEMPTS = (1, 2, 3)

CEILING = "at most, any attempts"
"""Label of the share that a player who sees everything wins."""

Folders = Mapping[str, Sequence[Path]]
"""Folders of an evaluation's runs, by its name, if they are not where the plan puts them."""


@dataclass(frozen=True)
class Result:
    """Result of one evaluation.

    Attributes:
        solved: Success (or pass) at each number of attempts, over all seeds.
        runs: Number of runs, one per seed.
        trials: Number of their trials.
        failed: Number of these that failed.
        missing: Shell lines for missing results: comments, and the commands that make them.
    """

    solved: Mapping[int, Estimate]
    runs: int
    trials: int
    failed: int
    missing: Sequence[str]


@dataclass(frozen=True)
class Paper:
    """The paper's report of an experiment.

    Attributes:
        source: Table or figure of the paper.
        figures: Shares in per cent by row and column: for 1, 2 and 3 attempts, or for 3 only.
    """

    source: str
    figures: Mapping[str, Mapping[str, float | Sequence[float]]] = field(default_factory=dict)

    def at(self, row: str, column: str, attempts: int) -> float | None:
        """Figure in per cent; None if the paper has none."""
        found = self.figures.get(row, {}).get(column)
        if isinstance(found, Sequence):
            return found[attempts - 1]
        return found if attempts == ATTEMPTS[-1] else None


@cache
def paper(experiment: str) -> Paper:
    """The paper's figures for an experiment."""
    return Paper(**tomllib.loads(Path(__file__).with_name("paper.toml").read_text("utf-8"))[experiment])


def find(experiment: Experiment, setup: Setup, folders: Folders) -> dict[Evaluation, Result]:
    """Results of an experiment; raises `RunError` if a run cannot be read, or does not belong to its place."""
    return {each: _result(each, setup, folders.get(each.name)) for each in experiment.evaluations}


def _result(evaluation: Evaluation, setup: Setup, given: Sequence[Path] | None) -> Result:
    planned = {evaluation.folder(setup, seed): seed for seed in setup.seeds}
    beside = evaluation.folder(setup, 0).parent.glob("seed-*/trials.jsonl")
    there = sorted(each.parent for each in beside) if given is None else given
    runs = read_runs([f"{evaluation.name}={folder}" for folder in there])
    missing, lacking = [], [folder for folder in planned if given is None and folder not in there]
    for folder, run in zip(there, runs, strict=True):
        _agree(folder, run, evaluation)
        if run.expected is not None and len(run.outcomes) < run.expected:
            missing.append(
                f"# {folder} has {len(run.outcomes)} of {run.expected} trials; its command goes on from there"
            )
            lacking += [folder] if folder in planned else []
    for folder in lacking:
        training = evaluation.training
        missing += [] if training is None else [*training.data(setup), training.command(setup, planned[folder])]
        missing += [*evaluation.data(setup), evaluation.command(setup, planned[folder])]
    outcomes = [outcome for run in runs for outcome in run.outcomes]
    failed = sum(outcome.failure is not None for outcome in outcomes)
    return Result({k: _solved(runs, evaluation, k) for k in ATTEMPTS}, len(runs), len(outcomes), failed, missing)


def _agree(folder: Path, run: Run, evaluation: Evaluation) -> None:
    """Refuse a run whose method or tasks differ from those of its place in the table."""
    method = run.settings.get("method", evaluation.method)
    if method != evaluation.method:
        raise RunError(f"{folder} is a run by {method}, but {evaluation.name} is one by {evaluation.method}")
    said = run.settings.get("panel", {})
    panel = said.get("name", evaluation.panel)
    if panel.removesuffix(".jsonl") != evaluation.panel:
        raise RunError(f"{folder} is a run on {panel}, but {evaluation.name} is one on {evaluation.panel}")
    if panel in manifest.names() and said and (old := said.get("version", 1)) != (now := frozen.load(panel).version):
        raise RunError(
            f"{folder} is a run on version {old} of {panel}, whose tasks differ from those of version {now}, which is "
            "installed; play it again in another folder"
        )


def _solved(runs: Sequence[Run], evaluation: Evaluation, attempts: int) -> Estimate:
    if not runs:
        return NOTHING
    if evaluation.measure == "pass":
        return pass_at_k([won(run.outcomes, 1) for run in runs], attempts)
    return share([won(run.outcomes, attempts) for run in runs])


def write(experiment: Experiment, setup: Setup, folders: Folders, out: Path) -> list[Path]:
    """Write an experiment's CSV, Markdown and PNG; returns their paths."""
    found = find(experiment, setup, folders)
    out.mkdir(parents=True, exist_ok=True)
    files = [out / f"{experiment.name}.{suffix}" for suffix in ("csv", "md", "png")]
    files[0].write_text(lines(experiment, found).to_csv(), "utf-8")
    files[1].write_text(_markdown(experiment, found, files[2].name), "utf-8")
    files[2].write_bytes(draw(panels(experiment, found), "png"))
    return files


def lines(experiment: Experiment, found: Mapping[Evaluation, Result]) -> Table:
    """Table with a line for each cell and number of attempts."""
    rows = []
    for cell in experiment.cells:
        result = found[cell.evaluation]
        for k, solved in result.solved.items():
            published = paper(experiment.name).at(cell.row, cell.column, k)
            told = None if published is None else published / 100
            counts = (result.runs, solved.tasks, result.trials, result.failed)
            measure = f"{cell.evaluation.measure}@{k}"
            known = cell.evaluation.ceilings
            most = (known.clairvoyant, known.exact_probability) if known else (None, None)
            rows.append((cell.row, cell.column, cell.evaluation.name, measure, solved, *counts, told, *most))
    counts = ("runs", "tasks", "trials", "failed")
    columns = ("row", "column", "evaluation", "measure", "share", *counts, "paper", "at most", "by odds at 1")
    return Table(experiment.name, experiment.title, columns, tuple(rows))


def layout(experiment: Experiment, found: Mapping[Evaluation, Result]) -> Table:
    """The paper's table, with each of our rows followed by the paper's."""
    cells = {(cell.row, cell.column): cell for cell in experiment.cells}
    columns = list(dict.fromkeys(cell.column for cell in experiment.cells))
    several = len(experiment.attempts) > 1
    heads = [(column, k) for column in columns for k in experiment.attempts]
    rows: list[tuple[Any, ...]] = []
    for row in dict.fromkeys(cell.row for cell in experiment.cells):
        ours = []
        for column, k in heads:
            cell = cells.get((row, column))
            solved = NOTHING if cell is None else found[cell.evaluation].solved[k]
            ours.append(None if math.isnan(solved.value) else solved)
        rows.append((row, *ours))
        theirs = [paper(experiment.name).at(row, column, k) for column, k in heads]
        if any(figure is not None for figure in theirs):
            rows.append((f"{row}, paper", *(None if figure is None else f"{figure:.1f}%" for figure in theirs)))
    for label, each in _known(experiment):
        told = {cell.column: each(cell.evaluation.ceilings) for cell in experiment.cells}
        rows.append((label, *("" if told[column] is None else f"{told[column]:.1%}" for column, _ in heads)))
    names = (f"{column} p@{k}" if several else column for column, k in heads)
    return Table(experiment.name, experiment.title, ("", *names), tuple(rows))


def panels(experiment: Experiment, found: Mapping[Evaluation, Result]) -> list[Panel]:
    """Picture: full marks are ours, hollow ones the paper's."""
    parts: dict[str, list[Cell]] = {}
    for cell in experiment.cells:
        parts.setdefault(cell.part, []).append(cell)
    return [
        Panel(
            part,
            experiment.across,
            "solved, % (hollow: paper)",
            tuple(_series(experiment, found, own)),
            share=True,
            places={cell.at: cell.place for cell in own if cell.at is not None and cell.place},
        )
        for part, own in parts.items()
    ]


def _series(experiment: Experiment, found: Mapping[Evaluation, Result], own: Sequence[Cell]) -> list[Series]:
    """Lines of one part of the picture, one per row or number of attempts, along the attempts or `Cell.at`."""
    places: dict[str, list[tuple[float, Cell, int]]] = {}
    for cell in own:
        for k in ATTEMPTS if cell.at is None else experiment.attempts:
            label = f"p@{k}" if cell.at is not None and len(experiment.attempts) > 1 else cell.row
            places.setdefault(label, []).append((k if cell.at is None else cell.at, cell, k))
    series = []
    for label, points in places.items():
        ours = [(at, found[cell.evaluation].solved[k]) for at, cell, k in points]
        told = [(at, paper(experiment.name).at(cell.row, cell.column, k)) for at, cell, k in points]
        series.append(Series(label, [at for at, _ in ours], [estimate for _, estimate in ours]))
        theirs = [(at, exactly(figure / 100)) for at, figure in told if figure is not None]
        if theirs:
            series.append(Series(label, [at for at, _ in theirs], [each for _, each in theirs], dashed=True))
    for label, each in _known(experiment):
        told = {cell.at: each(cell.evaluation.ceilings) for cell in own if cell.at is not None}
        if theirs := [(at, exactly(most)) for at, most in told.items() if most is not None]:
            series.append(Series(label, [at for at, _ in theirs], [each for _, each in theirs], dashed=True))
    return series


def _known(experiment: Experiment) -> list[tuple[str, Callable[[Ceilings | None], float | None]]]:
    """Ceilings that an experiment shows: a label, and a function that picks the figure from a panel's ceilings."""
    if not experiment.ceilings:
        return []
    return [
        (CEILING, lambda known: known.clairvoyant if known else None),
        (ODDS, lambda known: known.exact_probability if known else None),
    ]


def _markdown(experiment: Experiment, found: Mapping[Evaluation, Result], picture: str) -> str:
    apart = dict.fromkeys(cell.row for cell in experiment.cells if cell.evaluation.measure == "pass")
    seeds = sorted({result.runs for result in found.values()})
    runs = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    note = (
        f"Share of tasks solved, with 95% intervals over tasks and seeds; runs a place: {runs}. "
        f"Paper: {paper(experiment.name).source}."
    )
    if apart:
        note += (
            f" Attempts of {', '.join(apart)} are independent (pass@k, the unbiased estimator); those of the other "
            "rows follow each other with a memory (success@k)."
        )
    if experiment.ceilings:
        note += (
            f" {CEILING.capitalize()}: what a player who sees everything wins in the panel's turns. "
            f"{ODDS.capitalize()}: who knows each cell's exact probability of a mine and opens the safest one."
        )
    missing = dict.fromkeys(line for result in found.values() for line in result.missing)
    return page(layout(experiment, found), note, picture, list(missing))


def page(table: Table, note: str, picture: str, missing: Sequence[str]) -> str:
    """Page of Markdown with a table, its picture, and the commands that fill its gaps."""
    text = f"# {table.title}\n\n{table.to_markdown()}\n{note}\n\n![{table.title}]({picture})\n"
    if missing:
        script = "\n".join(missing)
        text += f"\n## Not there yet\n\nThese commands fill the gaps:\n\n```bash\n{script}\n```\n"
    return text
