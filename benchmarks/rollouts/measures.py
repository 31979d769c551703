"""Measurements: two ways to play the same records on the same engine, and the time of each."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.integration.rollout.dispatch import Dispatcher, Expectation
from openrlhf_lamer.records import Task, Trial

from .recorded import Engine, Lengths, Player, Record, Recorded, draw
from .simulated import Load, Simulated

EPISODES = 3
"""Most episodes of LaMer's trials."""
BATCHES = 5
"""Batches in async mode; the first and the last one, which are partly alone on the engine, are not counted."""


@dataclass(frozen=True)
class Size:
    """`samples` trials of up to 3 episodes at each of `tasks` tasks, with the distribution of their replies."""

    tasks: int
    samples: int
    lengths: Lengths

    def records(self, seed: int) -> list[Record]:
        """LaMer's trials."""
        return draw(self.lengths, seed, tasks=self.tasks, samples=self.samples, episodes=EPISODES)

    def single(self, seed: int) -> list[Record]:
        """RL's trials: the same attempts, each a trial of its own."""
        return draw(self.lengths, seed, tasks=self.tasks, samples=self.samples * EPISODES, episodes=1)

    def player(self, episodes: int = EPISODES) -> Player:
        """Our executor for such trials, with one chat an episode and no limit of time."""
        return Player(LamerConfig(num_episodes=episodes, context="episode", timeout=1e9), self.lengths.turns)


async def at_once(player: Player, engine: Engine, records: Sequence[Record]) -> list[Trial]:
    """Every trial by itself, all of them from the start: the batch ends with the last one."""
    return await asyncio.gather(*(player.play(record, engine) for record in records))


class Lockstep:
    """The loop of the paper's reference code, as a gate before the engine.

    A round is one turn of one attempt, or the reflections after it. It begins when every reply of the round before is
    there, with the trials that still play this attempt; the reference generates for the others all the same.
    """

    def __init__(self, engine: Engine, trials: int) -> None:
        self._engine, self._playing = engine, trials
        self._waiting: list[tuple[tuple[int, int], asyncio.Event]] = []

    async def generate(self, its_round: tuple[int, int], prompt: Sequence[int], tokens: int) -> None:
        """Generate once the round has begun."""
        begun = asyncio.Event()
        self._waiting.append((its_round, begun))
        self.begin_round()
        await begun.wait()
        await self._engine.generate(prompt, tokens)

    def begin_round(self, ended: int = 0) -> None:
        """Begin the next round if every trial waits for it; `ended` trials play no more."""
        self._playing -= ended
        if self._waiting and len(self._waiting) == self._playing:
            first = min(each for each, _ in self._waiting)
            for each, begun in self._waiting:
                if each == first:
                    begun.set()
            self._waiting = [(each, begun) for each, begun in self._waiting if each != first]


@dataclass(frozen=True)
class Gate:
    """The engine as one trial in lockstep sees it."""

    lockstep: Lockstep
    rounds: Iterator[tuple[int, int]]

    async def generate(self, prompt: Sequence[int], tokens: int) -> None:
        await self.lockstep.generate(next(self.rounds), prompt, tokens)


@dataclass(frozen=True)
class Gain:
    """Seconds of one seed's trials, by themselves and in lockstep."""

    free: float
    lockstep: float

    @property
    def ratio(self) -> float:
        """Trials a second by themselves over those in lockstep."""
        return self.lockstep / self.free


def gain(stage: Simulated, size: Size, seed: int) -> Gain:
    """Play one seed's trials both ways; raises AssertionError where tokens differ, prompts included."""
    records, player = size.records(seed), size.player()

    async def in_lockstep(engine: Engine) -> list[Trial]:
        lockstep = Lockstep(engine, len(records))

        async def play(record: Record) -> Trial:
            trial = await player.play(record, Gate(lockstep, iter(record.rounds)))
            lockstep.begin_round(ended=1)
            return trial

        return await asyncio.gather(*map(play, records))

    def transcript(trials: Sequence[Trial]) -> list[list[tuple[tuple[int, ...], tuple[int, ...]]]]:
        return [[(tuple(turn.prompt_ids), tuple(turn.sampled_ids)) for turn in trial.turns] for trial in trials]

    free, seconds, _ = stage.run(lambda engine: at_once(player, engine, records))
    locked, longer, _ = stage.run(in_lockstep)
    assert transcript(free) == transcript(locked), "other tokens in lockstep"
    return Gain(seconds, longer)


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
        return sum(
            load.running * (after.time - load.time) for load, after in zip(self.loads, self.loads[1:], strict=False)
        ) / (self.loads[-1].time - self.loads[0].time)

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
    """One batch of each, without others on the engine."""

    def batch(records: Sequence[Record], episodes: int) -> Batch:
        player = size.player(episodes)
        _, seconds, loads = stage.run(lambda engine: at_once(player, engine, records))
        return Batch(seconds, tokens(records), len(records), loads)

    return Cost(batch(size.records(seed), EPISODES), batch(size.single(seed), 1))


def async_cost(stage: Simulated, size: Size, seed: int) -> Cost:
    """Batch after batch of each, with half as many slots as LaMer's batch has trials; seconds at the mean speed."""
    slots = size.tasks * size.samples // 2

    def batch(batches: Sequence[Sequence[Record]], episodes: int) -> Batch:
        player = size.player(episodes)
        ends, _, loads = stage.run(lambda engine: overlapping(player, engine, batches, slots))
        counted = [load for load in loads if ends[0] <= load.time <= ends[-2]]
        speed = (counted[-1].tokens - counted[0].tokens) / (counted[-1].time - counted[0].time)
        each = fmean(map(tokens, batches))
        return Batch(each / speed, each, slots, counted)

    seeds = range(seed * BATCHES, (seed + 1) * BATCHES)
    return Cost(batch([*map(size.records, seeds)], EPISODES), batch([*map(size.single, seeds)], 1))


async def overlapping(player: Player, engine: Engine, batches: Sequence[Sequence[Record]], limit: int) -> list[float]:
    """The rollout's own scheduling in async mode, on one engine with `limit` slots.

    At most two batches are incomplete. Trials of the earlier one start first, and among them those that are expected to
    take longest, by what is known of their tasks; each batch has new tasks. Returns the time at which each batch and
    all before it were complete.
    """

    def task_of(batch: int, record: Record) -> Task:  # the record's own task would tell how its trial ends
        return Task(Recorded.name, seed=(batch << 16) + record.number)

    clock = asyncio.get_running_loop().time
    dispatcher: Dispatcher[tuple[int, int]] = Dispatcher(1, limit)
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
            running[asyncio.create_task(player.play(batches[batch][number], engine))] = batch, number
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
