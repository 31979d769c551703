"""Every number of the quickstarts in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from openrlhf_lamer.config import LamerConfig


@dataclass(frozen=True)
class Arm:
    """A training from the warm start.

    Attributes:
        name: Name of its folder.
        label: Its name in the report.
        num_episodes: Episodes of a trial (N) in training; evaluations have the settings' own.
        group: Trials per task, so that an update has at most as many episodes in all arms.
    """

    name: str
    label: str
    num_episodes: int
    group: int


@dataclass(frozen=True)
class Settings:
    """A small game, a tiny model, and as much training as fits into minutes on two cores.

    Attributes:
        env: The environment; its bundled agent plays.
        title: The game in a few words.
        config: Rules of a trial in evaluations and demonstrations; arms differ in the number of episodes.
        arms: The trainings, the one that the report is about first.
        player_options: Options of the scripted player that the warm start imitates.
        demonstrations: Number of that player's trials.
        passes: Passes of imitation over them.
        prompt_weight: Weight of the loss on prompts in imitation.
        panel: Frozen panel of the evaluations; None for the first `panel_size` tasks of the split `eval`.
        panel_size: Tasks of an evaluation.
        estimator: Estimator of all trainings.
        updates: Optimizer steps of a batch; None for one every `batch_rows` rows.
        steps: Training steps.
        tasks: Tasks per step.
        batch_rows: Rows of an optimizer step, if `updates` is None.
        seed: Seed of everything.
    """

    env: str
    title: str
    config: LamerConfig
    arms: tuple[Arm, ...]
    panel_size: int
    panel: str | None = None
    player_options: Mapping[str, Any] = field(default_factory=dict)
    demonstrations: int = 6000
    passes: float = 3.0
    prompt_weight: float = 0.1
    layers: int = 3
    hidden: int = 128
    heads: int = 4
    max_new_tokens: int = 32
    max_length: int = 1024
    eval_temperature: float = 0.7
    estimator: str = "lamer_hgpo"
    updates: int | None = 1
    steps: int = 40
    tasks: int = 16
    batch_rows: int = 64
    learning_rate: float = 2e-4
    seed: int = 0


QUICKSTARTS: Mapping[str, Settings] = MappingProxyType(
    {
        "doors": Settings(
            "doors",
            "8 doors and a lamp",
            LamerConfig(memory="history", env_options={"doors": 8, "lamp": True}),
            (Arm("lamer", "LaMer", 3, 8), Arm("rl", "RL", 1, 24)),
            panel_size=256,
            panel="doors/8-lamp",
            player_options={"searches": [["lamp"]]},
            eval_temperature=1.0,  # as in training: how often it burns the lamp is what it has learnt
        ),
        # In the `episode` context a prompt is processed once an episode, a memory of reflections only is the shortest,
        # and shaped rewards teach a weak player sooner. The panel is half of all boards, which are held out.
        "minesweeper": Settings(
            "minesweeper",
            "MineSweeper of 3x3 cells with 2 mines",
            LamerConfig(
                context="episode",
                memory="reflection",
                max_turns=6,
                reward="shaped",
                env_options={"size": 3, "mines": 2},
            ),
            (Arm("lamer", "LaMer", 3, 8),),
            panel_size=114,
            demonstrations=2800,
            passes=1.0,
            prompt_weight=3.0,
            layers=2,
            hidden=96,
            heads=8,
            max_new_tokens=64,
            max_length=2048,
            estimator="lamer_gigpo",
            updates=None,
            steps=32,
            tasks=12,
        ),
    }
)
"""Quickstarts by environment."""
