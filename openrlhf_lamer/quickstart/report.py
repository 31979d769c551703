"""What the quickstart measured, as a page, a picture and a table in the terminal."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from openrlhf_lamer.evaluation.statistics import Proportion, success
from openrlhf_lamer.quickstart.settings import Settings
from openrlhf_lamer.records import Trial

INSTALL_SECONDS = "OPENRLHF_LAMER_INSTALL_SECONDS"
"""Set by the Makefile: how long the installation of the environment took."""


@dataclass(frozen=True)
class Measurements:
    """Everything that a report shows.

    Attributes:
        settings: What was run.
        before: Trials on the panel with the warm-started model.
        after: Trials on the panel with the trained model.
        times: Seconds by stage.
        seconds: Seconds of the whole run, the installation apart.
        peak_bytes: Largest memory of all processes together.
    """

    settings: Settings
    before: Sequence[Trial]
    after: Sequence[Trial]
    times: dict[str, float]
    seconds: float
    peak_bytes: int

    @property
    def comparison(self) -> list[tuple[int, Proportion, Proportion]]:
        """For each number of attempts, success before and after."""
        attempts = range(1, self.settings.config.num_episodes + 1)
        return [(k, success(self.before, k), success(self.after, k)) for k in attempts]

    @property
    def install_seconds(self) -> float:
        """Seconds that the installation took, where this run began with one."""
        return float(os.environ.get(INSTALL_SECONDS) or 0)

    @property
    def verdict(self) -> str:
        """What the last attempt's success says of the training, in a sentence."""
        k, before, after = self.comparison[-1]
        if after.share > before.high:
            return f"success@{k} after training, {after}, lies above the interval before, {before}."
        if after.share >= before.low:
            return f"success@{k} after training, {after}, lies within the interval before, {before}: no gain is shown."
        return f"success@{k} after training, {after}, lies below the interval before, {before}."


def write_report(out: Path, measured: Measurements) -> None:
    """Write `report.md`, `learning-curve.png` and `results.json` into `out`."""
    curve = learning_curve(out / "trials.jsonl", measured.settings.config.num_episodes)
    plot(out / "learning-curve.png", curve, measured)
    (out / "report.md").write_text(_markdown(measured))
    results = {
        "success": {
            f"success@{k}": {"before": [b.share, b.low, b.high], "after": [a.share, a.low, a.high]}
            for k, b, a in measured.comparison
        },
        "panel": len(measured.after),
        "failed": sum(trial.failure is not None for trial in (*measured.before, *measured.after)),
        "seconds": measured.seconds,
        "install_seconds": measured.install_seconds,
        "peak_gib": measured.peak_bytes / 2**30,
        "seed": measured.settings.seed,
        "steps": len(curve),
    }
    (out / "results.json").write_text(json.dumps(results, indent=2) + "\n")


def learning_curve(trials: Path, num_episodes: int) -> list[list[float]]:
    """Success at 1 to N attempts in each training step, from the trials as they were recorded."""
    by_step: dict[int, list[Trial]] = {}
    with trials.open() as file:
        for line in file:
            step = json.loads(line)["step"]
            by_step.setdefault(step, []).append(Trial.from_json(line))
    return [[success(by_step[step], k).share for k in range(1, num_episodes + 1)] for step in sorted(by_step)]


def plot(path: Path, curve: list[list[float]], measured: Measurements) -> None:
    """Training success by step, with the panel's success before and after at its ends."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    steps = np.arange(1, len(curve) + 1)
    width = 5
    for k, before, after in measured.comparison:
        values = np.array([row[k - 1] for row in curve])
        padded = np.pad(values, (width // 2, width // 2), mode="edge")
        smooth = np.convolve(padded, np.ones(width) / width, mode="valid")
        (line,) = axes.plot(steps, 100 * smooth, label=f"success@{k}")
        axes.plot(steps, 100 * values, color=line.get_color(), alpha=0.25, linewidth=0.8)
        for x, p in ((0, before), (len(curve) + 1, after)):
            spread = [[100 * (p.share - p.low)], [100 * (p.high - p.share)]]
            axes.errorbar(x, 100 * p.share, spread, color=line.get_color(), marker="o", capsize=3)
    axes.set(xlabel="training step", ylabel="success (%)", ylim=(0, 100))
    axes.set_title("MineSweeper: training trials (lines), panel before and after (points, 95%)", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def table(measured: Measurements) -> Table:
    """The comparison for the terminal."""
    result = Table(title=f"MineSweeper panel, {len(measured.after)} tasks, 95% Wilson intervals")
    for column in ("", "before", "after"):
        result.add_column(column, justify="left" if not column else "right")
    for k, before, after in measured.comparison:
        result.add_row(f"success@{k}", str(before), str(after))
    return result


def _markdown(measured: Measurements) -> str:
    settings = measured.settings
    options = settings.config.env_options
    rows = "\n".join(f"| success@{k} | {before} | {after} |" for k, before, after in measured.comparison)
    stages = "\n".join(f"| {name} | {seconds:.0f} |" for name, seconds in measured.times.items())
    install = f"| installation | {measured.install_seconds:.0f} |\n" if measured.install_seconds else ""
    failed = sum(trial.failure is not None for trial in (*measured.before, *measured.after))
    config = settings.config
    return f"""# Quickstart: LaMer on MineSweeper, on a CPU

MineSweeper of {options["size"]}x{options["size"]} cells with {options["mines"]} mines; a Qwen3 of \
{settings.layers} layers of {settings.hidden}, warm-started by imitation of a scripted, fallible player, then \
trained with `lamer_gigpo` for {settings.steps} steps of {settings.tasks} tasks x {settings.group} trials of up to \
{config.num_episodes} episodes (context `{config.context}`, memory `{config.memory}`, seed {settings.seed}).

Share of {len(measured.after)} held-out tasks that were solved, with 95% Wilson intervals \
(temperature {settings.eval_temperature:g}; {failed} trials failed):

| | before | after |
|---|---|---|
{rows}

{measured.verdict}

![learning curve](learning-curve.png)

| stage | seconds |
|---|---|
{install}{stages}
| **together** | {measured.install_seconds + measured.seconds:.0f} |

Peak memory of all processes: {measured.peak_bytes / 2**30:.1f} GiB.

Beside this page: `trials.jsonl` (every training trial), `before/` and `after/` (the panel), `checkpoint/` \
(Hugging Face form), `tensorboard/`, `results.json`, and `logs/`.
"""
