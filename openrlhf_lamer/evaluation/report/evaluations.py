"""The report's part on evaluations: methods on a panel, compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from openrlhf_lamer.evaluation.diversity import Diversity, diversity
from openrlhf_lamer.evaluation.measured import on
from openrlhf_lamer.evaluation.outcomes import Run
from openrlhf_lamer.evaluation.plots import Panel, Series
from openrlhf_lamer.evaluation.statistics import (
    Estimate,
    Samples,
    difference,
    exactly,
    mcnemar,
    mean,
    measured,
    pass_at_k,
    passed,
    share,
    single,
    wins,
    won,
)
from openrlhf_lamer.evaluation.tables import Cell, Table
from openrlhf_lamer.panels import Ceilings

ODDS = "exact probabilities, 1 attempt"
"""Label of the player who knows each cell's exact probability of a mine."""


@dataclass(frozen=True)
class Method:
    """Runs on one panel that differ in their seed.

    Attributes:
        label: Its name.
        runs: At least one, all with the same tasks.
    """

    label: str
    runs: tuple[Run, ...]

    @property
    def samples(self) -> int:
        """The most live trials that a task has in one run."""
        return max((len(values) for run in self.won(1) for values in run.values()), default=0)

    @property
    def independent(self) -> bool:
        """Whether attempts are separate, independent trials of one episode."""
        return self.samples > 1 and self.episodes == 1

    @property
    def measure(self) -> str:
        """`pass`: one of k independent attempts was won. `success`: one of the first k, one after the other."""
        return "pass" if self.independent else "success"

    @property
    def episodes(self) -> int:
        """Most episodes of a trial."""
        return max(run.attempts for run in self.runs)

    @property
    def attempts(self) -> int:
        """Number of attempts at a task."""
        return self.samples if self.independent else self.episodes

    @property
    def measured_on(self) -> str:
        """Name of the panel, or a description of the tasks."""
        return self.runs[0].measured_on

    def knows(self, k: int) -> bool:
        """Whether k attempts were made at every task that fewer did not solve."""
        live = [outcome for run in self.runs for outcome in run.live]
        return bool(live) and (k <= self.attempts or all(outcome.wins for outcome in live))

    def won(self, k: int) -> list[Samples]:
        """By run and task, which trials were won in their first k episodes."""
        return [won(run.outcomes, k) for run in self.runs]

    def solved(self, k: int) -> list[Samples]:
        """By run and task, whether k attempts solve it: `passed` if attempts are independent, else `won`."""
        return [passed(run, k) for run in self.won(1)] if self.independent else self.won(k)

    def share(self, k: int) -> Estimate | None:
        """The share of tasks that k attempts solve, pooled over the runs; None where fewer were made."""
        if not self.knows(k):
            return None
        return pass_at_k(self.won(1), min(k, self.samples)) if self.independent else share(self.won(k))

    @property
    def goes_on(self) -> bool:
        """Whether trials go on after a success: one did."""
        return any(outcome.goes_on for run in self.runs for outcome in run.live)

    def single(self, attempt: int) -> Estimate:
        """The share of trials that won this very attempt, pooled over the runs."""
        return share([single(run.outcomes, attempt) for run in self.runs])

    def diversity(self, attempt: int) -> Diversity | None:
        """Diversity of one attempt over the samples of a task."""
        return diversity([[(each.paths, each.task.id) for each in run.live] for run in self.runs], attempt)

    def __str__(self) -> str:
        tasks = f"{len(self.runs[0].panel.tasks)} tasks"
        samples = f" × {self.samples}" if self.samples > 1 else ""
        return tasks + samples + (f", {len(self.runs)} seeds" if len(self.runs) > 1 else "")


def ceilings(methods: Sequence[Method]) -> Ceilings | None:
    """The ceilings of the panel, where all runs are of one panel that has them."""
    found = {run.ceilings for method in methods for run in method.runs}
    return found.pop() if len(found) == len({method.runs[0].panel for method in methods}) == 1 else None


