"""Lag of the event loop while many trials play at once, and the time of each stage of a turn.

    python benchmarks/loop.py [--env NAME ...] [--trials N] [--tasks N]

The engine is a stand-in that answers after 10 to 50 milliseconds, so that all trials ask at once and only our own code
is measured. Its replies were recorded from a random player, with a thought before each action, and carry
log-probabilities as vLLM's do. Cheap environments are played in threads, slow ones by Ray workers. Lag is how late a
timer of one millisecond fires, including the wait for the interpreter while other threads hold it.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
from common import Talker, answer, grid, show

from openrlhf_lamer import envs, trial
from openrlhf_lamer.agents import load_agent
from openrlhf_lamer.agents.base import Agent
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.envs import session
from openrlhf_lamer.envs.base import TextEnv
from openrlhf_lamer.envs.session import Session
from openrlhf_lamer.integration.rollout.pool import Pool, PooledSession
from openrlhf_lamer.policies.engine import EnginePolicy
from openrlhf_lamer.records import Trial
from openrlhf_lamer.trial import run_trial
from openrlhf_lamer.warmstart.model import build_tokenizer

LIMITS: dict[str, Any] = {"max_new_tokens": 1024, "max_length": 1 << 17}
ON_WORKERS = ("alfworld", "webshop")
WORKERS, REPLY = 4, 110
"""Processes for slow environments; tokens of a reply."""
STAGES = (
    (Agent, "_render", "render"),
    (Chat, "_render", "chat template"),
    (Chat, "encode", "tokenise"),
    (Chat, "clean", "clean"),
    (Chat, "decode", "decode"),
    (trial, "parse_tag", "parse"),
    (session, "begin", "reset"),
    (session, "play", "step"),
    (PooledSession, "reset", "reset by a worker"),
    (PooledSession, "step", "step by a worker"),
)
"""Functions and coroutines that are timed, and what the tables call them."""
PARAMS = SimpleNamespace(max_tokens=1024, min_tokens=1, logprobs=1)


class Recorded:
    """An engine that gives a trial's recorded replies again, after a while."""

    def __init__(self, record: Trial, rng: random.Random) -> None:
        self._replies = iter([turn.sampled_ids for turn in record.turns])
        self._rng = rng

    async def generate(self, prompt_token_ids: list[int], sampling_params: Any) -> Any:
        """The next reply, in vLLM's form."""
        await asyncio.sleep(self._rng.uniform(0.010, 0.050))
        ids = list(next(self._replies))
        return answer(ids, [{token: SimpleNamespace(logprob=-0.5)} for token in ids])


@dataclass
class Measured:
    """Played trials, total seconds, and milliseconds of lag and of each stage."""

    trials: list[Trial] = field(default_factory=list)
    seconds: float = 0.0
    lags: list[float] = field(default_factory=list)
    stages: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    async def watch(self) -> None:
        """Note the lag of a timer, over and over."""
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            self.lags.append(1e3 * (time.perf_counter() - began) - 1)

    def timed(self, function: Callable[..., Any], stage: str) -> Callable[..., Any]:
        """The function or coroutine, with the time of each call noted."""

        def note(began: float) -> None:
            self.stages[stage].append(1e3 * (time.perf_counter() - began))

        async def awaited(began: float, answer: Any) -> Any:
            try:
                return await answer
            finally:
                note(began)

        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            answer = function(*args, **kwargs)
            if asyncio.iscoroutine(answer):
                return awaited(began, answer)
            note(began)
            return answer

        return call


async def measure(env: str, chat: Chat, trials: int, tasks: int) -> Measured:
    """Play `trials` trials of `env` at once, on `tasks` tasks."""
    agent, _ = load_agent(f"openrlhf_lamer.agents.{env}")
    config, measured, pool = LamerConfig(), Measured(), Pool(WORKERS, 60.0)
    on = envs.lookup(env).tasks("train", tasks)
    records = [
        await run_trial(task, agent, Talker(chat, i, REPLY), chat, config, **LIMITS) for i, task in enumerate(on)
    ]
    assert all(record.failure is None for record in records), [record.failure for record in records]

    async def on_a_worker(make: partial[TextEnv]) -> Session:
        return PooledSession(pool, make)  # even for a small shop: the full one plays on a worker

    async def play(number: int) -> Trial:
        policy = EnginePolicy(Recorded(records[number % tasks], random.Random(number)), PARAMS)
        opened = on_a_worker if env in ON_WORKERS else pool.open
        return await run_trial(on[number % tasks], agent, policy, chat, config, open_session=opened, **LIMITS)

    gc.collect()
    gc.freeze()  # as the executor does
    with ExitStack() as stack:
        for owner, name, stage in STAGES:
            stack.enter_context(patch.object(owner, name, measured.timed(getattr(owner, name), stage)))
        watching = asyncio.create_task(measured.watch())
        began = time.perf_counter()
        measured.trials = await asyncio.gather(*map(play, range(trials)))
        measured.seconds = time.perf_counter() - began
        watching.cancel()
    for number, each in enumerate(measured.trials):
        assert each.failure is None, each.failure
        assert [u.prompt_ids for u in each.turns] == [u.prompt_ids for u in records[number % tasks].turns]
    return measured


def spread(times: list[float], form: str) -> list[str]:
    """Median, 99th percentile and maximum."""
    return [form.format(figure) for figure in np.quantile(times, [0.5, 0.99, 1])]


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", nargs="+", default=["sokoban", "minesweeper", "alfworld", "webshop"])
    parser.add_argument("--trials", type=int, default=512, help="that play at once")
    parser.add_argument("--tasks", type=int, default=32, help="that they play")
    args = parser.parse_args()
    docs = sorted((Path(__file__).parent.parent / "docs").rglob("*.md"))
    chat = Chat(build_tokenizer([file.read_text("utf-8") for file in docs], 30_000, LIMITS["max_length"]))
    if set(args.env) & set(ON_WORKERS):
        import ray

        ray.init(include_dashboard=False, configure_logging=False)
    headings = ("environment", "played", "trials/s", "turns/s", "lag p50 ms", "p99", "max")
    table = grid(f"{args.trials} trials at once", *headings, left=("played",))
    for env in args.env:
        measured = asyncio.run(measure(env, chat, args.trials, args.tasks))
        turns = [turn for each in measured.trials for turn in each.turns]
        prompts = sum(len(turn.prompt_ids) for turn in turns) / len(turns)
        title = f"{env}: {prompts:,.0f} tokens a prompt, times in ms"
        stages = grid(title, "stage", "calls", "p50", "p99", "max", "of the time")
        for stage, times in measured.stages.items():
            share = "" if "worker" in stage else f"{sum(times) / 1e3 / measured.seconds:.1%}"
            stages.add_row(stage, f"{len(times):,}", *spread(times, "{:.3f}"), share)
        show(stages)
        rates = (f"{len(played) / measured.seconds:,.1f}" for played in (measured.trials, turns))
        where = "by workers" if env in ON_WORKERS else "in threads"
        table.add_row(env, where, *rates, *spread(measured.lags, "{:.2f}"))
    show(table)


if __name__ == "__main__":
    main()
