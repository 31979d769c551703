"""Agents: an environment, its prompt templates and the limits of an episode.

`play.j2` and `reflect.j2` of an agent's prompt folder each render a full message
(`continuing` false) or the little that is new in a chat that goes on (`continuing`
true). They see the names documented at `Agent.play_message`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2

from openrlhf_lamer import LamerError
from openrlhf_lamer.envs import registry
from openrlhf_lamer.envs.base import Observation, TextEnv
from openrlhf_lamer.memory import Attempt, with_outcomes
from openrlhf_lamer.records import Stop, Task, Turn

PROMPTS = Path(__file__).parent.parent / "prompts"

REMARK_LIMIT = 2000
"""Characters of a remark that are kept."""

ACTION_LIMIT = 200
"""Characters of an action that are kept, for the record and for prompts. The environment is given all of it."""


class AgentError(LamerError, ValueError):
    """An agent that cannot be found or that is none."""


@dataclass(frozen=True)
class Agent:
    """An environment with its prompts.

    Args:
        env: Name of the registered environment.
        max_turns: Turns in an episode unless the configuration says otherwise.
        eval_turns: The same in an evaluation, where that is not as many.
        window: How many of the latest turns a fresh prompt lists.
        full_observations: How many of these are shown with the state they acted on.
        rules: What to tell of the game, a template that sees `env`; for an agent without a file `rules.j2`.
        prompts: Folder of `play.j2`, `reflect.j2` and `rules.j2`; by default the one named like the environment.
            Where one of the first two is missing, it is the same as for any game. A template may extend
            `base/play.j2` or `base/reflect.j2` and replace single blocks.
        reasons: Whether the prompts ask to think before acting; templates see it by this name.
        memory_observations: Of how many of an earlier attempt's latest turns memory and reflection show what came of
            them, as `action -> observation`. 0 is for games whose last state tells all, such as a board.
        memory_characters: Characters of each of these observations that are kept, on one line.
        memory_separator: What stands between the parts of an observation. Of those in memory, parts that the initial
            observation has too are then left out, such as the request that heads every page of a shop.
    """

    env: str
    max_turns: int
    window: int = 7
    full_observations: int = 2
    rules: str | None = None
    prompts: Path | None = None
    reasons: bool = True
    memory_observations: int = 0
    memory_characters: int = 300
    memory_separator: str | None = None
    eval_turns: int | None = None

    def __post_init__(self) -> None:
        if self.memory_observations < 0 or self.memory_characters < 1:
            raise AgentError(
                f"agent {self.env!r}: memory_observations is 0 or more and memory_characters 1 or more, not "
                f"{self.memory_observations!r} and {self.memory_characters!r}"
            )
        separator = self.memory_separator
        if separator is not None and not (separator[:1].isspace() and separator[-1:].isspace()):
            # Otherwise the parts on both sides of one left out could come to a control token or a tag.
            raise AgentError(
                f"agent {self.env!r}: memory_separator begins and ends with a space or a line break, or is None; "
                f"it is {separator!r}"
            )

    @cached_property
    def _jinja(self) -> jinja2.Environment:
        folder = self.prompts or PROMPTS / self.env
        rules = {} if self.rules is None else {"rules.j2": self.rules}
        environment = jinja2.Environment(
            loader=jinja2.ChoiceLoader(
                [
                    jinja2.DictLoader(rules),
                    jinja2.FileSystemLoader([folder, PROMPTS]),
                    # The base of a game's play.j2 has the same name, which by itself would be the game's own file.
                    jinja2.PrefixLoader({"base": jinja2.FileSystemLoader(PROMPTS)}),
                ]
            ),
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=False,
            autoescape=False,
            auto_reload=False,
        )
        environment.globals["shows_outcomes"] = self.memory_observations > 0
        environment.globals["with_outcomes"] = self._with_outcomes
        return environment

    def _with_outcomes(self, turns: Sequence[Turn]) -> list[tuple[Turn, str]]:
        """Turns of an attempt and what came of each, as far as this agent shows it."""
        return with_outcomes(turns, self.memory_observations, self.memory_characters, self.memory_separator)

    def evaluated(self) -> Agent:
        """This agent with the turns that it has in an evaluation."""
        return replace(self, max_turns=self.eval_turns or self.max_turns)

    def env_factory(self, task: Task, *, reward: str, options: Mapping[str, Any]) -> partial[TextEnv]:
        """Constructor of an environment for `task`; the task's own options win over the configured ones."""
        return registry.factory(self.env, **{**options, **task.options, "reward": reward})

    def try_task(self, task: Task, *, reward: str, options: Mapping[str, Any]) -> None:
        """Set `task` up where it is one of a data set: the data may be missing here, or be other data.

        Raises `TaskError` where that is so. A task with a seed is made here, and needs no look.
        """
        if task.spec is not None:
            with closing(self.env_factory(task, reward=reward, options=options)()) as env:
                env.reset(task)

    def play_message(
        self,
        *,
        continuing: bool,
        env: Mapping[str, Any],
        initial: Observation,
        memory: Sequence[Attempt],
        turns: Sequence[Turn],
        observation: Observation,
        episode: int,
        num_episodes: int,
        turns_left: int,
    ) -> str:
        """The user's message before a play turn.

        The template sees `env` (`TextEnv.facts`, so `env.size` is an option), `initial` and `observation` (both with
        `text` and `admissible`), `memory` (attempts so far), `history` (the latest turns as
        pairs of a turn and whether to show its state), `last` (the turn before, or none),
        `episode` (from 0), `num_episodes`, `turns_left`, `continuing`, and the agent's `reasons`.
        """
        recent = list(turns)[-self.window :]
        shown = len(recent) - self.full_observations
        return self._render(
            "play.j2",
            continuing=continuing,
            env=SimpleNamespace(**env),
            initial=initial,
            memory=memory,
            history=[(turn, position >= shown) for position, turn in enumerate(recent)],
            hidden=len(turns) - len(recent),
            last=turns[-1] if turns else None,
            observation=observation,
            episode=episode,
            num_episodes=num_episodes,
            turns_left=turns_left,
            reasons=self.reasons,
        )

    def reflect_message(
        self,
        *,
        continuing: bool,
        env: Mapping[str, Any],
        initial: Observation,
        turns: Sequence[Turn],
        observation: Observation,
        stop: Stop,
        episode: int,
        num_episodes: int,
    ) -> str:
        """The user's message that asks for a reflection on the episode just lost."""
        return self._render(
            "reflect.j2",
            continuing=continuing,
            env=SimpleNamespace(**env),
            initial=initial,
            turns=turns,
            observation=observation,
            stop=stop,
            episode=episode,
            num_episodes=num_episodes,
        )

    def _render(self, name: str, **values: Any) -> str:
        try:
            return self._jinja.get_template(name).render(values)
        except jinja2.TemplateNotFound as error:
            folder = self.prompts or PROMPTS / self.env
            raise AgentError(f"agent {self.env!r} has no {error} in {folder}; write one, or give it `rules`") from error
