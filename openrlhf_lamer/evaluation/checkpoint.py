"""Play a panel with a local checkpoint: the training loop's own code on a vLLM engine of its own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from openrlhf_lamer.agents.base import Agent
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.integration import cpu
from openrlhf_lamer.integration.pool import Pool
from openrlhf_lamer.policies.engine import EnginePolicy
from openrlhf_lamer.records import Task, Trial
from openrlhf_lamer.trial import run_trial


@dataclass(frozen=True)
class Sampling:
    """How replies are sampled in an evaluation; the defaults are the paper's."""

    temperature: float = 0.7
    top_p: float = 1.0
    max_new_tokens: int = 1024
    max_length: int = 4096
    seed: int = 0


class _Engine:
    """A vLLM engine with the one method that a policy needs."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    async def generate(self, prompt_token_ids: list[int], sampling_params: Any) -> Any:
        result = None
        async for output in self._engine.generate(
            {"prompt_token_ids": prompt_token_ids}, sampling_params, request_id=uuid4().hex
        ):
            result = output
        return result


def play_panel(
    model: Path,
    tasks: Sequence[Task],
    agent: Agent,
    config: LamerConfig,
    sampling: Sampling,
    *,
    concurrency: int = 64,
    report: Callable[[Trial], None] = lambda trial: None,
) -> list[Trial]:
    """One trial a task, in the order of the tasks.

    Args:
        model: A checkpoint in Hugging Face form.
        tasks: The panel.
        agent: Who plays.
        config: Episodes, memory, context.
        sampling: Temperature and lengths.
        concurrency: Trials at once.
        report: Called for each trial as it ends.
    """
    if not cpu.cuda_available():
        cpu.enter_driver()
    # The engine is this process's own, so nothing of it need be shared with strangers or reported home.
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    import vllm
    from transformers import AutoTokenizer

    engine = vllm.AsyncLLMEngine.from_engine_args(
        vllm.AsyncEngineArgs(
            model=str(model),
            dtype="bfloat16",
            max_model_len=sampling.max_length,
            enforce_eager=not cpu.cuda_available(),
            enable_prefix_caching=True,
            gpu_memory_utilization=0.9 if cpu.cuda_available() else 0.3,
            seed=sampling.seed,
        )
    )
    params = vllm.SamplingParams(
        temperature=sampling.temperature, top_p=sampling.top_p, skip_special_tokens=False, seed=None
    )
    policy = EnginePolicy(_Engine(engine), params)
    chat = Chat(AutoTokenizer.from_pretrained(model))

    async def play() -> list[Trial]:
        slots = asyncio.Semaphore(concurrency)
        pool = Pool(config.env_workers, config.env_timeout)

        async def one(task: Task) -> Trial:
            async with slots:
                trial = await run_trial(
                    task,
                    agent,
                    policy,
                    chat,
                    config,
                    max_new_tokens=sampling.max_new_tokens,
                    max_length=sampling.max_length,
                    open_session=pool.open,
                )
            report(trial)
            return trial

        return list(await asyncio.gather(*(one(task) for task in tasks)))

    try:
        return asyncio.run(play())
    finally:
        engine.shutdown()
