"""Diversity of the samples of a task: the paper's trajectory diversity, and the same corrected for its bias."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from openrlhf_lamer.evaluation.statistics import Estimate, mean
from openrlhf_lamer.metrics import entropy, ways

Path = tuple[Sequence[Hashable], Hashable]
"""Path of a trial through each of its episodes (see `metrics.paths_of`), and its group: the task, as a rule."""


@dataclass(frozen=True, slots=True)
class Diversity:
    """Entropy in nats of what the samples of a task do in one attempt, as a mean over tasks.

    Attributes:
        attempt: Which attempt, from 1. Only samples that got there make a later one.
        fewest: Samples of the task that has the fewest; tasks with only one have no diversity.
        most: Samples of the task that has the most.
        plain: Entropy of the shares as they were counted, as in the paper. It grows with the number of samples,
            and compares only runs with the same number.
        corrected: Chao and Shen's estimate of the entropy with unlimited samples.
    """

    attempt: int
    fewest: int
    most: int
    plain: Estimate
    corrected: Estimate

    @property
    def maximum(self) -> float:
        """Upper bound of `plain`, reached where no two samples are alike."""
        return math.log(self.most)


def diversity(runs: Sequence[Iterable[Path]], attempt: int) -> Diversity | None:
    """The diversity of an attempt, over the tasks where two samples or more came to it; None if there is none.

    Args:
        runs: The live trials of one run, or of each run of one method. Samples of two runs are never compared
            with each other.
        attempt: Counted from 1.
    """
    found = [ways([path for path, _ in run], [group for _, group in run], attempt - 1) for run in map(list, runs)]
    totals = [sum(counts) for run in found for counts in run.values()]
    if not totals:
        return None
    plain, corrected = (
        mean(
            [{str(group): [formula(counts)] for group, counts in run.items()} for run in found],
            "nats",
            reach=math.log(max(totals)),
        ).within(0, math.inf)
        for formula in (entropy, chao_shen)
    )
    return Diversity(attempt, min(totals), max(totals), plain, corrected)


def chao_shen(counts: Sequence[int]) -> float:
    """Entropy in nats by Chao and Shen (2003), which allows for ways that were never seen.

    The probability that a sample is new is estimated as f / n, with f ways seen once among n samples. Shares are
    lowered by it, and each is weighted by the inverse probability of being seen at all. Where all n differ, f is n - 1.
    Of the usual corrections it is the closest for 4 to 16 samples of a task. It is still too low where a task has far
    more ways to play than samples.
    """
    total = sum(counts)
    once = min(sum(count == 1 for count in counts), total - 1)
    shares = [(1 - once / total) * count / total for count in counts]
    return 0.0 - sum(share * math.log(share) / (1 - (1 - share) ** total) for share in shares)
