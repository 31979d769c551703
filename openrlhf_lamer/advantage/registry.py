"""Estimators by name: ours, and those of other packages.

An estimator is a pure function of a turn table with returns and a configuration; it returns one
advantage per turn. The decorator registers it:

    @register("my_estimator", norm="mean", needs_group=True)
    def estimate(table: TurnTable, config: CreditConfig) -> FloatArray: ...

One that needs a critic reads its values from `table.values`; a second function, `targets`, returns
the critic's training targets.

Options of an estimator are the fields of a frozen dataclass; the function gets an instance as a third argument:

    @dataclass(frozen=True)
    class MyOptions:
        window: int = field(default=4, metadata={"ge": 1, "description": "Turns that a baseline averages."})

    @register("my_estimator", options=MyOptions)
    def estimate(table: TurnTable, config: CreditConfig, options: MyOptions) -> FloatArray: ...

The user sets them by `--lamer.my_estimator.window 8` (without a leading `lamer_`), or in a table
`[my_estimator]` of the TOML file. `metadata` takes the arguments of pydantic's `Field`; each option has a default.

Another package names the module that registers it as an entry point of the group
`openrlhf_lamer.advantage`. Plugins are imported when an estimator is first asked for, in each process
that asks; one that can't be imported becomes a warning that names it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from functools import cache, wraps
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, TypeAlias, get_type_hints

import numpy as np

from openrlhf_lamer.advantage.table import CreditConfig, FloatArray, TurnTable
from openrlhf_lamer.vocabulary import Norm

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from pydantic.fields import FieldInfo

ENTRY_POINTS = "openrlhf_lamer.advantage"

Estimate: TypeAlias = Callable[[TurnTable, CreditConfig], FloatArray]


@dataclass(frozen=True, slots=True)
class Estimator:
    """A registered estimator and what it needs from the host.

    Attributes:
        name: Value of `--algo.advantage.estimator`.
        estimate: One advantage per turn of a table with returns.
        norm: The normalisation where none is configured.
        needs_group: Whether it compares trials of one task, so that a group must have more than one.
        chained_only: Whether it is a recursion along the trial's chain of turns, so that it works
            only with returns of one backward walk: the chained form, and its differences.
        targets: One target of the critic per turn, the value that it should have had where the turn
            begins; None for estimators that need no critic.
        options: Dataclass of its options; None without options.
        compared: The number by which it compares trials, one for each trial in the table; None for G
            of a trial's first turn.
        unused: Options of `LamerConfig` on credit by turns that change nothing; giving one is refused.
    """

    name: str
    estimate: Estimate
    norm: Norm
    needs_group: bool
    chained_only: bool
    targets: Estimate | None
    options: type[Any] | None
    compared: Estimate | None
    unused: frozenset[str]

    @property
    def needs_critic(self) -> bool:
        """Whether the table must have a critic's values."""
        return self.targets is not None

    @property
    def fields(self) -> dict[str, FieldInfo]:
        """Type, default and description of each of its options, by name."""
        return {} if self.options is None else _fields(self.options)

    def flag(self, option: str) -> str:
        """Flag of an option without its `--lamer.`, such as `hgpo.depth`."""
        return f"{self.name.removeprefix('lamer_')}.{option}"

    def read(self, given: Mapping[str, object]) -> Any:
        """An instance of `options` with the values in `given`, which may be texts; None if there are no options.

        Raises:
            ValueError: naming each flag, the error in its value, and what it takes.
        """
        known = self.fields
        for name in (name for name in given if name not in known):
            has = f"Options: {', '.join(known)}" if known else "It has none"
            raise ValueError(f"--lamer.{self.flag(name)}: no such option of {self.name}. {has}")
        if self.options is None:
            return None
        from pydantic import ValidationError

        try:
            return _reader(self.options).validate_python(dict(given))
        except ValidationError as error:
            lines = []
            for problem in error.errors():
                name = str(problem["loc"][0]) if problem["loc"] else "*"
                remedy = known[name].description if name in known else ""
                lines.append(f"--lamer.{self.flag(name)} {problem['input']!r}: {problem['msg']}. {remedy}".rstrip())
            raise ValueError("\n".join(lines)) from error

    def settle(self, config: CreditConfig) -> CreditConfig:
        """`config` with this estimator's defaults where it has None.

        Raises:
            ValueError: where the estimator can't work with `config`; the message names the flag.
        """
        if self.chained_only and config.cross_episode == "paper":
            raise ValueError(
                f"--lamer.cross_episode paper: {self.name} works backwards from turn to turn, and the paper's Eq. 4 "
                "is no such recursion (it discounts later episodes alike for all turns of an episode); "
                "leave the flag out, or give chained or difference"
            )
        self.read(config.options)
        form = "chained" if self.chained_only else "paper"
        return replace(config, norm=config.norm or self.norm, cross_episode=config.cross_episode or form)


_estimators: dict[str, Estimator] = {}


def register(
    name: str,
    *,
    norm: Norm = "mean",
    needs_group: bool = True,
    chained_only: bool = False,
    targets: Callable[..., FloatArray] | None = None,
    options: type[Any] | None = None,
    compared: Estimate | None = None,
    unused: frozenset[str] = frozenset(),
) -> Callable[[Callable[..., FloatArray]], Estimate]:
    """Register the decorated function under a name that is still free; see `Estimator` for the arguments.

    The registered functions check their input and output, so that a misaligned column can't be
    trained on, and get a configuration without None (`Estimator.settle`) and, where the estimator
    has options, those of `config.options` as an instance of their class.
    """

    def checked(function: Callable[..., FloatArray], what: str) -> Estimate:
        @wraps(function)
        def call(table: TurnTable, config: CreditConfig) -> FloatArray:
            estimator = _estimators[name]
            if not table.has_returns:
                raise ValueError(f"{name} needs a table with returns: pass it through with_returns first")
            if estimator.needs_critic and table.values is None:
                raise ValueError(f"{name} needs the critic's value of every turn: give the table a column of values")
            own = () if options is None else (estimator.read(config.options),)
            result = np.asarray(function(table, estimator.settle(config), *own), dtype=np.float64)
            if result.shape != (len(table),):
                raise ValueError(f"{name} gave {what}s of shape {result.shape} for {len(table)} turns")
            if not np.isfinite(result).all():
                raise ValueError(f"{name} gave {what}s that are not finite")
            return result

        return call

    def decorate(function: Callable[..., FloatArray]) -> Estimate:
        estimate = checked(function, "advantage")
        wanted = checked(targets, "critic target") if targets else None
        made = Estimator(name, estimate, norm, needs_group, chained_only, wanted, options, compared, unused)
        for other in _estimators.values():
            if name == other.name or (options and other.options and made.flag("") == other.flag("")):
                raise ValueError(f"there is an estimator {other.name!r} already: choose another name")
        _estimators[name] = made
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


@contextmanager
def scoped() -> Iterator[None]:
    """Undo registrations made inside, and look plugins up again. For tests."""
    _load_plugins()
    before = dict(_estimators)
    _load_plugins.cache_clear()
    try:
        yield
    finally:
        _estimators.clear()
        _estimators.update(before)
        _load_plugins.cache_clear()


@cache
def _fields(options: type[Any]) -> dict[str, FieldInfo]:
    from pydantic.fields import FieldInfo

    hints = get_type_hints(options)
    return {own.name: FieldInfo.from_annotated_attribute(hints[own.name], own) for own in fields(options)}


@cache
def _reader(options: type[Any]) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(options)


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
