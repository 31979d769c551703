"""What is measured: two ways to play the same records on the same engine, and what each takes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any, Protocol, TypeVar

from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.records import Trial

from .courses import at_once, in_lockstep, overlapping
from .recorded import Lengths, Player, Record, draw
from .simulated import Clocked, Load

T = TypeVar("T")

EPISODES = 3
"""Episodes of LaMer's trials, at most."""
BATCHES = 5
"""Batches in async mode; what the first and the last one take alone is not counted."""


class Stage(Protocol):
    """Where trials are played: engines that are simulated, or one that is real."""

    def run(self, course: Callable[[Any], Coroutine[Any, Any, T]]) -> tuple[T, Clocked, list[Load]]: ...


@dataclass(frozen=True)
class Size:
    """What is played: `samples` trials of up to 3 episodes at each task, with what their replies are drawn from."""

    tasks: int
    samples: int
    lengths: Lengths

    def records(self, seed: int) -> list[Record]:
        """LaMer's trials."""
        return draw(self.lengths, seed, tasks=self.tasks, samples=self.samples, episodes=EPISODES)

    def single(self, seed: int) -> list[Record]:
        """RL's trials: the same attempts, each a trial of its own."""
        return draw(self.lengths, seed, tasks=self.tasks, samples=self.samples * EPISODES, episodes=1)

    def player(self, episodes: int = EPISODES, *, logprobs: bool = False) -> Player:
        """Our executor for such trials, with one chat an episode and no limit of time."""
        config = LamerConfig(num_episodes=episodes, context="episode", timeout=1e9)
        return Player(config, self.lengths.turns, logprobs=logprobs)


@dataclass(frozen=True)
class Gain:
    """One seed's trials by themselves and in lockstep."""

    trials: int
    tokens: int
    free: Clocked
    lockstep: Clocked

    @property
    def ratio(self) -> float:
        """Trials a second by themselves over those in lockstep, on the engine's clock."""
        return self.lockstep.seconds / self.free.seconds

    @property
    def with_python(self) -> float:
        """The same if the engine stood still whenever this process computes."""
        return (self.lockstep.seconds + self.lockstep.cpu) / (self.free.seconds + self.free.cpu)


def gain(stage: Stage, size: Size, seed: int) -> Gain:
    """Play one seed's trials both ways; raises AssertionError where not all tokens, prompts included, are the same."""
    records, player = size.records(seed), size.player(logprobs=True)
    free, free_clock, _ = stage.run(lambda engine: at_once(player, engine, records))
    locked, locked_clock, _ = stage.run(lambda engine: in_lockstep(player, engine, records))
    assert transcript(free) == transcript(locked), "other tokens in lockstep"
    return Gain(len(records), tokens(records), free_clock, locked_clock)


def transcript(trials: Sequence[Trial]) -> list[list[tuple[tuple[int, ...], tuple[int, ...]]]]:
    """Every token of the trials, as the engine was given and sampled it."""
    return [[(tuple(turn.prompt_ids), tuple(turn.sampled_ids)) for turn in trial.turns] for trial in trials]


def tokens(records: Sequence[Record]) -> int:
    """Tokens that the trials sample."""
    return sum(sum(record.tokens) for record in records)


@dataclass(frozen=True)
class Batch:
    """What one kind of trials took of an engine: seconds and tokens a batch, and its load over time."""

    seconds: float
    tokens: float
    slots: int
    loads: Sequence[Load] = field(repr=False)

    @property
    def running(self) -> float:
        """Replies in the batch, on average over the time that something ran."""
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
        """Tokens over tokens: what the ratio is on an engine that never waits."""
        return self.lamer.tokens / self.rl.tokens


def sync_cost(stage: Stage, size: Size, seed: int) -> Cost:
    """One batch of each, alone on the engine."""

    def batch(records: Sequence[Record], episodes: int) -> Batch:
        player = size.player(episodes)
        _, clock, loads = stage.run(lambda engine: at_once(player, engine, records))
        return Batch(clock.seconds, tokens(records), len(records), loads)

    return Cost(batch(size.records(seed), EPISODES), batch(size.single(seed), 1))


def async_cost(stage: Stage, size: Size, seed: int) -> Cost:
    """Batch after batch of each, with half as many slots as LaMer's batch has trials; seconds at the mean speed."""
    slots = size.tasks * size.samples // 2

    def batch(batches: Sequence[Sequence[Record]], episodes: int) -> Batch:
        player = size.player(episodes)
        ends, _, loads = stage.run(lambda engine: overlapping(player, engine, batches, slots))
        counted = [load for load in loads if ends[0] <= load.time <= ends[-2]]
        speed = (counted[-1].tokens - counted[0].tokens) / (counted[-1].time - counted[0].time)
        each = fmean(map(tokens, batches))
        return Batch(each / speed, each, slots, counted)

    seeds = [seed * BATCHES + number for number in range(BATCHES)]
    return Cost(
        batch([size.records(each) for each in seeds], EPISODES), batch([size.single(each) for each in seeds], 1)
    )


@dataclass(frozen=True)
class SleepingEngine:
    """Takes so many seconds a token, in real time."""

    per_token: float

    async def generate(self, prompt: Sequence[int], tokens: int) -> None:
        await asyncio.sleep(tokens * self.per_token)


@dataclass(frozen=True)
class Duel:
    """The host's executor and ours, by turns on the same records: seconds of each run, and of CPU time."""

    replies: int
    host: tuple[Clocked, ...]
    ours: tuple[Clocked, ...]

    def ratio(self, figure: Callable[[Clocked], float]) -> float:
        """Our median over the host's."""
        return median(map(figure, self.ours)) / median(map(figure, self.host))


def duel(records: Sequence[Record], turns: int, per_token: float, runs: int) -> Duel:
    """Play single-episode records with both; raises AssertionError where they give the host other tokens to train."""
    from .host import HostPlayer

    players = HostPlayer(turns), Player(None, turns, logprobs=True)
    engine = SleepingEngine(per_token)

    async def play(player: HostPlayer | Player) -> tuple[list[dict[str, Any]], Clocked]:
        began, cpu = time.perf_counter(), time.process_time()
        responses = await asyncio.gather(*(player.execute(record, engine) for record in records))
        return responses, Clocked(time.perf_counter() - began, time.process_time() - cpu)

    clocks: tuple[list[Clocked], list[Clocked]] = [], []
    for number in range(runs + 1):
        (theirs, host_clock), (own, own_clock) = (asyncio.run(play(player)) for player in players)
        assert [trained(each) for each in own] == [trained(each) for each in theirs], "other tokens than the host's"
        if number:  # the first run warms up
            clocks[0].append(host_clock)
            clocks[1].append(own_clock)
    return Duel(sum(len(record.tokens) for record in records), tuple(clocks[0]), tuple(clocks[1]))


def trained(response: dict[str, Any]) -> tuple[Any, ...]:
    """What the host trains of a response."""
    return tuple(response[key] for key in ("observation_tokens", "action_ranges", "rollout_log_probs", "reward"))
