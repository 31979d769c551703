"""Task sets mixed from others, in given proportions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

from openrlhf_lamer.envs.seeding import below, generator
from openrlhf_lamer.records import Task


def mixed(
    sets: Mapping[str, Sequence[Task]], weights: Sequence[float] | None, num: int | None, seed: int
) -> list[Task]:
    """Tasks drawn from several sets in given proportions, in one random order.

    A set's tasks are drawn without repetition, as many as its share of `num` says (by largest remainders, so that the
    counts add up). The same arguments give the same tasks in the same order on every machine.

    Args:
        sets: The sets by name.
        weights: For each set, its weight, above 0; None for its number of tasks.
        num: Tasks in all; None for as many as the sets have in these proportions.
        seed: Decides the draws and the order.

    Raises:
        ValueError: A set has too few tasks; the message names it, and the largest possible `num`.
    """
    sizes = [len(tasks) for tasks in sets.values()]
    shares = [weight / sum(weights or sizes) for weight in weights or sizes]
    # Plus a little, in case rounding leaves a product just short of a whole number.
    most = int(min(size / share for size, share in zip(sizes, shares, strict=True)) + 1e-9)
    while any(count > size for count, size in zip(_counts(shares, most), sizes, strict=True)):
        most -= 1
    wanted = most if num is None else num
    counts = _counts(shares, wanted)
    for name, size, count in zip(sets, sizes, counts, strict=True):
        if count > size:
            raise ValueError(f"{name} has {size} tasks, and {count} of {wanted} would be its; at most {most} fit")
    rng = generator("mix", seed)
    drawn = [task for tasks, count in zip(sets.values(), counts, strict=True) for task in _drawn(rng, tasks, count)]
    return _drawn(rng, drawn, len(drawn))


def _counts(shares: Sequence[float], total: int) -> list[int]:
    """Whole numbers with the sum `total`, in proportion to `shares`."""
    exact = [share * total for share in shares]
    counts = [int(each + 1e-9) for each in exact]
    largest = sorted(range(len(exact)), key=lambda i: counts[i] - exact[i])
    for i in largest[: total - sum(counts)]:
        counts[i] += 1
    return counts


def _drawn(rng: Random, tasks: Sequence[Task], num: int) -> list[Task]:
    """`num` of the tasks in random order, none of them twice."""
    left = list(tasks)
    for i in range(num):
        j = i + below(rng, len(left) - i)
        left[i], left[j] = left[j], left[i]
    return left[:num]
