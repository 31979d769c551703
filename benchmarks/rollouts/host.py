"""The host's own multi-turn executor on the recorded environment, as a user of the host would write it."""

from __future__ import annotations

from typing import Any

import torch
from openrlhf.utils.agent import AgentInstanceBase, MultiTurnAgentExecutor

from openrlhf_lamer.agents import Agent
from openrlhf_lamer.chat import parse_tag
from openrlhf_lamer.envs import Observation, Task
from openrlhf_lamer.quickstart.model import START, STOP

from .recorded import LONGEST, SAMPLING, TOKENIZER, Engine, Record, Recorded, Seat, agent


class HostPlayer:
    """The counterpart of `Player`: one chat through one episode."""

    def __init__(self, turns: int) -> None:
        self._executor = MultiTurnAgentExecutor(type("Instance", (_Instance,), {"agent": agent(turns)}))

    async def execute(self, record: Record, engine: Engine) -> dict[str, Any]:
        """The executor's response to the host."""
        seat = Seat(engine, record)
        return await self._executor.execute("", record.task.to_json(), SAMPLING, LONGEST, TOKENIZER, seat)


class _Instance(AgentInstanceBase):
    """Says and does what our trial loop does, with the same prompts."""

    agent: Agent

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._env = Recorded()
        self._last: list[Any] = []
        self._turns = 0

    async def reset(self, states: dict, **kwargs: Any) -> dict[str, Any]:
        self._initial = self._env.reset(Task.from_json(states["label"]))
        message = [{"role": "user", "content": self._message(self._initial, continuing=False)}]
        return {"observation": TOKENIZER.apply_chat_template(message, tokenize=False, add_generation_prompt=True)}

    async def step(self, state_dict: dict, **kwargs: Any) -> dict[str, Any]:
        action = parse_tag(state_dict["action_text"], "action")
        assert action is not None
        step = self._env.step(action)
        self._turns += 1
        self._last = [step]
        done = step.terminated or step.truncated
        feedback = ""
        if not done:
            message = self._message(step.observation, continuing=True)
            feedback = f"\n{START}user\n{message}{STOP}\n{START}assistant\n"
        return {
            "rewards": torch.tensor(step.reward),
            "scores": torch.tensor(float(step.won)),
            "environment_feedback": feedback,
            "done": done,
        }

    def _message(self, observation: Observation, *, continuing: bool) -> str:
        return self.agent.play_message(
            continuing=continuing,
            env={},
            initial=self._initial,
            memory=(),
            turns=self._last,
            observation=observation,
            episode=0,
            num_episodes=1,
            turns_left=self.agent.max_turns - self._turns,
        )
