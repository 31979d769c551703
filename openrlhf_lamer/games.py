"""Games of a run: each agent, with the configuration of its own trials.

A run may have several agents, one for each environment, and a trial is played by the agent of its task's environment.
All agents share the configuration, except for `env_options`: with several agents these are keyed by environment.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from openrlhf_lamer.agents.base import Agent
from openrlhf_lamer.config import ConfigError, LamerConfig


@dataclass(frozen=True)
class Game:
    """An agent, and the configuration of its trials.

    Attributes:
        agent: The agent.
        config: The configuration, with the options of the agent's environment as `env_options`.
    """

    agent: Agent
    config: LamerConfig

    def evaluated(self) -> Game:
        """This game on the evaluation set: the agent's number of turns there, and the number of episodes."""
        return Game(self.agent.evaluated(), self.config.evaluated())


def games(agents: Mapping[str, Agent], config: LamerConfig) -> dict[str, Game]:
    """The game of each agent, by environment.

    Args:
        agents: The agents by environment.
        config: The configuration of the run.

    Raises:
        ConfigError: With several agents, options have a key that is no agent's environment, or no options under it.
    """
    if len(agents) == 1:
        return {env: Game(agent, config) for env, agent in agents.items()}
    given = config.env_options
    for env, options in given.items():
        if env not in agents:
            close = get_close_matches(env, agents, n=1)
            wrong = f"no agent plays {env!r}" + (f" (did you mean {close[0]!r}?)" if close else "")
        elif not isinstance(options, dict):
            wrong = f"the options of {env!r} are {options!r}, which is no JSON object"
        else:
            continue
        example = json.dumps({next(iter(agents)): {"OPTION": "VALUE"}})
        raise ConfigError(
            f"--lamer.env_options: {wrong}; with several agents give options by environment, such as '{example}'. "
            f"The agents play {', '.join(agents)}"
        )
    return {
        env: Game(agent, config.model_copy(update={"env_options": given.get(env, {})})) for env, agent in agents.items()
    }
