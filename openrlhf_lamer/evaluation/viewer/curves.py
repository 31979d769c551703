"""Curves of a training over its steps: success, entropy and invalid actions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from openrlhf_lamer.records import Phase, Trial


@dataclass(frozen=True, slots=True)
class Point:
    """Figures of a step's trials in one environment, without failed ones. A figure without observations is None.

    Attributes:
        env: The environment.
        step: The step.
        trials: Number of trials.
        first: Share of trials that won their first episode.
        won: Share of trials that won any of their episodes.
        play: Entropy of play turns in nats a token, as `metrics.token_entropy` estimates it.
        reflect: Entropy of reflections, likewise.
        invalid: Share of play turns without an action that the environment accepted.
    """

    env: str
    step: int
    trials: int
    first: float | None
    won: float | None
    play: float | None
    reflect: float | None
    invalid: float | None


class Curves:
    """Sums of each step, to which trials are added one by one."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, int], defaultdict[str, float]] = {}

    def add(self, trial: Trial, step: int | None) -> None:
        """Add a trial; one that failed, or has no step, changes nothing."""
        if step is None or trial.failure is not None:
            return
        sums = self._sums.setdefault((trial.task.env, step), defaultdict(float))
        sums["trials"] += 1
        sums["first"] += trial.won_by(1)
        sums["won"] += trial.won
        for turn in trial.turns:
            if turn.phase is Phase.PLAY:
                sums["turns"] += 1
                sums["invalid"] += not turn.valid
            if turn.logprobs:
                sums[f"{turn.phase} tokens"] += len(turn.logprobs)
                sums[turn.phase] -= sum(turn.logprobs)

    def points(self) -> Iterator[Point]:
        """The figures of each step, in order."""
        for (env, step), sums in sorted(self._sums.items()):
            yield Point(
                env,
                step,
                int(sums["trials"]),
                _mean(sums, "first", "trials"),
                _mean(sums, "won", "trials"),
                _mean(sums, "play", "play tokens"),
                _mean(sums, "reflect", "reflect tokens"),
                _mean(sums, "invalid", "turns"),
            )


def _mean(sums: defaultdict[str, float], what: str, number: str) -> float | None:
    return 0.0 + sums[what] / sums[number] if sums[number] else None
