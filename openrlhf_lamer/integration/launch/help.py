"""Help texts of the training command: our flags and changed defaults, and on request all flags of OpenRLHF."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from openrlhf_lamer import room
from openrlhf_lamer.integration import cpu
from openrlhf_lamer.integration.host import DEFAULTS, REFUSED, REFUSED_WITH_LORA, REFUSED_WITH_OURS

PROGRAM = "python -m openrlhf_lamer.cli.train_ppo_ray"

HOST_HELP = "--help-host"
"""The flag that shows OpenRLHF's flags."""

NEEDED = ("actor.model_name_or_path", "data.prompt_dataset", "eval.dataset", "eval.steps")
"""Flags of the host that our help shows too, besides those whose defaults are ours."""

TEXTS = {
    "data.max_len": "Most tokens of a prompt and its reply. By default what the longest prompt of a trial needs: it "
    "follows from the agent, --lamer.context, episodes, turns and --rollout.max_new_tokens, where every attempt uses "
    "all its turns, states are long, and a reply in the chat counts at a quarter of its limit, but at least at "
    f"{room.EARLIER} tokens or the limit. Never below {room.LEAST}, nor above what the model takes.",
}
"""Help texts of host flags whose defaults are more than a value."""


def choices(annotation: Any) -> tuple[str, ...]:
    """The values that an option of this type takes, as they are typed; empty where there are too many to list."""
    if annotation is bool:
        return ("on", "off")
    if get_origin(annotation) is Literal:
        return tuple(map(str, get_args(annotation)))
    return tuple(value for part in get_args(annotation) for value in choices(part))


def shown(value: object) -> str:
    """A value as it is typed at the command line."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if value is None or value == []:
        return "none"
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return json.dumps(value) if isinstance(value, dict) or value == "" else str(value)


def own_help(own: argparse.ArgumentParser, host: argparse.ArgumentParser, estimators: Sequence[str]) -> str:
    """Text of `--help`: all of our flags, and those of OpenRLHF that a run needs or whose defaults are ours.

    Args:
        own: Parser of our flags, which this changes for printing.
        host: Parser of OpenRLHF's flags with its own defaults.
        estimators: Our estimators, which OpenRLHF's flag takes beside its own.
    """
    own.prog = PROGRAM
    own.usage = "%(prog)s --agent_func MODULE [--lamer.OPTION VALUE ...] [options of OpenRLHF ...]"
    own.description = (
        "Train a language agent with LaMer through OpenRLHF's trainer. Takes OpenRLHF's flags too, but refuses those "
        f"that do not go with trials; {HOST_HELP} shows them."
    )
    group = own.add_argument_group("OpenRLHF's flags that a run needs, or whose defaults are ours")
    for action in host._actions:
        if action.dest in NEEDED or action.dest in DEFAULTS:
            group._group_actions.append(_explained(action, estimators))
    group = own.add_argument_group("help")
    group.add_argument("-h", "--help", action="help", help="Show this.")
    group.add_argument(
        HOST_HELP, action="store_true", help="Show every flag of OpenRLHF with its default, and which are refused."
    )
    return own.format_help()


def host_help(host: argparse.ArgumentParser, estimators: Sequence[str]) -> str:
    """Text of `--help-host`: OpenRLHF's flags with OpenRLHF's defaults, ours where they differ, and what is refused.

    Args:
        host: Parser of OpenRLHF's flags with its own defaults, which this changes for printing.
        estimators: Our estimators, which OpenRLHF's flag takes beside its own.
    """
    host.prog, host.usage = PROGRAM, argparse.SUPPRESS
    host.description = "Options of OpenRLHF. The page docs/host-options.md says what they mean for trials."
    for action in host._actions:
        if action.dest != "help":
            _explained(action, estimators)
    return host.format_help()


def _explained(action: argparse.Action, estimators: Sequence[str]) -> argparse.Action:
    """A flag of the host with our choices, its defaults and any refusal in its help text."""
    if action.dest == "algo.advantage.estimator":
        action.choices = [*(action.choices or ()), *estimators]
    if action.metavar is None and action.choices is None and action.nargs != 0:
        action.metavar = "VALUE"
    text = TEXTS.get(action.dest, action.help or "")
    # The default of a switch is whether it counts as given; giving some switches means off.
    theirs = action.default == action.const if action.nargs == 0 else action.default
    parts = (_sentence(text), _defaults(action.dest, theirs), _refusal(action.dest))
    action.help = " ".join(filter(None, parts)).replace("%", "%%")
    return action


def _defaults(flag: str, theirs: object) -> str:
    """Sentence about the defaults of a flag of the host: the one that counts here, and the host's own."""
    ours, cpu_mode = DEFAULTS.get(flag, theirs), cpu.host_defaults()
    if flag in TEXTS:
        return f"OpenRLHF's own default: {shown(theirs)}."
    said = f"Default: {shown(ours)}"
    if cpu_mode.get(flag, ours) != ours:
        said += f", in CPU mode {shown(cpu_mode[flag])}"
    return said + (f" (OpenRLHF's own: {shown(theirs)})." if ours != theirs else ".")


def _sentence(text: str) -> str:
    return text if not text or text.endswith(".") else f"{text}."


def _refusal(flag: str) -> str:
    """Sentence about a refused flag that says when it is refused; empty for other flags."""
    tables: Mapping[str, Mapping[str, str]] = {
        "Refused;": REFUSED,
        "Refused with --ds.lora.rank;": REFUSED_WITH_LORA,
        "Refused with lamer_* estimators, whose credit": REFUSED_WITH_OURS,
    }
    return " ".join(f"{refused} {table[flag]}." for refused, table in tables.items() if flag in table)
