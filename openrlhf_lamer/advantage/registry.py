"""Estimators by name: ours, and those that other packages bring.

An estimator is a pure function of a turn table with returns and a configuration; it gives one
advantage per turn. It enters the registry through the decorator:

    @register("my_estimator", norm="mean", needs_group=True)
    def estimate(table: TurnTable, config: CreditConfig) -> FloatArray: ...

One that needs a critic reads its values from `table.values`, and says by a second function, `targets`,
what the critic is to be trained on.

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

from openrlhf_lamer.advantage.table import CreditConfig, FloatArray, TurnTable
from openrlhf_lamer.vocabulary import Norm

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
        chained_only: Whether it is a recursion along the trial's chain of turns, so that it knows the
            chained form of returns alone.
        targets: One target of the critic per turn, the value that it should have had where the turn
            begins; None for estimators that need no critic.
    """

    name: str
    estimate: Estimate
    norm: Norm
    needs_group: bool
    chained_only: bool
    targets: Estimate | None

    @property
    def needs_critic(self) -> bool:
        """Whether the table must have a critic's values."""
        return self.targets is not None

    def settle(self, config: CreditConfig) -> CreditConfig:
        """`config` with this estimator's defaults for what it leaves open.

        Raises:
            ValueError: where the estimator can't be used so; the message names the flag.
        """
        if self.chained_only and config.cross_episode == "paper":
            raise ValueError(
                f"--lamer.cross_episode paper: {self.name} works backwards from turn to turn, and the paper's Eq. 4 "
                "is no such recursion (it discounts later episodes alike for all turns of an episode); "
                "leave the flag out, or give chained"
            )
        form = "chained" if self.chained_only else "paper"
        return replace(config, norm=config.norm or self.norm, cross_episode=config.cross_episode or form)


_estimators: dict[str, Estimator] = {}


def register(
    name: str,
    *,
    norm: Norm = "mean",
    needs_group: bool = True,
    chained_only: bool = False,
    targets: Estimate | None = None,
) -> Callable[[Estimate], Estimate]:
    """Register the decorated function under a name that is still free; see `Estimator` for the options.

    The functions in the registry check what goes in and what comes out, so that a misaligned
    column can't be trained on, and receive a configuration without gaps (`Estimator.settle`).
    """

    def checked(function: Estimate, what: str) -> Estimate:
        @wraps(function)
        def call(table: TurnTable, config: CreditConfig) -> FloatArray:
            estimator = _estimators[name]
            if not table.has_returns:
                raise ValueError(f"{name} needs a table with returns: pass it through with_returns first")
            if estimator.needs_critic and table.values is None:
                raise ValueError(f"{name} needs the critic's value of every turn: give the table a column of values")
            result = np.asarray(function(table, estimator.settle(config)), dtype=np.float64)
            if result.shape != (len(table),):
                raise ValueError(f"{name} gave {what}s of shape {result.shape} for {len(table)} turns")
            if not np.isfinite(result).all():
                raise ValueError(f"{name} gave {what}s that are not finite")
            return result

        return call

    def decorate(function: Estimate) -> Estimate:
        if name in _estimators:
            raise ValueError(f"there is an estimator {name!r} already: choose another name")
        estimate = checked(function, "advantage")
        wanted = checked(targets, "critic target") if targets else None
        _estimators[name] = Estimator(name, estimate, norm, needs_group, chained_only, wanted)
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
