"""Most tokens of a prompt with its reply: the default length of training and evaluation, and its check.

The figure comes from a trial that goes badly, rendered by its agent's templates: every attempt uses all its turns and
is lost, and every state is as long as the environment's states get (`TextEnv.long_states`). Under a budget of turns
attempts may also be short and many (`_schedules`). The longest prompt of such a trial must fit, together with a reply
of full length. An earlier reply in a prompt, in a chat that goes on, counts as a quarter of its limit, but at least as
256 tokens (or the limit, if that is less).

Tokens are estimated, because no model need be at hand: a text is cut as Qwen's tokenizers cut it, and the estimate is
up to 15% above their count for the bundled prompts.
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
from openrlhf_lamer.memory import recall, untold
from openrlhf_lamer.records import Episode, Phase, Stop, Turn
from openrlhf_lamer.vocabulary import ContextPolicy

LEAST = 4096
"""Least default length in tokens, unless the model's limit is lower."""

STEP = 256
"""A length is a multiple of this."""

EARLIER = 256
"""Tokens that an earlier reply counts as, unless a quarter of its limit is more or its limit is less."""

BEGINNING, MESSAGE = 24, 16
"""Tokens that chat templates add before the first message (a system prompt), and around a message and a reply."""

ACTION = "search[some words that say what is wanted]"
"""An action as long as those of games that are played by words."""


class RoomError(LamerError, ValueError):
    """An impossible length; the message names the flag, and ends with `; ` and a remedy."""


_NUMBER = r"\d²³¹¼-¾⁰⁴-⁹₀-₉⅐-ↂↅ-↉①-⒛⓪-⓿"
_PIECES = re.compile(
    rf"(?:[^\w\r\n]|_)?[^\W_{_NUMBER}]+|[{_NUMBER}]| ?(?:[^\w\s]|_)+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PIECE = 6
"""Bytes of a piece per token: a common word is one token, a rare or long one several."""


def estimate(text: str) -> int:
    """Estimated tokens of a text, rather too many than too few."""
    return sum(-(-len(piece.encode()) // _PIECE) for piece in _PIECES.findall(text))


def needed(agent: Agent, config: LamerConfig, max_new_tokens: int, options: Iterable[Mapping[str, Any]] = ({},)) -> int:
    """Tokens of the longest prompt of a trial, with its reply.

    Args:
        agent: The agent.
        config: Attempts, turns, context, memory, options of the environment.
        max_new_tokens: Most tokens of a reply.
        options: The tasks' options of the environment, over `config.env_options`; the longest prompt counts.

    Raises:
        TaskError: The environment refuses the options.
        Exception: Any error of the environment or the templates.
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
    """Length to run with, and a warning if trials don't fit into it (empty if they do).

    Args:
        agent: As in `needed`; so are `config`, `max_new_tokens` and `options`.
        flag: Name of the flag that sets the length, with its dashes.
        given: Value that the user gave, if any.
        model: Most tokens that the model takes; None if unknown.

    Raises:
        RoomError: The model takes fewer tokens, or no length is given and the prompts can't be rendered.
    """
    try:
        least = needed(agent, config, max_new_tokens, options)
    except Exception as error:  # a user's templates or environment may raise anything
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
        facts, states = env.facts, env.long_states()
    finally:
        env.close()
    reply = min(max_new_tokens, max(EARLIER, max_new_tokens // 4))
    longest = length = 0
    for lengths in _schedules(config, config.max_turns or agent.max_turns):
        for message in _BadTrial(agent, config, max_new_tokens, facts, states, lengths).messages():
            length = (BEGINNING if message.begins else length + reply) + MESSAGE + estimate(message.text)
            longest = max(longest, length)
    return longest


def _schedules(config: LamerConfig, turns: int) -> list[list[int]]:
    """Turns of each attempt in the trials that may have the longest prompt.

    Without a budget all attempts use all their turns. A budget is used up by long attempts, which have the longest
    prompts for reflections, or by as many attempts as it allows, of which the last is long or they are all short.

    Args:
        config: Number of attempts and budget of turns.
        turns: Most turns of an attempt.
    """
    number, budget = config.num_episodes, config.turn_budget
    if budget is None:
        return [[turns] * number]
    full = [min(turns, budget - used) for used in range(0, budget, turns)][:number]
    found = [full]
    for last in (min(turns, budget), 1):
        earlier, left = min(number - 1, budget - last), budget - last
        lengths = []
        for later in reversed(range(earlier)):
            lengths.append(min(turns, left - later))
            left -= lengths[-1]
        found.append([*lengths, last])
    return found


@dataclass(frozen=True)
class _Message:
    text: str
    begins: bool
    """Whether it begins a new chat."""


@dataclass
class _BadTrial:
    """A trial whose attempts are lost, have these numbers of turns, and go through `states` in turn."""

    agent: Agent
    config: LamerConfig
    max_new_tokens: int
    facts: Mapping[str, Any]
    states: Sequence[Observation]
    lengths: Sequence[int]
    episodes: list[Episode] = field(default_factory=list)

    def messages(self) -> Iterable[_Message]:
        """The user's messages, in order."""
        policy: ContextPolicy = self.config.context
        for episode, turns in enumerate(self.lengths):
            played = [self._turn(episode, index) for index in range(turns)]
            for index in range(turns):
                begins = policy == "turn" or (not index and (policy == "episode" or not episode))
                yield _Message(self._play(begins, played[:index], turns - index), begins)
            final = self._final(turns)
            reflection = None
            if self.config.reflects and episode < len(self.lengths) - 1:
                begins = policy == "turn"
                yield _Message(self._reflect(begins, played, final), begins)
                reflection = self._reflection(episode)
            self.episodes.append(Episode(tuple(played), Stop.MAX_TURNS, final.text, reflection))

    def _play(self, begins: bool, turns: Sequence[Turn], left: int) -> str:
        budget, earlier = self.config.turn_budget, sum(len(episode.turns) for episode in self.episodes)
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
            thinking=self.config.thinking,
            budget_left=None if budget is None else budget - earlier - len(turns),
            ended=untold(self.episodes, self.config.stop_on_success),
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
            thinking=self.config.thinking,
        )

    def _state(self, index: int) -> Observation:
        """State before turn `index`: the initial one, then the others in rotation."""
        later = self.states[1:]
        return later[(index - 1) % len(later)] if index and later else self.states[0]

    def _final(self, turns: int) -> Observation:
        """State after the last turn. Under a budget an attempt may end at any time, so this is the longest state."""
        if self.config.turn_budget is None:
            return self._state(turns)
        return max(self.states, key=lambda state: estimate(state.text))

    def _turn(self, episode: int, index: int) -> Turn:
        return self._generated(Phase.PLAY, episode, index, ACTION, self._state(index).text)

    def _reflection(self, episode: int) -> Turn:
        return self._generated(Phase.REFLECT, episode, 0, "word " * min(REMARK_LIMIT // 5, self.max_new_tokens), "")

    def _generated(self, phase: Phase, episode: int, index: int, action: str, observation: str) -> Turn:
        return Turn(phase, episode, index, (), (), None, "", action, True, 0.0, "", observation)
