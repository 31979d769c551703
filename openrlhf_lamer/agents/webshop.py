"""An agent that shops, one search or click a turn."""

from openrlhf_lamer.agents import Agent, host_seam

agent = Agent(env="webshop", max_turns=12, window=15, memory_observations=15, memory_separator=" [SEP] ")

__getattr__ = host_seam(agent)
