"""From rewards to advantages: the turn table, returns across episodes, and estimators by name.

    table = with_returns(TurnTable.from_trials(trials, groups), config)
    advantage = get("lamer_gigpo").estimate(table, config)  # one figure per turn

Everything here is a pure function on numpy arrays, without tokens, tensors or the host.
"""

# Importing an estimator's module registers it.
from openrlhf_lamer.advantage import gigpo, grpo, hgpo, pkpo, ppo, reinforce, rloo
from openrlhf_lamer.advantage.registry import Estimator, get, names, register
from openrlhf_lamer.advantage.returns import with_returns
from openrlhf_lamer.advantage.table import PLAY, REFLECT, CreditConfig, TurnTable

__all__ = [
    "PLAY",
    "REFLECT",
    "CreditConfig",
    "Estimator",
    "TurnTable",
    "get",
    "gigpo",
    "grpo",
    "hgpo",
    "names",
    "pkpo",
    "ppo",
    "register",
    "reinforce",
    "rloo",
    "with_returns",
]
