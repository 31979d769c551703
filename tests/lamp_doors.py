"""Doors with a lamp, and the player that finds it, for test files of warm starts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from openrlhf_lamer import envs
from openrlhf_lamer.agents import load_agent
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.records import Task, Trial
from openrlhf_lamer.warmstart.demonstrations import Rules, demonstrate
from openrlhf_lamer.warmstart.model import build_tokenizer
from openrlhf_lamer.warmstart.players.finder import Finder

pytest.importorskip("transformers")

LAMP = {"doors": 8, "lamp": True}
CONFIG = LamerConfig(memory="history", env_options=LAMP)
AGENT = load_agent("openrlhf_lamer.agents.doors")[0]
RULES = Rules(AGENT, CONFIG, 32, 2048)


def doors(first: int, number: int) -> list[Task]:
    return envs.lookup("doors").tasks("train", number, first=first, options=LAMP)


def finder(chat: Chat, config: LamerConfig = CONFIG) -> Callable[[int], Finder]:
    return lambda number: Finder(chat, number, AGENT, config, searches=[["lamp"]])


@pytest.fixture(scope="session")
def door_chat() -> Chat:
    """A chat whose tokenizer knows the words of doors."""
    words = "Prize behind Nothing All closed. Actions: lamp <action>lamp</action> <remark>Try again.</remark>"
    return Chat(build_tokenizer([words, " ".join(f"d{n} <action>d{n}</action>" for n in range(9))] * 20, 400, 2048))


@pytest.fixture(scope="session")
def door_trials(door_chat: Chat) -> list[Trial]:
    return demonstrate(doors(0, 240), RULES, door_chat, finder(door_chat))
