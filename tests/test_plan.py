"""The order of an update: nothing lost, nothing twice, trials and groups whole, ranks even."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openrlhf_lamer.update import plan
from openrlhf_lamer.update.forest import distinct_tokens
from openrlhf_lamer.update.plan import Shares, by_rows, by_tokens, steps_of_groups, steps_of_rows

COUNTS = st.lists(st.integers(1, 9), min_size=1, max_size=12)
"""Rows of each trial."""


def batch(counts: list[int], seed: int = 0, length: int = 20) -> tuple[list[np.ndarray], np.ndarray]:
    """Rows that grow from turn to turn of a trial, and their owners."""
    rng = np.random.default_rng(seed)
    rows = []
    for count in counts:
        trunk = rng.integers(0, 50_000, length + 4 * count)
        rows += [np.concatenate((trunk[: length + 4 * i], rng.integers(50_000, 90_000, 5))) for i in range(count)]
    return rows, np.repeat(np.arange(len(counts)), counts)


def flat(shares: Shares) -> list[int]:
    return [row for share in shares for own in share for row in own]


@given(COUNTS, st.integers(1, 20), st.integers(0, 99))
def test_steps_of_rows_hold_every_row_once_and_about_as_many(counts: list[int], size: int, seed: int) -> None:
    _, owner = batch(counts)
    steps = steps_of_rows(owner, size, np.random.default_rng(seed))
    assert sorted(row for step in steps for row in step) == list(range(len(owner)))
    assert len(steps) == -(-len(owner) // size)
    even = len(owner) / len(steps)
    assert all(even / 2 - 1 <= len(step) <= 1.5 * even + 1 for step in steps)


def test_a_step_of_rows_holds_whole_trials_where_these_are_small() -> None:
    _, owner = batch([4, 5, 6] * 20)
    steps = steps_of_rows(owner, 50, np.random.default_rng(0))
    assert [len(steps), sum(len(np.unique(owner[step])) for step in steps)] == [6, 60]


def test_the_order_of_trials_is_random_and_follows_from_the_seed() -> None:
    _, owner = batch([3] * 12)
    orders = [str(steps_of_rows(owner, 9, np.random.default_rng(seed))) for seed in (0, 0, 1, 2)]
    assert orders[0] == orders[1]
    assert len(set(orders)) == 3


@given(COUNTS, st.integers(1, 5), st.integers(1, 4), st.integers(0, 99))
def test_steps_of_groups_are_as_many_as_said_and_hold_whole_groups(
    counts: list[int], updates: int, group: int, seed: int
) -> None:
    _, owner = batch(counts)
    groups = np.arange(len(counts)) // group
    steps = steps_of_groups(owner, groups, updates, np.random.default_rng(seed))
    assert sorted(row for step in steps for row in step) == list(range(len(owner)))
    held = [set(groups[owner[step]].tolist()) for step in steps]
    assert sum(map(len, held)) == len(set(groups.tolist()))
    assert len(steps) == min(updates, len(set(groups.tolist())))
    assert max(map(len, held)) - min(map(len, held)) <= 1


@given(COUNTS, st.integers(20, 400), st.integers(1, 5), st.integers(0, 99))
def test_micro_batches_by_tokens_keep_to_the_limit_on_every_rank(
    counts: list[int], limit: int, ranks: int, seed: int
) -> None:
    rows, owner = batch(counts, seed)
    shares = by_tokens(rows, owner, range(len(rows)), limit, ranks, np.random.default_rng(seed))
    assert sorted(flat(shares)) == list(range(len(rows)))
    assert len(shares) == ranks
    assert len({len(share) for share in shares}) == 1
    for own in (own for share in shares for own in share):
        assert distinct_tokens([rows[row] for row in own]) <= limit or len(own) == 1
        assert own or len(rows) < ranks * len(shares[0])
    if len(rows) >= ranks:
        assert all(own for share in shares for own in share) or any(len(row) > limit for row in rows)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_rows_of_a_trial_stay_together_and_ranks_are_even(ranks: int) -> None:
    rows, owner = batch([6] * 32)
    trial = distinct_tokens(rows[:6])
    shares = by_tokens(rows, owner, range(len(rows)), 4 * trial, ranks, np.random.default_rng(0))
    sizes = np.array([[distinct_tokens([rows[row] for row in own]) for own in share] for share in shares])
    assert sizes.sum() == 32 * trial  # no prompt is repeated
    assert sizes.max() <= 4 * trial
    assert sizes.sum(1).max() <= 1.05 * sizes.sum(1).min()
    assert sizes.shape[1] == 32 // 4 // ranks


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=6), min_size=1, max_size=6), st.integers(6, 20))
def test_a_trial_that_is_too_large_is_cut_where_the_parts_repeat_least(drawn: list[list[int]], limit: int) -> None:
    """Against all ways to cut the sorted rows."""
    rows = [np.array(row) for row in sorted(drawn)]
    best = 10**6
    for cuts in range(1 << (len(rows) - 1)):
        parts: list[list[np.ndarray]] = [[rows[0]]]
        for at, row in enumerate(rows[1:]):
            parts = [*parts, [row]] if cuts >> at & 1 else [*parts[:-1], [*parts[-1], row]]
        sizes = [distinct_tokens(part) for part in parts]
        if max(sizes) <= limit:
            best = min(best, sum(sizes))
    owner = np.zeros(len(rows), dtype=int)
    units = plan._units(rows, owner, range(len(rows)), limit)
    assert sum(tokens for tokens, _ in units) == best
    assert sorted(row for _, own in units for row in own) == list(range(len(rows)))
    assert all(tokens == distinct_tokens([rows[row] for row in own]) <= limit for tokens, own in units)


@given(st.integers(1, 40), st.integers(1, 8), st.integers(1, 4), st.integers(0, 9))
def test_micro_batches_by_rows(count: int, size: int, ranks: int, seed: int) -> None:
    shares = by_rows(range(count), size, ranks, np.random.default_rng(seed))
    assert sorted(flat(shares)) == list(range(count))
    assert len({len(share) for share in shares}) == 1
    lengths = [len(own) for share in shares for own in share]
    assert max(lengths) <= size
    assert max(lengths) - min(lengths) <= 1
