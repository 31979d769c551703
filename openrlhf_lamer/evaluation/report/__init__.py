"""Report of one or more runs: tables and pictures on one page, and each method's difference from the first."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from openrlhf_lamer import training_files
from openrlhf_lamer.evaluation.measured import on
from openrlhf_lamer.evaluation.outcomes import Played, Run
from openrlhf_lamer.evaluation.plots import Panel, draw
from openrlhf_lamer.evaluation.report import evaluations, training
from openrlhf_lamer.evaluation.report.evaluations import Method
from openrlhf_lamer.evaluation.tables import Table, shown

FLAGGED = 0.05
"""A run with a larger share of failed trials is flagged: their outcomes could have moved its figures."""


@dataclass(frozen=True)
class Section:
    """A part of the page: tables, and a picture of them."""

    title: str
    tables: tuple[Table, ...]
    panels: tuple[Panel, ...] = ()


@dataclass(frozen=True)
class Report:
    """Report of runs.

    Attributes:
        title: Its title.
        flags: Reasons to doubt figures, a sentence each.
        sections: The parts in their order.
        runs: The runs.
    """

    title: str
    flags: tuple[str, ...]
    sections: tuple[Section, ...]
    runs: tuple[Run, ...]

    @property
    def tables(self) -> list[Table]:
        """All tables in their order."""
        return [table for section in self.sections for table in section.tables]

    def to_markdown(self) -> str:
        """Flags and tables as Markdown, without the title."""
        flags = "".join(f"> {flag}\n>\n" for flag in self.flags)
        parts = [f"**{table.title}**\n\n{table.to_markdown()}\n{table.note}".strip() for table in self.tables]
        return "\n\n".join(([flags.strip("\n>")] if flags else []) + parts) + "\n"

    def to_html(self) -> str:
        """The page as UTF-8 HTML that needs no other file and no network; text from runs is escaped."""
        import jinja2

        folder = jinja2.FileSystemLoader(Path(__file__).parent)
        environment = jinja2.Environment(loader=folder, autoescape=True, undefined=jinja2.StrictUndefined)
        pictures = [
            base64.b64encode(draw(section.panels, "svg")).decode() if section.panels else ""
            for section in self.sections
        ]
        return environment.get_template("page.html.j2").render(
            report=self, sections=list(zip(self.sections, pictures, strict=True)), shown=shown, settings=_settings
        )


def _settings(run: Run) -> dict[str, Any]:
    """A run's settings as the page lists them: those of a training one by one."""
    if not run.trains:
        return dict(run.settings)
    return {name: training_files.shown(value) for name, value in training_files.named(run.settings).items()}


def build(runs: Sequence[Run], title: str = "Report") -> Report:
    """Lay out the report on runs.

    Evaluations with one label and the same tasks are pooled as seeds of one method. Other methods that played the
    same tasks are compared with the first one, in each game.
    """
    methods = pooled([run for run in runs if not run.trains])
    trained = _told_apart([run for run in runs if run.trains])
    sections: list[Section] = []
    if methods:
        compared = [evaluations.comparison(own) for own in _games(methods)]
        told = evaluations.success_table(methods), *compared, evaluations.single_table(methods)
        first = [table for table in told if table]
        sections.append(Section("Success", tuple(first), tuple(evaluations.success_panels(methods))))
        if independent := evaluations.pass_table(methods):
            sections.append(Section("Independent samples", (independent,)))
        if several := evaluations.diversity_table(methods):
            sections.append(Section("Diversity", (several,), tuple(evaluations.diversity_panels(methods))))
    if trained:
        panels = training.panels(trained)
        told = training.table(trained), training.settings_table(trained)
        sections.append(Section("Training", tuple(each for each in told if each), tuple(panels)))
    sections.append(Section("Trials", (_trials_table([*methods, *(Method(run.label, (run,)) for run in trained)]),)))
    return Report(title, tuple(_flags(runs, methods)), tuple(sections), tuple(runs))


def pooled(runs: Iterable[Run]) -> list[Method]:
    """The methods among evaluations, in the order of their first runs."""
    by_key: dict[tuple[str, Played], list[Run]] = {}
    for run in runs:
        by_key.setdefault((run.label, run.panel), []).append(run)
    labels = Counter(label for label, _ in by_key)
    seen: Counter[str] = Counter()
    methods = []
    for (label, _), own in by_key.items():
        seen[label] += 1
        methods.append(Method(label if labels[label] == 1 else f"{label} · panel {seen[label]}", tuple(own)))
    return methods


