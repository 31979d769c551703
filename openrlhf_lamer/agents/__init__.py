"""Agents: an environment, its prompts and its limits. Each module is what `--agent_func` names."""

from openrlhf_lamer.agents.base import Agent, AgentError
from openrlhf_lamer.agents.loading import host_seam, load_agent

__all__ = ["Agent", "AgentError", "host_seam", "load_agent"]
