"""An agent that does ALFWorld's household tasks, one command a turn."""

from openrlhf_lamer.agents import Agent, host_seam

agent = Agent(env="alfworld", max_turns=10, window=15, memory_observations=30, eval_turns=30)

__getattr__ = host_seam(agent)