def success_table(methods: Sequence[Method]) -> Table:
    """The share of tasks that 1 to k attempts solve."""
    attempts = _attempts(methods)
    rows = [
        (each.label, each.measured_on, str(each), each.measure, *(each.share(k) for k in attempts)) for each in methods
    ]
    return Table(
        "success",
        "Tasks solved by k attempts",
        ("method", "panel", "played", "measure", *(f"@{k}" for k in attempts)),
        tuple(rows),
        "success@k is of sequential attempts, which may learn from each other: one of a trial's first k was won. "
        "pass@k is of independent ones: the unbiased estimate that one of k trials of a single attempt is won. "
        "95% intervals for tasks like these, and for seeds like these where there are several."
        + _ceilings_note(ceilings(methods))
        + _later_note(methods)
        + " A panel of generated tasks is one generator at one difficulty, and no test of others.",
    )


def _later_note(methods: Sequence[Method]) -> str:
    """A warning about what later attempts add, without a player beside it whose attempts know nothing of each other."""
    memoryless = {each.runs[0].panel for each in methods if each.independent}
    sequential = [each for each in methods if not each.independent and each.attempts > 1]
    if not sequential:
        return ""
    if all(each.runs[0].panel in memoryless for each in sequential):
        return (
            " More attempts win more tasks without any memory too: compare success@k with pass@k of the players "
            "without one."
        )
    return (
        " That later attempts add to success@1 is no evidence of learning to explore: more attempts win more tasks "
        "without any memory too. For that line, play the panel with independent attempts (eval --method rl) as well."
    )


def _ceilings_note(known: Ceilings | None) -> str:
    if known is None:
        return ""
    note = f" In {known.turns} turns no player can win more than {known.clairvoyant:.1%} of these tasks"
    if known.exact_probability is not None:
        note += f"; one who knows each cell's exact probability wins {known.exact_probability:.1%} at the first attempt"
    return f"{note}."


def comparison(methods: Sequence[Method]) -> Table | None:
    """Each method against the first one, task by task; None where no other one played the same tasks."""
    first, attempts = methods[0], _attempts(methods)
    rows: list[tuple[Cell, ...]] = []
    compared, tested = [first], False
    for method in methods[1:]:
        if method.runs[0].panel != first.runs[0].panel:
            continue
        cells: list[Cell] = []
        for k in attempts:
            if not (method.knows(k) and first.knows(k)):
                cells += [None, None]
                continue
            ours, theirs = first.solved(k), method.solved(k)
            single = len(ours) == len(theirs) == 1 and not (first.independent or method.independent)
            test = mcnemar(ours[0], theirs[0]) if single else None
            tested |= test is not None
            cells += [difference(ours, theirs), test.p if test else None]
        rows.append((method.label, *cells))
        compared.append(method)
    if not rows:
        return None
    heads = ("method", *(head for k in attempts for head in (f"@{k}", f"p@{k}")))
    note = (
        f"{_on(compared)} Paired by task, with 95% intervals: bootstrap over tasks, or with several seeds from the "
        "spread of tasks and seeds. "
    )
    if tested:
        note += "p is McNemar's exact test, one by one, for runs with one trial a task."
    else:  # no column without values
        heads, rows = (heads[0], *heads[1::2]), [(row[0], *row[1::2]) for row in rows]
        note += "McNemar's test is left out: it is for two runs with one trial a task."
    title = f"Difference from {first.label}, in percentage points"
    return Table("comparison", title, heads, tuple(rows), note)


def single_table(methods: Sequence[Method]) -> Table | None:
    """Attempts one by one, where trials go on after a success; None where all end with one."""
    several = [method for method in methods if method.goes_on]
    if not several:
        return None
    attempts = range(1, max(method.attempts for method in several) + 1)
    rows = [
        (
            each.label,
            *(each.single(k) if k <= each.attempts else None for k in attempts),
            mean([wins(run.outcomes) for run in each.runs], reach=each.attempts).within(0, each.attempts),
            mean(
                [measured(run.outcomes, lambda outcome: len(outcome.paths)) for run in each.runs],
                reach=each.attempts - 1,
            ).within(1, each.attempts),
        )
        for each in several
    ]
    return Table(
        "single",
        "Attempts one by one, of trials that go on after a success",
        ("method", *(f"won@{k}" for k in attempts), "wins", "episodes"),
        tuple(rows),
        f"{_on(several)} won@k is the share of trials that won attempt k itself; one that a trial did not get to, "
        "because a budget of turns had ended it, is not won. Wins and episodes are of a trial. 95% intervals as above.",
    )


