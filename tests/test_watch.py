"""Engines that die while they are watched: on a real Ray, with actors in the place of engines."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from openrlhf_lamer.integration.launch.watch import EngineWatch
from openrlhf_lamer.integration.rollout.engines import EngineReport

ray = pytest.importorskip("ray")

pytestmark = pytest.mark.timeout(180)

REMEDY = "Start the same command again."


class Engine:
    """An engine, as far as the watch looks at it."""

    def __init__(self, *tasks: str) -> None:
        self.tasks = tasks
        self.dead = False

    async def until_death(self) -> None:
        while not self.dead:  # noqa: ASYNC110  (as the real one)
            await asyncio.sleep(0.1)
        raise RuntimeError("vLLM's engine process died: out of memory")

    async def report(self) -> EngineReport:
        return EngineReport(socket.gethostname(), os.getpid(), self.tasks)

    async def lose(self) -> None:
        self.dead = True

    async def for_ever(self) -> None:
        await asyncio.Event().wait()


class Broken(Engine):
    def __init__(self) -> None:
        raise ValueError("no such model")


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
        ray.init(address=nodes.address, log_to_driver=False)
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        yield
        ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
        ray.shutdown()
        nodes.shutdown()


def engine(*tasks: str, kind: type[Engine] = Engine) -> Any:
    options: dict[str, Any] = {"num_cpus": 0}
    return ray.remote(**options)(kind).remote(*tasks)


@pytest.fixture
def watch() -> Iterator[EngineWatch]:
    made = EngineWatch(REMEDY)
    yield made
    made.stop()
    made.close()


def known(watch: EngineWatch, engines: int) -> None:
    """Wait until the watch has been told once what its engines do."""
    deadline = time.monotonic() + 60
    while len(watch._reports) < engines:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_killed_engine_interrupts_whatever_the_driver_waits_for(watch: EngineWatch) -> None:
    """As in a broadcast of weights: nobody asks the engine, and the answer that is waited for never comes."""
    engines = [engine("minesweeper:seed=3", "minesweeper:seed=3", "minesweeper:seed=5"), engine()]
    watch.begin(engines)
    known(watch, 2)
    pid = ray.get(engines[0].report.remote()).pid
    threading.Timer(1, os.kill, (pid, signal.SIGKILL)).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        ray.get(engines[1].for_ever.remote())
    message = watch.death(0)
    assert time.monotonic() - began < 30
    assert message is not None
    assert f"rollout engine 1 of 2 died (process {pid} on {socket.gethostname()})" in message
    assert "It was playing 3 trials" in message
    assert "2 of minesweeper:seed=3, 1 of minesweeper:seed=5." in message
    assert message.endswith(REMEDY)
    assert len(message.splitlines()) == 1


def test_an_engine_without_its_own_process_is_as_good_as_dead(watch: EngineWatch) -> None:
    (lost,) = engines = [engine()]
    watch.begin(engines)
    known(watch, 1)
    lost.lose.remote()
    with pytest.raises(KeyboardInterrupt):
        ray.get(lost.for_ever.remote())
    message = watch.death(0) or ""
    assert "vLLM's engine process died: out of memory" in message
    assert "It was playing no trial" in message


def test_where_the_host_hears_of_it_first_the_message_is_waited_for_and_nothing_is_interrupted(
    watch: EngineWatch,
) -> None:
    (killed,) = engines = [engine("minesweeper:seed=3")]
    watch.begin(engines)
    known(watch, 1)
    answer = killed.for_ever.remote()
    ray.kill(killed)
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(answer)
    assert "It was playing 1 trials" in (watch.death(30) or "")
    time.sleep(1.5)  # an interruption would come a second after the death


def test_an_engine_that_never_started_is_told_from_one_that_died(watch: EngineWatch) -> None:
    watch.begin([engine(), engine(kind=Broken)])
    message = watch.death(60) or ""
    assert "rollout engine 2 of 2 died before it was up" in message
    assert "no such model" in message


def test_a_run_that_ends_well_has_nothing_to_tell(watch: EngineWatch) -> None:
    watch.begin([engine()])
    known(watch, 1)
    began = time.monotonic()
    watch.stop()
    assert time.monotonic() - began < 10
    assert watch.death(0) is None


def test_before_there_are_engines_nothing_is_waited_for(watch: EngineWatch) -> None:
    began = time.monotonic()
    assert watch.death(60) is None
    assert time.monotonic() - began < 1


def test_a_driver_that_does_not_leave_is_made_to(
    monkeypatch: pytest.MonkeyPatch, capfd: Any, watch: EngineWatch
) -> None:
    codes: list[int] = []
    left = threading.Event()
    monkeypatch.setattr(os, "_exit", lambda code: (codes.append(code), left.set()))
    monkeypatch.setattr(watch._exit, "interval", 0.1)
    engines = [engine("minesweeper:seed=3")]
    watch.begin(engines)
    known(watch, 1)
    watch._asked.set()  # as if the main thread were on its way out, and stuck
    ray.kill(engines[0])
    assert left.wait(60)
    assert codes == [1]
    assert "openrlhf-lamer: error: rollout engine 1 of 1 died" in capfd.readouterr().err
