"""How many tokens a prompt and its reply take at most: the default length of training and evaluation, and its check.

A trial that goes badly is written down, with its agent's own templates: every attempt uses all its turns and is
lost, and every state is as long as the environment's get (`TextEnv.long_states`). Its longest prompt is what has to
fit, and after it a reply of full length. Replies that stand in a prompt, in a chat that goes on, are counted at a
quarter of their limit, but at least at 256 tokens or the limit.

Tokens are estimated, since the figure must not wait for a model: as Qwen's tokenizers cut a text, and up to 15% above
what they make of the bundled prompts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from openrlhf_lamer import LamerError
from openrlhf_lamer.agents.base import REMARK_LIMIT, Agent
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.envs import registry
from openrlhf_lamer.envs.base import Observation
from openrlhf_lamer.memory import recall
from openrlhf_lamer.records import Episode, Phase, Stop, Turn
from openrlhf_lamer.vocabulary import ContextPolicy

LEAST = 4096
"""Tokens that a default length never goes below, unless the model's own limit does."""

STEP = 256
"""A length is a multiple of this."""

EARLIER = 256
"""Tokens that a reply in a chat is counted at, unless a quarter of its limit is more, or its limit is less."""

BEGINNING, MESSAGE = 24, 16
"""Tokens that chat templates put before the first message (a system prompt), and around a message and a reply."""

ACTION = "search[some words that say what is wanted]"
"""An action as long as those of games that are played by words."""


class RoomError(LamerError, ValueError):
    """A length that can't be; the message names the flag, and ends with `; ` and what to do."""


