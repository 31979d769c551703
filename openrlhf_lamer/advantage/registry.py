"""Estimators by name: ours, and those that other packages bring.

An estimator is a pure function of a turn table with returns and a configuration; it gives one
advantage per turn. It enters the registry through the decorator:

    @register("my_estimator", norm="mean", needs_group=True)
    def estimate(table: TurnTable, config: CreditConfig) -> FloatArray: ...

Another package names the module that does so as an entry point of the group
`openrlhf_lamer.advantage`. Plugins are imported when an estimator is first asked for, in each process
that asks; one that can't be imported becomes a warning that names it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache, wraps
from importlib.metadata import entry_points
from typing import TypeAlias

import numpy as np

from openrlhf_lamer.advantage.table import CreditConfig, FloatArray, Norm, TurnTable

ENTRY_POINTS = "openrlhf_lamer.advantage"

Estimate: TypeAlias = Callable[[TurnTable, CreditConfig], FloatArray]


@dataclass(frozen=True, slots=True)
class Estimator:
    """A registered estimator and what it needs from the host.

    Attributes:
        name: What `--algo.advantage.estimator` takes.
        estimate: One advantage per turn of a table with returns.
        norm: The normalisation where none is configured.
        needs_group: Whether it compares trials of one task, so that a group must have more than one.
        needs_critic: Whether it needs a critic's values.
    """

    name: str
    estimate: Estimate
    norm: Norm
    needs_group: bool
    needs_critic: bool


_estimators: dict[str, Estimator] = {}


def register(
    name: str, *, norm: Norm = "mean", needs_group: bool = True, needs_critic: bool = False
) -> Callable[[Estimate], Estimate]:
    """Register the decorated function under a name that is still free.

    The function it leaves behind checks what goes in and what comes out, so that a misaligned
    column can't be trained on, and receives `norm` where the configuration has none.
    """

    def decorate(function: Estimate) -> Estimate:
        @wraps(function)
        def estimate(table: TurnTable, config: CreditConfig) -> FloatArray:
            if not table.has_returns:
                raise ValueError(f"{name} needs a table with returns: pass it through with_returns first")
            advantage = np.asarray(function(table, replace(config, norm=config.norm or norm)), dtype=np.float64)
            if advantage.shape != (len(table),):
                raise ValueError(f"{name} gave advantages of shape {advantage.shape} for {len(table)} turns")
            if not np.isfinite(advantage).all():
                raise ValueError(f"{name} gave an advantage that is not finite")
            return advantage

        if name in _estimators:
            raise ValueError(f"there is an estimator {name!r} already: choose another name")
        _estimators[name] = Estimator(name, estimate, norm, needs_group, needs_critic)
        return estimate

    return decorate


def get(name: str) -> Estimator:
    """The estimator of this name.

    Raises:
        ValueError: naming the known estimators and the most similar one.
    """
    _load_plugins()
    if name not in _estimators:
        close = get_close_matches(name, _estimators, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"unknown estimator {name!r}.{hint} Known: {', '.join(names())}")
    return _estimators[name]


def names() -> tuple[str, ...]:
    """The names of all estimators, in alphabetical order."""
    _load_plugins()
    return tuple(sorted(_estimators))


@cache
def _load_plugins() -> None:
    for plugin in entry_points(group=ENTRY_POINTS):
        try:
            plugin.load()
        except Exception as error:  # a plugin may raise anything, and must not take training down
            package = f" of {plugin.dist.name}" if plugin.dist else ""
            warnings.warn(
                f"plugin {plugin.name!r} ({plugin.value}){package} is left out: {type(error).__name__}: {error}",
                stacklevel=3,
            )