def pass_table(methods: Sequence[Method]) -> Table | None:
    """pass@k from the first attempts of a task's samples; None where that says nothing more than `success_table`."""
    several = [method for method in methods if method.samples > 1]
    most = max((method.samples for method in several), default=0)
    if most <= len(_attempts(methods)) and all(method.independent for method in several):
        return None
    sizes = sorted({*range(1, min(most, len(_attempts(methods))) + 1), *(2**n for n in range(most.bit_length()))})
    rows = [(method.label, method.samples, *(_known(pass_at_k(method.won(1), k)) for k in sizes)) for method in several]
    return Table(
        "pass",
        "Tasks solved by the first attempts of k independent trials",
        ("method", "samples a task", *(f"pass@{k}" for k in sizes)),
        tuple(rows),
        f"{_on(several)} The i.i.d. pass@k, by the unbiased estimator. Where a method's own attempts are sequential, "
        "its success@k beyond this is what it gains over repeating its first attempt. A first attempt that explores "
        "wins less, so this is no line of a player without memory.",
    )


def diversity_table(methods: Sequence[Method]) -> Table | None:
    """Trajectory diversity by attempt; None where all tasks have one sample."""
    rows, several = [], []
    for method in methods:
        for attempt in _attempts(methods):
            if found := method.diversity(attempt):
                samples = f"{found.fewest} to {found.most}" if found.fewest < found.most else str(found.most)
                label = f"{method.label}, attempt {attempt}"
                several += [method] if method not in several else []
                rows.append((label, found.plain.tasks, samples, found.plain, found.maximum, found.corrected))
    if not rows:
        return None
    return Table(
        "diversity",
        "How differently the samples of a task are played: entropy in nats",
        ("attempt", "tasks", "samples a task", "diversity", "at most", "corrected"),
        tuple(rows),
        f"{_on(several)} Samples are alike if they took the same actions in the same states. The plain entropy grows "
        "with the number of samples, to its logarithm at most; the corrected one (Chao and Shen) estimates it for "
        "unlimited samples. Later attempts are those of samples that got there. 95% intervals for tasks and seeds "
        "like these.",
    )


def success_panels(methods: Sequence[Method]) -> list[Panel]:
    """Tasks solved over attempts, independent attempts dashed; beside it, pass@k of methods with other attempts."""
    attempts = _attempts(methods)
    series = []
    for method in methods:
        known = [(k, estimate) for k in attempts if (estimate := method.share(k))]
        if known:
            places, estimates = zip(*known, strict=True)
            series.append(Series(method.label, places, estimates, dashed=method.independent))
    dashed = " (dashed: independent)" if any(each.dashed for each in series) else ""
    known = ceilings(methods)
    if known and known.exact_probability is not None:
        series.append(Series(ODDS, [1], [exactly(known.exact_probability)], dashed=True))
    ceiling = known.clairvoyant if known else None
    title = f"Tasks solved by k attempts{dashed}"
    panels = [Panel(title, "attempts k", "tasks solved (%)", series, share=True, ceiling=ceiling)]
    if several := [method for method in methods if method.samples > 1 and not method.independent]:
        sizes = [k for k in attempts if any(k <= method.samples for method in several)]
        values = [Series(each.label, sizes, [pass_at_k(each.won(1), k) for k in sizes], True) for each in several]
        panels.append(Panel("First attempts of independent trials", "trials k", "pass@k (%)", values, share=True))
    if several := [method for method in methods if method.goes_on]:
        values = [
            Series(each.label, range(1, each.attempts + 1), [each.single(k) for k in range(1, each.attempts + 1)])
            for each in several
        ]
        panels.append(Panel("Attempts one by one", "attempt k", "won@k (%)", values, share=True))
    return panels if series else []


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


def _on(methods: Sequence[Method]) -> str:
    return on((each.label, each.measured_on) for each in methods)


def _attempts(methods: Sequence[Method]) -> range:
    """Attempts 1 to the most of a method with sequential ones; without such a method, of the others, up to 8."""
    sequential = [method.attempts for method in methods if not method.independent]
    most = max(sequential) if sequential else min(8, max(method.attempts for method in methods))
    return range(1, max(1, most) + 1)


def _known(estimate: Estimate) -> Estimate | None:
    return None if math.isnan(estimate.value) else estimate
