"""A player that draws for each turn whether it plays as the oracle or at random."""

from __future__ import annotations

from collections.abc import Mapping

from openrlhf_lamer.agents import Agent
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.envs.base import TextEnv
from openrlhf_lamer.policies.scripted import oracle_action
from openrlhf_lamer.warmstart.players.scripted import DemonstratedPolicy


class Mixture(DemonstratedPolicy):
    """Plays the environment's oracle in a share of turns, and random legal actions in the others.

    Args:
        chat: Chat of the model that imitates.
        seed: Seed of the draws.
        agent: The agent that is played.
        config: Configuration of trials.
        shares: Weight of `oracle` and of `random`.
    """

    def __init__(
        self, chat: Chat, seed: int, agent: Agent, config: LamerConfig, *, shares: Mapping[str, float]
    ) -> None:
        super().__init__(chat, seed, agent, config)
        total = sum(shares.values())
        if total <= 0:
            raise ValueError(f"weights of a mixture are positive, not {dict(shares)}")
        self._oracle = shares.get("oracle", 0.0) / total

    def act(self, env: TextEnv) -> str:
        """The oracle's action, or a random one."""
        if self.rng.random() >= self._oracle:
            return self.reply(env.random_action(self.rng), "I try this.", certain=False)
        return self.reply(oracle_action(env), "I know this one.", certain=False)
