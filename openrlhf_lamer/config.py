"""Every option of LaMer that estimators share, with its default, its check and its help text.

The same model is filled from `--lamer.*` flags, a TOML file (`--lamer.config`) and
the environment variable `OPENRLHF_LAMER_CONFIG`, in this order of precedence. The
variable is also how Ray carries the configuration to every worker process. An estimator's
own options, such as `--lamer.hgpo.depth`, are defined beside it (`advantage.registry`).
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from openrlhf_lamer import LamerError
from openrlhf_lamer.vocabulary import (
    CONTEXT_HELP,
    CROSS_EPISODE_HELP,
    FORWARD_HELP,
    LOSS_WEIGHT_HELP,
    MEMORY_HELP,
    NORM_HELP,
    REWARD_HELP,
    TASK_SAMPLING_HELP,
    THINKING_HELP,
    ContextPolicy,
    CrossEpisode,
    Forward,
    LossWeight,
    Memory,
    Norm,
    RewardScheme,
    TaskSampling,
)

if TYPE_CHECKING:
    from openrlhf_lamer.advantage import CreditConfig, Estimator

ENV_VAR = "OPENRLHF_LAMER_CONFIG"

MAX_NEW_TOKENS = 1024
"""Most tokens of one reply, unless the host's own flag is given."""

THINKING_NEW_TOKENS = 4096
"""The same with thinking: thoughts and answer share this limit."""


class ConfigError(LamerError, ValueError):
    """A configuration that cannot be used; the message names the flag and the remedy."""


