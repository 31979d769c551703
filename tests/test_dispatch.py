"""Which trial starts where: properties of the dispatcher under any load, and what it expects of trials."""

from __future__ import annotations

import heapq
import itertools
import random
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openrlhf_lamer.integration.rollout.dispatch import FLOOR, Dispatcher, Expectation, Occupancy
from openrlhf_lamer.records import Task

WORKS = st.lists(st.floats(1, 1000), min_size=1, max_size=40)
ENGINES = st.integers(1, 5)
LIMITS = st.one_of(st.none(), st.integers(1, 6))


@dataclass(frozen=True)
class Played:
    """A simulated rollout: when each trial began and ended, and where."""

    began: dict[int, float]
    ended: dict[int, float]
    engine: dict[int, int]


def simulate(works: list[float], engines: int, limit: int | None, expected: list[float] | None = None) -> Played:
    """Play trials on engines whose slots sample a token a second each, whatever else they do."""
    dispatcher: Dispatcher[int] = Dispatcher(engines, limit)
    for trial, work in enumerate(expected or works):
        dispatcher.add(trial, work)
    played = Played({}, {}, {})
    ends: list[tuple[float, int]] = []
    running = [0] * engines
    now = 0.0
    while True:
        for trial, engine in dispatcher.start(now):
            assert trial not in played.began, "a trial started twice"
            played.began[trial], played.engine[trial] = now, engine
            running[engine] += 1
            assert limit is None or running[engine] <= limit
            heapq.heappush(ends, (now + works[trial], trial))
        if len(played.began) < len(works):
            assert limit is not None
            assert running == [limit] * engines, "a slot stays free while a trial waits"
        if not ends:
            return played
        now, trial = heapq.heappop(ends)
        played.ended[trial] = now
        running[played.engine[trial]] -= 1
        dispatcher.end(trial, works[trial], now)
        assert dispatcher.running == sum(running)


@given(WORKS, ENGINES, LIMITS, st.randoms())
def test_every_trial_is_played_once_and_no_limit_is_passed(
    works: list[float], engines: int, limit: int | None, rng: random.Random
) -> None:
    guessed = [rng.uniform(1, 1000) for _ in works]
    played = simulate(works, engines, limit, guessed)
    assert sorted(played.ended) == list(range(len(works)))


def test_long_trials_of_one_game_may_hold_all_slots_and_short_ones_of_another_fill_up_later() -> None:
    """A batch is trained when its last trial has ended: short trials that go first only put that off."""
    works = [100.0] * 9 + [10.0] * 40  # a slow game and a cheap one, on four slots
    longest_first = simulate(works, 1, 4)
    assert max(longest_first.ended[trial] for trial in range(9)) == 300
    assert min(longest_first.began[trial] for trial in range(9, 49)) == 200
    assert max(longest_first.ended.values()) == 330  # no order is faster: the mean load of a slot is 325
    cheap_first = simulate(works, 1, 4, [1 / work for work in works])
    assert max(cheap_first.ended.values()) == 400


@given(WORKS, ENGINES, st.integers(1, 6), st.randoms())
def test_a_batch_takes_the_mean_load_of_a_slot_and_its_longest_trial_at_most(
    works: list[float], engines: int, limit: int, rng: random.Random
) -> None:
    """Graham's bound for any order of starts, however wrong the expectations are."""
    guessed = [rng.uniform(1, 1000) for _ in works]
    makespan = max(simulate(works, engines, limit, guessed).ended.values())
    slots = engines * limit
    assert makespan <= sum(works) / slots + (1 - 1 / slots) * max(works) + 1e-6


@given(st.lists(st.floats(1, 1000), min_size=1, max_size=7), st.integers(1, 3))
def test_with_right_expectations_a_batch_takes_four_thirds_of_the_best_at_most(
    works: list[float], engines: int
) -> None:
    """Graham's bound for longest first, 4/3 - 1/(3m), against the best of all assignments."""
    makespan = max(simulate(works, engines, 1).ended.values())
    best = min(
        max(sum(w for w, e in zip(works, assigned, strict=True) if e == engine) for engine in range(engines))
        for assigned in itertools.product(range(engines), repeat=len(works))
    )
    assert makespan <= (4 / 3 - 1 / (3 * engines)) * best * (1 + 1e-9)


@given(WORKS, ENGINES)
def test_without_a_limit_engines_differ_by_the_longest_trial_at_most(works: list[float], engines: int) -> None:
    dispatcher: Dispatcher[int] = Dispatcher(engines)
    for trial, work in enumerate(works):
        dispatcher.add(trial, work)
    assert len(dispatcher.start(0.0)) == len(works)
    loads = dispatcher.loads(0.0)
    assert max(loads) - min(loads) <= max(works) * (1 + 1e-9)


