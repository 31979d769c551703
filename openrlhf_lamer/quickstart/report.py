"""The quickstart's report: pages, and a verdict in a sentence."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from openrlhf_lamer.evaluation.outcomes import Run, read_runs
from openrlhf_lamer.evaluation.plots import draw
from openrlhf_lamer.evaluation.report import Report, build
from openrlhf_lamer.evaluation.statistics import difference, success, won
from openrlhf_lamer.quickstart.settings import Settings
from openrlhf_lamer.records import Trial

INSTALL_SECONDS = "OPENRLHF_LAMER_INSTALL_SECONDS"
"""Environment variable, set by the Makefile: seconds that the installation took."""


@dataclass(frozen=True)
class Measurements:
    """Contents of a report.

    Attributes:
        settings: Settings of the run.
        before: Trials on the panel with the warm-started model.
        after: Trials on the panel with the trained model.
        times: Seconds by stage.
        seconds: Seconds of the whole run without the installation.
        peak_bytes: Peak memory of all processes together, in bytes.
    """

    settings: Settings
    before: Sequence[Trial]
    after: Sequence[Trial]
    times: dict[str, float]
    seconds: float
    peak_bytes: int

    @property
    def install_seconds(self) -> float:
        """Seconds that the installation took; 0 if this run began without one."""
        return float(os.environ.get(INSTALL_SECONDS) or 0)

    @property
    def verdict(self) -> str:
        """Change of the last attempt's success by training, in a sentence."""
        k = self.settings.config.num_episodes
        change = difference([won(self.before, k)], [won(self.after, k)])
        what = f"success@{k} changed by {change} points"
        if change.low <= 0 <= change.high:
            return f"{what}, an interval with 0 in it: no gain is shown."
        return f"{what}: {'a gain' if change.low > 0 else 'a loss'}."


def write_report(out: Path, measured: Measurements) -> Report:
    """Write `report.md`, `report.html`, `learning-curve.png` and `results.json` into `out`."""
    evaluated = [Run.of("before", measured.before), Run.of("after", measured.after)]
    report = build([*evaluated, *read_runs([f"training={out / 'trials.jsonl'}"])], "Quickstart: LaMer on MineSweeper")
    panels = [panel for section in report.sections for panel in section.panels if section.title != "Diversity"]
    (out / "learning-curve.png").write_bytes(draw(panels, "png"))
    (out / "report.html").write_text(report.to_html(), "utf-8")
    (out / "report.md").write_text(_markdown(measured, report), "utf-8")
    attempts = range(1, measured.settings.config.num_episodes + 1)
    ends = {"before": measured.before, "after": measured.after}
    estimates = {k: {end: success(trials, k) for end, trials in ends.items()} for k in attempts}
    results = {
        "success": {
            f"success@{k}": {end: [found.value, found.low, found.high] for end, found in own.items()}
            for k, own in estimates.items()
        },
        "panel": len(measured.after),
        "failed": sum(trial.failure is not None for trial in (*measured.before, *measured.after)),
        "seconds": measured.seconds,
        "install_seconds": measured.install_seconds,
        "peak_gib": measured.peak_bytes / 2**30,
        "seed": measured.settings.seed,
        "steps": len({outcome.step for run in report.runs for outcome in run.outcomes if outcome.step is not None}),
    }
    (out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    return report


def _markdown(measured: Measurements, report: Report) -> str:
    settings = measured.settings
    config, options = settings.config, settings.config.env_options
    stages = "\n".join(f"| {name} | {seconds:.0f} |" for name, seconds in measured.times.items())
    install = f"| installation | {measured.install_seconds:.0f} |\n" if measured.install_seconds else ""
    return f"""# {report.title}, on a CPU

MineSweeper of {options["size"]}x{options["size"]} cells with {options["mines"]} mines; a Qwen3 of \
{settings.layers} layers of {settings.hidden}, warm-started by imitation of a scripted, fallible player, then \
trained with `lamer_gigpo` for {settings.steps} steps of {settings.tasks} tasks x {settings.group} trials of up to \
{config.num_episodes} episodes (context `{config.context}`, memory `{config.memory}`, seed {settings.seed}). Evaluated \
on {len(measured.after)} held-out tasks at temperature {settings.eval_temperature:g}.

{measured.verdict}

![learning curve](learning-curve.png)

{report.to_markdown()}
| stage | seconds |
|---|---|
{install}{stages}
| **together** | {measured.install_seconds + measured.seconds:.0f} |

Peak memory of all processes: {measured.peak_bytes / 2**30:.1f} GiB.

Beside this page: `report.html` (the same with every curve), `trials.jsonl` (every training trial), `before/` and \
`after/` (the panel), `checkpoint/` (Hugging Face format), `tensorboard/`, `results.json`, and `logs/`.
"""
