"""An agent that looks for a prize behind doors, one choice an attempt."""

from openrlhf_lamer.agents import Agent, host_seam

agent = Agent(env="doors", max_turns=1, reasons=False)

__getattr__ = host_seam(agent)
