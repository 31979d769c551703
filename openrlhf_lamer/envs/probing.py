"""Calls into an environment under check, and differences between two of its answers, in words."""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from openrlhf_lamer.envs.base import EpisodeOverError, Observation, Step, TextEnv, draw_action
from openrlhf_lamer.records import Task

MOST_DIFFERENCES = 3
"""Differences between two answers that a message shows."""

MOST_CHARACTERS = 120
"""Characters of a value that a message shows."""


class BrokenError(Exception):
    """A rule is broken; the message names the values that break it."""


class UnreadableError(Exception):
    """An answer has such a type that no rule but `types_are_right` can be checked."""


@dataclass(frozen=True)
class Subject:
    """Environment and tasks under check, and the number of steps."""

    build: Callable[[], TextEnv]
    tasks: Sequence[Task]
    steps: int
    seed: int
    invalid_action: str

    @contextmanager
    def opened(self) -> Iterator[TextEnv]:
        """A new instance, closed at the end."""
        env = self.build()
        try:
            yield env
        finally:
            env.close()

    def twins(self) -> Iterator[tuple[Task, TextEnv, TextEnv]]:
        """Two new instances for each task."""
        for task in self.tasks:
            with self.opened() as one, self.opened() as other:
                yield task, one, other

    def action(self, env: TextEnv, observation: Observation, rng: random.Random) -> str:
        """A random action; where the environment offers none, the oracle's, else the one that should be refused."""
        try:
            return draw_action(env, observation, rng)
        except NotImplementedError:
            return env.oracle() or self.invalid_action

    def play(self, env: TextEnv, observation: Observation) -> list[Step]:
        """Play random actions right after a reset, the same ones each time."""
        rng = random.Random(self.seed)
        steps: list[Step] = []
        for _ in range(self.steps):
            steps.append(step(env, self.action(env, observation, rng)))
            observation = steps[-1].observation
            if over(steps[-1]):
                break
        return steps


def reset(env: TextEnv, task: Task) -> Observation:
    """The state that `task` begins in; raises `UnreadableError` where it is none."""
    return read_observation(env.reset(task))


def step(env: TextEnv, action: str) -> Step:
    """Play an action within an episode; raises as `raw_step` and `read_step` do."""
    return read_step(raw_step(env, action))


def raw_step(env: TextEnv, action: str) -> Any:
    """The answer of `step` within an episode, unread; raises `BrokenError` where `step` raises."""
    try:
        return env.step(action)
    except Exception as error:
        place = " within an episode" if isinstance(error, EpisodeOverError) else ""
        raise BrokenError(f"step({action!r}) raised {error!r}{place}, {where(error)}") from error


def read_observation(answer: Any) -> Observation:
    """Read an observation, or a plain text so that other rules can be checked too; raises `UnreadableError`."""
    if isinstance(answer, Observation):
        return answer
    if isinstance(answer, tuple) and len(answer) == 2:  # Gymnasium's reset: an observation and an info
        answer = answer[0]
    if isinstance(answer, str):
        return Observation(answer)
    raise UnreadableError


def read_step(answer: Any) -> Step:
    """Read a step, or Gymnasium's tuple so that other rules can be checked too; raises `UnreadableError`."""
    if isinstance(answer, Step):
        return replace(answer, observation=read_observation(answer.observation))
    if isinstance(answer, tuple) and len(answer) == 5 and isinstance(answer[1], (int, float)):
        text, reward, terminated, truncated, _ = answer
        return Step(read_observation(text), float(reward), bool(terminated), bool(truncated), False, True)
    raise UnreadableError


def over(answer: Step) -> bool:
    """Whether a step ended its episode."""
    return bool(answer.terminated or answer.truncated)


def where(error: BaseException) -> str:
    """File and line that raised an error."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"in {Path(frame.filename).name}, line {frame.lineno}"


def require(holds: object, message: str) -> None:
    """Raise `BrokenError` with the message unless `holds`."""
    if not holds:
        raise BrokenError(message)


def equal(what: str, one: object, other: object, task: Task) -> None:
    """Raise `BrokenError` with the values that differ, unless both are equal."""
    if said := different(what, one, other, task):
        raise BrokenError(said)


def different(what: str, one: object, other: object, task: Task) -> str:
    """Message with the values that differ; empty where both are equal."""
    if one == other:
        return ""
    shown = "".join(f"\n{line}" for line in islice(differences(one, other), MOST_DIFFERENCES))
    return f"{what} differ in task {task.id}:{shown}"


def differences(one: Any, other: Any, path: str = "") -> Iterator[str]:
    """Each place in which two values differ, and its two values, as a line."""
    if is_dataclass(one) and type(one) is type(other):
        for each in fields(one):
            yield from differences(getattr(one, each.name), getattr(other, each.name), f"{path}.{each.name}".strip("."))
    elif isinstance(one, Mapping) and isinstance(other, Mapping) and one.keys() == other.keys():
        for key in one:
            yield from differences(one[key], other[key], f"{path}[{key!r}]")
    elif isinstance(one, (tuple, list)) and type(one) is type(other) and len(one) == len(other):
        for number, (first, second) in enumerate(zip(one, other, strict=True), 1):
            yield from differences(first, second, f"{path}[{number}]")
    elif one != other:
        shown = _apart(one, other) if isinstance(one, str) and isinstance(other, str) else (short(one), short(other))
        yield f"{path + ': ' if path else ''}{shown[0]} and {shown[1]}"


def short(value: object) -> str:
    """A value as Python writes it, cut to a line of a message."""
    text = repr(value)
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}…"


def kind(value: object) -> str:
    """A value with its type."""
    return f"{short(value)} ({type(value).__name__})"


def _apart(one: str, other: str) -> tuple[str, str]:
    """Two texts from a little before the place where they begin to differ."""
    same = next(
        (i for i, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), min(len(one), len(other))
    )
    start = same - 20 if max(len(one), len(other)) > MOST_CHARACTERS and same > 20 else 0
    lead = "…" if start else ""
    return lead + short(one[start:]), lead + short(other[start:])
