"""An engine whose time is computed: continuous batching on a clock that jumps from event to event.

Real code runs on it unchanged: the event loop's clock stands still while anything is computed, and jumps to the next
timer as soon as nothing is.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import math
import selectors
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from openrlhf_lamer.offload import Offload

T = TypeVar("T")


class _Clock(selectors.DefaultSelector):
    """Waits for no time: where a loop would sleep, the clock jumps."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        events = super().select(0)
        if not events:
            self.now += timeout
        return events


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _Clock()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


async def _compute(self: Offload, function: Callable[[], T], seconds: float) -> T:
    """Compute on the loop itself, where the clock stands still meanwhile."""
    return function()


Offload.__call__ = _compute


@dataclass(frozen=True)
class Load:
    """Load from a time on (in seconds): replies in the batch, and tokens generated before that time."""

    time: float
    running: int
    tokens: int


@dataclass(frozen=True)
class Simulated:
    """Engines with decode steps of `step + reply · n` seconds for n replies in the batch. Prompts cost nothing."""

    step: float
    reply: float

    def run(self, course: Callable[[Any], Coroutine[Any, Any, T]]) -> tuple[T, float, list[Load]]:
        """Run `course` with a new engine's `generate`; returns its result, its seconds, and the engine's load."""
        engine = SimulatedEngine(self)
        with asyncio.Runner(loop_factory=_Loop) as runner:
            result = runner.run(course(engine.generate))
            return result, runner.get_loop().time(), engine.loads


class SimulatedEngine:
    """Generates any number of replies at once, a token of each in a step; new ones join at the next step."""

    def __init__(self, costs: Simulated) -> None:
        self._costs = costs
        self._steps = self._tokens = 0
        self._order = itertools.count()
        self._running: list[tuple[int, int, asyncio.Future[None]]] = []
        """A heap by the number of the step that a reply ends with."""
        self._joining: list[tuple[int, asyncio.Future[None]]] = []
        self._joined = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self.loads: list[Load] = []

    async def generate(self, prompt: Sequence[int], tokens: int) -> None:
        """Take as long as `tokens` tokens take."""
        done = asyncio.get_running_loop().create_future()
        self._joining.append((tokens, done))
        self._joined.set()
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        await done

    async def _work(self) -> None:
        clock = asyncio.get_running_loop().time
        while self._joining or self._running:
            for tokens, done in self._joining:
                heapq.heappush(self._running, (self._steps + tokens, next(self._order), done))
            self._joining.clear()
            self._joined.clear()
            self.loads.append(Load(clock(), len(self._running), self._tokens))
            began, cost = clock(), self._costs.step + self._costs.reply * len(self._running)
            steps = self._running[0][0] - self._steps
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(steps * cost):
                    await self._joined.wait()
                steps = math.ceil(round((clock() - began) / cost, 6))  # the step that they came in is finished first
                await asyncio.sleep(max(0.0, began + steps * cost - clock()))
            self._steps += steps
            self._tokens += steps * len(self._running)
            while self._running and self._running[0][0] <= self._steps:
                heapq.heappop(self._running)[2].set_result(None)
        self._worker = None
        self.loads.append(Load(clock(), 0, self._tokens))
