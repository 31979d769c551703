"""Base of the scripted players that a model imitates."""

from __future__ import annotations

import random

from openrlhf_lamer.agents import Agent
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.policies.base import Generation, Request
from openrlhf_lamer.policies.scripted import ScriptedPolicy


def probability(name: str, value: float) -> float:
    """An option that is a probability; raises ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{name} is a probability, from 0 to 1, not {value!r}")
    return value


class DemonstratedPolicy(ScriptedPolicy):
    """A scripted player of one trial.

    Attributes:
        certain: For each turn so far, whether the player knew the right action.
        episode: Index of the present episode; -1 before the first.
    """

    def __init__(self, chat: Chat, seed: int, agent: Agent, config: LamerConfig) -> None:
        super().__init__(chat)
        self.agent, self.config = agent, config
        self.rng = random.Random(seed)
        self.certain: list[bool] = []
        self.episode = -1

    async def generate(self, request: Request) -> Generation:
        """The script's reply."""
        if request.episode != self.episode:
            self.episode = request.episode
            self.begin()
        return await super().generate(request)

    def begin(self) -> None:
        """Decide how the episode that begins is played."""

    def reply(self, action: str, thought: str, certain: bool) -> str:
        """A reply with `action`, after `thought` where the agent's prompts ask for one."""
        self.certain.append(certain)
        return f"{thought} <action>{action}</action>" if self.agent.reasons else f"<action>{action}</action>"
