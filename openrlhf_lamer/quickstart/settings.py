"""Every number of the quickstart in one place."""

from __future__ import annotations

from dataclasses import dataclass, field

from openrlhf_lamer.config import LamerConfig


@dataclass(frozen=True)
class Settings:
    """A small MineSweeper, a tiny model, and as much training as fits into minutes on two cores.

    Attributes:
        config: Rules of a trial. In the `episode` context a prompt is processed once an episode,
            a memory of reflections only is the shortest, and shaped rewards teach a weak player sooner.
        demonstrations: Trials of the scripted player, each imitated once.
        panel: Evaluation tasks: each held-out board once, which are half of all boards.
        steps: Training steps.
        tasks: Tasks per step.
        group: Trials per task.
    """

    config: LamerConfig = field(
        default_factory=lambda: LamerConfig(
            context="episode",
            memory="reflection",
            max_turns=6,
            reward="shaped",
            env_options={"size": 3, "mines": 2},
        )
    )
    seed: int = 0
    vocabulary: int = 768
    hidden: int = 96
    layers: int = 2
    heads: int = 8
    max_new_tokens: int = 64
    max_length: int = 2048
    demonstrations: int = 2800
    imitation_batch_tokens: int = 1024
    imitation_learning_rate: float = 1e-3
    panel: int = 114
    eval_temperature: float = 0.7
    steps: int = 32
    tasks: int = 12
    group: int = 8
    batch_rows: int = 64
    learning_rate: float = 2e-4
