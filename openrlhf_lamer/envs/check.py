"""Does an environment keep the contract of `TextEnv`? The same checks for ours and for yours.

In the tests of a package that brings an environment:

    from openrlhf_lamer.envs import Task, check_env

    check_env("sokoban", boxes=3)
    check_env(MyEnv, tasks=[Task("mine", spec={"file": "a.txt"})])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from textwrap import indent
from typing import Any

from openrlhf_lamer import LamerError
from openrlhf_lamer.envs.base import TextEnv
from openrlhf_lamer.envs.probing import BrokenError, Subject, UnreadableError, where
from openrlhf_lamer.envs.registry import factory
from openrlhf_lamer.envs.rules import RULES, Rule, offers_actions, takes_a_reward_scheme
from openrlhf_lamer.records import Task

UNLIKELY_ACTION = "no environment knows this action"


class CheckError(LamerError, AssertionError):
    """An environment breaks the contract of `TextEnv`; the message says how and what to do."""


def check_env(
    env: str | Callable[[], TextEnv],
    *,
    tasks: Sequence[Task] = (),
    steps: int = 50,
    seed: int = 0,
    invalid_action: str = UNLIKELY_ACTION,
    **options: Any,
) -> None:
    """Try every rule on an environment.

    Args:
        env: A registered name, or the class or a function that builds a new instance.
        tasks: Tasks to play; by default three seeds.
        steps: Random actions to play in each task.
        seed: Seed of the random actions.
        invalid_action: An action that the environment should refuse.
        options: Options of the environment.

    Raises:
        CheckError: Rules are broken. The message names each of them, with the values that break it, and a remedy.
    """
    build = factory(env, **options) if isinstance(env, str) else partial(env, **options)
    name = _name(build)
    subject = Subject(build, tasks or [Task(name, seed=number) for number in range(3)], steps, seed, invalid_action)
    broken: list[tuple[Rule, str]] = []
    unchecked: list[str] = []
    for rule in RULES:
        if rule.check is takes_a_reward_scheme and not isinstance(build.func, type):
            continue  # a function may have its own parameters
        try:
            rule.check(subject)
        except BrokenError as error:
            broken.append((rule, str(error)))
        except UnreadableError:
            unchecked.append(rule.name)
        except Exception as error:  # of the game
            broken.append((rule, f"{error!r} was raised, {where(error)}"))
    if broken:
        raise CheckError(_message(name, broken, unchecked))


def _name(build: Callable[[], TextEnv]) -> str:
    """Name of the environment; raises `CheckError` where it is none, or cannot be built."""
    try:
        env: Any = build()
    except LamerError:
        raise  # a wrong option, or data that is not there
    except TypeError as error:
        raise CheckError(f"it cannot be built: {error}; write what is missing, then check again") from error
    if not isinstance(env, TextEnv):
        raise CheckError(f"{env!r} is not a TextEnv; derive its class from openrlhf_lamer.envs.TextEnv")
    try:
        name = getattr(env, "name", None)
        if not isinstance(name, str) or not name:
            raise CheckError(
                f"{type(env).__name__}.name is {name!r}; give the class the name that it is registered under"
            )
        return name
    finally:
        env.close()


def _message(name: str, broken: Sequence[tuple[Rule, str]], unchecked: Sequence[str]) -> str:
    """All broken rules, with the values and what to do."""
    count = f"{len(broken)} rules" if len(broken) > 1 else "1 rule"
    parts = [f"{name} breaks {count} of an environment"]
    for number, (rule, found) in enumerate(broken, 1):
        parts.append(f"{number}. {rule.name}: {rule.text}\n{indent(f'{found}{chr(10)}Remedy: {rule.remedy}.', '   ')}")
    if len(broken) > 1:
        parts.append("One mistake may break several rules: begin with the first.")
    if offers_actions in (rule.check for rule, _ in broken):
        parts.append("Little could be played: once offers_actions holds, other rules may turn out to be broken.")
    if unchecked:
        parts.append(f"Checked only once types_are_right holds: {', '.join(unchecked)}.")
    return "\n\n".join(parts)
