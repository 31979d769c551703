"""Calls off the event loop: how they delay each other, and the cost of one that never returns."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from stand_ins import played_at_once

from openrlhf_lamer import envs
from openrlhf_lamer.agents import Agent
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.envs import registry
from openrlhf_lamer.envs.minesweeper import MineSweeper
from openrlhf_lamer.envs.session import OpenSession, ThreadedSession, open_inline
from openrlhf_lamer.offload import PATIENCE, Offload, OverdueError
from openrlhf_lamer.policies.scripted import RandomPolicy
from openrlhf_lamer.records import FailureKind, Task, Trial

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def stuck() -> Iterator[Callable[[], None]]:
    """A call that does not end before the test does."""
    over = threading.Event()

    def wait() -> None:
        over.wait(50)

    yield wait
    over.set()


def test_a_call_answers_or_raises_in_another_thread() -> None:
    off_loop = Offload()

    def fail(error: BaseException) -> None:
        raise error

    async def play() -> None:
        assert await off_loop(threading.current_thread, 9) is not threading.current_thread()
        with pytest.raises(ArithmeticError, match="two and two"):
            await off_loop(lambda: fail(ArithmeticError("two and two is five")), 9)
        for error in (SystemExit(3), StopIteration(), KeyboardInterrupt(), asyncio.CancelledError()):
            with pytest.raises(RuntimeError):
                await off_loop(lambda error=error: fail(error), 9)
        assert await off_loop(lambda: 5, 9) == 5

    asyncio.run(play())
    asyncio.run(play())  # another loop finds the same threads


def test_calls_are_made_one_after_the_other_in_their_order() -> None:
    off_loop = Offload()
    made: list[int] = []
    running: list[int] = []

    def call(number: int) -> None:
        running.append(number)
        time.sleep(0.001)
        assert running == [number]
        running.remove(number)
        made.append(number)

    async def play() -> None:
        await asyncio.gather(*(off_loop(lambda number=number: call(number), 9) for number in range(50)))

    asyncio.run(play())
    assert made == list(range(50))


def test_a_call_that_hangs_is_given_up_and_holds_up_no_other(stuck: Callable[[], None]) -> None:
    off_loop = Offload()

    async def play() -> None:
        hung = [asyncio.create_task(off_loop(stuck, 0.6)) for _ in range(3)]
        began = time.monotonic()
        await asyncio.gather(*(off_loop(lambda: time.sleep(0.001), 0.5) for _ in range(20)))
        assert time.monotonic() - began < 0.5
        assert not any(task.done() for task in hung)
        for task in hung:
            with pytest.raises(OverdueError, match=r"no answer within 0.6 s"):
                await task

    asyncio.run(play())


def test_a_call_that_nobody_waits_for_holds_up_no_other(stuck: Callable[[], None]) -> None:
    off_loop = Offload()
    made: list[int] = []

    async def play() -> None:
        hung = asyncio.create_task(off_loop(stuck, 60))
        await asyncio.sleep(0.01)
        waiting = asyncio.create_task(off_loop(lambda: made.append(1), 60))
        await asyncio.sleep(0)
        hung.cancel()
        waiting.cancel()
        await off_loop(lambda: made.append(2), 60)

    asyncio.run(play())
    assert made == [2]


def test_waiting_for_others_takes_no_part_in_the_time_limit() -> None:
    off_loop = Offload()

    async def play() -> list[None]:
        return await asyncio.gather(*(off_loop(lambda: time.sleep(PATIENCE / 2), 4 * PATIENCE) for _ in range(30)))

    assert asyncio.run(play()) == [None] * 30, "no call ran out of time"


def test_threads_do_not_pile_up(stuck: Callable[[], None]) -> None:
    off_loop = Offload()

    async def play() -> None:
        await asyncio.gather(*(off_loop(lambda: time.sleep(1.5 * PATIENCE), 9) for _ in range(8)))
        await asyncio.gather(*(off_loop(lambda: None, 9) for _ in range(8)))

    before = threading.active_count()
    asyncio.run(play())
    until = time.monotonic() + 10
    while threading.active_count() > before + 1 and time.monotonic() < until:
        time.sleep(0.01)
    assert threading.active_count() <= before + 1


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes a given number of thread starts fail, as if the system had no more threads."""
    start = threading.Thread.start
    failing = 0

    def limited(self: threading.Thread) -> None:
        nonlocal failing
        if self.name == "lamer-offload" and failing:
            failing -= 1
            raise RuntimeError("can't start new thread")
        start(self)

    def fail(times: int) -> None:
        nonlocal failing
        failing = times

    monkeypatch.setattr(threading.Thread, "start", limited)
    return fail


