"""Every knob of LaMer, its default, its check and its help text, in one place.

The same model is filled from `--lamer.*` flags, a TOML file (`--lamer.config`) and
the environment variable `OPENRLHF_LAMER_CONFIG`, in this order of precedence. The
variable is also how Ray carries the configuration to every worker process.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from openrlhf_lamer import LamerError
from openrlhf_lamer.vocabulary import (
    CONTEXT_HELP,
    CROSS_EPISODE_HELP,
    MEMORY_HELP,
    NORM_HELP,
    REWARD_HELP,
    ContextPolicy,
    CrossEpisode,
    Memory,
    Norm,
    RewardScheme,
)

ENV_VAR = "OPENRLHF_LAMER_CONFIG"

MAX_NEW_TOKENS = 1024
"""Most tokens of one reply where the host's own flag does not say."""


class ConfigError(LamerError, ValueError):
    """A configuration that cannot be used; the message names the flag and the remedy."""


class LamerConfig(BaseModel):
    """The configuration of trials and credit; defaults are the paper's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_episodes: int = Field(
        default=3, ge=1, description="Episodes in a trial (N). 1 is ordinary RL in the same code."
    )
    max_turns: int | None = Field(
        default=None,
        ge=1,
        description="Turns in an episode, in training and on its evaluation set; by default what the agent has there.",
    )
    context: ContextPolicy = Field(default="turn", description=CONTEXT_HELP)
    memory: Memory = Field(default="both", description=MEMORY_HELP)
    gamma_step: float = Field(default=0.95, ge=0, le=1, description="Discount between the turns of an episode.")
    gamma_traj: float = Field(default=0.6, ge=0, le=1, description="Discount between the episodes of a trial.")
    cross_episode: CrossEpisode | None = Field(default=None, description=CROSS_EPISODE_HELP)
    norm: Norm | None = Field(default=None, description=NORM_HELP)
    step_weight: float = Field(default=1.0, ge=0, allow_inf_nan=False, description="Weight of GiGPO's step term.")
    depth: int = Field(default=2, ge=0, description="Earlier turns (K) that HGPO compares contexts by.")
    depth_power: float = Field(
        default=1.0, ge=0, allow_inf_nan=False, description="Exponent of the weight that HGPO gives a deeper level."
    )
    reference: bool = Field(
        default=False, description="Reproduce the quirks of the paper's reference code in the estimators (on or off)."
    )
    reward: RewardScheme = Field(default="sparse", description=REWARD_HELP)
    invalid_penalty: float = Field(
        default=0.5, ge=0, description="What an invalid action, or a reflection without a remark, costs on its turn."
    )
    train_reflection: bool = Field(default=True, description="Train the reflections too (on or off).")
    env_options: dict[str, Any] = Field(
        default_factory=dict, description="Options of the environment as JSON, such as '{\"mines\": 4}'."
    )
    max_failed_share: float = Field(
        default=0.25, ge=0, le=1, description="Abort when more than this share of a batch's trials failed."
    )
    max_concurrent_trials: int | None = Field(
        default=None,
        ge=1,
        description="Trials that run at once on one rollout engine, which bounds its memory; the rest start as these "
        "end, longest expected first. By default all of a batch start at once.",
    )
    timeout: float = Field(default=600.0, gt=0, description="Seconds that one generation may take.")
    env_workers: int = Field(
        default=4, ge=1, description="Processes that play a slow environment for one rollout engine, at most."
    )
    env_timeout: float = Field(
        default=60.0,
        gt=0,
        description="Seconds that one call into an environment, or the rendering of one prompt, may take.",
    )
    retries: int = Field(default=1, ge=0, description="How often a failed trial is begun anew before it is masked.")
    trials: str | None = Field(
        default=None, description="File that gets every training trial as a JSON line; by default none is written."
    )
    cpu: bool | None = Field(
        default=None, description="Train without CUDA (on or off); by default where there is no CUDA device."
    )

    @property
    def reflects(self) -> bool:
        """Whether a lost episode is followed by a reflection."""
        return self.memory != "history"

    @classmethod
    def load(cls, flags: Mapping[str, Any] | None = None, file: str | None = None) -> LamerConfig:
        """Merge flags over a TOML file over the environment variable over the defaults.

        Raises:
            ConfigError: naming the flag, what is wrong with its value, and what it takes.
        """
        merged: dict[str, Any] = json.loads(os.environ.get(ENV_VAR) or "{}")
        if file is not None:
            try:
                merged |= tomllib.loads(Path(file).read_text())
            except (OSError, tomllib.TOMLDecodeError) as error:
                raise ConfigError(f"--lamer.config {file}: {error}") from error
        merged |= flags or {}
        try:
            return cls.model_validate(merged)
        except ValidationError as error:
            lines = []
            for problem in error.errors():
                name = ".".join(str(part) for part in problem["loc"][:1])
                if name in cls.model_fields:
                    remedy = cls.model_fields[name].description
                    lines.append(f"--lamer.{name} {problem['input']!r}: {problem['msg']}. {remedy}")
                else:
                    lines.append(f"--lamer.{name}: no such option. Options: {', '.join(sorted(cls.model_fields))}")
            raise ConfigError("\n".join(lines)) from error

    def to_env(self) -> str:
        """This configuration as the value of the environment variable."""
        return self.model_dump_json(exclude_defaults=True)
