"""Does an environment keep the contract of `TextEnv`? The same checks for ours and for yours.

In the tests of a package that brings an environment:

    from openrlhf_lamer.envs import Task, check_env

    check_env("sokoban", boxes=3)
    check_env(MyEnv, tasks=[Task("mine", spec={"file": "a.txt"})])
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from openrlhf_lamer import LamerError
from openrlhf_lamer.envs.base import EpisodeOverError, Observation, Step, TextEnv, draw_action
from openrlhf_lamer.envs.registry import make
from openrlhf_lamer.records import Task

UNLIKELY_ACTION = "no environment knows this action"

SPELLINGS: Sequence[Callable[[str], str]] = (
    str,
    str.upper,
    lambda action: f" {action} ",
    lambda action: action.replace(" ", ""),
    lambda action: action.replace(" ", "  "),
)
"""Other ways to write an action. An environment may take them for the same, for another one, or refuse them."""


class CheckError(LamerError, AssertionError):
    """An environment breaks the contract of `TextEnv`; the message says how and what to do."""


@dataclass(frozen=True)
class _Subject:
    """Environment and tasks under check, and the number of steps."""

    build: Callable[[], TextEnv]
    tasks: Sequence[Task]
    steps: int
    seed: int
    invalid_action: str


def check_env(
    env: str | Callable[[], TextEnv],
    *,
    tasks: Sequence[Task] = (),
    steps: int = 50,
    seed: int = 0,
    invalid_action: str = UNLIKELY_ACTION,
    **options: Any,
) -> None:
    """Run every check on an environment.

    Args:
        env: A registered name, or the class or a function that builds a new instance.
        tasks: Tasks to play; by default three seeds.
        steps: Random actions to play in each task.
        seed: Seed of the random actions.
        invalid_action: An action that the environment should refuse.
        options: Options of the environment.

    Raises:
        CheckError: A check failed.
    """
    build = (lambda: make(env, **options)) if isinstance(env, str) else (lambda: env(**options))
    probe = build()
    try:
        if not isinstance(probe, TextEnv):
            raise CheckError(f"{probe!r} is not a TextEnv; derive its class from openrlhf_lamer.envs.TextEnv")
        tasks = tasks or [Task(probe.name, seed=number) for number in range(3)]
    finally:
        if isinstance(probe, TextEnv):
            probe.close()
    subject = _Subject(build, tasks, steps, seed, invalid_action)
    for check in CHECKS:
        try:
            check(subject)
        except CheckError as error:
            raise CheckError(f"{probe.name}: {check.__name__}: {error}") from error


def same_task_same_state(subject: _Subject) -> None:
    """Two instances begin a task in the same state."""
    for task, one, other in _twins(subject):
        _equal("observations after reset", one.reset(task), other.reset(task), task)
        _equal("anchors after reset", one.anchor(), other.anchor(), task)


def twins_agree(subject: _Subject) -> None:
    """Two instances given the same actions answer the same, step for step."""
    for task, one, other in _twins(subject):
        rng = random.Random(subject.seed)
        observation = one.reset(task)
        _equal("observations after reset", observation, other.reset(task), task)
        for _ in range(subject.steps):
            action = _action(one, observation, rng)
            step = one.step(action)
            _equal(f"answers to {action!r}", step, other.step(action), task)
            _equal(f"anchors after {action!r}", one.anchor(), other.anchor(), task)
            observation = step.observation
            if step.terminated or step.truncated:
                observation = one.reset(task)
                _equal("observations after a later reset", observation, other.reset(task), task)


def reset_restores(subject: _Subject) -> None:
    """After some play, or another task in between, `reset` leads back to the same state."""
    for number, task in enumerate(subject.tasks):
        between = subject.tasks[number - 1]
        with _closing(subject.build()) as env:
            first, anchor = env.reset(task), env.anchor()
            opening = _play(env, first, subject)
            for again in (task, between):
                _play(env, env.reset(again), subject)
                _equal("observations of first and later resets", first, env.reset(task), task)
                _equal("anchors of first and later resets", anchor, env.anchor(), task)
            _equal("answers in a first and a later episode", opening, _play(env, env.reset(task), subject), task)


def types_are_right(subject: _Subject) -> None:
    """Observations, steps and anchors have the types they are declared with, and finite rewards."""
    for task in subject.tasks:
        with _closing(subject.build()) as env:
            observation = env.reset(task)
            _check_observation(observation)
            _require(isinstance(env.penalises_invalid, bool), "penalises_invalid is not a bool")
            for step in _play(env, observation, subject):
                _require(isinstance(step, Step), f"step returned {step!r}, not a Step")
                _check_observation(step.observation)
                for field in ("terminated", "truncated", "won", "valid"):
                    value = getattr(step, field)
                    _require(isinstance(value, bool), f"Step.{field} is {value!r}, not a bool")
                _require(
                    isinstance(step.reward, float) and math.isfinite(step.reward),
                    f"Step.reward is {step.reward!r}, not a finite float",
                )
                _require(step.terminated or not step.won, "a won step is not terminated")
                _require(step.valid or not step.won, "a refused action won")
                _require(
                    step.action is None or isinstance(step.action, str),
                    f"Step.action is {step.action!r}, neither a text nor None",
                )
                _require(step.valid or step.action is None, f"a refused action did something: {step.action!r}")
                try:
                    json.dumps(dict(step.info))
                except (TypeError, ValueError) as error:
                    raise CheckError(f"Step.info cannot be written as JSON: {error}") from error
            _require(isinstance(env.anchor(), str) and env.anchor() != "", f"anchor is {env.anchor()!r}, not a text")


def equal_anchors_are_equal_states(subject: _Subject) -> None:
    """States with one anchor answer the same action in the same way, and lead to one anchor again.

    This finds an anchor that leaves out part of the state, even a part that no observation shows.
    A count of steps, for the environment's step limit, need not be part of the anchor.
    """
    for task in subject.tasks:
        rng = random.Random(subject.seed)
        answers: dict[tuple[str, str], tuple[Step, str]] = {}
        with _closing(subject.build()) as env:
            # A few actions are tried again and again, so that states with one anchor meet the same ones.
            observation = env.reset(task)
            favourites = [_action(env, observation, rng) for _ in range(4)]
            for _ in range(4):
                observation = env.reset(task)
                for _ in range(subject.steps):
                    anchor = env.anchor()
                    action = rng.choice(favourites) if rng.random() < 0.5 else _action(env, observation, rng)
                    step = env.step(action)
                    observation = step.observation
                    if step.truncated:
                        break
                    answer = (replace(step, info={}), env.anchor())
                    known = answers.setdefault((anchor, action), answer)
                    _equal(f"what {action!r} does in two states with the anchor {anchor!r}", known, answer, task)
                    if step.terminated:
                        break


def normal_actions_do_the_same(subject: _Subject) -> None:
    """`Step.action` as an action does what the typed one did, so actions with one normal form do the same."""
    for task, one, other in _twins(subject):
        rng = random.Random(subject.seed)
        observation = one.reset(task)
        other.reset(task)
        for _ in range(subject.steps):
            action = rng.choice(SPELLINGS)(_action(one, observation, rng))
            step = one.step(action)
            normal = action if step.action is None else step.action
            _equal(f"answers to {action!r} and to its normal form {normal!r}", step, other.step(normal), task)
            _equal(f"anchors after {action!r} and after its normal form {normal!r}", one.anchor(), other.anchor(), task)
            observation = step.observation
            if step.terminated or step.truncated:
                observation = one.reset(task)
                other.reset(task)


def invalid_action_changes_nothing(subject: _Subject) -> None:
    """A refused action leaves the state as it was, ends nothing and is answered the same again."""
    for task, one, other in _twins(subject):
        rng = random.Random(subject.seed)
        observation = one.reset(task)
        other.reset(task)
        for _ in range(subject.steps):
            anchor = one.anchor()
            refused = one.step(subject.invalid_action)
            if refused.valid:
                break  # a free-text environment may take anything
            _require(not (refused.terminated or refused.truncated), "a refused action ended the episode")
            _equal("anchors before and after a refused action", anchor, one.anchor(), task)
            _equal("answers to an action refused twice", refused, one.step(subject.invalid_action), task)
            action = _action(other, observation, rng)
            step = one.step(action)
            _equal(f"answers to {action!r} with and without a refused action before", step, other.step(action), task)
            observation = step.observation
            if step.terminated or step.truncated:
                break


def no_step_outside_an_episode(subject: _Subject) -> None:
    """Before `reset` and after the end, `step` raises `EpisodeOverError`; `reset` begins again."""
    for task in subject.tasks:
        with _closing(subject.build()) as env:
            _refuses_step(env, subject.invalid_action, "before reset")
            rng = random.Random(subject.seed)
            observation = env.reset(task)
            for _ in range(20 * subject.steps):
                action = env.oracle() or _action(env, observation, rng)
                step = env.step(action)
                observation = step.observation
                if step.terminated or step.truncated:
                    _refuses_step(env, action, "after the end of an episode")
                    env.reset(task)
                    env.step(action)
                    break


def rewards_within_bounds(subject: _Subject) -> None:
    """No episode pays more or less than `reward_bounds` says for its number of turns."""
    for task in subject.tasks:
        with _closing(subject.build()) as env:
            for pick in (lambda: None, env.oracle):
                rng = random.Random(subject.seed)
                observation = env.reset(task)
                total = 0.0
                for turn in range(1, subject.steps + 1):
                    step = env.step(pick() or _action(env, observation, rng))
                    observation = step.observation
                    total += step.reward
                    low, high = env.reward_bounds(turn)
                    _require(
                        low - 1e-6 <= total <= high + 1e-6,
                        f"an episode of {turn} turns paid {total}; reward_bounds({turn}) is {(low, high)}",
                    )
                    if step.terminated or step.truncated:
                        break


def no_state_is_longer_than_the_long_ones(subject: _Subject) -> None:
    """No observation is longer than the longest of `long_states`, so prompts get the room they need."""
    for task in subject.tasks:
        with _closing(subject.build()) as env:
            first = env.reset(task)
            longest = max(map(_length, env.long_states()))
            for observation in (first, *(step.observation for step in _play(env, first, subject))):
                _require(
                    _length(observation) <= longest,
                    f"an observation of {_length(observation)} characters with its actions in task {task.id}, but the "
                    f"longest of long_states has {longest}; have long_states return states as long as they get",
                )


CHECKS: tuple[Callable[[_Subject], None], ...] = (
    same_task_same_state,
    twins_agree,
    reset_restores,
    types_are_right,
    equal_anchors_are_equal_states,
    normal_actions_do_the_same,
    invalid_action_changes_nothing,
    no_step_outside_an_episode,
    rewards_within_bounds,
    no_state_is_longer_than_the_long_ones,
)
"""Checks that `check_env` runs, in this order."""


@contextmanager
def _closing(env: TextEnv) -> Iterator[TextEnv]:
    try:
        yield env
    finally:
        env.close()


def _twins(subject: _Subject) -> Iterator[tuple[Task, TextEnv, TextEnv]]:
    """Two new instances for each task."""
    for task in subject.tasks:
        with _closing(subject.build()) as one, _closing(subject.build()) as other:
            yield task, one, other


def _action(env: TextEnv, observation: Observation, rng: random.Random) -> str:
    """A random action: one of the listed ones, or what the environment draws itself."""
    try:
        return draw_action(env, observation, rng)
    except NotImplementedError as error:
        raise CheckError("it neither lists admissible actions nor has a random_action; give it one of them") from error


def _play(env: TextEnv, observation: Observation, subject: _Subject) -> list[Step]:
    """Random actions from a state just reset to, the same ones each time."""
    rng = random.Random(subject.seed)
    steps: list[Step] = []
    for _ in range(subject.steps):
        steps.append(env.step(_action(env, observation, rng)))
        observation = steps[-1].observation
        if steps[-1].terminated or steps[-1].truncated:
            break
    return steps


def _length(observation: Observation) -> int:
    return len("\n".join((observation.text, *observation.admissible)))


def _check_observation(observation: Observation) -> None:
    _require(isinstance(observation, Observation), f"{observation!r} is not an Observation")
    _require(isinstance(observation.text, str), f"Observation.text is {observation.text!r}, not a text")
    _require(
        isinstance(observation.admissible, tuple) and all(isinstance(each, str) for each in observation.admissible),
        f"Observation.admissible is {observation.admissible!r}, not a tuple of texts",
    )


def _refuses_step(env: TextEnv, action: str, when: str) -> None:
    try:
        step = env.step(action)
    except EpisodeOverError:
        return
    raise CheckError(f"step {when} returned {step!r}; raise EpisodeOverError")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise CheckError(message)


def _equal(what: str, one: object, other: object, task: Task) -> None:
    _require(one == other, f"{what} differ in task {task.id}:\n{one!r}\n{other!r}")
