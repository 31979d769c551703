"""The report's part on evaluations: methods on a panel, compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from openrlhf_lamer.evaluation.diversity import Diversity, diversity
from openrlhf_lamer.evaluation.outcomes import Run
from openrlhf_lamer.evaluation.plots import Panel, Series
from openrlhf_lamer.evaluation.statistics import Estimate, Samples, difference, mcnemar, pass_at_k, share, won
from openrlhf_lamer.evaluation.tables import Cell, Table


@dataclass(frozen=True)
class Method:
    """Runs on one panel that differ in their seed.

    Attributes:
        label: What it is called.
        runs: At least one, all with the same tasks.
    """

    label: str
    runs: tuple[Run, ...]

    @property
    def attempts(self) -> int:
        """The most episodes that a trial had."""
        return max(run.attempts for run in self.runs)

    @property
    def samples(self) -> int:
        """The most live trials that a task has in one run."""
        return max((len(values) for run in self.won(1) for values in run.values()), default=0)

    def knows(self, attempts: int) -> bool:
        """Whether trials were played so far: to that many attempts, or none was left to win."""
        live = [outcome for run in self.runs for outcome in run.live]
        return bool(live) and (attempts <= self.attempts or all(outcome.won_at for outcome in live))

    def won(self, attempts: int) -> list[Samples]:
        """By run and task, which trials were won in so many attempts."""
        return [won(run.outcomes, attempts) for run in self.runs]

    def success(self, attempts: int) -> Estimate | None:
        """Sequential success, pooled over the runs; None where trials had fewer attempts."""
        return share(self.won(attempts)) if self.knows(attempts) else None

    def diversity(self, attempt: int) -> Diversity | None:
        """How differently one attempt is played by the samples of a task."""
        return diversity([[(each.paths, each.task.id) for each in run.live] for run in self.runs], attempt)

    def __str__(self) -> str:
        tasks = f"{len(self.runs[0].panel)} tasks"
        samples = f" × {self.samples}" if self.samples > 1 else ""
        return tasks + samples + (f", {len(self.runs)} seeds" if len(self.runs) > 1 else "")


def success_table(methods: Sequence[Method]) -> Table:
    """Sequential success at 1 to N attempts."""
    attempts = _attempts(methods)
    rows = [(method.label, str(method), *(method.success(k) for k in attempts)) for method in methods]
    return Table(
        "success",
        "Tasks won in the first k attempts of a trial",
        ("method", "played", *(f"success@{k}" for k in attempts)),
        tuple(rows),
        "Sequential attempts, each after reflecting on the one before where the method does so. 95% intervals for "
        "tasks (and seeds, where there are several) like these: Wilson, with the size that the samples are worth.",
    )


def comparison(methods: Sequence[Method]) -> Table | None:
    """Each method against the first one, task by task; None where no other one played the same tasks."""
    first, attempts = methods[0], _attempts(methods)
    rows: list[tuple[Cell, ...]] = []
    tested = False
    for method in methods[1:]:
        if method.runs[0].panel != first.runs[0].panel:
            continue
        cells: list[Cell] = []
        for k in attempts:
            if not (method.knows(k) and first.knows(k)):
                cells += [None, None]
                continue
            ours, theirs = first.won(k), method.won(k)
            test = mcnemar(ours[0], theirs[0]) if len(ours) == len(theirs) == 1 else None
            tested |= test is not None
            cells += [difference(ours, theirs), test.p if test else None]
        rows.append((method.label, *cells))
    if not rows:
        return None
    heads = ("method", *(head for k in attempts for head in (f"success@{k}", f"p@{k}")))
    note = (
        "Paired by task, with 95% intervals: bootstrap over tasks, or with several seeds from the spread of tasks and "
        "seeds. "
    )
    if tested:
        note += "p is McNemar's exact test, one by one, for runs with one trial a task."
    else:  # no column for what nothing has
        heads, rows = (heads[0], *heads[1::2]), [(row[0], *row[1::2]) for row in rows]
        note += "McNemar's test is left out: it is for two runs with one trial a task."
    title = f"Difference from {first.label}, in percentage points"
    return Table("comparison", title, heads, tuple(rows), note)


def pass_table(methods: Sequence[Method]) -> Table | None:
    """i.i.d. pass@k from the first attempts of a task's samples; None where all tasks have one sample."""
    several = [method for method in methods if method.samples > 1]
    if not several:
        return None
    most = max(method.samples for method in several)
    sizes = sorted({*range(1, min(most, _attempts(methods)[-1]) + 1), *(2**n for n in range(most.bit_length()))})
    rows = [(method.label, method.samples, *(_known(pass_at_k(method.won(1), k)) for k in sizes)) for method in several]
    return Table(
        "pass",
        "Tasks won by one of k independent samples",
        ("method", "samples a task", *(f"pass@{k}" for k in sizes)),
        tuple(rows),
        "The i.i.d. pass@k, by the unbiased estimator: first attempts of separate trials, none of which knows of the "
        "others. Against success@k it shows what attempts gain by learning from each other.",
    )


