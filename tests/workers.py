"""Stand-ins and fixtures of the pool's tests: a slow environment that breaks as told, players, and a Ray cluster."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stand_ins import played_at_once

from openrlhf_lamer.agents import Agent, load_agent
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.envs import registry
from openrlhf_lamer.envs.base import Observation, Step
from openrlhf_lamer.envs.session import OpenSession
from openrlhf_lamer.envs.sokoban.env import Sokoban
from openrlhf_lamer.policies import Generation, Request
from openrlhf_lamer.records import Task, Trial
from openrlhf_lamer.vocabulary import RewardScheme

ray = pytest.importorskip("ray")


class SlowSokoban(Sokoban):
    """Sokoban that leaves a log of who played what, and breaks in a given way at a given action or reset.

    Options:
        log: Folder with a file per worker, and in it a line per reset with the node.
        breaks: "die", "hang" or "raise", after the call that does it: "step:die".
        times: How often it breaks, over all processes.
    """

    slow = True

    def __init__(self, log: str, breaks: str = "", times: int = 0, reward: RewardScheme = "sparse") -> None:
        super().__init__(reward=reward)
        self.slow = True
        self.log, self.breaks, self.times = log, breaks, times

    @property
    def facts(self) -> dict[str, Any]:
        return {"moves_per_turn": self.moves_per_turn, "max_moves": self.max_moves}

    def reset(self, task: Task) -> Observation:
        with (Path(self.log) / f"{os.getpid()}.resets").open("a") as file:
            file.write(f"{ray.get_runtime_context().get_node_id()} {task.seed}\n")
        self._break("reset")
        return super().reset(task)

    def step(self, action: str) -> Step:
        self._break("step")
        return super().step(action)

    def anchor(self) -> str:
        self._break("anchor")
        return super().anchor()

    def _break(self, where: str) -> None:
        at, _, how = self.breaks.partition(":")
        broken = Path(self.log) / "broken"
        if at != where or (broken.exists() and len(broken.read_text()) >= self.times):
            return
        with broken.open("a") as file:
            file.write("x")
        if how == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif how == "hang":
            time.sleep(600)
        raise ArithmeticError("two and two is five")


class Hashed:
    """A player whose replies follow from the prompt alone, as a model's do at temperature 0."""

    def __init__(self, chat: Chat, pause: float = 0.0) -> None:
        self._chat, self._pause = chat, pause

    async def generate(self, request: Request) -> Generation:
        await asyncio.sleep(self._pause)
        rng = random.Random(",".join(map(str, request.prompt_ids)))
        moves = ", ".join(rng.choice(("up", "down", "left", "right")) for _ in range(rng.randint(1, 3)))
        text = f"<action>{moves}</action>" if rng.random() < 0.9 else "I give up."
        if request.phase.value == "reflect":
            text = f"<remark>Not {moves}.</remark>"
        return Generation(self._chat.encode(text) + self._chat.end_of_reply, None, truncated=False)


class Again:
    """Gives the replies of a trial once more."""

    def __init__(self, trial: Trial) -> None:
        self._turns = iter(trial.turns)

    async def generate(self, request: Request) -> Generation:
        return Generation(tuple(next(self._turns).sampled_ids), None, truncated=False)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Ray on one node, with a folder of its own, so that nothing else on this machine joins it."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        patch.setenv("RAY_health_check_period_ms", "1000")
        patch.setenv("RAY_health_check_failure_threshold", "3")
        patch.delenv("RAY_ADDRESS", raising=False)
        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
        ray.init(address=nodes.address, log_to_driver=False)
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        yield nodes
        ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
        ray.shutdown()
        nodes.shutdown()


@pytest.fixture
def slow_sokoban() -> Iterator[None]:
    """SlowSokoban in Sokoban's place, in this process: workers are given the class itself."""
    with registry.scoped(sokoban=SlowSokoban):
        yield


@pytest.fixture
def agent() -> Agent:
    return replace(load_agent("openrlhf_lamer.agents.sokoban")[0], max_turns=4)


@pytest.fixture
def run(cluster: Any, chat: Chat, agent: Agent, tmp_path: Path) -> Callable[..., list[Trial]]:
    """Plays a trial on each seed, all at once."""

    def play(
        open_session: OpenSession, seeds: range = range(1), *, pause: float = 0.0, retries: int = 1, **options: Any
    ) -> list[Trial]:
        config = LamerConfig(env_options={"log": str(tmp_path), **options}, retries=retries)
        tasks = [Task("sokoban", seed=seed) for seed in seeds]
        return played_at_once(tasks, agent, lambda _: Hashed(chat, pause), chat, config, open_session)

    return play


def resets(log: Path) -> dict[int, list[str]]:
    """For each worker's process, its resets: node and seed."""
    return {int(path.stem): path.read_text().splitlines() for path in log.glob("*.resets")}


def transcript(trial: Trial) -> Trial:
    """A trial without what differs from run to run."""
    return replace(trial, environment_seconds=0.0, generation_seconds=0.0)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def all_end(pids: list[int], seconds: float = 20.0) -> bool:
    until = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.1)
    return not any(map(alive, pids))
