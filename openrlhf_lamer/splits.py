"""Seeds of a split, chosen so that no evaluation task is among the training tasks.

Seeds of `train` and `eval` come from disjoint ranges, but two seeds may draw the same board. So `train` leaves out
each seed whose initial state is held out. The hash of the whole state (`manifest.state_hash`) decides:

- If panels are bundled for the environment and its options, the initial states of their tasks are held out.
- Otherwise, if there are at most `FEW` initial states, about half of them are held out: those with an even hash. The
  split `eval` then has each of these once.
- Otherwise none is held out: seeds with the same initial state are too rare.

Task number i of `train` has seed i. If that seed is left out, seed i + `STRIDE` replaces it, or else i + 2 `STRIDE`,
and so on: a task depends on its number only, not on the other tasks that are asked for.
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
"""Distance from a seed that is left out to its replacement; also the number of tasks of `train`."""

FEW = 2**21
"""Above this number of initial states, 4,096 training tasks hold at most one or two of 128 evaluation tasks."""

SCANNED = 2**15
"""Evaluation seeds that are searched for different states, if these are few."""


def split_tasks(
    cls: type[TextEnv],
    split: str,
    num: int | None = None,
    *,
    first: int = 0,
    options: Mapping[str, Any] | None = None,
) -> list[Task]:
    """Tasks number `first` to `first + num` of a split that is a range of seeds, without those held out.

    Args:
        cls: The environment.
        split: "train" or "eval".
        num: Number of tasks; None for 128, or for all if there are fewer.
        first: Number of the first one.
        options: Options of the environment that the tasks carry.

    Raises:
        ValueError: The split has fewer tasks, or an option is wrong.
    """
    options, asked = dict(options or {}), PANEL_SIZE if num is None else num
    if not cls.holds_out:
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
    """Number of seeds that `split_tasks` left out for the training tasks from number `first` on."""
    above = [task.seed - number for number, task in enumerate(tasks, first) if task.seed is not None]
    return sum(each // STRIDE for each in above if each % STRIDE == 0)


def _replaced(env: TextEnv, task: Task, held: Callable[[str], bool]) -> Task:
    """`task` if it isn't held out, otherwise its first replacement that isn't."""
    number = task.seed or 0
    for seed in SEEDS["train"][number::STRIDE]:
        found = Task(task.env, seed=seed, options=task.options, split=task.split)
        if not held(_state(env, found)):
            return found
    raise ValueError(f"{env.name}: task number {number} of 'train' begins as an evaluation task with every seed")


def _different(env: TextEnv, num: int | None, first: int, options: Mapping[str, Any]) -> list[Task]:
    """Evaluation tasks number `first` to `first + num` of an environment with few states, no state twice."""
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
