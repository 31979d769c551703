"""Dark room: its rules, and the best that can be won there, found again by playing every sequence of steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, reduce
from itertools import combinations_with_replacement, product
from operator import or_
from statistics import fmean
from typing import Any

import pytest

from openrlhf_lamer.agents import load_agent
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.envs import EpisodeOverError, TaskError, make
from openrlhf_lamer.envs.darkroom.env import DarkRoom
from openrlhf_lamer.policies.scripted import TypedPolicy
from openrlhf_lamer.records import Stop, Task, Trial

STEPS = ("up", "down", "left", "right")


@cache
def by_goal(size: int) -> dict[str, Task]:
    """A task for each cell that the goal may be in, by the cell as observations write it."""
    found: dict[str, Task] = {}
    env = DarkRoom(size)
    for seed in range(100 * size**2):
        task = Task("darkroom", seed=seed)
        env.reset(task)
        found.setdefault(env.anchor()[2:8], task)
    return found


def walked(env: DarkRoom, task: Task, *actions: str) -> list[str]:
    """Observations of an episode, the first one included."""
    return [env.reset(task).text, *(env.step(action).observation.text for action in actions)]


@pytest.mark.parametrize("size", [5, 7, 9])
def test_the_goal_is_in_any_cell_that_is_out_of_sight_at_the_start(size: int) -> None:
    env, number, middle = DarkRoom(size), 4000, size // 2 + 1
    counts = Counter[str]()
    for seed in range(number):
        assert env.reset(Task("darkroom", seed=seed)).text == f"You are at ({middle}, {middle}). Nothing in sight."
        counts[env.anchor()[2:8]] += 1
    near = range(middle - 1, middle + 2)
    places = {f"({r}, {c})" for r, c in product(range(1, size + 1), repeat=2) if not (r in near and c in near)}
    assert set(counts) == places == set(by_goal(size))
    assert env.beginnings == len(places) == size**2 - 9
    expected = number / len(places)
    assert all(abs(count - expected) < 4.5 * expected**0.5 for count in counts.values())


def test_the_goal_shows_itself_nearby_and_stays_shown() -> None:
    env = DarkRoom()
    assert walked(env, by_goal(5)["(1, 4)"], "up", "down", "down", "left") == [
        "You are at (3, 3). Nothing in sight.",
        "You are at (2, 3). Goal at (1, 4).",
        "You are at (3, 3). Goal at (1, 4).",
        "You are at (4, 3). Goal at (1, 4).",
        "You are at (4, 2). Goal at (1, 4).",
    ]
    assert walked(env, by_goal(5)["(1, 5)"], "up", "right") == [
        "You are at (3, 3). Nothing in sight.",
        "You are at (2, 3). Nothing in sight.",
        "You are at (2, 4). Goal at (1, 5).",
    ]


def test_only_the_goal_ends_an_episode() -> None:
    env = DarkRoom(reward="shaped")
    env.reset(by_goal(5)["(1, 4)"])
    for action in ("left", "right") * 100:
        step = env.step(action)
        assert (step.terminated, step.truncated, step.reward) == (False, False, 0.0)
    env.step("up")
    env.step("up")
    step = env.step("right")
    assert (step.terminated, step.won, step.reward, step.action) == (True, True, 10.0, "right")
    assert step.observation.text == "You are at (1, 4). Goal at (1, 4)."
    with pytest.raises(EpisodeOverError):
        env.step("up")


@pytest.mark.parametrize(("typed", "does"), [("UP", "up"), (" Left ", "left"), ("down\n", "down"), ("right", "right")])
def test_a_step_can_be_spelled_in_several_ways(typed: str, does: str) -> None:
    one, other = DarkRoom(), DarkRoom()
    for task in by_goal(5).values():
        one.reset(task)
        other.reset(task)
        step = one.step(typed)
        assert (step.action, step.valid) == (does, True)
        assert (step, one.anchor()) == (other.step(does), other.anchor())


@pytest.mark.parametrize("typed", ["", "north", "up, up", "go up", "u", "(2, 3)", "none"])
def test_what_is_no_step_is_refused(typed: str) -> None:
    refused(typed, before=["left"])


@pytest.mark.parametrize("step", STEPS)
def test_a_wall_refuses_a_step(step: str) -> None:
    refused(step, before=[step, step])


def refused(action: str, before: Sequence[str]) -> None:
    """Assert that `action` changes nothing after `before`, with or without a goal in sight."""
    env = DarkRoom()
    for task in by_goal(5).values():
        if env.reset(task) and any(env.step(each).won for each in before):
            continue
        anchor, seen = env.anchor(), env.found
        answers = [env.step(action) for _ in range(2)]
        assert answers[0] == answers[1]
        assert (answers[0].valid, answers[0].action, answers[0].reward) == (False, None, 0.0)
        assert (answers[0].terminated, env.anchor(), env.found) == (False, anchor, seen)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 3}, "from 5 to 9, not 3"),
        ({"size": 11}, "from 5 to 9, not 11"),
        ({"size": 6}, "an odd number.*6"),
        ({"size": "5"}, "'5'"),
        ({"reward": "dense"}, "'dense'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=f"darkroom: .*{message}"):
        make("darkroom", **options)
    with pytest.raises(TaskError, match="a task has a seed"):
        make("darkroom").reset(Task("darkroom", spec={"goal": [1, 1]}))


@pytest.mark.parametrize("size", [5, 7, 9])
def test_the_oracle_takes_a_shortest_way_rows_first(size: int) -> None:
    env, middle = DarkRoom(size), size // 2 + 1
    for cell, task in by_goal(size).items():
        row, column = int(cell[1]), int(cell[4])
        rows, columns = abs(row - middle), abs(column - middle)
        way = ["up" if row < middle else "down"] * rows + ["left" if column < middle else "right"] * columns
        env.reset(task)
        assert env.found is None
        for number, action in enumerate(way, 1):
            assert env.oracle() == action
            assert env.found in (None, action)
            assert env.step(action).won == (number == len(way))
        assert (env.oracle(), env.found) == (None, None)
        assert len(way) <= size - 1


def test_what_is_seen_is_the_oracles_step_once_the_goal_is_shown() -> None:
    env = DarkRoom()
    for task in by_goal(5).values():
        for walk in product(STEPS, repeat=3):
            env.reset(task)
            for action in walk:
                step = env.step(action)
                if step.won:
                    break
                assert env.found == (env.oracle() if "Goal" in step.observation.text else None)


@cache
def outcomes(size: int, turns: int) -> dict[tuple[int, int], tuple[str, ...]]:
    """Sets of goals (those within reach) that an attempt shows and wins, each pair with a walk that does it.

    Each sequence of `turns` actions is played on each goal, until the goal shows itself; from there, the player walks
    to it. A set is a whole number, with a bit for each goal.
    """
    env, found = DarkRoom(size), {}
    tasks = list(by_goal(size).values())
    in_reach = [wins(env, task, ("wait",) * turns, knows=True)[1] for task in tasks]
    for walk in product(STEPS, repeat=turns):
        shown = won = 0
        for bit, task in enumerate(tasks):
            seen, reached = wins(env, task, walk)
            shown |= (seen and in_reach[bit]) << bit
            won |= reached << bit
        assert won & ~shown == 0
        found.setdefault((shown, won), walk)
    return found


def wins(env: DarkRoom, task: Task, walk: Sequence[str], *, knows: bool = False) -> tuple[bool, bool]:
    """Whether the goal shows itself during a walk, and whether the player, who may know it (`knows`), reaches it."""
    env.reset(task)
    shown = False
    for action in walk:
        step = env.step((env.oracle() if knows else env.found) or action)
        shown = shown or "Goal" in step.observation.text
        if step.won:
            return True, True
    return shown, False


@pytest.mark.parametrize(("size", "turns"), [(5, 1), (5, 2), (5, 3), (5, 4), (5, 5), (7, 3), (7, 4), (7, 5), (9, 4)])
def test_no_player_wins_more_than_the_optimum_and_one_wins_as_much(size: int, turns: int) -> None:
    """A player can only choose each attempt's steps in the dark: all combinations are tried."""
    goals = len(by_goal(size))
    ends = {won for _, won in outcomes(size, turns)}
    searches = {shown for shown, _ in outcomes(size, turns)}
    most = [
        max((reduce(or_, before, 0) | won).bit_count() for won in ends for before in several(searches, attempts - 1))
        for attempts in (1, 2, 3)
    ]
    assert DarkRoom(size).references(3, turns)["optimum"] == pytest.approx([number / goals for number in most])


