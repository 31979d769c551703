"""Sessions: how a trial plays an environment, wherever the environment lives.

Inline sessions call it directly on the event loop; that suits tools, in which nothing else waits.
While a model is trained, cheap environments have threaded sessions, and slow ones run in other
processes (see `integration/rollout/pool.py`). All run `begin` and `play`, so they answer the same.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from openrlhf_lamer.envs.base import Observation, Step, TextEnv
from openrlhf_lamer.offload import OverdueError, off_loop
from openrlhf_lamer.records import Task

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Opening:
    """An episode's initial state, with facts of the environment that the trial loop needs.

    Attributes:
        observation: State as the agent sees it.
        anchor: Key of the state.
        facts: Values that prompts may use (`TextEnv.facts`).
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
        """Play an action; returns its result, and the anchor of the state that it led to."""
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
    """Play an action; returns its result, and the anchor of the state that it led to."""
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


class ThreadedSession:
    """A session on an environment in this process, whose calls run off the event loop.

    Args:
        env: The environment.
        timeout: Seconds that one call may take. A call that takes longer is abandoned, and the environment with
            it.
    """

    def __init__(self, env: TextEnv, timeout: float) -> None:
        self.env: TextEnv | None = env
        self._timeout = timeout

    async def reset(self, task: Task) -> Opening:
        return await self._call(lambda env: begin(env, task))

    async def step(self, action: str) -> tuple[Step, str]:
        return await self._call(lambda env: play(env, action))

    async def close(self) -> None:
        if self.env is not None:
            await self._call(lambda env: env.close())

    async def _call(self, function: Callable[[TextEnv], T]) -> T:
        env = self.env
        assert env is not None, "only `close` may follow a call that took too long"
        try:
            return await off_loop(lambda: function(env), self._timeout)
        except OverdueError:
            self.env = None
            raise
