"""Agents: an environment, its prompts and its limits. `--agent_func` names one of these modules."""

from openrlhf_lamer.agents.base import Agent, AgentError
from openrlhf_lamer.agents.loading import host_seam, load_agent

__all__ = ["Agent", "AgentError", "host_seam", "load_agent"]
