"""Doors: its rules, and what known players win, counted over all prizes and choices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from statistics import fmean
from typing import Any

import pytest

from openrlhf_lamer.agents import load_agent
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.envs import EpisodeOverError, TaskError, make
from openrlhf_lamer.envs.doors import Doors
from openrlhf_lamer.policies.scripted import TypedPolicy
from openrlhf_lamer.records import Stop, Task, Trial


def by_prize(env: Doors) -> list[Task]:
    """A task for each door that the prize may be behind, in their order."""
    found: dict[str, Task] = {}
    for seed in range(100 * env.doors):
        task = Task("doors", seed=seed)
        env.reset(task)
        found.setdefault(env.oracle() or "", task)
    assert len(found) == env.doors
    return [found[f"d{door}"] for door in range(1, env.doors + 1)]


def won_within(env: Doors, task: Task, choices: Sequence[str]) -> list[bool]:
    """Whether one of the first 1, 2, ... attempts wins; `seen` stands for what an earlier attempt showed."""
    won, seen = [False], None
    for choice in choices:
        env.reset(task)
        step = env.step(seen if choice == "seen" and seen else choice)
        won.append(won[-1] or step.won)
        seen = seen or env.found
    return won[1:]


@pytest.mark.parametrize(("doors", "lamp"), [(4, False), (8, False), (8, True)])
def test_every_door_has_its_share_of_the_prizes(doors: int, lamp: bool) -> None:
    env, number = Doors(doors, lamp), 4000
    counts = [0] * doors
    for seed in range(number):
        assert env.reset(Task("doors", seed=seed)).text == "All closed."
        assert env.found is None
        counts[int((env.oracle() or "")[1:]) - 1] += 1
    assert env.beginnings == doors
    assert all(abs(count - number / doors) < 4 * (number / doors) ** 0.5 for count in counts)


def test_the_prize_stays_where_it_is() -> None:
    env = Doors(8)
    (task, *_) = by_prize(env)
    for _ in range(3):
        env.reset(task)
        assert env.step("d2").observation.text == "Nothing behind d2."
        env.reset(task)
        assert env.step("d1").observation.text == "Prize behind d1."


@pytest.mark.parametrize("typed", ["d2", "D2", "door 2", " Door  2 ", "door2", "2", " 2 ", "02"])
@pytest.mark.parametrize("lamp", [False, True])
def test_a_door_can_be_spelled_in_several_ways(typed: str, lamp: bool) -> None:
    env = Doors(4, lamp)
    tasks = by_prize(env)
    for task, paid in ((tasks[1], 10.0), (tasks[2], 0.0)):
        env.reset(task)
        step = env.step(typed)
        assert (step.action, step.valid, step.terminated, step.truncated) == ("d2", True, True, False)
        assert (step.won, step.reward) == (bool(paid), paid)
        with pytest.raises(EpisodeOverError):
            env.step("d2")


@pytest.mark.parametrize("typed", ["d0", "d5", "d-1", "d2, d3", "door", "", "open 2", "lamp", "d1000", "d\u0662"])
def test_what_is_no_door_is_refused(typed: str) -> None:
    env = Doors(4)
    env.reset(by_prize(env)[1])
    before = env.anchor()
    step = env.step(typed)
    assert (step.observation.text, step.valid, step.terminated, step.reward) == ("All closed.", False, False, 0.0)
    assert (step.action, env.anchor()) == (None, before)
    assert env.step("d2").won


def test_the_lamp_shows_the_prize_and_ends_the_attempt() -> None:
    env = Doors(8, lamp=True)
    for door, task in enumerate(by_prize(env), 1):
        env.reset(task)
        step = env.step(" Lamp")
        assert (step.action, step.terminated, step.won, step.reward) == ("lamp", True, False, 0.0)
        assert step.observation.text == f"Prize behind d{door}."
        assert env.found == f"d{door}"


@pytest.mark.parametrize("options", [{"doors": 1}, {"doors": 101}, {"doors": True}, {"lamp": 1}, {"reward": "dense"}])
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(TaskError, match=f"doors: {next(iter(options))} is"):
        make("doors", **options)
    with pytest.raises(TaskError, match="a task has a seed"):
        make("doors").reset(Task("doors", spec={"prize": 1}))


@pytest.mark.parametrize("doors", [2, 4, 8])
def test_the_best_player_without_a_lamp_tries_every_door_once(doors: int) -> None:
    env, attempts = Doors(doors), min(doors, 4)
    tasks = by_prize(env)
    each = [won_within(env, task, [f"d{door}" for door in range(1, attempts + 1)]) for task in tasks]
    assert env.references(attempts, 1)["optimum"] == pytest.approx(
        [fmean(column) for column in zip(*each, strict=True)]
    )
    # No other sequence of doors does better; without the prize, nothing can be seen that a choice could depend on.
    names = [f"d{door}" for door in range(1, doors + 1)]
    for choices in product(names, repeat=min(attempts, 3)):
        found = fmean(won_within(env, task, choices)[-1] for task in tasks)
        assert found <= env.references(len(choices), 1)["optimum"][-1] + 1e-9


@pytest.mark.parametrize(("doors", "lamp"), [(4, False), (5, True)])
def test_a_player_without_memory_draws_a_door_for_each_attempt(doors: int, lamp: bool) -> None:
    env = Doors(doors, lamp)
    names = [f"d{door}" for door in range(1, doors + 1)]
    rows = [won_within(env, task, choices) for task in by_prize(env) for choices in product(names, repeat=3)]
    shares = [fmean(column) for column in zip(*rows, strict=True)]
    assert env.references(3, 1)["without memory"] == pytest.approx(shares)
    assert env.references(3, 7) == env.references(3, 1)


def test_the_best_player_with_a_lamp_burns_it_first() -> None:
    env = Doors(8, lamp=True)
    tasks = by_prize(env)
    references = env.references(3, 1)
    rows = [won_within(env, task, ("lamp", "seen", "seen")) for task in tasks]
    assert references["optimum"] == [fmean(column) for column in zip(*rows, strict=True)] == [0, 1, 1]
    rows = [won_within(env, task, ("d1", "d2", "d3")) for task in tasks]
    assert references["no lamp, no door twice"] == [fmean(column) for column in zip(*rows, strict=True)]
    assert env.references(1, 1)["optimum"] == [1 / 8]


def test_a_wrong_door_is_the_mistake_and_the_lamp_is_none(play: Callable[..., Trial], chat: Chat) -> None:
    agent = load_agent("openrlhf_lamer.agents.doors")[0]
    task = by_prize(Doors(8, lamp=True))[3]
    typed = ("lamp", "door 2", "d9", "D4")
    trial = play(
        TypedPolicy(chat, typed), seed=task.seed, agent=agent, num_episodes=4, env_options={"doors": 8, "lamp": True}
    )
    found = [Doors.played(episode) for episode in trial.episodes]
    assert [[move.action for move in each.moves] for each in found] == [["lamp"], ["d2"], [], ["d4"]]
    assert [each.mistake and each.mistake.words for each in found] == [None, "d2", None, None]
    assert [episode.stop for episode in trial.episodes] == [Stop.LOST, Stop.LOST, Stop.MAX_TURNS, Stop.WON]
    assert "Actions: lamp\nIt ended in this state:\nPrize behind d4." in chat.decode(
        trial.episodes[1].turns[0].prompt_ids
    )
