"""How a trial plays an environment: by a session, wherever the environment lives.

Inline sessions call it here and now, on the event loop; that suits cheap environments, and
tools in which nothing else waits. Where slow ones live while a model is trained, see
`integration/pool.py`. Both run `begin` and `play`, so they answer the same.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from openrlhf_lamer.envs.base import Observation, Step, TextEnv
from openrlhf_lamer.records import Task


@dataclass(frozen=True, slots=True)
class Opening:
    """An episode's initial state, with what the trial loop must know of the environment.

    Attributes:
        observation: What the agent sees.
        anchor: Key of the state.
        facts: What prompts may say of the environment (`TextEnv.facts`).
        penalises_invalid: Whether the environment itself charges for refused actions.
    """

    observation: Observation
    anchor: str
    facts: Mapping[str, Any]
    penalises_invalid: bool


class Session(Protocol):
    """One environment, leased by one trial.

    Calls raise what the environment raises, and `TimeoutError` where it does not answer in
    time. After that, `close` is the only call left.
    """

    @property
    def env(self) -> TextEnv | None:
        """The environment, if it lives in this process."""
        ...

    async def reset(self, task: Task) -> Opening:
        """Begin an episode of `task`."""
        ...

    async def step(self, action: str) -> tuple[Step, str]:
        """Play an action; returns what it did, and the anchor of the state it led to."""
        ...

    async def close(self) -> None:
        """Give the environment back."""
        ...


OpenSession = Callable[[partial[TextEnv]], Awaitable[Session]]
"""Opens a session on the environment that its argument builds."""


def begin(env: TextEnv, task: Task) -> Opening:
    """Begin an episode."""
    observation = env.reset(task)
    return Opening(observation, env.anchor(), env.facts, env.penalises_invalid)


def play(env: TextEnv, action: str) -> tuple[Step, str]:
    """Play an action; returns what it did, and the anchor of the state it led to."""
    return env.step(action), env.anchor()


class InlineSession:
    """A session on an environment in this process. Its calls block, and nothing times them."""

    def __init__(self, env: TextEnv) -> None:
        self.env = env

    async def reset(self, task: Task) -> Opening:
        return begin(self.env, task)

    async def step(self, action: str) -> tuple[Step, str]:
        return play(self.env, action)

    async def close(self) -> None:
        self.env.close()


async def open_inline(make: partial[TextEnv]) -> Session:
    """A session in this process."""
    return InlineSession(make())
