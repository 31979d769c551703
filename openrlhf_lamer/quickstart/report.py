"""A quickstart's report: one picture of success by attempts, a verdict in a sentence, and pages."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from openrlhf_lamer import envs
from openrlhf_lamer.agents import load_agent
from openrlhf_lamer.evaluation.measured import measured_on
from openrlhf_lamer.evaluation.outcomes import Run, read_runs
from openrlhf_lamer.evaluation.plots import Panel, Series, draw
from openrlhf_lamer.evaluation.report import Report, build
from openrlhf_lamer.evaluation.run import read_evaluations
from openrlhf_lamer.evaluation.statistics import Estimate, difference, exactly, success, won
from openrlhf_lamer.evaluation.tables import Table
from openrlhf_lamer.quickstart.settings import Settings
from openrlhf_lamer.quickstart.stages import EVALUATIONS, TRIALS, Stage, read_note
from openrlhf_lamer.records import Trial

INSTALL_SECONDS = "OPENRLHF_LAMER_INSTALL_SECONDS"
"""Environment variable, set by the Makefile: seconds that the installation took."""

START = "warm start"


@dataclass(frozen=True)
class Cost:
    """Cost of a finished quickstart.

    Attributes:
        times: Seconds by stage, the installation first if its time is known.
        peak_bytes: Peak memory of all processes together, in bytes.
    """

    times: Mapping[str, float]
    peak_bytes: int

    @classmethod
    def of(cls, stages: Sequence[Stage]) -> Cost:
        """Cost of finished stages, as their notes say."""
        install = float(os.environ.get(INSTALL_SECONDS) or 0)
        notes = {stage.name: read_note(stage.folder) for stage in stages}
        times = {"installation": install} if install else {}
        times |= {name: note.seconds for name, note in notes.items()}
        return cls(times, max(note.peak_bytes for note in notes.values()))

    @property
    def seconds(self) -> float:
        """Seconds of everything."""
        return sum(self.times.values())

    def __str__(self) -> str:
        return f"{self.seconds / 60:.1f} minutes, and at most {self.peak_bytes / 2**30:.1f} GiB of memory"


@dataclass(frozen=True)
class Result:
    """Result of a quickstart.

    Attributes:
        table: Success of the warm start and of each arm, below known players.
        verdict: The comparison that the quickstart is about, in a sentence.
        report: All tables and curves.
        cost: Time and memory.
    """

    table: Table
    verdict: str
    report: Report
    cost: Cost


def write_report(out: Path, settings: Settings, stages: Sequence[Stage]) -> Result:
    """Write `report.md`, `report.html`, `success.png` and `results.json` of finished stages into `out`."""
    cost = Cost.of(stages)
    played = evaluated(out, settings)
    references = _references(settings)
    panel = measured_on({}, (trial.task for trial in played[START]))
    table = success_table(settings, panel, played, references)
    verdict = _verdict(settings, played)
    runs = [Run.of(label, trials) for label, trials in played.items()]
    trainings = read_runs([f"training of {arm.label}={out / arm.name / TRIALS}" for arm in settings.arms])
    report = build([*runs, *trainings], f"Quickstart: {settings.title}")
    (out / "success.png").write_bytes(draw([_picture(settings, played, references)], "png"))
    (out / "report.html").write_text(report.to_html(), "utf-8")
    (out / "report.md").write_text(_markdown(settings, panel, cost, table, verdict, report, references), "utf-8")
    attempts = range(1, settings.config.num_episodes + 1)
    results = {
        "success": {
            label: {f"success@{k}": _numbers(success(trials, k)) for k in attempts} for label, trials in played.items()
        },
        "references": references,
        "verdict": verdict,
        "panel": panel,
        "tasks": settings.panel_size,
        "failed": sum(trial.failure is not None for trials in played.values() for trial in trials),
        "seconds": dict(cost.times),
        "peak_gib": cost.peak_bytes / 2**30,
        "seed": settings.seed,
        "steps": settings.steps,
    }
    (out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    return Result(table, verdict, report, cost)


def evaluated(out: Path, settings: Settings) -> dict[str, list[Trial]]:
    """Evaluation trials by label: the warm start's, then those of each arm after its last step."""
    found: dict[str, list[Trial]] = {}
    for arm in settings.arms:
        by_step = read_evaluations(out / arm.name / EVALUATIONS)
        found.setdefault(START, by_step[0])
        found[arm.label] = by_step[settings.steps]
    return found


