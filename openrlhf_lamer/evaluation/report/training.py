"""The report's part on training: success and diversity over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.evaluation.diversity import diversity
from openrlhf_lamer.evaluation.measured import on
from openrlhf_lamer.evaluation.outcomes import Outcome, Run
from openrlhf_lamer.evaluation.plots import Panel, Series
from openrlhf_lamer.evaluation.statistics import Estimate, share, single, won
from openrlhf_lamer.evaluation.tables import Table
from openrlhf_lamer.training_files import named, shown

POINTS = 24
"""Maximum number of points of a curve: neighbouring steps are pooled, so that intervals stay readable."""


@dataclass(frozen=True)
class Stretch:
    """Consecutive steps.

    Attributes:
        first: The first step.
        last: The last one.
        outcomes: Outcomes of their trials.
    """

    first: int
    last: int
    outcomes: tuple[Outcome, ...]

    @property
    def middle(self) -> float:
        """Its place on a curve."""
        return (self.first + self.last) / 2

    def success(self, attempts: int) -> Estimate:
        """Sequential success of its trials; trials of one task depend on each other."""
        return share([won(self.outcomes, attempts)])

    def single(self, attempt: int) -> Estimate:
        """The share of its trials that won this very attempt."""
        return share([single(self.outcomes, attempt)])

    def diversity(self, attempt: int) -> Estimate | None:
        """Plain diversity of the groups, as training logs it."""
        live = [each for each in self.outcomes if each.failure is None]
        # Trials of an evaluation have no group: those of a task and step are compared.
        groups = [each.task.id if each.group is None else each.group for each in live]
        paths = [(each.paths, (each.step, group)) for each, group in zip(live, groups, strict=True)]
        found = diversity([paths], attempt)
        return found.plain if found else None


def stretches(run: Run, points: int = POINTS) -> list[Stretch]:
    """The run's steps in at most `points` stretches of equal length; the last one may be shorter."""
    by_step: dict[int, list[Outcome]] = {}
    for outcome in run.outcomes:
        if outcome.step is not None:
            by_step.setdefault(outcome.step, []).append(outcome)
    steps = sorted(by_step)
    width = -(-len(steps) // points)
    parts = [steps[i : i + width] for i in range(0, len(steps), width)]
    return [Stretch(part[0], part[-1], tuple(each for step in part for each in by_step[step])) for part in parts]


def table(runs: Sequence[Run]) -> Table:
    """Success in the first and the last tenth of each run's steps."""
    attempts = range(1, max(1, *(run.attempts for run in runs)) + 1)
    # Where no trial goes on after a success, single attempts say nothing more than success at k.
    singles = attempts if any(outcome.goes_on for run in runs for outcome in run.live) else range(0)
    rows = []
    for run in runs:
        ends = stretches(run, 10)
        for part in ends if len(ends) == 1 else (ends[0], ends[-1]):
            steps = f"steps {part.first} to {part.last}" if part.first < part.last else f"step {part.first}"
            rows.append(
                (
                    f"{run.label}, {steps}",
                    len(part.outcomes),
                    *(part.success(k) for k in attempts),
                    *(part.single(k) for k in singles),
                    part.diversity(1),
                )
            )
    return Table(
        "training",
        "Trials at the beginning and at the end of training",
        ("steps", "trials", *(f"success@{k}" for k in attempts), *(f"won@{k}" for k in singles), "diversity@1"),
        tuple(rows),
        f"{on((run.label, run.measured_on) for run in runs)} A file of --lamer.trials has the tasks and the "
        "temperature of training, so it is not an evaluation; a file of --lamer.eval_trials is one. Diversity is the "
        "plain entropy in nats." + (" won@k is the share of trials that won attempt k itself." if singles else ""),
    )


def settings_table(runs: Sequence[Run]) -> Table | None:
    """Settings that are not at their defaults or in which runs differ; None where none are known."""
    known = [(run.label, named(run.settings)) for run in runs if run.settings]
    if not known:
        return None
    defaults = {
        f"--lamer.{name}": info.get_default(call_default_factory=True) for name, info in LamerConfig.flags().items()
    }
    names = dict.fromkeys(name for _, settings in known for name in settings)
    rows: list[tuple[str, ...]] = []
    for name in names:
        values = [settings.get(name) for _, settings in known]
        same = all(value == values[0] for value in values)
        # Versions are listed where they differ, flags of the host where they were given.
        told = values[0] != defaults[name] if name in defaults else name.startswith("--") or " " in name
        if told or not same or name in ("agent", "estimator"):
            rows.append((name, *("" if value is None else shown(value) for value in values)))
    return Table(
        "settings",
        "Settings of training",
        ("setting", *(label for label, _ in known)),
        tuple(rows),
        "Those that were given, are not at their defaults, or differ between runs. All, with versions, are on the page "
        "and in the file beside the trials.",
    )


def panels(runs: Sequence[Run]) -> list[Panel]:
    """Success at each number of attempts, and the first attempt's diversity, over the steps."""
    curves = {run.label: stretches(run) for run in runs}

    def curve(label: str, k: int) -> Series:
        return Series(label, [part.middle for part in curves[label]], [part.success(k) for part in curves[label]])

    attempts = range(1, max(1, *(run.attempts for run in runs)) + 1)
    found = [
        Panel(f"success@{k}", "training step", "success (%)", [curve(label, k) for label in curves], share=True)
        for k in sorted({1, attempts[-1]})
    ]
    varied = []
    for label, parts in curves.items():
        known = [(part.middle, value) for part in parts if (value := part.diversity(1))]
        if known:
            varied.append(Series(label, [x for x, _ in known], [value for _, value in known]))
    if varied:
        found.append(Panel("diversity of first attempts", "training step", "diversity (nats)", varied))
    return found
