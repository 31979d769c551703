"""An agent's file with an environment of its own, which is played on environment workers."""

import time
from dataclasses import replace

from openrlhf_lamer.agents import minesweeper
from openrlhf_lamer.agents.base import PROMPTS
from openrlhf_lamer.agents.loading import host_seam
from openrlhf_lamer.envs import register
from openrlhf_lamer.envs.base import Step
from openrlhf_lamer.envs.minesweeper import MineSweeper


class SlowMineSweeper(MineSweeper):
    """MineSweeper that takes its time."""

    name = "slow_minesweeper"
    slow = True

    def step(self, action: str) -> Step:
        """Play an action, in a tenth of a second."""
        time.sleep(0.1)
        return super().step(action)


register(SlowMineSweeper.name, SlowMineSweeper)
agent = replace(minesweeper.agent, env=SlowMineSweeper.name, prompts=PROMPTS / "minesweeper")

__getattr__ = host_seam(agent)
