"""Where a trial meets OpenRLHF's rollout actor: one call of `execute` plays one trial.

The rollout actor loads an agent's file, takes its class `AgentExecutor`, and calls it
once for each sample. Our response carries the whole trial under the key `trial`, which
our samples generator reads; a stock generator finds its own keys filled as well, as
long as the trial is a single row.
"""

from __future__ import annotations

import asyncio
import gc
import os
from typing import Any

from openrlhf.utils.agent import AgentExecutorBase

from openrlhf_lamer.agents.base import Agent
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.config import ENV_VAR, MAX_NEW_TOKENS, LamerConfig
from openrlhf_lamer.integration.pool import Pool
from openrlhf_lamer.policies.engine import EnginePolicy
from openrlhf_lamer.records import Task, Trial
from openrlhf_lamer.rows import trial_rows
from openrlhf_lamer.trial import run_trial


class LamerExecutor(AgentExecutorBase):
    """Plays trials of one agent against the engine of the rollout actor that holds it."""

    agent: Agent

    def __init__(self) -> None:
        self.launched = ENV_VAR in os.environ
        self.config = LamerConfig.load()
        if not self.launched:
            # A stock host trains one row a sample, and only this context always gives one.
            self.config = self.config.model_copy(update={"context": "trial"})
        self._slots = asyncio.Semaphore(self.config.max_concurrent_trials or 1_000_000)
        self._pool = Pool(self.config.env_workers, self.config.env_timeout)
        self._chats: dict[str, Chat] = {}

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
        """Play the task in `label` and return the trial; failures are inside the record.

        Under a stock host a failed trial raises, because the host has no way to mask one.
        """
        async with self._slots:
            trial = await run_trial(
                Task.from_json(label),
                self.agent,
                EnginePolicy(llm_engine, sampling_params),
                self._chat(hf_tokenizer),
                self.config,
                max_new_tokens=sampling_params.max_tokens or MAX_NEW_TOKENS,
                max_length=max_length,
                open_session=self._pool.open,
            )
        if not self.launched and trial.failure is not None:
            raise RuntimeError(f"{trial.task.id}: {trial.failure.stage}: {trial.failure.message}")
        return self._response(prompt, label, trial)

    def _chat(self, tokenizer: Any) -> Chat:
        """The chat of `tokenizer`, made once: Ray hands every call a fresh copy of the same one."""
        key = tokenizer.name_or_path
        if key not in self._chats:
            self._chats[key] = Chat(tokenizer)
            freeze_heap()
        return self._chats[key]

    def _response(self, prompt: str, label: str, trial: Trial) -> dict[str, Any]:
        reward = trial.scalar_return(self.config.gamma_traj)
        response: dict[str, Any] = {
            "prompt": prompt,
            "label": label,
            "images": None,
            "mm_train_inputs": None,
            "reward": reward,
            "scores": float(trial.won),
            "truncated": any(turn.truncated for turn in trial.turns),
            "extra_logs": {},
            "trial": trial,
        }
        if self.launched:
            return response
        (row,) = trial_rows(trial, train_reflection=self.config.train_reflection)
        logprobs = None
        if all(span.logprobs is not None for span in row.spans):
            logprobs = [0.0] * len(row.ids)
            for span in row.spans:
                logprobs[span.start : span.end] = span.logprobs or ()
        return response | {
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
    return type("AgentExecutor", (LamerExecutor,), {"agent": agent})
