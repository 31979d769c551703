"""Agents: an environment, its prompt templates and the limits of an episode.

`play.j2` and `reflect.j2` of an agent's prompt folder render a full message if `continuing` is false; if it is true, in
a chat that goes on, they render only what is new. `Agent.play_message` documents the names that they see.
"""

from __future__ import annotations

import re
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
from openrlhf_lamer.records import Episode, Stop, Task, Turn

PROMPTS = Path(__file__).parent.parent / "prompts"

REMARK_LIMIT = 2000
"""Characters of a remark that are kept."""

INTRODUCTION = "introduction.j2"
"""Name of the template that gives a game's first message without its state."""

ACTION_LIMIT = 200
"""Characters of an action that are kept for the record and for prompts. The environment gets the whole action."""


_INTRODUCTION = '{% extends "play.j2" %}{% block state %}{% endblock %}{% block ask %}{% endblock %}'


class AgentError(LamerError, ValueError):
    """There is no such agent, or its arguments are wrong."""


@dataclass(frozen=True)
class Agent:
    """An environment with its prompts.

    Args:
        env: Name of the registered environment.
        max_turns: Turns in an episode, unless the configuration sets them.
        eval_turns: Turns in an episode of an evaluation, if they differ from `max_turns`.
        window: Number of latest turns that a fresh prompt lists.
        full_observations: Number of these turns that are shown with the state they acted on.
        rules: Rules of the game, as a template that sees `env`; for an agent without a file `rules.j2`.
        prompts: Folder of `play.j2`, `reflect.j2` and `rules.j2`; by default the one named like the environment.
            If one of the first two is missing, the package's own is used. A template may extend
            `base/play.j2` or `base/reflect.j2` and replace single blocks.
        reasons: Whether the prompts ask the model to think before it acts; templates see it under this name. They see
            false where the model thinks by itself (`--lamer.thinking`): it need not think once more in its answer.
        memory_observations: Number of an attempt's latest turns that memory and reflection show with their outcome, as
            `action -> observation`. 0 suits games whose last state tells everything, such as a board.
        memory_characters: Characters that are kept of each of these observations, on one line.
        memory_separator: Text between the parts of an observation, if it has any. Memory then leaves out parts that the
            initial observation has too, such as the request at the head of every page of a shop.
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
            # Otherwise the neighbours of a part that is left out could join to a control token or a tag.
            raise AgentError(
                f"agent {self.env!r}: memory_separator begins and ends with a space or a line break, or is None; "
                f"it is {separator!r}"
            )

    @cached_property
    def _jinja(self) -> jinja2.Environment:
        folder = self.prompts or PROMPTS / self.env
        own = {INTRODUCTION: _INTRODUCTION} | ({} if self.rules is None else {"rules.j2": self.rules})
        environment = jinja2.Environment(
            loader=jinja2.ChoiceLoader(
                [
                    jinja2.DictLoader(own),
                    jinja2.FileSystemLoader([folder, PROMPTS]),
                    # A game's play.j2 extends a file of the same name: without the prefix it would extend itself.
                    jinja2.PrefixLoader({"base": jinja2.FileSystemLoader(PROMPTS)}),
                ]
            ),
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            autoescape=False,
            auto_reload=False,
        )
        environment.globals["shows_outcomes"] = self.memory_observations > 0
        environment.globals["with_outcomes"] = self._with_outcomes
        return environment

    def _with_outcomes(self, turns: Sequence[Turn]) -> list[tuple[Turn, str]]:
        """Turns of an attempt, each with its outcome as far as this agent shows it."""
        return with_outcomes(turns, self.memory_observations, self.memory_characters, self.memory_separator)

    def evaluated(self) -> Agent:
        """This agent with its number of turns in an evaluation."""
        return replace(self, max_turns=self.eval_turns or self.max_turns)

    def env_factory(self, task: Task, *, reward: str, options: Mapping[str, Any]) -> partial[TextEnv]:
        """Constructor of an environment for `task`; the task's options win over the configured ones."""
        return registry.factory(self.env, **{**options, **task.options, "reward": reward})

    def try_task(self, task: Task, *, reward: str, options: Mapping[str, Any]) -> None:
        """Set `task` up if it comes from a data set; a task with a seed needs no check.

        Raises `TaskError` if the data is missing on this machine or differs.
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
        thinking: bool = False,
        budget_left: int | None = None,
        ended: Episode | None = None,
    ) -> str:
        """User message before a play turn.

        The template sees `env` (`TextEnv.facts`, so `env.size` is an option), `initial` and `observation` (both with
        `text` and `admissible`), `memory` (attempts so far), `history` (the latest turns, as
        pairs of a turn and whether to show its state), `hidden` (number of turns before these),
        `last` (the previous turn, or None), `episode` (from 0), `num_episodes`, `turns_left` (in this attempt),
        `budget_left` (turns left in all attempts together, or None without a budget), `ended` (the episode before,
        where the chat goes on and has to say how it ended, or None), `continuing`,
        `thinking` (whether the model thinks before its answer), and the agent's `reasons`.
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
            budget_left=budget_left,
            ended=ended,
            thinking=thinking,
            reasons=self.reasons and not thinking,
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
        thinking: bool = False,
    ) -> str:
        """User message that asks for a reflection on the episode that just ended; its template sees `thinking` too."""
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
            thinking=thinking,
        )

    def introduction(self, env: Mapping[str, Any]) -> str:
        """The game's rules and how an action is written, for people: the first message without a state and tags."""
        nothing = Observation("")
        text = self._render(
            INTRODUCTION,
            continuing=False,
            env=SimpleNamespace(**env),
            initial=nothing,
            memory=(),
            history=(),
            hidden=0,
            last=None,
            observation=nothing,
            episode=0,
            num_episodes=1,
            turns_left=self.max_turns,
            budget_left=None,
            ended=None,
            thinking=False,
            reasons=False,
        )
        plain = text.replace(" as <action>...</action>", "").replace(" and nothing else", "").strip()
        return re.sub("<action>(.*?)</action>", r'"\1"', plain)

    def recollection(self, memory: Sequence[Attempt]) -> str:
        """Memory of earlier attempts, as prompts show it."""
        shared: Any = self._jinja.get_template("_shared.j2").module
        return str(shared.attempts(memory)).strip()

    def _render(self, name: str, **values: Any) -> str:
        try:
            return self._jinja.get_template(name).render(values)
        except jinja2.TemplateNotFound as error:
            folder = self.prompts or PROMPTS / self.env
            raise AgentError(f"agent {self.env!r} has no {error} in {folder}; write one, or give it `rules`") from error
