"""Measurements: two ways to play the same records on the same engine, and the time of each."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean

import numpy as np

from openrlhf_lamer.integration.rollout.dispatch import Dispatcher, Expectation
from openrlhf_lamer.records import Task, Trial

from .recorded import EPISODES, Generate, Player, Record, Recorded, Size
from .simulated import Load, Simulated

BATCHES = 5
"""Batches in async mode; the first and the last one, which have the engine to themselves for a while, don't count."""


async def at_once(player: Player, generate: Generate, records: Sequence[Record]) -> list[Trial]:
    """Play all trials at once, independently of each other; the batch ends with the last one."""
    return await asyncio.gather(*(player.play(record, generate) for record in records))


class Lockstep:
    """The loop of the paper's reference code, as a gate before the engine.

    A round, one turn of one attempt or the reflections after it, begins when every reply of the round before is there.
    Only trials that still play this attempt take part; the reference generates for the others all the same.
    """

    def __init__(self, generate: Generate, trials: int) -> None:
        self._generate, self._playing = generate, trials
        self._waiting: list[tuple[tuple[int, int], asyncio.Event]] = []

    async def generate(self, rounds: Iterator[tuple[int, int]], prompt: Sequence[int], tokens: int) -> None:
        """Generate for a trial once the next of its rounds has begun."""
        begun = asyncio.Event()
        self._waiting.append((next(rounds), begun))
        self.begin_round()
        await begun.wait()
        await self._generate(prompt, tokens)

    def begin_round(self, ended: int = 0) -> None:
        """Begin the next round if every trial waits for it; `ended` trials play no more."""
        self._playing -= ended
        if self._waiting and len(self._waiting) == self._playing:
            first = min(each for each, _ in self._waiting)
            for each, begun in self._waiting:
                if each == first:
                    begun.set()
            self._waiting = [(each, begun) for each, begun in self._waiting if each != first]


def gain(stage: Simulated, size: Size, seed: int) -> tuple[float, float]:
    """Seconds of one seed's trials, by themselves and in lockstep.

    Raises AssertionError where the ways sample other tokens, or prompt with other ones.
    """
    records, player = size.records(seed), Player(size)

    async def in_lockstep(generate: Generate) -> list[Trial]:
        lockstep = Lockstep(generate, len(records))

        async def play(record: Record) -> Trial:
            trial = await player.play(record, partial(lockstep.generate, iter(record.rounds)))
            lockstep.begin_round(ended=1)
            return trial

        return await asyncio.gather(*map(play, records))

    def transcript(trials: Sequence[Trial]) -> list[list[tuple[tuple[int, ...], tuple[int, ...]]]]:
        return [[(tuple(turn.prompt_ids), tuple(turn.sampled_ids)) for turn in trial.turns] for trial in trials]

    free, seconds, _ = stage.run(lambda generate: at_once(player, generate, records))
    locked, longer, _ = stage.run(in_lockstep)
    assert transcript(free) == transcript(locked), "other tokens in lockstep"
    return seconds, longer


def tokens(records: Sequence[Record]) -> int:
    """Tokens that the trials sample."""
    return sum(sum(record.tokens) for record in records)


@dataclass(frozen=True)
class Batch:
    """Seconds and tokens a batch of one kind of trials, with the engine's load over time."""

    seconds: float
    tokens: float
    slots: int
    loads: Sequence[Load] = field(repr=False)

    @property
    def running(self) -> float:
        """Mean number of replies in the batch while anything ran."""
        times, running = zip(*((load.time, load.running) for load in self.loads), strict=True)
        return float(np.average(running[:-1], weights=np.diff(times)))

    @property
    def idle(self) -> float:
        """Share of the slots in which no reply was generated."""
        return 1 - self.running / self.slots


@dataclass(frozen=True)
class Cost:
    """LaMer's batches against RL's, in one mode."""

    lamer: Batch
    rl: Batch

    @property
    def ratio(self) -> float:
        """Seconds over seconds."""
        return self.lamer.seconds / self.rl.seconds

    @property
    def limit(self) -> float:
        """Tokens over tokens: the ratio on an engine that never waits."""
        return self.lamer.tokens / self.rl.tokens


def sync_cost(stage: Simulated, size: Size, seed: int) -> Cost:
    """One batch of each kind, alone on the engine."""

    def batch(records: Sequence[Record], episodes: int) -> Batch:
        player = Player(size, episodes)
        _, seconds, loads = stage.run(lambda generate: at_once(player, generate, records))
        return Batch(seconds, tokens(records), len(records), loads)

    return Cost(*(batch(size.records(seed, most), most) for most in (EPISODES, 1)))


def async_cost(stage: Simulated, size: Size, seed: int) -> Cost:
    """Batches of each kind in a row, with half as many slots as LaMer's batch has trials; seconds at the mean speed."""
    slots = size.tasks * size.samples // 2

    def batch(batches: list[list[Record]], episodes: int) -> Batch:
        player = Player(size, episodes)
        ends, _, loads = stage.run(lambda generate: overlapping(player, generate, batches, slots))
        counted = [load for load in loads if ends[0] <= load.time <= ends[-2]]
        speed = (counted[-1].tokens - counted[0].tokens) / (counted[-1].time - counted[0].time)
        each = fmean(map(tokens, batches))
        return Batch(each / speed, each, slots, counted)

    seeds = range(seed * BATCHES, (seed + 1) * BATCHES)
    return Cost(*(batch([size.records(each, most) for each in seeds], most) for most in (EPISODES, 1)))


async def overlapping(player: Player, generate: Generate, batches: list[list[Record]], slots: int) -> list[float]:
    """Play batches of new tasks as async mode schedules them: at most two are incomplete.

    Returns the time at which each batch and all before it were complete.
    """

    def task_of(batch: int, record: Record) -> Task:  # the record's own task would tell how its trial ends
        return Task(Recorded.name, seed=(batch << 16) + record.number)

    clock = asyncio.get_running_loop().time
    dispatcher: Dispatcher[tuple[int, int]] = Dispatcher(1, slots)
    expectation = Expectation()
    running: dict[asyncio.Task[Trial], tuple[int, int]] = {}
    left = [len(batch) for batch in batches]
    ends: list[float] = []
    queued = 0
    while len(ends) < len(batches):
        while queued < min(len(ends) + 2, len(batches)):
            for number, record in enumerate(batches[queued]):
                dispatcher.add((queued, number), expectation.tokens(task_of(queued, record)), queued)
            queued += 1
        for (batch, number), _ in dispatcher.start(clock()):
            running[asyncio.create_task(player.play(batches[batch][number], generate))] = batch, number
        ended, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            batch, number = running.pop(task)
            sampled = sum(batches[batch][number].tokens)
            dispatcher.end((batch, number), sampled, clock())
            expectation.learn(task_of(batch, batches[batch][number]), sampled)
            left[batch] -= 1
        while len(ends) < queued and not left[len(ends)]:
            ends.append(clock())
    return ends