def several(searches: set[int], number: int) -> set[tuple[int, ...]]:
    """Choices of `number` searches, leaving out those that show only a part of what another shows."""
    best = [one for one in searches if not any(one != other and one & ~other == 0 for other in searches)]
    return set(combinations_with_replacement(best, number))


def test_the_optimum_of_the_default_room_is_known() -> None:
    room = DarkRoom()
    assert room.references(4, 4)["optimum"] == (6 / 16, 15 / 16, 1.0, 1.0)
    assert room.references(2, 4)["without memory"] == pytest.approx([6 / 16, 1 - (10 / 16) ** 2])
    assert room.references(1, 1000)["optimum"] == (1.0,)
    assert DarkRoom(9).references(2, 1)["optimum"] == (0.0, 0.0)


def test_a_player_of_the_trial_wins_what_the_optimum_says(play: Callable[..., Trial], chat: Chat) -> None:
    """Two walks, which head straight for the goal once it shows itself; played by the trial loop."""
    agent = load_agent("openrlhf_lamer.agents.darkroom")[0]
    found, goals = outcomes(5, 4), by_goal(5)
    first, second = max(product(found, found), key=lambda two: (two[0][0] | two[1][1]).bit_count())
    env, won = DarkRoom(), 0
    for task in goals.values():
        seen, actions = False, list[str]()
        for walk in (found[first], found[second]):
            env.reset(task)
            for action in walk:
                actions.append((env.oracle() if seen else env.found) or action)
                if env.step(actions[-1]).won:
                    break
            else:
                seen = seen or env.found is not None
                continue
            break
        trial = play(TypedPolicy(chat, actions), seed=task.seed, agent=agent, num_episodes=2, memory="history")
        won += trial.won
        final = trial.episodes[0].final_observation
        if len(trial.episodes) == 2:  # memory tells where the goal is, if it was seen
            assert f"It ended in this state:\n{final}\n" in chat.decode(trial.episodes[1].turns[0].prompt_ids)
    assert won / len(goals) == env.references(2, 4)["optimum"][1]