def test_a_first_thread_that_cannot_be_started_fails_its_call_and_no_later_one(
    no_threads: Callable[[int], None], stuck: Callable[[], None]
) -> None:
    off_loop = Offload()
    made: list[int] = []
    no_threads(1)

    async def play() -> None:
        with pytest.raises(RuntimeError, match="can't start new thread"):
            await off_loop(lambda: made.append(1), 9)
        assert await off_loop(lambda: 5, 9) == 5
        with pytest.raises(OverdueError):
            await off_loop(stuck, 0.2)
        assert await off_loop(lambda: 6, 9) == 6

    asyncio.run(asyncio.wait_for(play(), 9))
    assert made == [], "a call that was told it failed is not made afterwards"


def test_a_thread_that_cannot_be_replaced_at_once_is_replaced_later(
    no_threads: Callable[[int], None], stuck: Callable[[], None]
) -> None:
    off_loop = Offload()

    async def play() -> None:
        assert await off_loop(lambda: 5, 9) == 5
        no_threads(4)
        hung = asyncio.create_task(off_loop(stuck, 1.5))
        began = time.monotonic()
        assert await asyncio.gather(*(off_loop(lambda: 6, 1.0) for _ in range(3))) == [6, 6, 6]
        assert 2 * PATIENCE < time.monotonic() - began < 1
        with pytest.raises(OverdueError):
            await hung

    asyncio.run(asyncio.wait_for(play(), 9))


def test_calls_that_no_thread_can_be_started_for_are_given_up_in_time(
    no_threads: Callable[[int], None], stuck: Callable[[], None]
) -> None:
    off_loop = Offload()
    made: list[int] = []

    async def play() -> None:
        assert await off_loop(lambda: 5, 9) == 5
        no_threads(1_000_000)
        hung = asyncio.create_task(off_loop(stuck, 0.3))
        await asyncio.sleep(0)
        began = time.monotonic()
        with pytest.raises(OverdueError, match=r"no answer within 0.4 s"):
            await off_loop(lambda: made.append(1), 0.4)
        assert time.monotonic() - began < 1
        with pytest.raises(OverdueError, match=r"no answer within 0.3 s"):
            await hung
        no_threads(0)
        assert await off_loop(lambda: 6, 9) == 6

    asyncio.run(asyncio.wait_for(play(), 9))
    assert made == []


