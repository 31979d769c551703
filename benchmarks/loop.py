"""How free the event loop stays while many trials play at once, and what each stage of a turn takes.

    python benchmarks/loop.py [--env NAME ...] [--trials N] [--tokenizer FOLDER]

The engine is a stand-in that answers after 10 to 50 milliseconds, so that as many trials as there are ask at once and
what is measured is all ours. Its replies were recorded from a random player, with a thought before each action, and
carry log-probabilities as vLLM's do. Cheap environments are played in threads, slow ones by Ray workers. Lag is how
much too late a timer of one millisecond fires, the wait for the interpreter that other threads hold included; what
computes on the loop itself for longer than 5 ms is named.
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

from rich.console import Console
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

SLOW_MS = 5.0
THOUGHT = "The state shows what is known so far, and what the last turn changed. I compare what could be done next. "
LIMITS: dict[str, Any] = {"max_new_tokens": 1024, "max_length": 1 << 17}
ON_WORKERS = ("alfworld", "webshop")
PARAMS = SimpleNamespace(max_tokens=1024, min_tokens=1, logprobs=1)


class Talker(RandomPolicy):
    """Makes random moves after some thought."""

    def act(self, env: TextEnv) -> str:
        """A thought and an action."""
        return THOUGHT * self._rng.randint(1, 8) + super().act(env)


class Recorded:
    """An engine that gives a trial's replies once more, after a while."""

    def __init__(self, record: Trial, rng: random.Random) -> None:
        self._replies = iter([turn.sampled_ids for turn in record.turns])
        self._rng = rng

    async def generate(self, prompt_token_ids: list[int], sampling_params: Any) -> Any:
        """The next reply, in vLLM's form."""
        await asyncio.sleep(self._rng.uniform(0.010, 0.050))
        ids = list(next(self._replies))
        logprobs = [{token: SimpleNamespace(logprob=-0.5)} for token in ids]
        return SimpleNamespace(outputs=[SimpleNamespace(token_ids=ids, logprobs=logprobs, finish_reason="stop")])


@dataclass
class Measured:
    """Times in milliseconds, by what took them."""

    lags: list[float] = field(default_factory=list)
    stages: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    slow: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
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
    def callbacks(self) -> Iterator[None]:
        """Note by name what computes on the event loop for too long; waiting for other threads does not count."""
        handles: Any = asyncio.Handle
        run = handles._run

        def timed(handle: Any) -> None:
            began = time.thread_time()
            run(handle)
            took = 1e3 * (time.thread_time() - began)
            if took > SLOW_MS:
                self.slow[_name(handle._callback)].append(took)

        handles._run = timed
        try:
            yield
        finally:
            handles._run = run

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


def _name(callback: Any) -> str:
    """What an event loop's callback went on with: where its coroutine waits now, if it is one's step."""
    coroutine: Any = getattr(getattr(callback, "__self__", None), "get_coro", lambda: None)()
    while getattr(getattr(coroutine, "cr_await", None), "cr_code", None) is not None:
        coroutine = coroutine.cr_await
    return getattr(coroutine or callback, "__qualname__", repr(callback))


def measure(env: str, chat: Chat, trials: int, tasks: int, workers: int) -> Measured:
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
        pool = Pool(workers, 60.0)

        async def on_a_worker(make: partial[TextEnv]) -> Session:
            return PooledSession(pool, make)  # a small shop too, as the whole one is

        gc.collect()
        gc.freeze()  # as the executor does
        with ExitStack() as stack:
            for owner, name, stage in stages:
                stack.enter_context(measured.timing(owner, name, stage))
            stack.enter_context(measured.callbacks())
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


def show(env: str, measured: Measured) -> None:
    """Print the stages of one environment's turns."""
    table = Table(title=f"{env}: {measured.tokens / measured.turns:,.0f} tokens a prompt, times in ms")
    for heading in ("stage", "calls", "p50", "p99", "max", "of the time"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    for stage, times in measured.stages.items():
        share = sum(times) / 1e3 / measured.seconds
        of_all = "" if "worker" in stage else f"{share:.1%}"
        table.add_row(stage, f"{len(times):,}", *_spread(times, "{:.3f}"), of_all)
    console = Console()
    console.print(table)
    for name, times in measured.slow.items():
        console.print(f"over {SLOW_MS:g} ms on the loop: {name}, {len(times)} times, at most {max(times):.1f} ms")


def _spread(times: list[float], form: str) -> list[str]:
    cuts = quantiles(times, n=100, method="inclusive") if len(times) > 1 else times * 99
    return [form.format(figure) for figure in (cuts[49], cuts[98], max(times))]


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", nargs="+", default=["sokoban", "minesweeper", "alfworld", "webshop"])
    parser.add_argument("--trials", type=int, default=512, help="that play at once")
    parser.add_argument("--tasks", type=int, default=32, help="that they play")
    parser.add_argument("--workers", type=int, default=4, help="for slow environments")
    parser.add_argument("--tokenizer", help="folder of a Hugging Face tokenizer; by default one is made of our prompts")
    args = parser.parse_args()
    if args.tokenizer:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    else:
        docs = sorted((Path(__file__).parent.parent / "docs").rglob("*.md"))
        tokenizer = build_tokenizer([file.read_text("utf-8") for file in docs], 30_000, LIMITS["max_length"])
    if set(args.env) & set(ON_WORKERS):
        import ray

        ray.init(include_dashboard=False, configure_logging=False)
    chat = Chat(tokenizer)
    table = Table(title=f"{args.trials} trials at once")
    for heading in ("environment", "played", "trials/s", "turns/s", "lag p50 ms", "p99", "max"):
        table.add_column(heading, justify="left" if heading in ("environment", "played") else "right")
    for env in args.env:
        measured = measure(env, chat, args.trials, args.tasks, args.workers)
        show(env, measured)
        rates = (f"{number / measured.seconds:,.1f}" for number in (measured.trials, measured.turns))
        where = "by workers" if env in ON_WORKERS else "in threads"
        table.add_row(env, where, *rates, *_spread(measured.lags, "{:.2f}"))
    Console().print(table)


if __name__ == "__main__":
    main()
