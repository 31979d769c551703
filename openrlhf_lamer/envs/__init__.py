"""Environments: text in, text out.

`make` builds one by name, `names` lists them, `check_env` tells whether one keeps the
contract of `TextEnv`. Importing this package loads no environment.
"""

from __future__ import annotations

from openrlhf_lamer.envs.base import EpisodeOverError, Observation, Step, Task, TaskError, TextEnv
from openrlhf_lamer.envs.check import CheckError, check_env
from openrlhf_lamer.envs.registry import lookup, make, names, register
from openrlhf_lamer.vocabulary import RewardScheme

__all__ = [
    "CheckError",
    "EpisodeOverError",
    "Observation",
    "RewardScheme",
    "Step",
    "Task",
    "TaskError",
    "TextEnv",
    "check_env",
    "lookup",
    "make",
    "names",
    "register",
]
