"""Order of an update: the optimizer step, the data-parallel rank and the micro-batch of each row.

All ranks take the same number of micro-batches, which models that run in step need. Every row is planned once.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, pairwise
from typing import TypeAlias

import numpy as np

from openrlhf_lamer.update.forest import IntArray, common, distinct_tokens, lexical

Shares: TypeAlias = list[list[list[int]]]
"""Rows of each micro-batch of each rank, as `[rank][micro-batch]`. A micro-batch may be empty where a step has fewer
rows than ranks."""


def steps_of_rows(owner: IntArray, size: int, rng: np.random.Generator) -> list[list[int]]:
    """Optimizer steps of about `size` rows each, trials in random order.

    A trial's rows stay in one step if that makes the step at most a quarter larger or smaller than others: splitting
    them would repeat the trial's prompts.

    Args:
        owner: For each row, its trial; the rows of a trial stand together.
        size: Rows of a step.
        rng: Source of the order.
    """
    trials = [np.flatnonzero(owner == trial).tolist() for trial in rng.permutation(np.unique(owner))]
    order = [row for trial in trials for row in trial]
    steps = max(1, -(-len(order) // size))
    ends, even = np.cumsum([len(trial) for trial in trials]), len(order) / steps
    cuts = [0]
    for step in range(1, steps):
        exact = round(step * even)
        near = int(ends[np.abs(ends - step * even).argmin()])
        cuts.append(near if abs(near - step * even) <= even / 4 else exact)
    return [order[start:end] for start, end in pairwise([*cuts, len(order)])]


def steps_of_groups(owner: IntArray, groups: IntArray, updates: int, rng: np.random.Generator) -> list[list[int]]:
    """At most `updates` optimizer steps of whole groups, in random order; their group counts differ by at most one.

    Args:
        owner: For each row, its trial.
        groups: For each trial, its group.
        updates: Number of steps.
        rng: Source of the order.
    """
    of_row = groups[owner]
    drawn = np.array_split(rng.permutation(np.unique(of_row)), updates)
    return [np.flatnonzero(np.isin(of_row, own)).tolist() for own in drawn if len(own)]


def by_tokens(
    rows: Sequence[IntArray], owner: IntArray, step: Sequence[int], limit: int, ranks: int, rng: np.random.Generator
) -> Shares:
    """Micro-batches of a step of at most `limit` distinct tokens, rows of a trial together, even over ranks.

    Only a row that is longer than `limit` makes a larger micro-batch.

    Args:
        rows: Token ids of all rows.
        owner: For each row, its trial.
        step: The rows of this step; rows of a trial stand together.
        limit: Most distinct tokens of a micro-batch.
        ranks: Number of data-parallel ranks.
        rng: Source of the order.
    """
    units = _units(rows, owner, step, limit)
    count = -(-sum(tokens for tokens, _ in units) // (limit * ranks))
    while True:
        bins = count * ranks
        while len(units) < bins and (split := _split(rows, units)) is not None:
            units = split
        batches = _packed(units, bins)
        if all(tokens <= limit or len(own) == 1 for tokens, own in batches):
            break
        count += 1
    # Ranks wait for each other, so those that run at the same time are of about the same size.
    ordered = [own for _, own in sorted(batches, key=lambda batch: -batch[0])]
    return _dealt([ordered[i : i + ranks] for i in range(0, len(ordered), ranks)], rng)


def by_rows(step: Sequence[int], size: int, ranks: int, rng: np.random.Generator) -> Shares:
    """Micro-batches of a step of at most `size` rows each; neighbours in `step` stand together.

    Args:
        step: The rows of this step.
        size: Most rows of a micro-batch.
        ranks: Number of data-parallel ranks.
        rng: Source of the order of micro-batches.
    """
    count = max(1, -(-len(step) // (size * ranks)))
    batches = [part.tolist() for part in np.array_split(np.array(step, dtype=np.int64), count * ranks)]
    return _dealt([batches[i : i + ranks] for i in range(0, len(batches), ranks)], rng)


Unit: TypeAlias = tuple[int, list[int]]
"""Rows that stay together, and the number of their distinct tokens."""


def _units(rows: Sequence[IntArray], owner: IntArray, step: Sequence[int], limit: int) -> list[Unit]:
    """The rows of each trial, in several units where they have more than `limit` distinct tokens."""
    units: list[Unit] = []
    for _, own in groupby(step, key=lambda row: owner[row]):
        units += _parts(rows, sorted(own, key=lambda row: lexical(rows[row])), limit)
    return units


def _parts(rows: Sequence[IntArray], own: list[int], limit: int) -> list[Unit]:
    """Cut rows, in lexical order, into units of at most `limit` distinct tokens, so that they repeat the fewest.

    A unit counts its first row in full, and of each later row the part that it does not share with the row before.
    """
    shared = [0, *(common(rows[a], rows[b]) for a, b in pairwise(own))]
    new = np.cumsum([0, *(len(rows[row]) - same for row, same in zip(own, shared, strict=True))]).tolist()

    def tokens(start: int, end: int) -> int:
        return new[end] - new[start] + shared[start]

    # The fewest tokens that the rows before `end` repeat, in the fewest units, and where the last of these starts.
    best = [(0, 0, 0)]
    for end in range(1, len(own) + 1):
        starts = (start for start in range(end) if start == end - 1 or tokens(start, end) <= limit)
        best.append(min((best[start][0] + shared[start], best[start][1] + 1, start) for start in starts))
    units: list[Unit] = []
    end = len(own)
    while end:
        start = best[end][2]
        units.append((tokens(start, end), own[start:end]))
        end = start
    return units


def _split(rows: Sequence[IntArray], units: list[Unit]) -> list[Unit] | None:
    """The units, with the largest one that can be split in halves; None if each has one row."""
    at = max((i for i, (_, own) in enumerate(units) if len(own) > 1), key=lambda i: units[i][0], default=None)
    if at is None:
        return None
    own = units[at][1]
    parts = own[: len(own) // 2], own[len(own) // 2 :]
    halves = [(distinct_tokens([rows[row] for row in part]), part) for part in parts]
    return [*units[:at], *halves, *units[at + 1 :]]


def _packed(units: Sequence[Unit], bins: int) -> list[Unit]:
    """Units in `bins` micro-batches: the largest first, each to the smallest micro-batch so far."""
    tokens = np.zeros(bins, dtype=np.int64)
    batches: list[list[int]] = [[] for _ in range(bins)]
    for size, own in sorted(units, key=lambda unit: -unit[0]):
        least = int(tokens.argmin())
        tokens[least] += size
        batches[least] += own
    return list(zip(tokens.tolist(), batches, strict=True))


def _dealt(rounds: list[list[list[int]]], rng: np.random.Generator) -> Shares:
    """Rounds, each of one micro-batch per rank, in random order; each round is dealt to the ranks at random."""
    shares: Shares = [[] for _ in rounds[0]]
    for index in rng.permutation(len(rounds)):
        for share, batch in zip(shares, rng.permutation(len(rounds[index])), strict=True):
            share.append(rounds[index][batch])
    return shares
