"""Our flags and the host's in one command line: split, filled with defaults, and read.

`--agent_func` and `--lamer.*` are ours; all others are parsed by the host's own parser, to which our estimator names
and defaults are added. In the end, the host gets only flags and values of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from openrlhf_lamer.agents.loading import split_names
from openrlhf_lamer.config import ConfigError, LamerConfig, no_such_option
from openrlhf_lamer.integration.host import DEFAULTS, IMPLIED, host_parser
from openrlhf_lamer.integration.launch.help import HOST_HELP, choices, host_help, own_help, shown


@dataclass(frozen=True)
class CommandLine:
    """A parsed command line.

    Attributes:
        config: Our configuration.
        agents: What `--agent_func` or the host's `--train.agent_func_path` names, one or several.
        host: The host's flags, with dotted names as attributes (`getattr(host, "train.seed")`).
        host_argv: The user's arguments without ours.
        given: Names of the host flags that the user gave.
    """

    config: LamerConfig
    agents: tuple[str, ...]
    host: argparse.Namespace
    host_argv: tuple[str, ...]
    given: frozenset[str]

    def __getitem__(self, flag: str) -> Any:
        """The value of a host flag, by its name without the dashes."""
        return getattr(self.host, flag)


class _Parser(argparse.ArgumentParser):
    """Reports an error without the host's two hundred lines of usage."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def parse(argv: Sequence[str], estimators: Sequence[str], defaults: Mapping[str, object]) -> CommandLine:
    """Read a command line in which our flags and the host's are mixed.

    Args:
        argv: The arguments.
        estimators: Our estimator names, which the host's flag takes beside its own.
        defaults: Host flags to set where the user does not, over `DEFAULTS`.

    Raises:
        ConfigError: for a flag or value that neither side knows.
    """
    own, rest = _own_parser().parse_known_args(list(argv))
    _show_help(rest, estimators)
    _refuse_unknown(rest)
    values = {key.removeprefix("lamer."): value for key, value in vars(own).items() if key.startswith("lamer.")}
    file = values.pop("config", None)
    flags = {key: _read(key, value) for key, value in values.items() if value is not None}
    parser = host_parser()
    parser.__class__ = _Parser
    _adapt(parser, estimators)
    parser.set_defaults(**{**DEFAULTS, **defaults})
    host = parser.parse_args(rest)
    agent = own.agent_func or getattr(host, "train.agent_func_path")
    if own.agent_func and getattr(host, "train.agent_func_path"):
        raise ConfigError("--agent_func and --train.agent_func_path both name an agent: give one of them")
    if not agent:
        raise ConfigError("--agent_func is missing: name an agent, such as openrlhf_lamer.agents.minesweeper")
    agents = tuple(split_names(agent))
    return CommandLine(LamerConfig.load(flags, file), agents, host, tuple(rest), _given(parser, rest))


def host_arguments(line: CommandLine, defaults: Mapping[str, object], overrides: Mapping[str, object]) -> list[str]:
    """Arguments of the host's command: our defaults, the user's arguments, and what must be ours.

    If a flag is given twice, the host's parser takes the last value but checks both. So overridden values are taken
    out, since our estimator names are not among its choices, and so are implied switches.
    """
    dropping = _Parser(add_help=False, allow_abbrev=False)
    for flag in overrides:
        dropping.add_argument(f"--{flag}")
    for flag in IMPLIED:
        dropping.add_argument(f"--{flag}", action="store_true")
    _, users = dropping.parse_known_args(list(line.host_argv))
    merged = {key: value for key, value in {**DEFAULTS, **defaults}.items() if key not in overrides}
    return [*_as_arguments(merged), *users, *_as_arguments(overrides)]


def names() -> frozenset[str]:
    """Names of all flags, ours and the host's, without the dashes."""
    actions = (action for parser in (_own_parser(), host_parser()) for action in parser._actions)
    return frozenset(option.removeprefix("--") for action in actions for option in action.option_strings)


def _own_parser() -> argparse.ArgumentParser:
    parser = _Parser(add_help=False, allow_abbrev=False)
    group = parser.add_argument_group("LaMer")
    group.add_argument(
        "--agent_func",
        metavar="MODULE",
        help="Agent: a module such as openrlhf_lamer.agents.sokoban, or a .py file. Several, separated by commas, play "
        "the tasks of one environment each.",
    )
    group.add_argument("--lamer.config", metavar="FILE", help="TOML file with these options; flags win over it.")
    for name, info in LamerConfig.flags().items():
        default = info.get_default(call_default_factory=True)
        values = choices(info.annotation)
        text = info.description or ""
        if default is not None:
            text += f" Default: {shown(default)}."
        # A switch without a value switches on.
        switch: dict[str, Any] = {"nargs": "?", "const": "on"} if values == choices(bool) else {}
        metavar = f"{{{','.join(values)}}}" if values else "VALUE"
        group.add_argument(f"--lamer.{name}", metavar=metavar, help=text.replace("%", "%%"), **switch)
    return parser


def _read(name: str, value: str) -> Any:
    """A flag's text in the form that the configuration takes; numbers and switches are left to pydantic."""
    if name != "env_options":
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise ConfigError(f"--lamer.{name} {value!r} is not JSON ({error}). Such as: '{{\"mines\": 4}}'") from error


def _show_help(rest: Sequence[str], estimators: Sequence[str]) -> None:
    """Print the help that is asked for, if any, and exit."""
    if HOST_HELP in rest:
        print(host_help(host_parser(), estimators), end="")
    elif "-h" in rest or "--help" in rest:
        print(own_help(_own_parser(), host_parser(), estimators), end="")
    else:
        return
    sys.exit(0)


def _refuse_unknown(rest: Sequence[str]) -> None:
    for argument in rest:
        if argument.startswith("--lamer"):
            raise ConfigError(no_such_option(argument.split("=")[0]))


def _adapt(parser: argparse.ArgumentParser, estimators: Sequence[str]) -> None:
    """Have the host's parser take our estimators."""
    for action in parser._actions:
        if action.dest == "algo.advantage.estimator":
            action.choices = [*(action.choices or ()), *estimators]


def _given(parser: argparse.ArgumentParser, rest: Sequence[str]) -> frozenset[str]:
    """Names of the flags in `rest`, found by parsing it once more without defaults."""
    blank = argparse.Namespace(**{action.dest: None for action in parser._actions})
    parsed = parser.parse_args(list(rest), blank)
    return frozenset(name for name, value in vars(parsed).items() if value is not None)


def _as_arguments(flags: Mapping[str, object]) -> list[str]:
    arguments: list[str] = []
    for name, value in flags.items():
        if value is True:
            arguments.append(f"--{name}")
        elif isinstance(value, tuple):
            arguments += [f"--{name}", *map(str, value)]
        elif value is not False and value is not None:
            arguments += [f"--{name}", str(value)]
    return arguments
