"""The contract between the trial loop and what generates its replies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from openrlhf_lamer import LamerError
from openrlhf_lamer.envs.base import TextEnv
from openrlhf_lamer.records import Phase


class EngineError(LamerError, RuntimeError):
    """Generation failed; the trial is begun anew or masked."""

    exit_code = 1


class EngineGoneError(LamerError):
    """Nothing will be generated any more, for this trial or another: the run is to stop, by no fault of a trial."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Request:
    """One reply that the trial loop asks for.

    Engines look at `prompt_ids`, `max_tokens` and `seed`, what sampling may be repeated by, alone.
    `phase`, `episode` (its index, which a reflection shares with the episode it looks back at) and `env` are
    for players that do not read the prompt, such as scripts, which act on the state instead; `env` is None
    where the environment lives in another process.
    """

    prompt_ids: tuple[int, ...]
    max_tokens: int
    phase: Phase
    env: TextEnv | None
    seed: int | None = None
    episode: int = 0


@dataclass(frozen=True, slots=True)
class Generation:
    """A reply: the ids as sampled, their log-probabilities if known, and whether the limit cut it."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...] | None
    truncated: bool


class Policy(Protocol):
    """Anything that answers a request; it may be asked by many trials at once."""

    async def generate(self, request: Request) -> Generation:
        """Reply to a request. Raises `EngineError` where it cannot, `EngineGoneError` where no request can be met."""
        ...
