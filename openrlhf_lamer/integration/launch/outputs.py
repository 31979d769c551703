"""Output of a run: where it goes, the trials of an earlier run there, and the settings that are kept beside it."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from openrlhf_lamer import __version__, advantage
from openrlhf_lamer.agents.loading import recorded
from openrlhf_lamer.config import ConfigError
from openrlhf_lamer.integration import cluster
from openrlhf_lamer.integration.host import host_version
from openrlhf_lamer.integration.launch.diagnosis import installed
from openrlhf_lamer.integration.launch.flags import CommandLine
from openrlhf_lamer.records import SchemaError
from openrlhf_lamer.training_files import differences, evaluated, last_step, read_parts, settings_file

HOST_OUTPUTS = ("ckpt.output_dir", "ckpt.path", "logger.tensorboard_dir")
"""Flags of the host that name a folder that it writes to."""

TRIALS = ("trials", "eval_trials")
"""Our flags that name a file of trials."""

UNRECORDED = frozenset({"logger.wandb.key", "ckpt.load_enable", "ckpt.save_steps", "ckpt.max_num"})
"""Flags that are not recorded: a secret, and those that make the same run one that can be resumed."""


def absolute(line: CommandLine) -> CommandLine:
    """The command line with absolute paths of trials: workers may be in another folder than this process."""
    paths = {name: str(Path(path).absolute()) for name in TRIALS if (path := getattr(line.config, name))}
    return replace(line, config=line.config.model_copy(update=paths))


def host_outputs(line: CommandLine) -> dict[str, str]:
    """The host's flags for folders that it writes to, with absolute paths."""
    return {flag: str(Path(line[flag]).absolute()) for flag in HOST_OUTPUTS if line[flag]}


def temporary(line: CommandLine) -> str | None:
    """A warning if output would go to a temporary folder of Ray's, such as a job's; else None."""
    written = host_outputs(line) | {f"lamer.{name}": path for name in TRIALS if (path := getattr(line.config, name))}
    if line["ckpt.save_steps"] < 1 and line["ckpt.best_metric_key"] == "none":
        del written["ckpt.path"]
    below = [f"--{flag} {path}" for flag, path in written.items() if _rays(Path(path).resolve())]
    if not below:
        return None
    return (
        f"{', '.join(below)}: this is in a temporary folder of Ray's, which may be deleted when the job or Ray ends; "
        "give absolute paths on a disk that lasts"
    )


def check_trials(line: CommandLine, settings: Mapping[str, Any]) -> None:
    """Refuse files of trials that this run would mix with another one's.

    A run that goes on from a checkpoint replaces the steps that it repeats. One that was killed before its first
    checkpoint begins again: its settings identify it.

    Args:
        line: The command line, with absolute paths of trials.
        settings: Its settings, from `settings_of`.

    Raises:
        ConfigError: naming the flag, the file, and the remedy.
    """
    files = {f"--lamer.{name}": Path(path) for name in TRIALS if (path := getattr(line.config, name))}
    if len({*files.values()}) < len(files):
        raise ConfigError(
            f"--lamer.trials and --lamer.eval_trials are both {line.config.trials}: each replaces steps of its file, "
            "so give two files"
        )
    for flag, file in files.items():
        if file.is_dir():
            raise ConfigError(f"{flag} {file} is a folder; name a file in it, such as {file / 'trials.jsonl'}")
        try:
            last, parts = last_step(file), read_parts(file)
        except SchemaError as error:
            raise ConfigError(f"{flag} {file}: {error}; give another file") from error
        if last is None or _checkpointed(line):
            continue
        remedy = f"give another file, or rename or remove that one and {settings_file(file).name}"
        if not line["ckpt.load_enable"]:
            raise ConfigError(
                f"{flag} {file} holds the trials of a run, up to step {last}; {remedy}. To go on with that run from "
                "its last checkpoint, add --ckpt.load_enable"
            )
        there = parts[-1].settings if parts else {}
        own = evaluated(settings, line.config) if flag == "--lamer.eval_trials" else settings
        if different := list(differences(there, own)):
            known = f"in {settings_file(file)}, {'; '.join(different[:5])}" if parts else "no settings are beside it"
            raise ConfigError(
                f"{flag} {file} holds the trials of another run, up to step {last} ({known}), and there is no "
                f"checkpoint in --ckpt.path {line['ckpt.path']} to go on from; {remedy}"
            )


def settings_of(line: CommandLine, agents: Sequence[Path]) -> dict[str, Any]:
    """All that is recorded of a run, ready for JSON: agents, estimator, options, versions, the host's flags if given.

    Args:
        line: The command line, as its parts go into a run.
        agents: The agents' files, in the order of the line's names.
    """
    name, config = line["algo.advantage.estimator"], line.config.model_dump(mode="json")
    if name in advantage.names():
        own = advantage.get(name)
        chosen = own.read(line.config.options(own))
        config |= {own.flag(option): getattr(chosen, option) for option in own.fields}
    told = [recorded(given, file) for given, file in zip(line.agents, agents, strict=True)]
    return {
        "agent": told if len(told) > 1 else told[0],
        "estimator": name,
        "config": config,
        "host": {flag: line[flag] for flag in sorted(line.given - UNRECORDED)},
        "version": __version__,
        "packages": {"python": platform.python_version(), "openrlhf": host_version(), **installed()},
    }


def _checkpointed(line: CommandLine) -> bool:
    return line["ckpt.load_enable"] and (Path(line["ckpt.path"]) / "_actor" / "latest").is_file()


def _rays(path: Path) -> bool:
    """Whether a path is below Ray's folder, or below the copy of a job's working folder, wherever Ray keeps it."""
    own = (cluster.temporary() / "ray").resolve()
    return own in path.parents or ("runtime_resources", "working_dir_files") in pairwise(path.parts)
