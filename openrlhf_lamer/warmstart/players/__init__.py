"""Scripted players that a model can imitate, by name, as a mixture, or from a user's file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from openrlhf_lamer import LamerError, envs
from openrlhf_lamer.agents import Agent, AgentError
from openrlhf_lamer.agents.loading import import_file
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.policies.base import Policy
from openrlhf_lamer.warmstart.players.finder import Finder
from openrlhf_lamer.warmstart.players.minesweeper import FalliblePlayer
from openrlhf_lamer.warmstart.players.mixture import Mixture


class PlayerError(LamerError, ValueError):
    """There is no such player, or its options are wrong."""


class Player(Policy, Protocol):
    """A scripted player of one trial.

    `certain` has an entry for each turn that it has played: whether it knew the right action, and so always plays it. A
    model's skill is measured on those turns.
    """

    certain: list[bool]


PlayerFactory: TypeAlias = Callable[[int], Player]
"""Makes the player of a trial from the trial's number."""

DEFAULTS: Mapping[str, str] = {"doors": "finder", "darkroom": "finder", "minesweeper": "fallible"}
"""Players by environment; others are played by `MIXTURE`."""

MIXTURE = "oracle:0.3,random:0.7"

_NAMED: Mapping[str, Callable[..., Player]] = {"finder": Finder, "fallible": FalliblePlayer}
OFFERED = f"there are: {', '.join([*_NAMED, 'oracle', 'random'])}, mixtures ({MIXTURE}), and FILE.py:CLASS"
_PART = re.compile(r"(oracle|random)(?::([0-9]+(?:\.[0-9]+)?))?")


def players(
    spec: str | None, chat: Chat, agent: Agent, config: LamerConfig, options: Mapping[str, Any]
) -> PlayerFactory:
    """A function that makes players.

    Args:
        spec: `finder`, `fallible`, `oracle`, `random`, a mixture such as `oracle:0.3,random:0.7`, or a class in a
            module or file, such as `mine.py:Mine`; None for the environment's. A class is called with the chat, the
            trial's number, the agent, the configuration and `options`.
        chat: Chat of the model that will imitate.
        agent: The agent that is played.
        config: Configuration of trials.
        options: Options of the player.

    Raises:
        PlayerError: The player is unknown, or takes other options; the message names the flag.
    """
    spec = spec or DEFAULTS.get(agent.env, MIXTURE)
    given = dict(options)
    parts = [_PART.fullmatch(part.strip()) for part in spec.split(",")]
    if all(parts):
        shares = {part[1]: float(part[2] or 1) for part in parts if part}
        cls: Callable[..., Player] = Mixture
        options = {**options, "shares": shares}
    elif ":" in spec:
        source, _, name = spec.rpartition(":")
        try:
            module = import_file(Path(source)) if source.endswith(".py") else import_module(source)
        except (AgentError, ImportError) as error:
            raise PlayerError(f"--player {spec}: {error}; {OFFERED}") from error
        if not hasattr(module, name):
            raise PlayerError(f"--player {spec}: {source} has no {name}")
        cls = getattr(module, name)
    elif spec in _NAMED:
        cls = _NAMED[spec]
    else:
        raise PlayerError(f"--player {spec}: no player is called so; {OFFERED}")

    def make(number: int) -> Player:
        return cls(chat, number, agent, config, **options)

    try:
        one = make(0)
    except (TypeError, ValueError, envs.TaskError) as error:
        raise PlayerError(f"--player {spec} with --player-options {json.dumps(given)}: {error}") from error
    if not isinstance(getattr(one, "certain", None), list):
        raise PlayerError(
            f"--player {spec}: a player has a list `certain`, with an entry for each turn that it has played"
        )
    return make
