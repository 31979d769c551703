"""The file that OpenRLHF loads in place of an agent's in a run of several agents.

OpenRLHF takes one file, and its rollout actors call the class in it without arguments. So the launcher names this file,
and the files of the agents in an environment variable, which Ray carries to every process. As in a run of one agent,
each node has an agent's file at the same path.
"""

from __future__ import annotations

import json
import os

from openrlhf_lamer.agents.loading import AGENTS_VAR, load_agents
from openrlhf_lamer.integration.rollout.executor import LamerExecutor


class AgentExecutor(LamerExecutor):
    """Plays trials of all agents that the environment variable names."""

    def __init__(self) -> None:
        self.agents = {env: agent for env, (agent, _) in load_agents(json.loads(os.environ[AGENTS_VAR])).items()}
        super().__init__()
