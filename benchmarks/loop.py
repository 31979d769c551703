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
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import quantiles
from types import SimpleNamespace
from typing import Any

from common import THOUGHT, answer, grid, show
from rich.table import Table

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
from openrlhf_lamer.policies.scripted import RandomPolicy
from openrlhf_lamer.quickstart.model import build_tokenizer
from openrlhf_lamer.records import Trial
from openrlhf_lamer.trial import run_trial

LIMITS: dict[str, Any] = {"max_new_tokens": 1024, "max_length": 1 << 17}
ON_WORKERS = ("alfworld", "webshop")
WORKERS = 4
PARAMS = SimpleNamespace(max_tokens=1024, min_tokens=1, logprobs=1)


class Talker(RandomPolicy):
    """Makes random moves after some thought."""

    def act(self, env: TextEnv) -> str:
        """A thought and an action."""
        return THOUGHT * self._rng.randint(1, 8) + super().act(env)


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
    """Times in milliseconds, by what took them."""

    lags: list[float] = field(default_factory=list)
    stages: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    trials: int = 0
    turns: int = 0
    tokens: int = 0
    seconds: float = 0.0

    async def watch(self) -> None:
        """Note the lag of a timer, over and over."""
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            self.lags.append(1e3 * (time.perf_counter() - began) - 1)

    @contextmanager
    def timing(self, owner: Any, name: str, stage: str) -> Iterator[None]:
        """Note the time of each call of a function or coroutine."""
        function: Callable[..., Any] = getattr(owner, name)

        async def awaited(began: float, answer: Any) -> Any:
            try:
                return await answer
            finally:
                self.stages[stage].append(1e3 * (time.perf_counter() - began))

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            answer = function(*args, **kwargs)
            if asyncio.iscoroutine(answer):
                return awaited(began, answer)
            self.stages[stage].append(1e3 * (time.perf_counter() - began))
            return answer

        setattr(owner, name, timed)
        try:
            yield
        finally:
            setattr(owner, name, function)


def measure(env: str, chat: Chat, trials: int, tasks: int) -> Measured:
    """Play `trials` trials of `env` at once, on `tasks` tasks."""
    agent, _ = load_agent(f"openrlhf_lamer.agents.{env}")
    config = LamerConfig()
    measured = Measured()
    stages = (
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

    async def play() -> None:
        on = envs.lookup(env).tasks("train", tasks)
        records = [
            await run_trial(task, agent, Talker(chat, number), chat, config, **LIMITS) for number, task in enumerate(on)
        ]
        assert all(record.failure is None for record in records), [record.failure for record in records]
        pool = Pool(WORKERS, 60.0)

        async def on_a_worker(make: partial[TextEnv]) -> Session:
            return PooledSession(pool, make)  # a small shop too, as the whole one is

        gc.collect()
        gc.freeze()  # as the executor does
        with ExitStack() as stack:
            for owner, name, stage in stages:
                stack.enter_context(measured.timing(owner, name, stage))
            watching = asyncio.create_task(measured.watch())
            began = time.perf_counter()
            played = await asyncio.gather(
                *(
                    run_trial(
                        on[number % tasks],
                        agent,
                        EnginePolicy(Recorded(records[number % tasks], random.Random(number)), PARAMS),
                        chat,
                        config,
                        open_session=on_a_worker if env in ON_WORKERS else pool.open,
                        **LIMITS,
                    )
                    for number in range(trials)
                )
            )
            measured.seconds = time.perf_counter() - began
            watching.cancel()
        for number, each in enumerate(played):
            assert each.failure is None, each.failure
            assert [u.prompt_ids for u in each.turns] == [u.prompt_ids for u in records[number % tasks].turns]
        turns = [turn for each in played for turn in each.turns]
        measured.trials, measured.turns = len(played), len(turns)
        measured.tokens = sum(len(turn.prompt_ids) for turn in turns)

    asyncio.run(play())
    return measured


def stages_table(env: str, measured: Measured) -> Table:
    """The stages of one environment's turns."""
    title = f"{env}: {measured.tokens / measured.turns:,.0f} tokens a prompt, times in ms"
    table = grid(title, "stage", "calls", "p50", "p99", "max", "of the time")
    for stage, times in measured.stages.items():
        share = sum(times) / 1e3 / measured.seconds
        of_all = "" if "worker" in stage else f"{share:.1%}"
        table.add_row(stage, f"{len(times):,}", *_spread(times, "{:.3f}"), of_all)
    return table


def _spread(times: list[float], form: str) -> list[str]:
    cuts = quantiles(times, n=100, method="inclusive") if len(times) > 1 else times * 99
    return [form.format(figure) for figure in (cuts[49], cuts[98], max(times))]


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", nargs="+", default=["sokoban", "minesweeper", "alfworld", "webshop"])
    parser.add_argument("--trials", type=int, default=512, help="that play at once")
    parser.add_argument("--tasks", type=int, default=32, help="that they play")
    args = parser.parse_args()
    docs = sorted((Path(__file__).parent.parent / "docs").rglob("*.md"))
    tokenizer = build_tokenizer([file.read_text("utf-8") for file in docs], 30_000, LIMITS["max_length"])
    if set(args.env) & set(ON_WORKERS):
        import ray

        ray.init(include_dashboard=False, configure_logging=False)
    chat = Chat(tokenizer)
    headings = ("environment", "played", "trials/s", "turns/s", "lag p50 ms", "p99", "max")
    table = grid(f"{args.trials} trials at once", *headings, left=("played",))
    for env in args.env:
        measured = measure(env, chat, args.trials, args.tasks)
        show(stages_table(env, measured))
        rates = (f"{number / measured.seconds:,.1f}" for number in (measured.trials, measured.turns))
        where = "by workers" if env in ON_WORKERS else "in threads"
        table.add_row(env, where, *rates, *_spread(measured.lags, "{:.2f}"))
    show(table)


if __name__ == "__main__":
    main()
