"""The executor of OpenRLHF's rollout actor, which loads an agent's file and takes its class `AgentExecutor`.

Our own rollout actor plays trials with `play`. A stock one calls `execute` once per sample; each trial is then a single
row, which the response holds under the host's own keys.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
from collections.abc import Mapping
from typing import Any

from openrlhf.utils.agent import AgentExecutorBase

from openrlhf_lamer.agents.base import Agent
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.games import games
from openrlhf_lamer.integration.rollout.pool import Pool
from openrlhf_lamer.policies.base import Policy
from openrlhf_lamer.policies.engine import EnginePolicy
from openrlhf_lamer.records import Task, Trial
from openrlhf_lamer.rows import trial_rows
from openrlhf_lamer.trial import run_trial


class LamerExecutor(AgentExecutorBase):
    """Plays trials against the engine of the rollout actor that holds it, each by its environment's agent.

    Attributes:
        agents: The agents by their environment.
        playing: Task ids of the trials in progress, keyed by a running number.
    """

    agents: Mapping[str, Agent]

    def __init__(self) -> None:
        self._use(LamerConfig.load())
        self._slots = asyncio.Semaphore(self.config.max_concurrent_trials or 1_000_000)
        self._pool = Pool(self.config.env_workers, self.config.env_timeout)
        self._chat: Chat | None = None
        self.playing: dict[int, str] = {}
        self._numbers = itertools.count()

    def _use(self, config: LamerConfig) -> None:
        """Play all trials by `config`."""
        self.config = config
        self._games = games(self.agents, config)
        self._evaluated = {env: game.evaluated() for env, game in self._games.items()}

    def take(self, tokenizer: Any) -> None:
        """Use the chat template of `tokenizer`."""
        self._chat = Chat(tokenizer, thinking=self.config.thinking, context=self.config.context)
        freeze_heap()

    async def play(
        self,
        prompt: str,
        task: Task,
        policy: Policy,
        *,
        sample: int,
        seed: int | None,
        max_new_tokens: int | None,
        max_length: int,
        evaluating: bool = False,
    ) -> dict[str, Any]:
        """Play a trial; returns the host's response with the trial under the key `trial`, failures inside the record.

        With `evaluating`, the trial belongs to the host's evaluation set and is not trained.
        """
        assert self._chat is not None, "asked to play before a tokenizer was given"
        game = (self._evaluated if evaluating else self._games)[task.env]  # the launcher checked all tasks
        number = next(self._numbers)
        self.playing[number] = task.id
        try:
            trial = await run_trial(
                task,
                game.agent,
                policy,
                self._chat,
                game.config,
                max_new_tokens=max_new_tokens or game.config.max_new_tokens,
                max_length=max_length,
                open_session=self._pool.open,
                sample=sample,
                seed=seed,
            )
        finally:
            del self.playing[number]
        return {
            "prompt": prompt,
            "label": task.to_json(),
            "images": None,
            "mm_train_inputs": None,
            "reward": trial.scalar_return(self.config.gamma_traj),
            # The host filters groups by it: trials that go on after a success differ in how often they win.
            "scores": float(trial.won)
            if self.config.stop_on_success
            else len(trial.wins) / max(1, len(trial.episodes)),
            "truncated": any(turn.truncated for turn in trial.turns),
            "extra_logs": {},
            "trial": trial,
        }

    async def execute(
        self,
        prompt: str,
        label: str,
        sampling_params: Any,
        max_length: int,
        hf_tokenizer: Any,
        llm_engine: Any,
        images: Any = None,
    ) -> dict[str, Any]:
        """Play the task in `label` for a stock host; returns the response with the trial's one row.

        A stock host doesn't say whether it trains or evaluates: every trial has the number of turns of training.

        Raises:
            RuntimeError: The trial failed; a stock host has no way to mask it.
        """
        if self.config.context != "trial":  # a stock host trains one row per sample; only this context gives one
            self._use(self.config.model_copy(update={"context": "trial"}))
        if self._chat is None:  # Ray hands every call a fresh copy of the same tokenizer
            self.take(hf_tokenizer)
        async with self._slots:
            response = await self.play(
                prompt,
                Task.from_json(label),
                EnginePolicy(llm_engine, sampling_params),
                sample=0,
                seed=None,
                max_new_tokens=sampling_params.max_tokens,
                max_length=max_length,
            )
        trial: Trial = response["trial"]
        if trial.failure is not None:
            raise RuntimeError(f"{trial.task.id}: {trial.failure.stage}: {trial.failure.message}")
        return response | self._row(trial)

    def _row(self, trial: Trial) -> dict[str, Any]:
        """The row of `trial`, under the keys that a stock host trains on."""
        (row,) = trial_rows(trial, train_reflection=self.config.train_reflection)
        logprobs = None
        if all(span.logprobs is not None for span in row.spans):
            logprobs = [0.0] * len(row.ids)
            for span in row.spans:
                logprobs[span.start : span.end] = span.logprobs or ()
        return {
            "observation_tokens": list(row.ids),
            "action_ranges": [(span.start, span.end) for span in row.spans],
            "rollout_log_probs": logprobs,
        }


def freeze_heap() -> None:
    """Exclude all objects that exist by now from garbage collection.

    They stay anyway, and scanning them blocks the event loop for some tenths of a second.
    """
    gc.collect()
    gc.freeze()


def executor_class(agent: Agent) -> type[LamerExecutor]:
    """The class that OpenRLHF instantiates for `agent`."""
    return type("AgentExecutor", (LamerExecutor,), {"agents": {agent.env: agent}})
