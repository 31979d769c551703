"""An agent that looks for a goal in a dark room, and remembers where it was."""

from openrlhf_lamer.agents import Agent, host_seam

agent = Agent(env="darkroom", max_turns=4, reasons=False)

__getattr__ = host_seam(agent)
