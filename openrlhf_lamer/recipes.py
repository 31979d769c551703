"""Recipes: TOML files with the settings of a training, and the command lines that they make.

Tables and keys are the dotted flags of the training command, ours and the host's: `[lamer] num_episodes = 3` is
`--lamer.num_episodes 3`. `true` and `false` switch a flag on or off; `base = "../paper.toml"`, a path relative to the
file, names the recipe that a file changes. `{run}` in a value stands for the folder of the run.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from openrlhf_lamer import LamerError
from openrlhf_lamer.config import ConfigError, LamerConfig, no_such_option

BASE = "base"
RUN = "{run}"
OBJECTS = ("lamer.env_options",)
"""Flags that take a JSON object, which is a table in a recipe."""

INPUTS, OUTPUTS = (
    (
        *("agent_func", "train.agent_func_path", "lamer.config", "data.prompt_dataset", "eval.dataset"),
        *("actor.model_name_or_path", "critic.model_name_or_path"),
    ),
    ("lamer.trials", "lamer.eval_trials", "ckpt.path", "ckpt.output_dir", "logger.tensorboard_dir"),
)
"""Flags that may name files: those that are read, some of which may name other things, and those that are written."""

DATASETS = ("data.prompt_dataset", "eval.dataset")
"""Flags of files that are prepared first."""


class RecipeError(LamerError):
    """A recipe cannot be used; the message names the file, the key and the remedy."""


@dataclass(frozen=True)
class Setting:
    """A value of a recipe.

    Attributes:
        value: A string, a number, true or false, or a list of strings or numbers; for a flag of `OBJECTS` also a table.
        file: The file that it stands in.
    """

    value: Any
    file: Path


@dataclass(frozen=True)
class Recipe:
    """A recipe with what it takes over from its bases.

    Attributes:
        path: Its file.
        bases: Files that it builds on, the nearest first.
        settings: Values by flag, without the dashes; those of the farthest base come first.
    """

    path: Path
    bases: tuple[Path, ...]
    settings: Mapping[str, Setting]


def read(path: Path) -> Recipe:
    """Read a recipe and its bases.

    Raises:
        RecipeError: A file is missing or no TOML, a key or value cannot be a flag, or bases lead back to themselves.
    """
    chain = _chain(path)
    settings: dict[str, Setting] = {}
    for file, content in reversed(chain):
        for flag, value in _flags(file, content):
            before = settings.get(flag)
            if isinstance(value, dict) and before is not None and isinstance(before.value, dict):
                value = before.value | value
            settings[flag] = Setting(value, file)
    return Recipe(path, tuple(file for file, _ in chain[1:]), settings)


def run_folder(path: Path) -> Path:
    """Folder of a recipe's run, unless another one is given: `runs/sokoban/lamer` for `recipes/sokoban/lamer.toml`."""
    return Path("runs", path.absolute().parent.name, path.stem)


def resolve(recipe: Recipe, overrides: Sequence[str] = (), run: Path | None = None) -> list[str]:
    """Arguments of the training command for a recipe.

    Args:
        recipe: The recipe.
        overrides: Flags that replace its own, as typed. `--train.colocate_all false` switches off a flag that it has
            on.
        run: Folder of the run; by default `run_folder(recipe.path)`.

    Raises:
        RecipeError: A word in `overrides` belongs to no flag.
    """
    folder = str(run_folder(recipe.path) if run is None else run)
    groups = {flag: _words(flag, setting.value, folder) for flag, setting in recipe.settings.items()}
    groups |= typed(overrides)
    return [word for group in groups.values() for word in group]


def typed(words: Sequence[str]) -> dict[str, list[str]]:
    """Flags at a command line with their arguments, flag included; none for a switch of the host that is `false`."""
    found: dict[str, list[str]] = {}
    for flag, *values in grouped([part for word in words for part in _split(word)]):
        if not flag.startswith("--"):
            raise RecipeError(f"{flag}: after the recipe come flags, such as --lamer.num_episodes 1")
        name = flag.removeprefix("--")
        found[name] = _switch(name, values[0]) if values in (["true"], ["false"]) else [flag, *values]
    return found


def grouped(arguments: Sequence[str]) -> list[list[str]]:
    """Arguments as lists of a flag and its values; what stands before the first flag is a list of its own."""
    groups: list[list[str]] = []
    for word in arguments:
        if word.startswith("--") or not groups:
            groups.append([word])
        else:
            groups[-1].append(word)
    return groups


def absolute(arguments: Sequence[str], folder: Path) -> list[str]:
    """The same arguments with absolute paths, for a job that begins in another folder.

    Args:
        arguments: As `resolve` makes them.
        folder: Folder that relative paths start from. A model that is not there is a name on the hub.
    """
    moved: list[str] = []
    for flag, *values in grouped(arguments):
        name = flag.removeprefix("--")
        if name in OUTPUTS:
            values = [str(folder / value) for value in values]
        elif name in INPUTS:
            values = [",".join(_found(name, part.strip(), folder) for part in value.split(",")) for value in values]
        moved += [flag, *values]
    return moved


