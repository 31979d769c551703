"""Where a trial meets OpenRLHF's rollout actor, which loads an agent's file and takes its class `AgentExecutor`.

Our own rollout actor plays trials with `play`. A stock one calls `execute` once for each sample, and finds its own keys
in the response, as long as the trial is a single row.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
from typing import Any

from openrlhf.utils.agent import AgentExecutorBase

from openrlhf_lamer.agents.base import Agent
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.config import ENV_VAR, MAX_NEW_TOKENS, LamerConfig
from openrlhf_lamer.integration.rollout.pool import Pool
from openrlhf_lamer.policies.base import Policy
from openrlhf_lamer.policies.engine import EnginePolicy
from openrlhf_lamer.records import Task, Trial
from openrlhf_lamer.rows import trial_rows
from openrlhf_lamer.trial import run_trial


class LamerExecutor(AgentExecutorBase):
    """Plays trials of one agent against the engine of the rollout actor that holds it.

    Attributes:
        agent: Who plays trials to be trained.
        evaluated: The same agent, as it plays the host's evaluation set.
        playing: The trials that are being played: their tasks' ids, in no order, by numbers of their own.
    """

    agent: Agent
    evaluated: Agent

    def __init__(self) -> None:
        self.launched = ENV_VAR in os.environ
        self.config = LamerConfig.load()
        if not self.launched:
            # A stock host trains one row a sample, and only this context always gives one.
            self.config = self.config.model_copy(update={"context": "trial"})
        self._slots = asyncio.Semaphore(self.config.max_concurrent_trials or 1_000_000)
        self._pool = Pool(self.config.env_workers, self.config.env_timeout)
        self._chat: Chat | None = None
        self.playing: dict[int, str] = {}
        self._numbers = itertools.count()

    def take(self, tokenizer: Any) -> None:
        """Play by the chat of `tokenizer`."""
        self._chat = Chat(tokenizer)
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
        """The host's response with the trial under the key `trial`; failures are inside the record.

        With `evaluating` the trial is one of the host's evaluation set, and is not trained.
        """
        assert self._chat is not None, "asked to play before a tokenizer was given"
        number = next(self._numbers)
        self.playing[number] = task.id
        try:
            trial = await run_trial(
                task,
                self.evaluated if evaluating else self.agent,
                policy,
                self._chat,
                self.config,
                max_new_tokens=max_new_tokens or MAX_NEW_TOKENS,
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
            "scores": float(trial.won),
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
        """Play the task in `label` for a stock host, which has no way to mask a failed trial: it raises.

        Nor does it say whether it trains or evaluates: every trial has the turns of training.
        """
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
        if self.launched:
            return response
        trial: Trial = response["trial"]
        if trial.failure is not None:
            raise RuntimeError(f"{trial.task.id}: {trial.failure.stage}: {trial.failure.message}")
        return response | self._row(trial)

    def _row(self, trial: Trial) -> dict[str, Any]:
        """What a stock host trains."""
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
    """Take all that is loaded by now out of the garbage collector's sight.

    It stays anyway, and to go through it takes some tenths of a second, in which the event loop stands still.
    """
    gc.collect()
    gc.freeze()


def executor_class(agent: Agent) -> type[LamerExecutor]:
    """The class that OpenRLHF instantiates for `agent`."""
    return type("AgentExecutor", (LamerExecutor,), {"agent": agent, "evaluated": agent.evaluated()})