def diversity_table(methods: Sequence[Method]) -> Table | None:
    """Trajectory diversity by attempt; None where all tasks have one sample."""
    rows = []
    for method in methods:
        for attempt in _attempts(methods):
            if found := method.diversity(attempt):
                samples = f"{found.fewest} to {found.most}" if found.fewest < found.most else str(found.most)
                label = f"{method.label}, attempt {attempt}"
                rows.append((label, found.plain.tasks, samples, found.plain, found.maximum, found.corrected))
    if not rows:
        return None
    return Table(
        "diversity",
        "How differently the samples of a task are played: entropy in nats",
        ("attempt", "tasks", "samples a task", "diversity", "at most", "corrected"),
        tuple(rows),
        "Samples are alike if they took the same actions in the same states. The plain entropy grows with the number "
        "of samples, to its logarithm at most; the corrected one (Chao and Shen) estimates it for samples without end. "
        "Later attempts are those of samples that lost the earlier ones. 95% intervals for tasks and seeds like these.",
    )


def success_panels(methods: Sequence[Method]) -> list[Panel]:
    """Success over attempts; beside it, where there are several samples, the same number of independent ones."""
    attempts = _attempts(methods)
    panels = [_share_panel("Sequential attempts", "attempts k", "success@k (%)", attempts, methods)]
    several = [method for method in methods if method.samples > 1]
    if several:
        sizes = [k for k in attempts if any(k <= method.samples for method in several)]
        series = [Series(each.label, sizes, [pass_at_k(each.won(1), k) for k in sizes], True) for each in several]
        panels.append(Panel("Independent samples", "samples k", "pass@k (%)", series, share=True))
    return panels if any(series.estimates for panel in panels for series in panel.series) else []


def diversity_panels(methods: Sequence[Method]) -> list[Panel]:
    """Plain and corrected diversity by attempt."""
    panels = []
    for title, plain in (("As counted", True), ("Corrected for unseen ways", False)):
        series, ceiling = [], 0.0
        for method in methods:
            known = [found for k in _attempts(methods) if (found := method.diversity(k))]
            ceiling = max([ceiling, *(found.maximum for found in known)])
            if known:
                values = [found.plain if plain else found.corrected for found in known]
                series.append(Series(method.label, [found.attempt for found in known], values, not plain))
        panels.append(Panel(title, "attempt", "diversity (nats)", series, ceiling=ceiling if plain else None))
    return panels


def _share_panel(title: str, across: str, up: str, attempts: Sequence[int], methods: Sequence[Method]) -> Panel:
    series = []
    for method in methods:
        known = [(k, estimate) for k in attempts if (estimate := method.success(k))]
        series.append(Series(method.label, [k for k, _ in known], [estimate for _, estimate in known]))
    return Panel(title, across, up, series, share=True)


def _attempts(methods: Sequence[Method]) -> range:
    return range(1, max(1, *(method.attempts for method in methods)) + 1)


def _known(estimate: Estimate) -> Estimate | None:
    return None if math.isnan(estimate.value) else estimate