def check_names(recipe: Recipe, overrides: Sequence[str], host: Collection[str] | None) -> None:
    """Refuse flags that the training command does not have.

    Args:
        recipe: The recipe.
        overrides: Flags that replace its own, as typed.
        host: Names of the host's flags; None where the host is not installed, so that only ours are known.

    Raises:
        RecipeError: naming the file, the key, and the flag that was probably meant.
    """
    places = {flag: f"{setting.file}: {_key(flag)}: " for flag, setting in recipe.settings.items()}
    for flag in {**places, **typed(overrides)}:
        if (problem := _unknown(flag, host)) is not None:
            raise RecipeError(places.get(flag, "") + problem)


@contextmanager
def located(recipe: Recipe, overrides: Sequence[str]) -> Iterator[None]:
    """Add to a `ConfigError` the files in which the recipe sets the flags that it names, and where datasets come from.

    Args:
        recipe: The recipe.
        overrides: Flags that replace its own, as typed; their flags are not traced to a file.
    """
    try:
        yield
    except ConfigError as error:
        named, ours = dict.fromkeys(re.findall(r"--([\w.]*\w)", str(error))), recipe.settings.keys() - typed(overrides)
        lines = [_origin(flag, recipe.settings[flag].file) for flag in named if flag in ours]
        raise ConfigError("\n".join([str(error), *lines])) from error


def _origin(flag: str, file: Path) -> str:
    """Where a flag is set, and for a dataset the page beside it, which prepares the data with the options it needs."""
    page = file.with_name("README.md")
    prepared = f"; {page} has the commands that prepare it" if flag in DATASETS and page.is_file() else ""
    return f"--{flag} is set in {file}{prepared}"


def _chain(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """A recipe and its bases, each with its content, the nearest first."""
    chain: list[tuple[Path, dict[str, Any]]] = []
    file, said = path, "recipe"
    while True:
        if any(file.resolve() == earlier.resolve() for earlier, _ in chain):
            raise RecipeError(f"{chain[-1][0]}: {BASE} leads back to {file}, which builds on it; name another base")
        content = _load(file, said)
        base = content.pop(BASE, None)
        chain.append((file, content))
        if base is None:
            return chain
        if not isinstance(base, str):
            raise RecipeError(f'{file}: {BASE} = {base!r} is no path; write one, such as {BASE} = "../paper.toml"')
        said = f"{file}: {BASE} = {base!r}, a path relative to this file"
        file = Path(os.path.normpath(file.parent / base))


def _load(file: Path, said: str) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise RecipeError(
            f"{said}: {file} cannot be read ({error.strerror}); name a file such as recipes/sokoban/lamer.toml"
        ) from error
    except ValueError as error:
        raise RecipeError(f"{file}: not valid TOML: {error}") from error


def _flags(file: Path, table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Flags in a table and those below it, with their values."""
    for key, value in table.items():
        flag = f"{prefix}{key}"
        if not re.fullmatch(r"[A-Za-z]\w*", key):
            raise RecipeError(f"{file}: {key!r} cannot be in a flag; write --lamer.memory both as [lamer] memory")
        if isinstance(value, dict) and flag not in OBJECTS:
            yield from _flags(file, value, f"{flag}.")
            continue
        if not _is_value(value) and not isinstance(value, dict):
            raise RecipeError(
                f"{file}: {_key(flag)} = {value!r}: give a string, a number, true, false, or a list of "
                "strings or numbers"
            )
        yield flag, value


def _is_value(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(type(one) in (str, int, float) for one in value)
    return isinstance(value, str | int | float)


def _words(flag: str, value: Any, run: str) -> list[str]:
    if isinstance(value, bool):
        return _switch(flag, str(value).lower())
    if isinstance(value, dict):
        return [f"--{flag}", json.dumps(value)]
    values = value if isinstance(value, list) else [value]
    return [f"--{flag}", *(str(one).replace(RUN, run) for one in values)]


def _switch(flag: str, value: str) -> list[str]:
    """A switch as its parser takes it: ours takes a value, the host's is given or left out."""
    if flag.startswith("lamer."):
        return [f"--{flag}", "on" if value == "true" else "off"]
    return [f"--{flag}"] if value == "true" else []


def _split(word: str) -> list[str]:
    flag, sign, value = word.partition("=")
    return [flag, value] if sign and flag.startswith("--") else [word]


def _found(name: str, value: str, folder: Path) -> str:
    """A name that may be that of a file here: its absolute path if it is one, or can only be meant as one."""
    meant = name.endswith("dataset") or value.endswith(".py")
    return str(folder / value) if meant or (folder / value).exists() else value


def _key(flag: str) -> str:
    """A flag as it stands in a recipe."""
    table, _, key = flag.rpartition(".")
    return f"[{table}] {key}" if table else key


def _unknown(flag: str, host: Collection[str] | None) -> str | None:
    """A message about a flag that does not exist; None if it does, or if that is not known."""
    if flag.startswith("lamer."):
        known = flag.removeprefix("lamer.") in {*LamerConfig.flags(), "config"}
        return None if known else no_such_option(f"--{flag}")
    if host is None or flag in host:
        return None
    close = get_close_matches(flag, host, n=1)
    remedy = (
        f"did you mean --{close[0]}?"
        if close
        else "`python -m openrlhf_lamer.cli.train_ppo_ray --help-host` lists them"
    )
    return f"the training command has no flag --{flag}; {remedy}"
