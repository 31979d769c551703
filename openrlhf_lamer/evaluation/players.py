"""Players of an evaluation: a local checkpoint, a server, or a script.

Each opens as a `Player`, which `playing` turns into the function that a run calls for each job.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from openrlhf_lamer.agents.base import Agent
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.envs.session import open_inline
from openrlhf_lamer.evaluation.run import Job
from openrlhf_lamer.integration import cpu
from openrlhf_lamer.integration.rollout.pool import Pool
from openrlhf_lamer.policies.base import EngineGoneError, Policy
from openrlhf_lamer.policies.endpoint import Server, open_endpoint
from openrlhf_lamer.policies.engine import EnginePolicy
from openrlhf_lamer.policies.scripted import OraclePolicy, RandomPolicy
from openrlhf_lamer.records import Trial
from openrlhf_lamer.room import LEAST
from openrlhf_lamer.text_chat import TextChat
from openrlhf_lamer.trial import run_trial

SCRIPTS: dict[str, type[RandomPolicy] | type[OraclePolicy]] = {"random": RandomPolicy, "oracle": OraclePolicy}

ROOM = 1 << 40
"""Limit for players without a tokenizer, so that prompts of any length fit: characters say little about tokens."""


@dataclass(frozen=True)
class Sampling:
    """Sampling of replies in an evaluation; the defaults are those of the paper's text."""

    temperature: float = 0.7
    top_p: float = 1.0
    max_new_tokens: int = 1024
    max_length: int = LEAST


@dataclass(frozen=True)
class Player:
    """Policy that replies, and the chat whose ids it takes.

    Attributes:
        policy: The source of its replies.
        chat: Its tokenizer, or a `TextChat`.
        scripted: Whether it acts on the environment itself, which then must live in this process.
    """

    policy: Policy
    chat: Chat
    scripted: bool = False

    @property
    def counts_tokens(self) -> bool:
        """Whether ids are tokens of the model; else they are characters."""
        return not isinstance(self.chat, TextChat)


def playing(
    player: Player,
    agent: Agent,
    config: LamerConfig,
    sampling: Sampling,
    seed: int = 0,
    policy: Callable[[Job], Policy] | None = None,
) -> Callable[[Job], Awaitable[Trial]]:
    """Function that plays a job: the training loop's own code, each trial sampled by its own seed.

    Args:
        player: The player.
        agent: The environment's prompts and limits.
        config: Episodes, memory, context.
        sampling: Lengths.
        seed: Seed that all trials' seeds follow from.
        policy: Policy of each job, where it differs between jobs.
    """
    open_session = open_inline if player.scripted else Pool(config.env_workers, config.env_timeout).open

    async def play(job: Job) -> Trial:
        return await run_trial(
            job.task,
            agent,
            player.policy if policy is None else policy(job),
            player.chat,
            config,
            max_new_tokens=ROOM if player.scripted else sampling.max_new_tokens,
            max_length=sampling.max_length if player.counts_tokens else 2 * ROOM,
            open_session=open_session,
            sample=job.sample,
            seed=job.seed(seed),
        )

    return play


def scripted(name: str) -> Player:
    """One of `SCRIPTS`."""
    chat = TextChat()
    return Player(SCRIPTS[name](chat), chat, scripted=True)


@asynccontextmanager
async def open_checkpoint(
    model: Path, sampling: Sampling, config: LamerConfig, *, share: float = 1.0
) -> AsyncIterator[Player]:
    """A checkpoint in Hugging Face form, on a separate vLLM engine in this process.

    Args:
        model: Its folder.
        sampling: Temperature and lengths.
        config: Thinking and context, which its chat template must be fit for.
        share: Share of the device's memory that the engine may take, where several are open.

    Raises:
        TemplateError: Its chat template won't do.
    """
    if not cpu.cuda_available():
        cpu.enter_driver()
    # The engine serves this process only, so there is no usage to report.
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    chat = load_chat(model, config)
    import vllm

    engine = vllm.AsyncLLMEngine.from_engine_args(
        vllm.AsyncEngineArgs(
            model=str(model),
            dtype="bfloat16",
            max_model_len=sampling.max_length,
            enforce_eager=not cpu.cuda_available(),
            enable_prefix_caching=True,
            # vLLM rewinds the seed of a prompt that it has read in part, which no CPU generator can do.
            enable_chunked_prefill=None if cpu.cuda_available() else False,
            gpu_memory_utilization=share * (0.9 if cpu.cuda_available() else 0.3),
        )
    )
    params = vllm.SamplingParams(temperature=sampling.temperature, top_p=sampling.top_p, skip_special_tokens=False)
    try:
        yield Player(EnginePolicy(_Engine(engine), params, seeded=True), chat)
    finally:
        engine.shutdown()


@asynccontextmanager
async def open_server(
    server: Server, sampling: Sampling, config: LamerConfig, tokenizer: Path | None
) -> AsyncIterator[Player]:
    """A model behind a server, asked by token ids if its tokenizer's folder is given, else by chat messages.

    Raises:
        TemplateError: The tokenizer's chat template won't do.
        EngineGoneError: The server does not answer, or has no such model.
    """
    chat = TextChat(thinking=config.thinking) if tokenizer is None else load_chat(tokenizer, config)
    async with open_endpoint(
        server,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        token_ids=tokenizer is not None,
        thinking=config.thinking,
    ) as policy:
        yield Player(policy, chat)


def load_chat(folder: Path, config: LamerConfig) -> Chat:
    """The chat of a model's tokenizer; raises `TemplateError` where it won't do for the configuration."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return Chat(tokenizer, thinking=config.thinking, context=config.context)


class _Engine:
    """A vLLM engine with the one method that a policy needs."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    async def generate(self, prompt_token_ids: list[int], sampling_params: Any) -> Any:
        from vllm.v1.engine.exceptions import EngineDeadError

        result = None
        try:
            async for output in self._engine.generate(
                {"prompt_token_ids": prompt_token_ids}, sampling_params, request_id=uuid4().hex
            ):
                result = output
        except EngineDeadError as error:
            raise EngineGoneError(f"the vLLM engine died: {error}") from error
        return result
