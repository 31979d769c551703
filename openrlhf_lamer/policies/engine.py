"""A policy that samples from a vLLM engine, token ids in and token ids out."""

from __future__ import annotations

import math
from copy import copy
from typing import Any, Protocol

from openrlhf_lamer.policies.base import EngineError, Generation, Request


class TokenEngine(Protocol):
    """Generator from token ids: OpenRLHF's rollout actor, or a vLLM engine with the same interface."""

    async def generate(self, prompt_token_ids: list[int], sampling_params: Any) -> Any:
        """vLLM's finished `RequestOutput` for one prompt."""
        ...


class EnginePolicy:
    """Replies sampled by a token engine.

    Args:
        engine: The engine.
        sampling_params: vLLM's sampling parameters. They may be shared between trials: each
            request copies them before it sets its own limit.
        seeded: Sample each reply by the request's own seed, so that it does not depend on the engine's other
            requests. This makes an engine with many requests somewhat slower.
    """

    def __init__(self, engine: TokenEngine, sampling_params: Any, *, seeded: bool = False) -> None:
        self._engine = engine
        self._sampling_params = sampling_params
        self._seeded = seeded

    async def generate(self, request: Request) -> Generation:
        """Sample one reply, with log-probabilities if the parameters ask for them."""
        params = copy(self._sampling_params)
        params.max_tokens = request.max_tokens
        params.min_tokens = min(params.min_tokens or 0, request.max_tokens)
        if self._seeded:
            params.seed = request.seed
        result = await self._engine.generate(list(request.prompt_ids), params)
        if result is None or not result.outputs:
            raise EngineError("the engine returned no reply")
        output = result.outputs[0]
        ids = tuple(int(token) for token in output.token_ids)
        logprobs = None
        if params.logprobs is not None:
            if output.logprobs is None or len(output.logprobs) != len(ids):
                raise EngineError("the engine returned no log-probability for each sampled token")
            logprobs = tuple(
                float(position[token].logprob) for position, token in zip(output.logprobs, ids, strict=True)
            )
            if not all(map(math.isfinite, logprobs)):
                raise EngineError("the engine returned a log-probability that is not finite")
        return Generation(ids, logprobs, truncated=output.finish_reason == "length")
