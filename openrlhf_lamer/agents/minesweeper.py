"""An agent that plays MineSweeper, one cell a turn."""

from openrlhf_lamer.agents import Agent, host_seam

agent = Agent(env="minesweeper", max_turns=7)

__getattr__ = host_seam(agent)
