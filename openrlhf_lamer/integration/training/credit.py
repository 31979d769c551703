"""From a batch of trials to returns, advantages and the critic's targets, one of each per turn, without tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from openrlhf_lamer import advantage
from openrlhf_lamer.advantage.table import BoolArray, FloatArray
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.records import Trial


@dataclass(frozen=True)
class TurnValues:
    """Values of the critic for the turns of a batch, one entry per turn of each live trial, in order.

    Attributes:
        values: The critic's value where the turn begins; [turns].
        known: Whether the critic was asked, as for every turn with a trained token; [turns].
    """

    values: FloatArray
    known: BoolArray


@dataclass(frozen=True)
class Credit:
    """Credit of the turns of a batch, one entry per turn of each live trial, in order.

    Attributes:
        trial: Index of the turn's trial among the live ones.
        returns: G of each turn.
        advantages: The estimator's advantage; 0 for a turn that it did not see.
        targets: Targets of the critic's values; None without a critic.
    """

    trial: np.ndarray
    returns: FloatArray
    advantages: FloatArray
    targets: FloatArray | None


def assign_credit(
    name: str,
    trials: Sequence[Trial],
    groups: Sequence[int],
    config: LamerConfig,
    lambd: float,
    critic: TurnValues | None = None,
) -> Credit:
    """Credit the turns of live trials by the estimator of this name.

    With a critic, reflections that are not trained have no value and are left out of the estimator's
    table: the chain continues from the episode's last turn to the next episode's first, and the penalty of
    such a reflection would fall on the reflection only. A play turn without a token stays in the table with
    its reward and a value of 0.
    """
    estimator = advantage.get(name)
    settled = estimator.settle(config.credit(estimator, lambd))
    table = advantage.with_returns(advantage.TurnTable.from_trials(trials, groups, config.memory), settled)
    if estimator.targets is None:
        return Credit(table.trial, table.returns, estimator.estimate(table, settled), None)
    if critic is None:
        raise ValueError(f"{name} needs the critic's values")
    seen = critic.known | table.plays
    chain = replace(table, values=np.where(critic.known, critic.values, 0.0)).take(seen)
    advantages, targets = np.zeros(len(table)), np.zeros(len(table))
    advantages[seen] = estimator.estimate(chain, settled)
    targets[seen] = estimator.targets(chain, settled)
    return Credit(table.trial, table.returns, advantages, targets)
