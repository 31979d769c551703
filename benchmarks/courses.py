"""In which order trials are played on an engine: at once, in lockstep, or the next batch into the tail of the last."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator, Sequence

from recorded import Engine, Player, Record

from openrlhf_lamer.records import Trial


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


async def overlapping(
    player: Player, engine: Engine, batches: Sequence[Sequence[Record]], limit: int
) -> list[float]:
    """At most `limit` trials at a time, those of the next batch in slots that the last one leaves free.

    One batch at most is ahead of the oldest that is not complete. Gives the time at which each batch was complete.
    """
    clock = asyncio.get_running_loop().time
    slots = asyncio.Semaphore(limit)

    async def play(record: Record) -> None:
        async with slots:
            await player.play(record, engine)

    async def complete(batch: Sequence[Record], before: Awaitable[float] | None) -> float:
        await asyncio.gather(*map(play, batch))
        return max(clock(), await before) if before else clock()

    ends: list[asyncio.Task[float]] = []
    for number, batch in enumerate(batches):
        if number >= 2:
            await ends[number - 2]
        ends.append(asyncio.create_task(complete(batch, ends[-1] if ends else None)))
        await asyncio.sleep(0)
    return [await end for end in ends]
