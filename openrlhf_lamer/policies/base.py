"""Contract between the trial loop and the source of its replies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from openrlhf_lamer import LamerError
from openrlhf_lamer.envs.base import TextEnv
from openrlhf_lamer.records import Phase


class EngineError(LamerError, RuntimeError):
    """Generation failed; the trial is restarted or masked."""

    exit_code = 1


class EngineGoneError(LamerError):
    """No trial can get replies any more: the run must stop, and no trial is at fault."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Request:
    """One reply that the trial loop asks for.

    Engines read only `prompt_ids`, `max_tokens` and `seed`, which makes sampling repeatable. `phase`, `episode` (its
    index, which a reflection shares with the episode it looks back at) and `env` are for players that act
    on the state and don't read the prompt, such as scripts; `env` is None where the environment runs in
    another process.
    """

    prompt_ids: tuple[int, ...]
    max_tokens: int
    phase: Phase
    env: TextEnv | None
    seed: int | None = None
    episode: int = 0


@dataclass(frozen=True, slots=True)
class Generation:
    """A reply: the sampled ids, their log-probabilities if known, and whether the token limit cut it."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...] | None
    truncated: bool


class Policy(Protocol):
    """Anything that answers requests, even from many trials at once."""

    async def generate(self, request: Request) -> Generation:
        """Reply to a request. Raises `EngineError` where it cannot, `EngineGoneError` where no request can be met."""
        ...
