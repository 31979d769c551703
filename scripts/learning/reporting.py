"""Tables and curves of an experiment: Markdown, CSV and PNG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from arms import Experiment
from results import FIRST, SECOND, Found, find
from stages import Setup

from openrlhf_lamer.evaluation.cross import REFERENCE
from openrlhf_lamer.evaluation.plots import Panel, Series, draw
from openrlhf_lamer.evaluation.statistics import Estimate, Samples, exactly, matched, pass_at_k, share, won
from openrlhf_lamer.evaluation.tables import Table, long_csv

NEAR = 0.9
"""Share of the optimum that counts as reached."""

BEFORE = "before training"
"""Row of the warm start."""


def write(experiment: Experiment, setup: Setup) -> list[Path]:
    """Write an experiment's Markdown, CSV and PNG; returns their paths, none before the first evaluation.

    Raises:
        RunError: A file of trials cannot be read.
    """
    found = find(experiment, setup)
    if not any(each.evaluations for each in found):
        return []
    files = [setup.home / f"{experiment.name}.{suffix}" for suffix in ("md", "csv", "png")]
    tables = [final(experiment, found), differences(experiment, found), second(found), *crossed(experiment, found)]
    files[0].write_text(_page(experiment, tables, files[2].name), "utf-8")
    files[1].write_text(long_csv([*tables, course(experiment, found)]), "utf-8")
    files[2].write_bytes(draw(curves(experiment, found), "png"))
    return files


def names(experiment: Experiment, found: Sequence[Found]) -> list[str]:
    """Names of all measures: success at 1 to N first, then behaviours in the order of the first arm that has them."""
    attempts = [f"success@{k}" for k in range(1, experiment.game.attempts + 1)]
    own = (name for each in found for seeds in each.evaluations.values() for run in seeds.values() for name in run)
    return list(dict.fromkeys([*attempts, *own]))


def final(experiment: Experiment, found: Sequence[Found]) -> Table:
    """A row per arm at its latest evaluation, over seeds, after rows of known players and the warm start."""
    attempts, columns = experiment.game.attempts, names(experiment, found)
    rows: list[tuple] = []
    references = experiment.game.references
    empty = (None,) * (len(columns) - attempts)
    for label, shares in references.items():
        rows.append((label, None, None, *map(exactly, shares), *empty, None, None))
    if (start := _start(found)) is not None:
        own = (start.at(0, name) for name in columns)
        rows.append((BEFORE, len(start.evaluations[0]), 0, *own, None, None))
    for each in found:
        if each.last is not None:
            own = (each.at(each.last, name) for name in columns)
            entropy = each.diversity.corrected if each.diversity else None
            near = reached(each, attempts, references)
            rows.append((each.arm.name, len(each.evaluations[each.last]), each.last, *own, entropy, near))
        if each.apart:
            runs = list(each.apart.values())
            passes = (pass_at_k(runs, k) for k in range(1, attempts + 1))
            rows.append((f"{each.arm.name}, without memory", len(runs), each.last, *passes, *empty, None, None))
    heads = ("arm", "seeds", "step", *columns, "diversity@1", f"steps to {NEAR:.0%} of the optimum")
    note = (
        "Shares with 95% intervals over tasks and seeds, at the latest evaluation. Rows above "
        f"`{BEFORE}` are known players. Diversity is the entropy of first "
        "attempts in nats, by Chao and Shen, in the last steps of finished trainings. Without memory, attempts are "
        "independent: pass@k."
    )
    return Table("final", "Success and behaviour", heads, tuple(rows), note)


def reached(found: Found, attempts: int, references: Mapping[str, Sequence[float]]) -> int | None:
    """First evaluated step at which success within all attempts is `NEAR` the optimum; None if never, or unknown."""
    if "optimum" not in references:
        return None
    goal = NEAR * references["optimum"][-1]
    for step in sorted(found.evaluations):
        solved = found.at(step, f"success@{attempts}")
        if solved is not None and solved.value >= goal:
            return step
    return None


def differences(experiment: Experiment, found: Sequence[Found]) -> Table:
    """A row per arm: how far the first arm is above it, if both were evaluated at the same step.

    Paired by task, and by seed, since all arms of a seed start from one model.
    """
    first, columns = found[0], names(experiment, found)
    rows: list[tuple] = []
    for each in found[1:]:
        if each.last is not None and each.last == first.last:
            own = (above(first.samples(each.last, name), each.samples(each.last, name)) for name in columns)
            rows.append((each.arm.name, *own))
    title = f"Points by which {first.arm.name} is above"
    note = (
        "Differences of shares, paired by task and seed, with 95% intervals over tasks and seeds. Those of behaviours "
        f"other than `{SECOND}` are over the tasks in which both arms could have shown one."
    )
    return Table("differences", title, ("arm", *columns), tuple(rows), note)


def above(first: Mapping[int, Samples], second: Mapping[int, Samples]) -> Estimate:
    """The first share minus the second, paired by seed and task; both are given by seed."""
    return matched([(second[seed], first[seed]) for seed in second if seed in first])


def second(found: Sequence[Found]) -> Table:
    """A row per arm: how much more often its second attempt (after a lost first) wins than its first."""
    rows: list[tuple] = [] if (start := _start(found)) is None else [(BEFORE, 0, *gained(start, 0))]
    rows += [(each.arm.name, each.last, *gained(each, each.last)) for each in found if each.last]
    title = "Points by which a second attempt wins more often than a first"
    note = (
        "Second attempts are those after a lost first, of all tasks and seeds. Differences of shares, with 95% "
        "intervals over tasks and seeds."
    )
    return Table("second", title, ("arm", "step", FIRST, SECOND, "difference"), tuple(rows), note)


def gained(found: Found, step: int) -> tuple[Estimate | None, Estimate | None, Estimate | None]:
    """Shares of first attempts that win, and of second ones after a lost first, and the second minus the first."""
    first, later = found.samples(step, FIRST), found.samples(step, SECOND)
    return found.at(step, FIRST), found.at(step, SECOND), above(later, first) if later else None


def crossed(experiment: Experiment, found: Sequence[Found]) -> Iterator[Table]:
    """Cross tables over all seeds: who plays, and whose remarks the player reads. All cells of a seed share models."""
    attempts = experiment.game.attempts
    for each in found:
        if not each.cross:
            continue
        runs = {
            cell: [{seed: won(trials, k) for seed, trials in seeds.items()} for k in range(1, attempts + 1)]
            for cell, seeds in each.cross.items()
        }
        rows = [
            (
                f"{cell.player} plays, reflections {cell.reflections}",
                *(share(list(own.values())) for own in by_attempts),
                None if cell == REFERENCE else above(by_attempts[-1], runs[REFERENCE][-1]),
            )
            for cell, by_attempts in runs.items()
        ]
        heads = ("", *(f"success@{k}" for k in range(1, attempts + 1)), "difference from trained with its own")
        note = "Base is the warm start. Differences: points of the last attempt's success, paired by task and seed."
        yield Table("cross", f"Play and reflections of {each.arm.name} exchanged", heads, tuple(rows), note)


def course(experiment: Experiment, found: Sequence[Found]) -> Table:
    """All measures of all evaluations: a row per arm and step."""
    columns = names(experiment, found)
    rows = [
        (f"{each.arm.name}, step {step}", len(seeds), *(each.at(step, name) for name in columns))
        for each in found
        for step, seeds in sorted(each.evaluations.items())
    ]
    return Table("course", "Evaluations", ("evaluation", "seeds", *columns), tuple(rows))


def curves(experiment: Experiment, found: Sequence[Found]) -> list[Panel]:
    """Success at 1 and at N beside known players, and the behaviours, over the steps of the training."""
    attempts = experiment.game.attempts
    ends = [0.0, float(max(each.last or 0 for each in found))]
    panels = []
    for name in names(experiment, found):
        if name.startswith("success@") and name not in ("success@1", f"success@{attempts}"):
            continue
        series = []
        for each in found:
            own = {step: solved for step in sorted(each.evaluations) if (solved := each.at(step, name)) is not None}
            if own:
                series.append(Series(each.arm.name, [float(step) for step in own], list(own.values())))
        if name.startswith("success@"):
            k = int(name.partition("@")[2])
            for label, shares in experiment.game.references.items():
                series.append(Series(label, ends, [exactly(shares[k - 1])] * 2, dashed=True))
        panels.append(Panel(name, "training steps", "share, %", tuple(series), share=True))
    return panels


def _start(found: Sequence[Found]) -> Found | None:
    """An arm that was evaluated before its first step; all arms start from the same models."""
    return next((each for each in found if 0 in each.evaluations), None)


def _page(experiment: Experiment, tables: Sequence[Table], picture: str) -> str:
    parts = [f"# {experiment.name}", experiment.shows, f"![{experiment.name}]({picture})"]
    parts += [f"- {arm.name}: {arm.about}" for arm in experiment.arms]
    for table in tables:
        if table.rows:
            parts += [f"## {table.title}", table.to_markdown().rstrip(), table.note]
    return "\n\n".join(parts) + "\n"
