"""The host's rollout actor, which plays one trial per call."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

from openrlhf.trainer.ray.vllm_engine import RolloutRayActor

from openrlhf_lamer.integration.remote import plain_class
from openrlhf_lamer.integration.rollout.engines import EngineReport
from openrlhf_lamer.policies.engine import EnginePolicy
from openrlhf_lamer.records import Task

CALLS = 100_000
"""Calls that an engine answers at once. Under Ray's own limit of 1000, trials could delay an update of the weights."""


class LamerRolloutActor(plain_class(RolloutRayActor)):
    """A vLLM engine with the agent that plays on it. The launcher puts it in the place of the host's actor."""

    executor: Any
    llm: Any

    async def prepare(self, tokenizer: Any, *, seeded: bool) -> None:
        """Store what all trials share: the tokenizer, and whether each reply is sampled by its own seed."""
        self.executor.take(tokenizer)
        self._seeded = seeded

    async def play_trial(
        self,
        prompt: str,
        label: str,
        sample: int,
        seed: int,
        sampling_params: Any,
        max_length: int,
        *,
        evaluating: bool,
    ) -> dict[str, Any]:
        """Play trial number `sample` of the task in `label`, for training or evaluation; failures are in the record."""
        policy = EnginePolicy(self, sampling_params, seeded=self._seeded)
        return await self.executor.play(
            prompt,
            Task.from_json(label),
            policy,
            sample=sample,
            seed=seed,
            max_new_tokens=sampling_params.max_tokens,
            max_length=max_length,
            evaluating=evaluating,
        )

    async def prefix_cache(self) -> tuple[int, int]:
        """Prompt tokens looked up in the prefix cache since the start, and those found; (0, 0) without a cache."""
        from vllm.v1.metrics.reader import Counter, get_metrics_snapshot

        counters = {m.name: m.value for m in get_metrics_snapshot() if isinstance(m, Counter)}
        return counters.get("vllm:prefix_cache_queries", 0), counters.get("vllm:prefix_cache_hits", 0)

    async def report(self) -> EngineReport:
        """Where this engine runs and what it plays."""
        return EngineReport(socket.gethostname(), os.getpid(), tuple(self.executor.playing.values()))

    async def until_death(self) -> None:
        """Never return: a caller that waits for the answer learns at once when this process or its engine dies.

        Raises:
            RuntimeError: vLLM's own process died, and this one is useless without it.
        """
        while not self.llm.errored:  # noqa: ASYNC110  (vLLM has no event for it)
            await asyncio.sleep(1)
        raise RuntimeError(f"vLLM's engine process died: {self.llm.dead_error}")