def test_a_hanging_call_does_not_keep_the_process_from_ending() -> None:
    code = """
import asyncio, time
from openrlhf_lamer.offload import OverdueError, off_loop
try:
    asyncio.run(off_loop(lambda: time.sleep(600), 0.1))
except OverdueError:
    print("given up")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "given up\n"


class Hanging(MineSweeper):
    """MineSweeper that hangs where it is told to, on the first board alone."""

    where: str = ""
    hang: Any = staticmethod(lambda: None)

    def __init__(self, **options: Any) -> None:
        self._hang("make")
        super().__init__(**options)

    @property
    def facts(self) -> dict[str, Any]:
        return {"size": self.size, "mines": self.mines}

    def reset(self, task: Task) -> envs.Observation:
        self.hangs = task.seed == 0
        self._hang("reset")
        return super().reset(task)

    def step(self, action: str) -> envs.Step:
        self._hang("step")
        return super().step(action)

    def anchor(self) -> str:
        self._hang("anchor")
        return super().anchor()

    def close(self) -> None:
        self._hang("close")

    def _hang(self, where: str) -> None:
        if type(self).where == where and getattr(self, "hangs", True):
            type(self).hang()


@pytest.fixture
def trials(chat: Chat, minesweeper: Agent) -> Iterator[Callable[..., list[Trial]]]:
    """Plays a trial on each of six boards, all at once."""

    def play(open_session: OpenSession, agent: Agent = minesweeper, **config: Any) -> list[Trial]:
        given = LamerConfig(**{"max_turns": 3, "retries": 0, **config})
        tasks = [Task("minesweeper", seed=seed) for seed in range(6)]
        found = played_at_once(tasks, agent, lambda task: RandomPolicy(chat, task.seed or 0), chat, given, open_session)
        return [replace(trial, environment_seconds=0.0, generation_seconds=0.0) for trial in found]

    with registry.scoped(minesweeper=Hanging):
        yield play


async def threaded(make: Any, seconds: float = 0.5) -> ThreadedSession:
    return ThreadedSession(make(), seconds)


@pytest.mark.parametrize("where", ["reset", "step", "anchor", "close"])
def test_an_environment_that_hangs_costs_its_own_trial(
    trials: Callable[..., list[Trial]], stuck: Callable[[], None], where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trials(open_inline)
    assert all(trial.failure is None for trial in whole)
    monkeypatch.setattr(Hanging, "where", where)
    monkeypatch.setattr(Hanging, "hang", staticmethod(stuck))
    began = time.monotonic()
    first, *others = trials(threaded)
    assert time.monotonic() - began < 10
    assert others == whole[1:]
    if where == "close":  # a trial that is over stays as it was
        assert first == whole[0]
    else:
        assert first.failure is not None
        assert first.failure.kind is FailureKind.ENVIRONMENT_TIMEOUT
        assert first.failure.stage == ("step" if where == "step" else "reset")
        assert "no answer within 0.5 s" in first.failure.message


def test_an_environment_that_hangs_while_it_is_made_or_at_every_try_is_a_failure(
    trials: Callable[..., list[Trial]], stuck: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    from openrlhf_lamer.integration.rollout.pool import Pool

    monkeypatch.setattr(Hanging, "where", "make")
    monkeypatch.setattr(Hanging, "hang", staticmethod(stuck))
    for trial in trials(Pool(1, 0.3).open, retries=1):
        assert trial.failure is not None
        assert (trial.failure.kind, trial.failure.stage) == (FailureKind.ENVIRONMENT_TIMEOUT, "make")
        assert trial.retries == 1


def test_a_template_that_hangs_or_raises_is_a_failure_of_its_prompt(
    trials: Callable[..., list[Trial]], minesweeper: Agent, stuck: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trials(threaded)
    message = Agent.play_message
    breaks: Callable[[], object] = stuck

    def broken(self: Agent, **values: Any) -> str:
        if values["initial"].text == whole[0].episodes[0].turns[0].observation and values["turns"]:
            breaks()
        return message(self, **values)

    monkeypatch.setattr(Agent, "play_message", broken)
    hung, raised = FailureKind.PROMPT_TIMEOUT, FailureKind.PROMPT
    for breaks, kind, said in (  # noqa: B007
        (stuck, hung, "no answer within 0.5 s"),
        (lambda: 1 // 0, raised, "ZeroDivisionError"),
    ):
        first, *others = trials(threaded, env_timeout=0.5)
        assert others == whole[1:]
        assert first.failure is not None
        assert (first.failure.kind, first.failure.stage) == (kind, "render")
        assert said in first.failure.message
