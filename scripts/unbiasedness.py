"""Measure the bias of each estimator, and write the table and the plot of docs/credit.md.

    python scripts/unbiasedness.py [--trials 1024000] [--docs docs]

`decision_problem.py` defines the problem, its target and the measurement; tests/test_unbiased.py checks
the same claims with fewer trials.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from decision_problem import NAMES, Estimate, Problem, measure

from openrlhf_lamer.advantage import CreditConfig, TurnTable, get
from openrlhf_lamer.advantage.groups import anchor_groups, codes, normalise, share, totals, units
from openrlhf_lamer.advantage.table import FloatArray

GROUP_SIZE = 8
BEGIN, END = "<!-- written by scripts/unbiasedness.py -->", "<!-- end -->"
COLOURS = {True: "#2a6f97", False: "#c8553d"}


@dataclass(frozen=True)
class Setting:
    """An estimator in one setting, with the claim of its docstring.

    Attributes:
        name: A registered estimator, or one of `BASELINES`.
        unbiased: Whether its docstring claims that it is unbiased for the target.
        options: Fields of `CreditConfig`.
        critic: Values of the critic: none, zero, the true ones, or wrong ones for each decision.
    """

    name: str
    unbiased: bool
    options: dict[str, Any] = field(default_factory=dict)
    critic: Literal["none", "zero", "true", "wrong"] = "none"

    @property
    def label(self) -> str:
        """Short text of everything that differs from the default."""
        given = {**self.options, **self.options.get("options", {})}
        given.pop("options", None)
        options = [key if value is True else f"{key}={value}" for key, value in given.items()]
        critic = {"none": [], "zero": ["V = 0"], "true": ["V exact"], "wrong": ["V wrong"]}[self.critic]
        return ", ".join(options + critic) or "default"

    def measure(self, problem: Problem, trials: int, group_size: int = GROUP_SIZE, seed: int = 0) -> Estimate:
        """Mean gradient estimate in this setting, against the target for its form of return, or for the best of k."""
        config = CreditConfig(**self.options)
        if self.name in BASELINES:
            return measure(problem, BASELINES[self.name], config, trials=trials, group_size=group_size, seed=seed)
        estimator = get(self.name)
        config = estimator.settle(config)
        best = problem.best_target(estimator.read(config.options).k, config) if self.name == "lamer_pkpo" else None
        inputs = {"values": self._values(problem, config), "target": best}
        return measure(problem, estimator.estimate, config, **inputs, trials=trials, group_size=group_size, seed=seed)

    def _values(self, problem: Problem, config: CreditConfig) -> FloatArray | None:
        if self.critic == "none":
            return None
        if self.critic == "true":
            return problem.true_values(config)
        wrong = np.random.default_rng(1).normal(size=len(NAMES))[problem.logit]
        return wrong * (self.critic == "wrong")


def turn_index(table: TurnTable, config: CreditConfig) -> FloatArray:
    """G minus the mean of the group's turns of the same index: common, and biased if lengths differ."""
    index = codes(table.group, table.episode, table.turn)
    return normalise(table.returns, index, np.ones(len(table)), "mean")


def others_at_anchor(table: TurnTable, config: CreditConfig) -> FloatArray:
    """G minus the other trials' mean in the same state, if there are any: unbiased for any memories."""
    anchor = anchor_groups(table, reference=False)
    own = codes(anchor, table.trial)
    weight = share(np.ones(len(table)), own)
    weighted = weight * table.returns
    others = units(anchor, weight) - 1
    return table.returns - (totals(weighted, anchor) - totals(weighted, own)) / np.maximum(others, 1) * (others > 0)


BASELINES: dict[str, Callable[[TurnTable, CreditConfig], FloatArray]] = {
    "mean by turn index": turn_index,
    "other trials by anchor": others_at_anchor,
}
"""Baselines for comparison that the package does not offer."""

