"""Which seeds make up a split, so that no evaluation task is among the training tasks.

Seeds of `train` and `eval` come from disjoint ranges, but two seeds may draw the same board. So a seed of `train`
whose initial state is held out is left out, and the state as a whole decides, by its `manifest.state_hash`:

- Where panels are bundled for the environment and its options, the states that their tasks begin in are held out.
- Else, where there are at most `FEW` initial states, about half of them are held out: those whose hash is even. The
  split `eval` then has each of these once.
- Else nothing is: seeds that begin alike are too rare.

Task number i of `train` has seed i. If that one is left out, seed i + `STRIDE` stands for it, else i + 2 `STRIDE`, and
so on: a task's number says what it is, whatever tasks are asked for with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING, Any

from openrlhf_lamer.manifest import held_out, state_hash
from openrlhf_lamer.records import Task
from openrlhf_lamer.tasks import PANEL_SIZE, SEEDS, seeded_tasks

if TYPE_CHECKING:
    from openrlhf_lamer.envs.base import TextEnv

STRIDE = 2**24
"""Between a seed that is left out and the one that stands for it. So many training tasks have a number."""

FEW = 2**21
"""With more initial states than this, 4,096 training tasks hold at most one or two of 128 evaluation tasks."""

SCANNED = 2**15
"""Evaluation seeds that are looked through for different states, where these are few."""


def split_tasks(
    cls: type[TextEnv],
    split: str,
    num: int | None = None,
    *,
    first: int = 0,
    options: Mapping[str, Any] | None = None,
) -> list[Task]:
    """Tasks number `first` to `first + num` of a split that is a range of seeds, without what is held out of it.

    Args:
        cls: The environment.
        split: "train" or "eval".
        num: How many; None for 128, or as many as there are.
        first: Number of the first one.
        options: Options of the environment that belong to the tasks.

    Raises:
        ValueError: The split has not that many tasks, or an option is wrong.
    """
    options, asked = dict(options or {}), PANEL_SIZE if num is None else num
    if not cls.repeats:
        return seeded_tasks(cls.name, split, asked, first=first, options=options)
    try:
        env = cls(**options)
    except TypeError as error:
        raise ValueError(f"{cls.name}: {error}") from error
    with closing(env):
        frozen = held_out(env)
        few = not frozen and (env.beginnings or FEW + 1) <= FEW
        if split == "eval" and few:
            return _different(env, num, first, options)
        tasks = seeded_tasks(cls.name, split, asked, first=first, options=options)
        if split != "train" or not (frozen or few):
            return tasks
        if first + asked > STRIDE:
            raise ValueError(f"split 'train' has {STRIDE} tasks; {asked} from number {first} on are not among them")
        held = frozen.__contains__ if frozen else _even
        return [_replaced(env, task, held) for task in tasks]


def left_out(tasks: Sequence[Task], first: int = 0) -> int:
    """How many seeds were left out for the training tasks from number `first` on, as `split_tasks` gave them."""
    above = [task.seed - number for number, task in enumerate(tasks, first) if task.seed is not None]
    return sum(each // STRIDE for each in above if each % STRIDE == 0)


def _replaced(env: TextEnv, task: Task, held: Callable[[str], bool]) -> Task:
    """`task`, or the first that may stand for it and isn't held out."""
    number = task.seed or 0
    for seed in SEEDS["train"][number::STRIDE]:
        found = Task(task.env, seed=seed, options=task.options, split=task.split)
        if not held(_state(env, found)):
            return found
    raise ValueError(f"{env.name}: task number {number} of 'train' begins as an evaluation task under every seed")


def _different(env: TextEnv, num: int | None, first: int, options: Mapping[str, Any]) -> list[Task]:
    """Evaluation tasks number `first` to `first + num` of an environment with few states: no two begin alike."""
    wanted = first + (PANEL_SIZE if num is None else num)
    found = list(islice(_held(env, options), wanted))
    if first < 0 or len(found) < (first + 1 if num is None else wanted):
        raise ValueError(
            f"split 'eval' of {env.name} with {options} has {len(found)} tasks, one for each initial state that is "
            f"held out of training; those from number {first} to {wanted} are not among them"
        )
    return found[first:]


def _held(env: TextEnv, options: Mapping[str, Any]) -> Iterator[Task]:
    seen: set[str] = set()
    for task in seeded_tasks(env.name, "eval", SCANNED, options=options):
        state = _state(env, task)
        if _even(state) and state not in seen:
            seen.add(state)
            yield task


def _state(env: TextEnv, task: Task) -> str:
    return state_hash(env.reset(task), env.anchor())


def _even(state: str) -> bool:
    return int(state, 16) % 2 == 0
