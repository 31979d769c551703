"""Choice of the trial that starts next, and of its engine.

Trials differ in length by more than an order of magnitude, and a batch ends with its last one. So the trials that are
expected to take longest start first, each on the engine with the least work left. Work is counted in sampled tokens,
and a trial's work is estimated from trials that have ended. This module knows neither Ray nor a clock: callers give
times.
"""

from __future__ import annotations

import heapq
import itertools
import json
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from openrlhf_lamer.records import Task

K = TypeVar("K", bound=Hashable)

FLOOR = 0.1
"""Least share of its expected work that a running trial counts, however long it has run."""


class Expectation:
    """Tokens that a trial of a task will sample: the mean over its earlier trials.

    For a task without earlier trials it is the mean over its environment with the same options, else over its
    environment, else over all trials. The mean follows the policy: a new trial weighs at least 1 / `memory` in it.

    Args:
        memory: Number of trials that a mean is taken over, roughly.
        tasks: Most tasks that are remembered; those not played for longest are forgotten.
    """

    def __init__(self, memory: int = 32, tasks: int = 65_536) -> None:
        self._memory, self._tasks = memory, tasks
        self._by_task: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._by_kind: dict[tuple[str, ...], tuple[int, float]] = {}

    def tokens(self, task: Task) -> float:
        """Tokens that a trial of `task` is expected to sample; 1 while nothing is known."""
        found = self._by_task.get(task.id)
        if found is None:
            found = next((self._by_kind[kind] for kind in _kinds(task) if kind in self._by_kind), (0, 1.0))
        return found[1]

    def learn(self, task: Task, tokens: int) -> None:
        """Record that a trial of `task` ended and sampled `tokens`."""
        self._by_task[task.id] = self._updated(self._by_task.get(task.id), tokens)
        self._by_task.move_to_end(task.id)
        if len(self._by_task) > self._tasks:
            self._by_task.popitem(last=False)
        for kind in _kinds(task):
            self._by_kind[kind] = self._updated(self._by_kind.get(kind), tokens)

    def _updated(self, before: tuple[int, float] | None, tokens: int) -> tuple[int, float]:
        count, mean = before or (0, 0.0)
        count = min(count + 1, self._memory)
        return count, mean + (tokens - mean) / count


def _kinds(task: Task) -> tuple[tuple[str, ...], ...]:
    """Kinds that a task belongs to, the narrowest first."""
    return (task.env, json.dumps(dict(task.options), sort_keys=True)), (task.env,), ()


@dataclass(slots=True)
class _Running:
    engine: int
    work: float
    began: float


class Dispatcher(Generic[K]):
    """Trials that wait, trials that run, and the next ones to start.

    No slot stays free while a trial waits, so a batch takes at most the mean load of a slot plus its longest trial
    (Graham's bound for list scheduling). Earlier batches go first, and within a batch the longest trials.

    Args:
        engines: Number of engines.
        limit: Most trials that run at once on each; None starts everything at once, still balanced.
    """

    def __init__(self, engines: int, limit: int | None = None) -> None:
        self.engines, self.limit = engines, limit
        self._waiting: list[tuple[int, float, int, K]] = []
        self._order = itertools.count()
        self._running: dict[K, _Running] = {}
        self._counts = [0] * engines
        self._speed: tuple[int, float] = (0, 0.0)

    @property
    def running(self) -> int:
        """Number of trials that run, on all engines."""
        return len(self._running)

    def add(self, trial: K, work: float, batch: int = 0) -> None:
        """Queue a trial that is expected to sample `work` tokens (more than 0)."""
        heapq.heappush(self._waiting, (batch, -work, next(self._order), trial))

    def start(self, now: float) -> list[tuple[K, int]]:
        """Start trials at time `now`: each one with its engine. They count as running from then on."""
        started: list[tuple[K, int]] = []
        loads = self.loads(now) if self._waiting else []
        while self._waiting:
            free = [e for e in range(self.engines) if self.limit is None or self._counts[e] < self.limit]
            if not free:
                break
            _, negative, _, trial = heapq.heappop(self._waiting)
            engine = min(free, key=lambda e: (loads[e], self._counts[e]))
            self._running[trial] = _Running(engine, -negative, now)
            self._counts[engine] += 1
            loads[engine] -= negative
            started.append((trial, engine))
        return started

    def end(self, trial: K, work: float, now: float) -> None:
        """End a running trial at `now`, after `work` tokens; 0 if its tokens say nothing about engines' speed."""
        running = self._running.pop(trial)
        self._counts[running.engine] -= 1
        if work and now > running.began:
            count, speed = self._speed
            count = min(count + 1, 32)
            self._speed = count, speed + (work / (now - running.began) - speed) / count

    def loads(self, now: float) -> list[float]:
        """Work that is left of the running trials, for each engine.

        A trial's work done is its running time at the mean speed of ended trials. At least `FLOOR` of its expected
        work counts as left, since it does run.
        """
        loads = [0.0] * self.engines
        for running in self._running.values():
            left = running.work - self._speed[1] * (now - running.began)
            loads[running.engine] += max(left, FLOOR * running.work)
        return loads


class Occupancy:
    """Number of trials that run at once, over the time since the last reading in which any ran."""

    def __init__(self) -> None:
        self._since = 0.0
        self._running = self._most = 0
        self._area = self._busy = 0.0

    def set(self, running: int, now: float) -> None:
        """Record that `running` trials run from `now` on."""
        if self._running and now > self._since:
            self._area += self._running * (now - self._since)
            self._busy += now - self._since
        self._since = max(now, self._since)
        self._running = running
        self._most = max(self._most, running)

    def read(self, now: float) -> tuple[float, int]:
        """Mean and maximum since the last reading; a new period begins."""
        self.set(self._running, now)
        mean = self._area / self._busy if self._busy else float(self._running)
        most, self._most = self._most, self._running
        self._area = self._busy = 0.0
        return mean, most