SETTINGS = (
    Setting("lamer_rloo", True),
    Setting("lamer_rloo", True, {"cross_episode": "chained"}),
    Setting("lamer_rloo", True, {"cross_episode": "difference"}),
    Setting("lamer_pkpo", True, {"options": {"k": 2}}),
    Setting("lamer_pkpo", True, {"options": {"k": 4}}),
    Setting("lamer_ppo", True, {}, "zero"),
    Setting("lamer_ppo", True, {}, "wrong"),
    Setting("lamer_ppo", True, {"lambd": 0.5}, "true"),
    Setting("other trials by anchor", True),
    Setting("lamer_ppo", False, {"lambd": 0.5}, "wrong"),
    Setting("lamer_pkpo", False, {"options": {"k": 4}, "norm": "mean_std"}),
    Setting("lamer_grpo", False, {"norm": "mean"}),
    Setting("lamer_grpo", False),
    Setting("lamer_reinforce", False, {"norm": "mean"}),
    Setting("lamer_reinforce", False),
    Setting("lamer_hgpo", False),
    Setting("lamer_hgpo", False, {"norm": "mean_std"}),
    Setting("lamer_gigpo", False),
    Setting("lamer_gigpo", False, {"norm": "mean_std"}),
    Setting("lamer_gigpo", False, {"reference": True}),
    Setting("lamer_rloo", False, {"norm": "mean_std"}),
    Setting("lamer_rloo", False, {"reference": True}),
    Setting("mean by turn index", False),
)


def markdown(results: Sequence[tuple[Setting, Estimate]], trials: int) -> str:
    """Table for the documentation."""
    lines = [
        f"{trials:,} trials in groups of {GROUP_SIZE}, the same for all.",
        "",
        "| estimator | setting | unbiased | p | largest bias, % | cosine | scale | noise |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for setting, estimate in results:
        worst = int(np.argmax(np.abs(estimate.bias)))
        bias, error = 100 * estimate.bias[worst] / estimate.length, 100 * estimate.error[worst] / estimate.length
        p = estimate.p_value()
        noise = np.sqrt(np.trace(estimate.covariance) * trials / GROUP_SIZE) / estimate.length
        name = setting.name if setting.name in BASELINES else f"`{setting.name}`"
        lines.append(
            f"| {name} | {setting.label} | {'yes' if setting.unbiased else 'no'} | {_p(p)} | "
            f"{bias:+.2f} ± {error:.2f} ({NAMES[worst].replace('|', 'after')}) | {estimate.cosine:.4f} | "
            f"{estimate.scale:.3f} | {noise:.2f} |"
        )
    return "\n".join(lines)


def _p(value: float) -> str:
    return f"{value:.2f}" if value >= 0.01 else "< 1e-9" if value < 1e-9 else f"{value:.0e}"


def plot(results: Sequence[tuple[Setting, Estimate]], file: Path) -> None:
    """Plot each setting's bias in the seven components, with two standard errors."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 0.36 * len(results) + 1.3), layout="constrained")
    spread = np.linspace(-0.3, 0.3, len(NAMES))
    for row, (setting, estimate) in enumerate(results):
        axes.errorbar(
            100 * estimate.bias / estimate.length,
            row + spread,
            xerr=200 * estimate.error / estimate.length,
            fmt="o",
            markersize=3,
            linewidth=1,
            color=COLOURS[setting.unbiased],
        )
    axes.set_yticks(range(len(results)), [f"{setting.name} ({setting.label})" for setting, _ in results], fontsize=8)
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xticks([-50, -10, -1, 0, 1, 10, 50], ["-50", "-10", "-1", "0", "1", "10", "50"])
    axes.set_xlabel("bias of the mean gradient in each of the 7 logits, % of the target's length (± 2 standard errors)")
    for unbiased, label in ((True, "said to be unbiased"), (False, "said to be biased")):
        axes.plot([], [], "o", markersize=4, color=COLOURS[unbiased], label=label)
    axes.legend(fontsize=8, loc="upper right")
    axes.grid(axis="x", linewidth=0.3)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130, metadata={"Software": None})
    plt.close(figure)


def write_table(page: Path, table: str) -> None:
    """Write the table between the page's two markers."""
    text = page.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or END not in text.split(BEGIN)[-1]:
        raise SystemExit(f"{page} has no place for the table: put the lines {BEGIN} and {END} there")
    before, rest = text.split(BEGIN)
    after = rest.split(END, 1)[1]
    page.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")


def main() -> None:
    """Measure every setting, print the table, and write it and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1_024_000, help="trials to sample, whole groups of 8")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="folder with credit.md")
    arguments = parser.parse_args()
    problem = Problem.enumerate()
    results = [(setting, setting.measure(problem, arguments.trials)) for setting in SETTINGS]
    table = markdown(results, arguments.trials)
    print(table)
    write_table(arguments.docs / "credit.md", table)
    plot(results, arguments.docs / "img" / "unbiasedness.png")


if __name__ == "__main__":
    main()
