"""From turns to training rows: one token sequence each, with the spans that were sampled.

One rule serves every context policy. Neighbouring turns share a row exactly when
the later prompt begins with all ids of the row so far; otherwise a new row begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from openrlhf_lamer.packed import Tokens
from openrlhf_lamer.records import Phase, Trial
from openrlhf_lamer.vocabulary import LossWeight


@dataclass(frozen=True, slots=True)
class Span:
    """The sampled tokens of one turn within a row: positions start to end, the end excluded.

    Attributes:
        turn: Index of the turn in `Trial.turns`.
        start: Position of the first sampled token in the row.
        end: Position after the last one.
        logprobs: Log-probabilities under the rollout policy, one a token, or None.
    """

    turn: int
    start: int
    end: int
    logprobs: Sequence[float] | None


@dataclass(frozen=True, slots=True)
class Row:
    """A token sequence as the engine saw it, and the spans in it that are trained."""

    ids: Tokens
    spans: tuple[Span, ...]

    @property
    def sampled(self) -> int:
        """Number of tokens that are trained."""
        return sum(span.end - span.start for span in self.spans)


def trial_rows(trial: Trial, *, train_reflection: bool = True) -> list[Row]:
    """The rows of a trial, in order; turns without a sampled token leave none.

    Args:
        trial: A trial without failure.
        train_reflection: Whether reflections are trained; otherwise they stay context at most.
    """
    rows: list[tuple[Tokens, list[Span]]] = []
    for index, turn in enumerate(trial.turns):
        start = len(turn.prompt_ids)
        end = start + len(turn.sampled_ids)
        extends = bool(rows) and turn.prompt_ids[: len(rows[-1][0])] == rows[-1][0]
        spans = rows[-1][1] if extends else []
        if end > start and (train_reflection or turn.phase is Phase.PLAY):
            spans.append(Span(index, start, end, turn.logprobs))
        if extends:
            rows[-1] = (turn.ids, spans)
        else:
            rows.append((turn.ids, spans))
    return [Row(ids[: spans[-1].end], tuple(spans)) for ids, spans in rows if spans]


def sampled_tokens(rows: Iterable[Row]) -> int:
    """Number of trained tokens over all rows."""
    return sum(row.sampled for row in rows)


def token_weights(rows: Sequence[Row], owner: Sequence[int], by: LossWeight) -> list[npt.NDArray[np.float64]]:
    """Weights in the loss of each row's trained tokens, in order, so that each token, turn or trial weighs the same.

    Args:
        rows: The rows of a batch.
        owner: For each row, its trial.
        by: Which of the three.

    Returns:
        For each row, one weight per trained token; their mean over the batch is 1.
    """
    lengths = [np.array([span.end - span.start for span in row.spans]) for row in rows]
    trials = np.bincount(owner, weights=[own.sum() for own in lengths]) if len(rows) else np.empty(0)
    shares = {
        "token": lambda own, _: np.ones(len(own)),
        "turn": lambda own, _: 1 / own,
        "trial": lambda own, trial: np.full(len(own), 1 / trials[trial]),
    }[by]
    weights = [np.repeat(shares(own, trial), own) for own, trial in zip(lengths, owner, strict=True)]
    scale = sum(map(len, weights)) / sum(own.sum() for own in weights) if weights else 1.0
    return [own * scale for own in weights]