@given(WORKS, ENGINES, st.integers(1, 3), st.floats(0, 1))
def test_trials_of_an_earlier_batch_start_first(works: list[float], engines: int, limit: int, share: float) -> None:
    dispatcher: Dispatcher[tuple[int, int]] = Dispatcher(engines, limit)
    for trial, work in enumerate(works):
        batch = int(trial >= share * len(works))
        dispatcher.add((batch, trial), work, batch)
    order: list[tuple[int, int]] = []
    while started := dispatcher.start(0.0):
        order += [key for key, _ in started]
        for key, _ in started:
            dispatcher.end(key, 0, 0.0)
    assert len(order) == len(works)
    assert order == sorted(order, key=lambda key: (key[0], -works[key[1]], key[1]))


def test_an_engine_is_chosen_by_what_is_left_and_not_by_how_much_runs() -> None:
    """Two old trials that are nearly done weigh less than one that has just begun."""
    dispatcher: Dispatcher[str] = Dispatcher(2, 3)
    for name in ("learned", "old 1", "old 2"):
        dispatcher.add(name, 100)
    assert dict(dispatcher.start(0.0)) == {"learned": 0, "old 1": 1, "old 2": 0}
    dispatcher.end("learned", 100, 100.0)  # a token a second
    dispatcher.add("new", 60)
    (new,) = dispatcher.start(100.0)
    assert dispatcher.loads(100.0)[new[1]] == pytest.approx(60 + FLOOR * 100)
    dispatcher.add("next", 60)
    ((_, engine),) = dispatcher.start(100.0)
    assert engine != new[1]
    assert dispatcher.loads(1000.0) == pytest.approx([FLOOR * 160] * 2)


def test_a_failed_trial_says_nothing_of_speed() -> None:
    dispatcher: Dispatcher[int] = Dispatcher(1)
    dispatcher.add(0, 50)
    dispatcher.add(1, 50)
    dispatcher.start(0.0)
    dispatcher.end(0, 0, 10.0)
    assert dispatcher.loads(10.0) == [50]


def test_what_is_expected_falls_back_from_the_task_to_its_kind_to_anything() -> None:
    expectation = Expectation()
    played = Task("sokoban", seed=1, options={"boxes": 2})
    assert expectation.tokens(played) == 1
    expectation.learn(played, 400)
    expectation.learn(Task("sokoban", seed=2, options={"boxes": 2}), 200)
    expectation.learn(Task("sokoban", seed=2, options={"boxes": 1}), 60)
    expectation.learn(Task("minesweeper", seed=1), 40)
    assert expectation.tokens(played) == 400
    assert expectation.tokens(Task("sokoban", seed=3, options={"boxes": 2})) == 300
    assert expectation.tokens(Task("sokoban", seed=3)) == pytest.approx(220)
    assert expectation.tokens(Task("webshop", seed=3)) == pytest.approx(175)


def test_expectations_follow_the_policy_and_are_bounded() -> None:
    expectation = Expectation(memory=4, tasks=10)
    for seed in range(100):
        expectation.learn(Task("sokoban", seed=seed), 1000)
    for _ in range(30):
        expectation.learn(Task("sokoban", seed=99), 10)
    assert expectation.tokens(Task("sokoban", seed=99)) == pytest.approx(10, rel=0.1)
    assert expectation.tokens(Task("sokoban", seed=5)) == pytest.approx(10, rel=0.1)  # forgotten: as its environment
    assert expectation.tokens(Task("sokoban", seed=98)) == 1000


@given(st.lists(st.tuples(st.floats(0.01, 10), st.integers(0, 50)), min_size=1, max_size=20))
def test_occupancy_is_a_mean_over_the_time_in_which_something_ran(changes: list[tuple[float, int]]) -> None:
    occupancy = Occupancy()
    now, area, busy, running = 100.0, 0.0, 0.0, 0
    for wait, after in changes:
        area += wait * running
        busy += wait * bool(running)
        now += wait
        running = after
        occupancy.set(after, now)
    mean, most = occupancy.read(now)
    assert mean == pytest.approx(area / busy if busy else running)
    assert most == max(after for _, after in changes)
    assert occupancy.read(now + 1) == (pytest.approx(running), running)


def test_balance_pays_where_lengths_vary() -> None:
    """Longest first against the given order, on real lengths: the tail is shorter on average."""
    ratios = []
    for seed in range(20):
        rng = random.Random(seed)
        works = [rng.lognormvariate(0, 0.5) * 100 for _ in range(64)]
        known = max(simulate(works, 2, 8).ended.values())
        unknown = max(simulate(works, 2, 8, [1.0] * 64).ended.values())
        ratios.append(unknown / known)
    assert sum(ratios) / len(ratios) > 1.05
