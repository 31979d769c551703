"""In which order trials are played on an engine: at once, in lockstep, or the next batch into the tail of the last."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from openrlhf_lamer.integration.rollout.dispatch import Dispatcher, Expectation
from openrlhf_lamer.records import Task, Trial

from .recorded import Engine, Player, Record, Recorded


async def at_once(player: Player, engine: Engine, records: Sequence[Record]) -> list[Trial]:
    """Every trial by itself, all of them from the start: the batch ends with the last one."""
    return list(await asyncio.gather(*(player.play(record, engine) for record in records)))


async def in_lockstep(player: Player, engine: Engine, records: Sequence[Record]) -> list[Trial]:
    """All trials turn by turn and attempt by attempt, as the paper's reference code has it."""
    lockstep = Lockstep(engine, len(records))
    return list(await asyncio.gather(*(lockstep.play(player, record) for record in records)))


class Lockstep:
    """The reference's loop, as a gate before the engine.

    A round is one turn of one attempt, or the reflections after it. It begins when every reply of the round before is
    there, and takes the trials that have one to give: who has won, or has ended this attempt early, is left out, where
    the reference generates for it all the same.
    """

    def __init__(self, engine: Engine, trials: int) -> None:
        self._engine, self._playing = engine, trials
        self._waiting: list[tuple[tuple[int, int], asyncio.Future[None]]] = []

    async def play(self, player: Player, record: Record) -> Trial:
        """Play one of the trials."""
        try:
            return await player.play(record, _Gate(self, self._engine, iter(record.rounds)))
        finally:
            self._playing -= 1
            self._begin_round()

    async def wait(self, its_round: tuple[int, int]) -> None:
        """Until the round begins."""
        begun = asyncio.get_running_loop().create_future()
        self._waiting.append((its_round, begun))
        self._begin_round()
        await begun

    def _begin_round(self) -> None:
        if not self._waiting or len(self._waiting) < self._playing:
            return
        first = min(each for each, _ in self._waiting)
        for each, begun in self._waiting:
            if each == first:
                begun.set_result(None)
        self._waiting = [(each, begun) for each, begun in self._waiting if each != first]


class _Gate:
    """The engine as one trial in lockstep sees it."""

    def __init__(self, lockstep: Lockstep, engine: Engine, rounds: Iterator[tuple[int, int]]) -> None:
        self._lockstep, self._engine, self._rounds = lockstep, engine, rounds

    async def generate(self, prompt: Sequence[int], tokens: int) -> None:
        await self._lockstep.wait(next(self._rounds))
        await self._engine.generate(prompt, tokens)


async def overlapping(player: Player, engine: Engine, batches: Sequence[Sequence[Record]], limit: int) -> list[float]:
    """The rollout's own scheduling in async mode, on one engine with so many slots.

    Two batches at most are not complete. Those of the earlier one start first, and in it those that are expected to
    take longest, by what is known of their tasks: each batch has new ones. Gives the time at which each batch and all
    before it were complete.
    """

    def task_of(batch: int, record: Record) -> Task:  # the record's own task tells how its trial ends
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
            trial = task.result()
            sampled = sum(len(turn.sampled_ids) for turn in trial.turns)
            batch, number = running.pop(task)
            dispatcher.end((batch, number), sampled, clock())
            expectation.learn(task_of(batch, batches[batch][number]), sampled)
            left[batch] -= 1
        while len(ends) < queued and not left[len(ends)]:
            ends.append(clock())
    return ends