class LamerConfig(BaseModel):
    """The configuration of trials and credit; defaults are those of the paper's text, else of its authors' scripts.

    Estimators' own options are extra values whose names are dotted, such as `hgpo.depth`.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    num_episodes: int = Field(
        default=3,
        ge=1,
        description="Most episodes in a trial (N). 1 is ordinary RL in the same code. With --lamer.turn_budget, by "
        "default as many as it holds.",
    )
    stop_on_success: bool = Field(
        default=True,
        description="End a trial with the first episode that is won, as the paper does (on). Off: it goes on, and the "
        "return counts all its wins, so that to win early and again pays (ORBIT, arXiv 2602.04089).",
    )
    turn_budget: int | None = Field(
        default=None,
        ge=1,
        description="Play turns of a whole trial, over all its episodes; reflections don't count. When they are used "
        "up the trial ends, and its last episode with it. In place of --lamer.num_episodes, or beside it; by default "
        "there is no budget.",
    )
    max_turns: int | None = Field(
        default=None,
        ge=1,
        description="Turns in an episode, in training and on its evaluation set; by default each agent's own numbers.",
    )
    eval_episodes: int | None = Field(
        default=None,
        ge=1,
        description="Episodes of a trial on the evaluation set; by default as in training. So training of single "
        "episodes is evaluated with a memory.",
    )
    context: ContextPolicy = Field(default="turn", description=CONTEXT_HELP)
    memory: Memory = Field(default="both", description=MEMORY_HELP)
    thinking: bool = Field(default=False, description=THINKING_HELP)
    gamma_step: float = Field(default=0.95, ge=0, le=1, description="Discount between the turns of an episode.")
    gamma_traj: float = Field(default=0.6, ge=0, le=1, description="Discount between the episodes of a trial.")
    cross_episode: CrossEpisode | None = Field(default=None, description=CROSS_EPISODE_HELP)
    norm: Norm | None = Field(default=None, description=NORM_HELP)
    reference: bool = Field(
        default=False, description="Reproduce the quirks of the paper's reference code in the estimators (on or off)."
    )
    reward: RewardScheme = Field(default="sparse", description=REWARD_HELP)
    invalid_penalty: float = Field(
        default=0.5, ge=0, description="Penalty for an invalid action, or a reflection without a remark, on its turn."
    )
    reflect_on_success: bool = Field(
        default=False,
        description="Reflect on episodes that were won too, where another one follows (on or off); it needs "
        "--lamer.stop_on_success off.",
    )
    train_reflection: bool = Field(default=True, description="Train the reflections too (on or off).")
    updates: int | None = Field(
        default=None,
        ge=1,
        description="Optimizer steps of a batch, each of whole groups, however many rows there are. By default a step "
        "for every --train.batch_size rows, as in the paper's code: then longer trials take more steps.",
    )
    loss_weight: LossWeight = Field(default="token", description=LOSS_WEIGHT_HELP)
    forward: Forward = Field(default="forest", description=FORWARD_HELP)
    task_sampling: TaskSampling = Field(default="uniform", description=TASK_SAMPLING_HELP)
    env_options: dict[str, Any] = Field(
        default_factory=dict,
        description="Options of the environment as JSON, such as '{\"mines\": 4}'; with several agents by environment, "
        'such as \'{"minesweeper": {"mines": 4}}\'.',
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
    timeout: float = Field(default=600.0, gt=0, description="Time limit of one generation, in seconds.")
    env_workers: int = Field(
        default=4, ge=1, description="Most processes that play a slow environment for one rollout engine."
    )
    env_timeout: float = Field(
        default=60.0,
        gt=0,
        description="Time limit of one call into an environment, or of rendering one prompt, in seconds.",
    )
    retries: int = Field(default=1, ge=0, description="Restarts of a failed trial before it is masked.")
    trials: str | None = Field(
        default=None,
        description="File that gets every training trial as a JSON line, with a file of all settings beside it; "
        "by default none is written. Steps that a resumed run repeats are replaced; a new run needs a new file.",
    )
    eval_trials: str | None = Field(
        default=None,
        description="The same for every evaluation trial, in another file than --lamer.trials; "
        "by default none is written.",
    )
    cpu: bool | None = Field(
        default=None, description="Train without CUDA (on or off); by default where there is no CUDA device."
    )

    @property
    def reflects(self) -> bool:
        """Whether lost episodes are reflected on, where another one follows."""
        return self.memory != "history"

    @property
    def max_new_tokens(self) -> int:
        """Most tokens of one reply, where no flag says otherwise."""
        return THINKING_NEW_TOKENS if self.thinking else MAX_NEW_TOKENS

    def evaluated(self) -> LamerConfig:
        """This configuration with the number of episodes of an evaluation."""
        return self.model_copy(update={"num_episodes": self.eval_episodes or self.num_episodes})

    def refusal(self, turns: int, flags: Mapping[str, str] = MappingProxyType({})) -> str | None:
        """Message about options of a trial's length that don't go together; None if they do.

        Args:
            turns: Most turns of an episode.
            flags: The command's flags, as a user types them, for options that it does not call `--lamer.NAME`.
        """
        stop, reflect, budget, memory, episodes = (
            flags.get(name, f"--lamer.{name}")
            for name in ("stop_on_success off", "reflect_on_success", "turn_budget", "memory", "num_episodes")
        )
        if not self.stop_on_success and self.num_episodes == 1:
            return f"{stop}: a trial has one episode, so that none follows a win; give more ({episodes})"
        if self.reflect_on_success and self.stop_on_success:
            return f"{reflect}: a trial ends with its first win, and nothing follows a reflection on it; add {stop}"
        if self.reflect_on_success and not self.reflects:
            return f"{reflect}: {memory} {self.memory} has no reflections; give {memory} reflection or both"
        most = self.num_episodes * turns
        if self.turn_budget is not None and self.turn_budget > most:
            return (
                f"{budget} {self.turn_budget}: {self.num_episodes} episodes of {turns} turns never use it up; give at "
                f"most {most}, or leave {episodes} out, so that only the budget ends a trial"
            )
        return None

    def options(self, estimator: Estimator) -> dict[str, Any]:
        """Values that were given for an estimator's own options, by name."""
        return _given(estimator, self.model_extra or {})

    def credit(self, estimator: Estimator, lambd: float = 1.0) -> CreditConfig:
        """The part of the configuration that an estimator sees, with the host's λ.

        Raises:
            ValueError: where λ is not in [0, 1].
        """
        from openrlhf_lamer.advantage import CreditConfig

        return CreditConfig(
            gamma_step=self.gamma_step,
            gamma_traj=self.gamma_traj,
            cross_episode=self.cross_episode,
            norm=self.norm,
            reference=self.reference,
            lambd=lambd,
            options=self.options(estimator),
        )

    @classmethod
    def flags(cls) -> dict[str, FieldInfo]:
        """All options by what follows `--lamer.` in their flags, those of estimators last."""
        from openrlhf_lamer import advantage

        estimators = map(advantage.get, advantage.names())
        return cls.model_fields | {own.flag(name): info for own in estimators for name, info in own.fields.items()}

    @model_validator(mode="after")
    def _settle_episodes(self) -> Self:
        """Without a number of episodes, a budget bounds it: each has at least one turn."""
        if self.turn_budget is not None and "num_episodes" not in self.model_fields_set:
            object.__setattr__(self, "num_episodes", self.turn_budget)  # not set: it follows from the budget
        return self

    @model_validator(mode="before")
    @classmethod
    def _read_options(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Check values that no field takes as options of estimators."""
        if not data.keys() - cls.model_fields:
            return data
        from openrlhf_lamer import advantage

        if unknown := data.keys() - cls.flags():
            raise ValueError("\n".join(no_such_option(f"--lamer.{name}") for name in sorted(unknown)))
        read = dict(data)
        for estimator in map(advantage.get, advantage.names()):
            if given := _given(estimator, data):
                own = estimator.read(given)
                read |= {estimator.flag(name): getattr(own, name) for name in given}
        return read

    @classmethod
    def load(cls, flags: Mapping[str, Any] | None = None, file: str | None = None) -> LamerConfig:
        """Merge flags over a TOML file over the environment variable over the defaults.

        Raises:
            ConfigError: naming the flag, what is wrong with its value, and what it takes.
        """
        merged: dict[str, Any] = json.loads(os.environ.get(ENV_VAR) or "{}")
        if file is not None:
            try:
                content = tomllib.loads(Path(file).read_text())
            except (OSError, tomllib.TOMLDecodeError) as error:
                raise ConfigError(f"--lamer.config {file}: {error}") from error
            for name, value in content.items():
                options = value if isinstance(value, dict) and name not in cls.model_fields else None
                merged |= {name: value} if options is None else {f"{name}.{key}": options[key] for key in options}
        merged |= flags or {}
        try:
            return cls.model_validate(merged)
        except ValidationError as error:
            lines = []
            for problem in error.errors():
                if not problem["loc"]:  # of `_read_options`, which names the flags itself
                    lines.append(problem["msg"].removeprefix("Value error, "))
                    continue
                name = str(problem["loc"][0])
                remedy = cls.model_fields[name].description
                lines.append(f"--lamer.{name} {problem['input']!r}: {problem['msg']}. {remedy}")
            raise ConfigError("\n".join(lines)) from error

    def to_env(self) -> str:
        """This configuration as the value of the environment variable."""
        # Leave out unset values, not defaults: beside a budget, 3 given episodes differ from no given number.
        return self.model_dump_json(exclude_unset=True)


def no_such_option(flag: str) -> str:
    """Message for an unknown `--lamer.NAME`, with the option that was probably meant."""
    known = [f"--lamer.{name}" for name in (*LamerConfig.flags(), "config")]
    # The option of an estimator may have been named without the estimator.
    same = [option for option in known if option.endswith(f".{flag.rpartition('.')[2]}")]
    close = same or get_close_matches(flag, known, n=1)
    return f"{flag}: no such option. " + (f"Did you mean {close[0]}?" if close else f"Options: {', '.join(known)}")


def _given(estimator: Estimator, values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values[flag] for name in estimator.fields if (flag := estimator.flag(name)) in values}
