"""Environments by name: the built-in ones, those registered here, and those of other packages.

A package offers an environment through the entry-point group `openrlhf_lamer.envs`:

    [project.entry-points."openrlhf_lamer.envs"]
    maze = "my_package.maze:Maze"

Nothing is imported before it is asked for. Built-in names come first, then those of `register`.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from openrlhf_lamer.envs.base import TaskError, TextEnv

GROUP = "openrlhf_lamer.envs"

_known: dict[str, type[TextEnv] | str] = {
    "alfworld": "openrlhf_lamer.envs.alfworld.env:AlfWorld",
    "darkroom": "openrlhf_lamer.envs.darkroom.env:DarkRoom",
    "doors": "openrlhf_lamer.envs.doors:Doors",
    "minesweeper": "openrlhf_lamer.envs.minesweeper:MineSweeper",
    "sokoban": "openrlhf_lamer.envs.sokoban.env:Sokoban",
    "webshop": "openrlhf_lamer.envs.webshop.env:WebShop",
}


def make(name: str, **options: Any) -> TextEnv:
    """Build the environment `name` with `options` for its constructor; raises as `factory` does."""
    return factory(name, **options)()


def factory(name: str, **options: Any) -> partial[TextEnv]:
    """A function that builds the environment `name` with `options`, here or in another process.

    It holds the class itself, so a process that does not know the name can use it.

    Raises:
        TaskError: The name is unknown or the environment has no such option, and, when it is
            built, an option's value is not allowed. The message lists what there is.
    """
    cls = lookup(name)
    parameters = inspect.signature(cls).parameters
    if not any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        for option in options:
            if option not in parameters:
                raise TaskError(f"{name} has no option {option!r}{_listing(option, list(parameters))}")
    return partial(cls, **options)


def names(plugins: bool = True) -> tuple[str, ...]:
    """Names that `make` knows, sorted; without those of other packages where `plugins` is false."""
    return tuple(sorted({*_known, *(_plugins() if plugins else ())}))


def register(name: str, env: type[TextEnv] | str) -> None:
    """Make `env`, a class or `"module:Class"`, known as `name` in this process.

    Other processes do not see it. An agent's file may call it for the environment that it defines, since every
    process that plays imports that file; other environments belong behind an entry point.
    Raises ValueError where the name is taken by something else.
    """
    if _origin(_known.setdefault(name, env)) != _origin(env):
        raise ValueError(f"an environment {name!r} is registered already: {_known[name]}")
    _known[name] = env


@contextmanager
def scoped(**environments: type[TextEnv] | str) -> Iterator[None]:
    """Add `environments`, in place of others of the same names, and undo all registrations at the end. For tests."""
    before = dict(_known)
    _known.update(environments)
    try:
        yield
    finally:
        _known.clear()
        _known.update(before)


def lookup(name: str) -> type[TextEnv]:
    """The class registered as `name`; raises `TaskError` where there is none."""
    target = _known.get(name)
    if target is None:
        return _load_plugin(name)
    if isinstance(target, str):
        module, _, attribute = target.partition(":")
        return getattr(import_module(module), attribute)
    return target


def _origin(env: type[TextEnv] | str) -> str:
    """Definition of an environment as `"module:Class"`; it stays the same when a file is imported again."""
    return env if isinstance(env, str) else f"{env.__module__}:{env.__qualname__}"


def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def _load_plugin(name: str) -> type[TextEnv]:
    point = _plugins().get(name)
    if point is None:
        raise TaskError(f"no environment is called {name!r}{_listing(name, list(names()))}")
    try:
        env = point.load()
        if not (isinstance(env, type) and issubclass(env, TextEnv)):
            raise TypeError(f"{env!r} is not a subclass of TextEnv")
    except Exception as error:  # whatever another package raises while it is imported
        source = f"environment {name!r} of {point.dist.name if point.dist else 'another package'} ({point.value})"
        warnings.warn(f"{source} could not be loaded: {error!r}", RuntimeWarning, stacklevel=4)
        raise TaskError(f"{source} could not be loaded: {error}; repair or uninstall that package") from error
    return env


def _listing(wanted: str, existing: list[str]) -> str:
    """End of a message about an unknown name: a close match, and all names there are."""
    close = get_close_matches(wanted, existing, n=1)
    guess = f" (did you mean {close[0]!r}?)" if close else ""
    return f"{guess}; there are: {', '.join(existing) or 'none'}"
