"""An agent that plays Sokoban, up to three moves a turn."""

from openrlhf_lamer.agents import Agent, host_seam

agent = Agent(env="sokoban", max_turns=7)

__getattr__ = host_seam(agent)
