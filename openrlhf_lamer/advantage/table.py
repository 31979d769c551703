"""The table of turns: an estimator's view of a batch, one row per generation.

A table has no tokens, no tensors and no link to the host. Its rows are in trial order and, within a
trial, in the order in which the turns happened: the reflection on episode n comes after the last
play turn of episode n and before the first of episode n + 1.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from openrlhf_lamer.vocabulary import CrossEpisode, Norm

if TYPE_CHECKING:
    from openrlhf_lamer.memory import Attempt
    from openrlhf_lamer.records import Trial
    from openrlhf_lamer.vocabulary import Memory

IntArray: TypeAlias = NDArray[np.int64]
FloatArray: TypeAlias = NDArray[np.float64]
TextArray: TypeAlias = NDArray[np.object_]
BoolArray: TypeAlias = NDArray[np.bool_]

PLAY = 0
"""Phase of a turn in which the model acts in the environment."""
REFLECT = 1
"""Phase of a turn in which the model looks back at an episode."""


@dataclass(frozen=True, slots=True)
class CreditConfig:
    """Settings of returns and advantages; the default discounts are LaMer's (γ_traj: its text, γ_step: its scripts).

    Attributes:
        gamma_step: Discount γ_step between the turns of an episode.
        gamma_traj: Discount γ_traj between the episodes of a trial.
        cross_episode: The paper's Eq. 4, the one backward walk of its reference code, or this walk with
            differences between episodes; None is the estimator's default, which is the paper's where it has a choice.
        norm: Centre advantages, or also divide by their spread; None is the estimator's default.
        reference: Reproduce the quirks of the paper's reference code.
        lambd: λ of PPO's advantages (GAE), at turn boundaries.
        options: Values of the estimator's own options by name; those left out have its defaults.
    """

    gamma_step: float = 0.95
    gamma_traj: float = 0.6
    cross_episode: CrossEpisode | None = None
    norm: Norm | None = None
    reference: bool = False
    lambd: float = 1.0
    options: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("gamma_step", "gamma_traj", "lambd"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name):g}, but a discount lies in [0, 1]")
            # Arrays computed from an integer would be integer arrays.
            object.__setattr__(self, name, float(getattr(self, name)))
        for name, choices in (("cross_episode", get_args(CrossEpisode)), ("norm", get_args(Norm))):
            if getattr(self, name) not in (*choices, None):
                raise ValueError(f"{name} is {getattr(self, name)!r}; it takes {', '.join(map(repr, choices))} or None")


@dataclass(frozen=True, slots=True, eq=False)
class TurnTable:
    """Columns of equal length, one row per turn, in trial order and in a trial in time order.

    Attributes:
        group: Group (task) of the turn's trial.
        trial: Trial of the turn; unique in the whole table, never decreasing.
        episode: Index of the turn's episode in its trial (a reflection: of the episode it looks back at).
        turn: Index of the turn in its episode.
        phase: `PLAY` or `REFLECT`.
        reward: Reward of the turn itself, penalties included.
        anchor: Code of the environment state before the turn; equal codes in a group mean equal states.
        returns: G of each turn; NaN until `returns.with_returns` has filled it.
        action: Code of the turn's action, for estimators that compare histories; None if not known.
        memory: Code of the memory that the turn's episode is shown, for the same estimators; None if not known.
        values: The critic's value where the turn begins (the state before its first sampled token);
            None where there is no critic.
        valid: 0 where the environment refused the turn's action, so that its reward is a penalty, else 1; None stands
            for 1 everywhere.
        observation: Text of the environment before the turn, for anchors by similarity; None if not known.

    Raises:
        ValueError: naming the column or the first row that breaks one of these rules.
    """

    group: IntArray
    trial: IntArray
    episode: IntArray
    turn: IntArray
    phase: IntArray
    reward: FloatArray
    anchor: IntArray
    returns: FloatArray = field(default_factory=lambda: np.empty(0))
    action: IntArray | None = None
    memory: IntArray | None = None
    values: FloatArray | None = None
    valid: IntArray | None = None
    observation: TextArray | None = None

    def __post_init__(self) -> None:
        if np.size(self.returns) == 0:
            object.__setattr__(self, "returns", np.full(np.size(self.reward), np.nan))
        given = [column.name for column in fields(self) if getattr(self, column.name) is not None]
        for name in given:
            object.__setattr__(self, name, self._as_column(name))
        lengths = {name: len(getattr(self, name)) for name in given}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the columns of a turn table need one length, but have {lengths}")
        self._check_rows()

    def __len__(self) -> int:
        return len(self.trial)

    @property
    def has_returns(self) -> bool:
        """Whether the returns have been filled in."""
        return not np.isnan(self.returns).any()

    @property
    def plays(self) -> BoolArray:
        """Whether each row is a play turn; [turns]."""
        return self.phase == PLAY

    def take(self, rows: BoolArray) -> TurnTable:
        """Table of the rows where `rows`, [turns], is true."""
        columns: dict[str, Any] = {column.name: getattr(self, column.name) for column in fields(self)}
        return replace(self, **{name: column[rows] for name, column in columns.items() if column is not None})

    @classmethod
    def from_trials(cls, trials: Sequence[Trial], groups: Sequence[int], memory: Memory = "both") -> TurnTable:
        """Lay out live trials; `groups[i]` is the group of `trials[i]`, which becomes trial i of the table.

        `memory` is the kind of memory that episodes were shown; equal memories get equal codes.

        Raises:
            ValueError: where a trial has failed (there is no result to credit), or where
                there is not one group per trial.
        """
        from openrlhf_lamer.memory import recall
        from openrlhf_lamer.records import Phase

        if len(trials) != len(groups):
            raise ValueError(f"{len(trials)} trials need one group each, but {len(groups)} are given")
        for i, trial in enumerate(trials):
            if trial.failure is not None:
                raise ValueError(f"trial {i} failed ({trial.failure.kind}) and can't be given credit: leave it out")
        rows = [(i, turn) for i, trial in enumerate(trials) for turn in trial.turns]
        anchors: dict[str, int] = {}
        actions: dict[str | None, int] = {}
        memories: dict[Hashable, int] = {}
        shown = [_memory_codes(recall(trial.episodes, memory), memories) for trial in trials]
        trial_column = np.array([i for i, _ in rows], dtype=np.int64)
        return cls(
            group=np.asarray(groups, dtype=np.int64)[trial_column],
            trial=trial_column,
            episode=np.array([turn.episode for _, turn in rows], dtype=np.int64),
            turn=np.array([turn.index for _, turn in rows], dtype=np.int64),
            phase=np.array([REFLECT if turn.phase is Phase.REFLECT else PLAY for _, turn in rows], dtype=np.int64),
            reward=np.array([turn.reward for _, turn in rows], dtype=np.float64),
            anchor=np.array([anchors.setdefault(turn.anchor, len(anchors)) for _, turn in rows], dtype=np.int64),
            action=np.array([actions.setdefault(turn.did, len(actions)) for _, turn in rows], dtype=np.int64),
            memory=np.array([shown[i][turn.episode] for i, turn in rows], dtype=np.int64),
            valid=np.array([turn.valid for _, turn in rows], dtype=np.int64),
            # References to the trials' own texts, which are read where an estimator compares them.
            observation=np.array([turn.observation for _, turn in rows], dtype=np.object_),
        )

    def _as_column(self, name: str) -> IntArray | FloatArray | TextArray:
        values = np.asarray(getattr(self, name), dtype=np.object_ if name == "observation" else None)
        if values.ndim != 1:
            raise ValueError(f"column {name} has shape {values.shape}, but a column has one dimension")
        if name == "observation":
            return values
        if name in ("reward", "returns", "values"):
            return values.astype(np.float64, copy=False)
        if values.size and not np.issubdtype(values.dtype, np.integer):
            raise ValueError(f"column {name} holds {values.dtype}, but needs integers")
        return values.astype(np.int64, copy=False)

    def _check_rows(self) -> None:
        self._refuse(~np.isfinite(self.reward), "the reward is not finite")
        if self.values is not None:
            self._refuse(~np.isfinite(self.values), "the critic's value is not finite")
        self._refuse((self.phase != PLAY) & (self.phase != REFLECT), "the phase is neither 0 (play) nor 1 (reflect)")
        self._refuse(self.episode < 0, "the episode is negative")
        if len(self) < 2:
            return
        same_trial = self.trial[1:] == self.trial[:-1]
        same_episode = same_trial & (self.episode[1:] == self.episode[:-1])
        self._refuse(self.trial[1:] < self.trial[:-1], "rows are not in trial order", first=1)
        self._refuse(same_trial & (self.group[1:] != self.group[:-1]), "one trial is in two groups", first=1)
        self._refuse(same_trial & (self.episode[1:] < self.episode[:-1]), "episodes are not in order", first=1)
        self._refuse(same_episode & (self.turn[1:] <= self.turn[:-1]), "turns are not in order", first=1)
        self._refuse(same_episode & (self.phase[:-1] == REFLECT), "a reflection doesn't end its episode", first=1)

    def _refuse(self, wrong: BoolArray, what: str, first: int = 0) -> None:
        if wrong.any():
            row = int(wrong.argmax()) + first
            where = f"trial {self.trial[row]}, episode {self.episode[row]}, turn {self.turn[row]}"
            raise ValueError(f"turn table, row {row} ({where}): {what}")


def _memory_codes(attempts: Sequence[Attempt], codes: dict[Hashable, int]) -> list[int]:
    """Code of the memory that each episode is shown; new ones are added to `codes`."""
    code = codes.setdefault((), len(codes))
    result = []
    for attempt in attempts:
        result.append(code)
        turns = tuple((turn.anchor, turn.did) for turn in attempt.turns)
        # The code so far represents all earlier attempts, so that each attempt is hashed once.
        shown = (code, attempt.stop, turns, attempt.final_observation, attempt.remark)
        code = codes.setdefault(shown, len(codes))
    return result