def _games(methods: Sequence[Method]) -> list[list[Method]]:
    """The methods of each game, which differ in their environments."""
    found: dict[frozenset[str], list[Method]] = {}
    for method in methods:
        envs = frozenset(outcome.task.env for outcome in method.runs[0].outcomes)
        found.setdefault(envs, []).append(method)
    return list(found.values())


def _told_apart(runs: Sequence[Run]) -> list[Run]:
    """The trainings, which are shown separately: those that share a label are numbered."""
    labels, seen, found = Counter(run.label for run in runs), Counter[str](), []
    for run in runs:
        seen[run.label] += 1
        found.append(run if labels[run.label] == 1 else replace(run, label=f"{run.label} {seen[run.label]}"))
    return found


def _flags(runs: Sequence[Run], methods: Sequence[Method]) -> Iterable[str]:
    labels = Counter(run.label for run in runs)
    for run in runs:
        name = run.label if labels[run.label] == 1 else f"{run.label} ({run.source})"
        failed, total = len(run.outcomes) - len(run.live), len(run.outcomes)
        if failed > FLAGGED * total:
            reasons = Counter(outcome.failure.message for outcome in run.outcomes if outcome.failure)
            yield (
                f"{name}: {failed} of {total} trials failed ({failed / total:.1%}) and are left out, which may "
                f"well change its figures; most often: {reasons.most_common(1)[0][0][:200]}"
            )
        if run.expected is not None and total < run.expected:
            yield f"{name}: {total} of {run.expected} trials are there; the run has not ended"
    several = {method.samples for method in methods if method.samples > 1}
    if len(several) > 1:
        yield (
            f"Methods have {min(several)} to {max(several)} samples a task: their plain diversity cannot be compared, "
            "only the corrected one, and that with care"
        )
    panels = {method.runs[0].panel for method in methods}
    if any(len({method.runs[0].panel for method in own}) > 1 for own in _games(methods)):
        yield "Not all evaluations have the same tasks; only those that do are compared with the first."
    if len(versions := {panel.version for panel in panels}) > len({panel.tasks for panel in panels}):
        shown = " and ".join(map(str, sorted(versions)))
        yield f"Evaluations are on versions {shown} of a panel, whose tasks have the same names but begin differently."


def _trials_table(methods: Sequence[Method]) -> Table:
    """Cost of trials, and how many failed."""
    rows, notes = [], [on((each.label, each.measured_on) for each in methods)]
    notes.append("Means over the trials that did not fail; turns are those in the environment.")
    for method in methods:
        label, outcomes = method.label, [outcome for run in method.runs for outcome in run.outcomes]
        live = [outcome for outcome in outcomes if outcome.failure is None]
        kinds = Counter(outcome.failure.kind for outcome in outcomes if outcome.failure)
        counts = [
            (len(each.paths), each.play_turns, each.reply_length, each.reflection_length, each.prompt_length)
            for each in live
        ]
        means = [sum(column) / len(live) for column in zip(*counts, strict=True)] or [None] * 5
        turns = sum(each.play_turns for each in live)
        invalid = 100 * sum(each.invalid_turns for each in live) / turns if turns else None
        unit = " and ".join(sorted({each.unit for each in live}, reverse=True)) or None
        rows.append((label, len(outcomes), kinds.total(), *means[:2], invalid, *means[2:], unit))
        if kinds:
            notes.append(f"Failed of {label}: {', '.join(f'{count} {kind}' for kind, count in kinds.most_common())}.")
    if any(each.unit == "characters" for method in methods for run in method.runs for each in run.live):
        notes.append("A player without a tokenizer, such as a script or a chat server, has its characters counted.")
    counted = ("trials", "failed", "episodes", "turns", "invalid %")
    lengths = ("reply", "reflection", "prompt", "counted in")
    return Table(
        "trials",
        "What a trial takes; lengths of replies, reflections and prompts",
        ("method", *counted, *lengths),
        tuple(rows),
        " ".join(notes),
    )
