"""A real engine: vLLM with a tiny random model, made to generate as many tokens as asked for."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from openrlhf_lamer.integration import cpu
from openrlhf_lamer.quickstart.model import build_model, save

from .recorded import TOKENIZER
from .simulated import Clocked, Load

T = TypeVar("T")


class ServedEngine:
    """What a measurement sees of the engine that it shares with others."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm
        self._running = self._tokens = 0
        self.loads: list[Load] = []

    async def generate(self, prompt: Sequence[int], tokens: int) -> None:
        """Generate `tokens` tokens; raises AssertionError where it were others."""
        from vllm import SamplingParams

        self._count(1)
        params = SamplingParams(temperature=1.0, max_tokens=tokens, min_tokens=tokens, ignore_eos=True)
        generated = 0
        async for output in self._llm.generate({"prompt_token_ids": list(prompt)}, params, request_id=uuid4().hex):
            self._tokens += len(output.outputs[0].token_ids) - generated
            generated = len(output.outputs[0].token_ids)
        assert generated == tokens, f"{generated} tokens where {tokens} were asked for"
        self._count(-1)

    def _count(self, change: int) -> None:
        self._running += change
        self.loads.append(Load(asyncio.get_running_loop().time(), self._running, self._tokens))


class Served:
    """A vLLM engine on an event loop of its own, to be closed in the end.

    Args:
        sequences: Most replies at once.
        length: Most tokens of a prompt and its reply.
    """

    def __init__(self, sequences: int, length: int) -> None:
        if not cpu.cuda_available():
            cpu.enter_driver()
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        import vllm

        logging.getLogger("vllm").setLevel(logging.ERROR)
        self._folder = tempfile.TemporaryDirectory()
        model = build_model(TOKENIZER, hidden=64, layers=2, heads=2, max_length=length, seed=0)
        save(model, TOKENIZER, Path(self._folder.name))
        self._runner = asyncio.Runner()
        self._llm = vllm.AsyncLLMEngine.from_engine_args(
            vllm.AsyncEngineArgs(
                model=self._folder.name,
                dtype="bfloat16",
                max_model_len=length,
                max_num_seqs=sequences,
                enforce_eager=not cpu.cuda_available(),
                enable_prefix_caching=True,
                gpu_memory_utilization=0.5 if cpu.cuda_available() else 0.3,
                seed=0,
            )
        )

    def run(self, course: Callable[[ServedEngine], Awaitable[T]]) -> tuple[T, Clocked, list[Load]]:
        """What `course` returns, its time, and what was in the batch; begins with an empty prefix cache."""
        engine = ServedEngine(self._llm)

        async def timed() -> tuple[T, float]:
            await self._llm.reset_prefix_cache()
            began = time.perf_counter()
            result = await course(engine)
            return result, time.perf_counter() - began

        began = time.process_time()
        result, seconds = self._runner.run(timed())
        return result, Clocked(seconds, time.process_time() - began), engine.loads

    def close(self) -> None:
        """Stop the engine and remove its model."""
        self._llm.shutdown()
        self._runner.close()
        self._folder.cleanup()