def test_no_player_whose_attempts_are_unaware_of_each_other_exceeds_the_limit() -> None:
    """A player who draws each attempt from all best walks comes close to it, one who draws from all walks does not."""
    goals, limit = len(by_goal(5)), DarkRoom().references(3, 4)["without memory"]
    walks = [won for _, won in every_walk()]
    best = [won for won in walks if won.bit_count() == max(map(int.bit_count, walks))]
    for drawn, gap in ((best, 0.02), (walks, 1.0)):
        chance = [fmean(won >> bit & 1 for won in drawn) for bit in range(goals)]
        shares = [fmean(1 - (1 - each) ** k for each in chance) for k in (1, 2, 3)]
        assert all(most - gap < share <= most + 1e-9 for share, most in zip(shares, limit, strict=True))
    assert fmean(won.bit_count() for won in best) / goals == limit[0]


def every_walk() -> list[tuple[tuple[str, ...], int]]:
    """Each walk of four actions in the default room, with the goals that it wins."""
    env = DarkRoom()
    return [
        (walk, sum(wins(env, task, walk)[1] << bit for bit, task in enumerate(by_goal(5).values())))
        for walk in product(STEPS, repeat=4)
    ]


def test_nobody_can_tell_which_step_was_the_mistake(play: Callable[..., Trial], chat: Chat) -> None:
    agent = load_agent("openrlhf_lamer.agents.darkroom")[0]
    seed = by_goal(5)["(5, 5)"].seed
    trial = play(TypedPolicy(chat, ["Up", "jump", "up", "up"]), seed=seed, agent=agent, num_episodes=1)
    (episode,) = trial.episodes
    played = DarkRoom.played(episode)
    assert (episode.stop, played.mistake) == (Stop.MAX_TURNS, None)
    assert [move.action for move in played.moves] == ["up", "up"]