_NUMBER = r"\d²³¹¼-¾⁰⁴-⁹₀-₉⅐-ↂↅ-↉①-⒛⓪-⓿"
_PIECES = re.compile(
    rf"(?:[^\w\r\n]|_)?[^\W_{_NUMBER}]+|[{_NUMBER}]| ?(?:[^\w\s]|_)+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PIECE = 6
"""Bytes of a piece that make a token: common words are one, rarer and longer ones several."""


def estimate(text: str) -> int:
    """Tokens of a text, rather too many than too few."""
    return sum(-(-len(piece.encode()) // _PIECE) for piece in _PIECES.findall(text))


def needed(agent: Agent, config: LamerConfig, max_new_tokens: int, options: Iterable[Mapping[str, Any]] = ({},)) -> int:
    """Tokens that the longest prompt of a trial and its reply take.

    Args:
        agent: The agent.
        config: Attempts, turns, context, memory, options of the environment.
        max_new_tokens: Most tokens of a reply.
        options: What tasks say of their environment, over `config.env_options`; the longest counts.

    Raises:
        TaskError: The environment does not take the options.
        Exception: Whatever the environment or the templates raise.
    """
    prompts = [_longest_prompt(agent, config, max_new_tokens, each) for each in options]
    return -(-(max(prompts) + max_new_tokens) // STEP) * STEP


def settle(
    agent: Agent,
    config: LamerConfig,
    max_new_tokens: int,
    options: Iterable[Mapping[str, Any]] = ({},),
    *,
    flag: str,
    given: int | None = None,
    model: int | None = None,
) -> tuple[int, str]:
    """The length to run with, and a warning where trials don't fit into it; the warning is empty where they do.

    Args:
        agent: As in `needed`; so are `config`, `max_new_tokens` and `options`.
        flag: Name of the flag that gives the length, with the dashes.
        given: What the user gave by it, if anything.
        model: Tokens that the model takes at most, None if unknown.

    Raises:
        RoomError: The model takes less, or nothing is given and the prompts can't be rendered.
    """
    try:
        least = needed(agent, config, max_new_tokens, options)
    except Exception as error:  # a user's templates and environment may raise anything
        if given is None:
            raise RoomError(f"{flag}: the length of prompts can't be told ({error!r}); give {flag}") from error
        least = 0
    length = max(least, LEAST) if given is None else given
    if model is not None and given is None:
        length = min(length, model)
    if model is not None and not max_new_tokens < length <= model:
        raise RoomError(
            f"{flag} {length} must hold a prompt with a reply of {max_new_tokens} tokens, and the model takes {model} "
            "(its config.json); give less"
        )
    if length >= least:
        return length, ""
    what = f"the model takes {model} tokens" if given is None else f"{flag} {given}"
    longer = f"{flag} {least}, or " if model is None or model >= least else ""
    return length, (
        f"{what}, but the longest prompt of a trial and its reply need {least}: a prompt that does not fit ends its "
        f"attempt as overlong, and the trial where an attempt begins with it; give {longer}fewer attempts or turns, "
        "shorter replies, or a context that begins more often"
    )


def _longest_prompt(agent: Agent, config: LamerConfig, max_new_tokens: int, options: Mapping[str, Any]) -> int:
    env = registry.make(agent.env, **{**config.env_options, **options, "reward": config.reward})
    try:
        trial = _BadTrial(agent, config, max_new_tokens, env.facts, env.long_states())
    finally:
        env.close()
    reply = min(max_new_tokens, max(EARLIER, max_new_tokens // 4))
    longest = length = 0
    for message in trial.messages():
        length = (BEGINNING if message.begins else length + reply) + MESSAGE + estimate(message.text)
        longest = max(longest, length)
    return longest


@dataclass(frozen=True)
class _Message:
    text: str
    begins: bool
    """It begins a new chat."""


@dataclass
class _BadTrial:
    """A trial in which every attempt uses all its turns, is lost, and sees `states` again and again."""

    agent: Agent
    config: LamerConfig
    max_new_tokens: int
    facts: Mapping[str, Any]
    states: Sequence[Observation]
    episodes: list[Episode] = field(default_factory=list)

    def messages(self) -> Iterable[_Message]:
        """The user's messages, in order."""
        turns = self.config.max_turns or self.agent.max_turns
        policy: ContextPolicy = self.config.context
        for episode in range(self.config.num_episodes):
            played = [self._turn(episode, index) for index in range(turns)]
            for index in range(turns):
                begins = policy == "turn" or (not index and (policy == "episode" or not episode))
                yield _Message(self._play(begins, played[:index], turns - index), begins)
            final = self._state(turns)
            if self.config.reflects and episode < self.config.num_episodes - 1:
                begins = policy == "turn"
                yield _Message(self._reflect(begins, played, final), begins)
            self.episodes.append(Episode(tuple(played), Stop.MAX_TURNS, final.text, self._reflection(episode)))

    def _play(self, begins: bool, turns: Sequence[Turn], left: int) -> str:
        return self.agent.play_message(
            continuing=not begins,
            env=self.facts,
            initial=self.states[0],
            memory=recall(self.episodes, self.config.memory),
            turns=turns,
            observation=self._state(len(turns)),
            episode=len(self.episodes),
            num_episodes=self.config.num_episodes,
            turns_left=left,
        )

    def _reflect(self, begins: bool, turns: Sequence[Turn], final: Observation) -> str:
        return self.agent.reflect_message(
            continuing=not begins,
            env=self.facts,
            initial=self.states[0],
            turns=turns,
            observation=final,
            stop=Stop.MAX_TURNS,
            episode=len(self.episodes),
            num_episodes=self.config.num_episodes,
        )

    def _state(self, index: int) -> Observation:
        """The state before turn `index`: the initial one, then the others over and over."""
        later = self.states[1:]
        return later[(index - 1) % len(later)] if index and later else self.states[0]

    def _turn(self, episode: int, index: int) -> Turn:
        return self._generated(Phase.PLAY, episode, index, ACTION, self._state(index).text)

    def _reflection(self, episode: int) -> Turn:
        return self._generated(Phase.REFLECT, episode, 0, "word " * min(REMARK_LIMIT // 5, self.max_new_tokens), "")

    def _generated(self, phase: Phase, episode: int, index: int, action: str, observation: str) -> Turn:
        return Turn(phase, episode, index, (), (), None, "", action, True, 0.0, "", observation)
