"""What several test files share: a small tokenizer, its chat, and a way to play a trial."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import pytest

from openrlhf_lamer.agents import Agent, load_agent
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.policies import Policy
from openrlhf_lamer.records import Task, Trial
from openrlhf_lamer.trial import run_trial

os.environ.setdefault("HF_HUB_OFFLINE", "1")

CORPUS = [
    "You are playing MineSweeper. Row 1: ? ? . 1 * The board now: <action>(1, 2)</action> <remark>a mine</remark>",
    "You are playing Sokoban. 0: # # # _ O X √ P S up, down, left, right. The state now.",
]


@pytest.fixture(scope="session", autouse=True)
def kept_games(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What environments keep between runs goes to a folder of this session, not to the user's."""
    os.environ["OPENRLHF_LAMER_CACHE"] = str(tmp_path_factory.mktemp("kept"))


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    pytest.importorskip("transformers")
    from openrlhf_lamer.quickstart.model import build_tokenizer

    return build_tokenizer(CORPUS, 400, 16384)


@pytest.fixture(scope="session")
def chat(tokenizer: Any) -> Chat:
    return Chat(tokenizer)


@pytest.fixture(scope="session")
def minesweeper() -> Agent:
    return load_agent("openrlhf_lamer.agents.minesweeper")[0]


@pytest.fixture
def play(chat: Chat, minesweeper: Agent) -> Callable[..., Trial]:
    """Plays one trial with a policy; keyword arguments become the configuration."""

    def run(
        policy: Policy,
        *,
        seed: int = 0,
        agent: Agent | None = None,
        max_new_tokens: int = 64,
        max_length: int = 9000,
        **config: Any,
    ) -> Trial:
        agent = agent or minesweeper
        return asyncio.run(
            run_trial(
                Task(agent.env, seed=seed),
                agent,
                policy,
                chat,
                LamerConfig(**config),
                max_new_tokens=max_new_tokens,
                max_length=max_length,
            )
        )

    return run