def success_table(
    settings: Settings,
    panel: str,
    played: Mapping[str, Sequence[Trial]],
    references: Mapping[str, Sequence[float]],
) -> Table:
    """One row per player: known ones, the warm start, and the arms."""
    attempts = range(1, settings.config.num_episodes + 1)
    rows = [(label, *map(exactly, shares)) for label, shares in references.items()]
    rows += [(label, *(success(trials, k) for k in attempts)) for label, trials in played.items()]
    title = f"Success within k attempts on {panel}: {settings.panel_size} tasks, 95% intervals"
    return Table("success", title, ("", *(f"success@{k}" for k in attempts)), tuple(rows))


def _references(settings: Settings) -> Mapping[str, Sequence[float]]:
    config = settings.config
    turns = config.max_turns or load_agent(f"openrlhf_lamer.agents.{settings.env}")[0].evaluated().max_turns
    with closing(envs.make(settings.env, **config.env_options)) as env:
        return env.references(config.num_episodes, turns)


def _picture(
    settings: Settings, played: Mapping[str, Sequence[Trial]], references: Mapping[str, Sequence[float]]
) -> Panel:
    attempts = range(1, settings.config.num_episodes + 1)
    at = [float(k) for k in attempts]
    series = [Series(label, at, [success(trials, k) for k in attempts]) for label, trials in played.items()]
    series += [Series(label, at, list(map(exactly, shares)), dashed=True) for label, shares in references.items()]
    return Panel(settings.title, "attempts", "success within them, %", tuple(series), share=True)


def _verdict(settings: Settings, played: Mapping[str, Sequence[Trial]]) -> str:
    """The first arm against the second, or against the warm start, by the last attempt's success."""
    k, first = settings.config.num_episodes, settings.arms[0].label
    other = settings.arms[1].label if len(settings.arms) > 1 else START
    change = difference([won(played[other], k)], [won(played[first], k)])
    if change.tasks < 2:
        return f"{first} and {other} have fewer than two tasks in common that were played: nothing is compared."
    said = f"At success@{k}, {first} is {change} points above {other}"
    if change.low <= 0 <= change.high:
        return f"{said}, an interval with 0 in it: no difference is shown."
    return f"{said}." if change.low > 0 else f"{said}: it is behind."


def _numbers(estimate: Estimate) -> list[float]:
    return [estimate.value, estimate.low, estimate.high]


def _limits(settings: Settings, references: Mapping[str, Sequence[float]]) -> str:
    """Limits of what the figures show, in sentences."""
    if envs.lookup(settings.env).holds_out:
        tasks = "These are boards that training leaves out, of its generator and difficulty: no test of others."
    else:
        tasks = "They come from the generator of the training tasks, and no hidden state is held out from training."
    if "without memory" in references:
        return f"{tasks} More attempts win more tasks without any memory too: compare with the row `without memory`."
    return (
        f"{tasks} More attempts win more tasks without any memory too, and no such player is measured here: what later "
        "attempts add is no evidence of learning to explore."
    )


def _markdown(
    settings: Settings,
    panel: str,
    cost: Cost,
    table: Table,
    verdict: str,
    report: Report,
    references: Mapping[str, Sequence[float]],
) -> str:
    config = settings.config
    stages = "\n".join(f"| {name} | {seconds:.0f} |" for name, seconds in cost.times.items())
    arms = "; ".join(
        f"{arm.label}: {settings.tasks} tasks x {arm.group} trials of up to {arm.num_episodes} episodes a step"
        for arm in settings.arms
    )
    return f"""# {report.title}

![success within 1 to {config.num_episodes} attempts](success.png)

{verdict}

{table.title}:

{table.to_markdown()}
{_limits(settings, references)}

A Qwen3 of {settings.layers} layers of width {settings.hidden} imitated a scripted player, and was then trained with \
`{settings.estimator}` for {settings.steps} steps ({arms}). All play trials of up to {config.num_episodes} episodes in \
evaluations, on the {settings.panel_size} tasks of {panel}, with context `{config.context}`, memory \
`{config.memory}` and temperature {settings.eval_temperature:g}. Seed {settings.seed}.

{report.to_markdown()}
| stage | seconds |
|---|---|
{stages}
| **together** | {cost.seconds:.0f} |

Peak memory of all processes: {cost.peak_bytes / 2**30:.1f} GiB.

Beside this page: `report.html` (with every curve), `start/` (the warm start), for each training a folder with \
`trials.jsonl`, `evaluations.jsonl`, `model/` (Hugging Face format), `tensorboard/` and `log`, and `results.json`.
"""
