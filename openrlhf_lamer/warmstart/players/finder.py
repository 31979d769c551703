"""A player of games in which something hidden can be found: it searches without a plan, and uses what it found."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

from openrlhf_lamer.agents import Agent
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.envs.base import TextEnv
from openrlhf_lamer.warmstart.players.scripted import DemonstratedPolicy, probability

DRAWS = 1000
"""Draws after which an action that has lost is played again: in some games, every legal action may have lost."""


class Finder(DemonstratedPolicy):
    """Searches until what is hidden was shown (`TextEnv.found`), then plays the oracle.

    It searches at random, or by one of given ways.

    In a later episode it knows only what its memory tells: with a memory of reflections only, what its remarks named,
    be it what is hidden or an action that lost.
    A model that imitates it learns to read, not to explore: whether and where to look is left to training.

    Args:
        chat: Chat of the model that imitates.
        seed: Seed of the draws.
        agent: The agent that is played.
        config: Configuration of trials.
        searches: Ways to search, each a sequence of actions, such as `[["lamp"]]`.
        share: Probability that an attempt which begins without knowledge goes one of these ways, all equally likely.
        recall: Probability that an attempt uses what earlier ones found.
        avoid: Probability that, in an attempt, it plays no action that has lost an earlier one.
        tells: Probability that a remark says what was seen; other remarks say nothing.
    """

    def __init__(
        self,
        chat: Chat,
        seed: int,
        agent: Agent,
        config: LamerConfig,
        *,
        searches: Sequence[Sequence[str]] = (),
        share: float = 0.45,
        recall: float = 1.0,
        avoid: float = 0.5,
        tells: float = 0.5,
    ) -> None:
        super().__init__(chat, seed, agent, config)
        if isinstance(searches, str) or any(isinstance(way, str) or not way for way in searches):
            raise ValueError(f'searches is a list of lists of actions, such as [["lamp"]], not {searches!r}')
        self._searches, self._share = searches, probability("share", share)
        self._recall, self._avoid = probability("recall", recall), probability("avoid", avoid)
        self._tells = probability("tells", tells)
        self._avoids = self._known = False
        self._remembered = False
        self._search: Iterator[str] = iter(())
        self._lost: set[str] = set()
        self._losing: str | None = None
        self._seen = ""

    def act(self, env: TextEnv) -> str:
        """The oracle's action if it is known, else one that searches."""
        known = self._known
        action = (env.oracle() or "") if known else self._tried(env)
        ahead = copy.deepcopy(env)
        step = ahead.step(action)
        self._seen = step.observation.text
        self._known = known or ahead.found is not None
        self._losing = action if step.terminated and not step.won and not self._known else None
        if self.config.memory != "reflection":
            self._remembered = self._remembered or self._known
            if self._losing is not None:
                self._lost.add(self._losing)
        return self.reply(action, "I know it." if known else "I try this.", known)

    def reflect(self, env: TextEnv) -> str:
        """A remark on what was seen last, or one that says nothing."""
        told = self.rng.random() < self._tells
        self._remembered = self._remembered or (told and self._known)
        if told and self._losing is not None:
            self._lost.add(self._losing)
        return f"<remark>{self._seen if told else 'Try again.'}</remark>"

    def begin(self) -> None:
        """Draw whether this attempt uses what was found, avoids what lost, and searches by one of the given ways."""
        self._avoids = self.rng.random() < self._avoid
        self._known = self._remembered and (self._recall == 1 or self.rng.random() < self._recall)
        self._search = iter(())
        if self._searches and not self._known:
            draw = self.rng.random()  # decides whether, and by which way
            if draw < self._share:
                self._search = iter(self._searches[int(draw / self._share * len(self._searches))])

    def _tried(self, env: TextEnv) -> str:
        planned = next(self._search, None)
        if planned is not None:
            return planned
        action = env.random_action(self.rng)
        for _ in range(DRAWS):
            if not (self._avoids and action in self._lost):
                break
            action = env.random_action(self.rng)
        return action
