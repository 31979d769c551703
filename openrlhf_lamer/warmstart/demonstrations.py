"""Trials of a scripted player, played by the loop that training uses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from openrlhf_lamer.agents.base import Agent
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.policies.base import Policy
from openrlhf_lamer.records import Task, Trial
from openrlhf_lamer.trial import run_trial

Progress = Callable[[Iterable[Task]], Iterable[Task]]
"""Wrapper of tasks that shows how many have been played."""


@dataclass(frozen=True)
class Rules:
    """How trials are played.

    Attributes:
        agent: The agent.
        config: Configuration of trials.
        max_new_tokens: Most tokens of a reply.
        max_length: Most tokens of a prompt and its reply.
    """

    agent: Agent
    config: LamerConfig
    max_new_tokens: int
    max_length: int


def demonstrate(
    tasks: Sequence[Task],
    rules: Rules,
    chat: Chat,
    player: Callable[[int], Policy],
    progress: Progress = iter,
) -> list[Trial]:
    """One trial of a player on each task; `player` makes it from the trial's number."""

    async def play() -> list[Trial]:
        return [
            await run_trial(
                task,
                rules.agent,
                player(number),
                chat,
                rules.config,
                max_new_tokens=rules.max_new_tokens,
                max_length=rules.max_length,
            )
            for number, task in enumerate(progress(tasks))
        ]

    return asyncio.run(play())


def write(path: Path, trials: Iterable[Trial]) -> None:
    """Write trials as JSON lines, which `openrlhf-lamer view` shows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for trial in trials:
            file.write(f"{trial.to_json()}\n")
