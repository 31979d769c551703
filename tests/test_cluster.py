"""A cluster of several Ray nodes on one machine: who runs where, and what losing a node costs."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.integration import cluster
from openrlhf_lamer.records import Trial
from openrlhf_lamer.tasks import seeded_tasks, write_dataset

for package in ("openrlhf", "vllm", "deepspeed", "ray"):
    pytest.importorskip(package)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]

AGENT = Path(__file__).parent / "data" / "slow_minesweeper.py"
ENV = "slow_minesweeper"
OPTIONS = {"size": 3, "mines": 1}
MODEL = "model.safetensors"
STEPS = 8

LIMIT = 600
"""Seconds that one wait may take: a failure of the host can be a hang."""


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model that speaks the game's format, and tasks for all steps."""

    from openrlhf_lamer.agents import load_agent
    from openrlhf_lamer.chat import Chat
    from openrlhf_lamer.policies.scripted import RandomPolicy
    from openrlhf_lamer.warmstart.demonstrations import Rules, demonstrate
    from openrlhf_lamer.warmstart.imitation import Imitation, imitate
    from openrlhf_lamer.warmstart.model import build_model, build_tokenizer, save

    folder = tmp_path_factory.mktemp("cluster")
    agent = load_agent(str(AGENT))[0]

    def shown(chat: Chat, number: int) -> list[Trial]:
        return demonstrate(
            seeded_tasks(ENV, "train", number, first=1000, options=OPTIONS),
            Rules(agent, LamerConfig(context="turn", max_turns=2, num_episodes=2), 400, 1 << 20),
            chat,
            lambda seed: RandomPolicy(chat, seed),
        )

    crude = Chat(build_tokenizer(["x"], 300, 1 << 20))
    turns = (turn for trial in shown(crude, 10) for turn in trial.turns)
    chat = Chat(build_tokenizer([crude.decode(turn.ids) for turn in turns], 768, 2048))
    model = build_model(chat.tokenizer, hidden=64, layers=2, heads=2, max_length=2048, seed=0)
    imitate(model, shown(chat, 100), Imitation(passes=4, learning_rate=8e-3, prompt_weight=3))
    save(model, chat.tokenizer, folder / "model")
    write_dataset(folder / "train.jsonl", seeded_tasks(ENV, "train", 4 * STEPS, options=OPTIONS))
    return folder


@dataclass
class Nodes:
    """Ray nodes on this machine, and what runs on them."""

    ray: Any
    address: str
    known: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, **resources: float) -> None:
        self.known[name] = self.ray.add_node(object_store_memory=200_000_000, **resources)

    def actors(self) -> list[tuple[str, str, int]]:
        """Class, node and process of every actor that is alive."""
        names = {node.node_id: name for name, node in self.known.items()}
        alive = [each for each in self.ray.global_state.actor_table(None).values() if each["State"] == "ALIVE"]
        at = [(each["ActorClassName"], names.get(each["Address"]["NodeID"]), each["Pid"]) for each in alive]
        return [(kind, node, pid) for kind, node, pid in at if node]

    def of(self, kind: str) -> list[str]:
        """The nodes of all actors whose class is called `kind`."""
        return sorted(node for name, node, _ in self.actors() if name == kind)

    def kill(self, name: str) -> None:
        """Lose a node with all that runs on it, at once."""
        own = [pid for _, node, pid in self.actors() if node == name]
        self.ray.remove_node(self.known.pop(name), allow_graceful=False)
        for pid in own:  # on a lost machine they die with it; here, when they miss Ray's other processes
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    """A head without GPUs, two nodes with a (logical) GPU each, and one for environments."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        ray: Any = Cluster()
        ray.add_node(num_cpus=4, num_gpus=0, include_dashboard=False, object_store_memory=200_000_000)
        nodes = Nodes(ray, ray.address, {"head": ray.head_node})
        nodes.add("first", num_cpus=4, num_gpus=1)
        nodes.add("second", num_cpus=4, num_gpus=1)
        nodes.add("environments", num_cpus=2, num_gpus=0)
        yield nodes
        ray.shutdown()


def command(workshop: Path, folder: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "openrlhf_lamer.cli.train_ppo_ray", "--agent_func", str(AGENT)),
        *("--actor.model_name_or_path", str(workshop / "model")),
        *("--data.prompt_dataset", str(workshop / "train.jsonl"), "--lamer.max_turns", "3"),
        *("--lamer.num_episodes", "2"),
        *("--rollout.batch_size", "4", "--rollout.n_samples_per_prompt", "4", "--rollout.micro_batch_size", "4"),
        *("--train.batch_size", "16", "--train.micro_batch_size", "4", "--rollout.max_new_tokens", "48"),
        *("--data.max_len", "2048", "--algo.advantage.is_correction_level", "token", "--actor.adam.lr", "1e-3"),
        *("--ckpt.output_dir", str(folder / "out"), "--ckpt.path", str(folder / "ckpt")),
        *("--ckpt.save_steps", "1", "--ckpt.load_enable", "--lamer.trials", str(folder / "trials.jsonl")),
    ]


def start(line: list[str], log: Path, **env: str) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(line, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **env})


def statuses(log: Path) -> dict[int, dict[str, float]]:
    """Log of each step, by its number."""
    found = re.findall(r"Global step (\d+): (\{.*?\})\s*$", log.read_text(errors="replace"), re.MULTILINE)
    return {int(step): eval(status, {"nan": math.nan, "inf": math.inf}) for step, status in found}


def wait(until: Callable[[], object], process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until something holds, while the run goes on."""
    began = time.monotonic()
    while not until():
        assert process.poll() is None, log.read_text(errors="replace")[-6000:]
        assert time.monotonic() - began < LIMIT, log.read_text(errors="replace")[-6000:]
        time.sleep(0.1)


def checkpointed(folder: Path) -> int:
    """The last step whose checkpoint is whole."""
    latest = folder / "ckpt" / "_actor" / "latest"
    return int(re.findall(r"\d+", latest.read_text())[-1]) if latest.exists() else 0


def records(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def check(folder: Path, log: Path, steps: range) -> None:
    """Every step in the log is sound: no trial failed, all rows were trained, the engine has the trainer's weights."""
    logged = statuses(log)
    assert sorted(logged) == list(steps)
    found = records(folder / "trials.jsonl")
    for step in steps:
        trials = [Trial.from_json(json.dumps(record)) for record in found if record["step"] == step]
        assert [trial.failure for trial in trials] == [None] * 16
        assert logged[step]["lamer/rows"] == sum(len(trial.turns) for trial in trials)
        assert logged[step]["actor_grad_norm"] > 0
        assert math.isfinite(logged[step]["vllm_kl"])
        if step > steps[0]:
            assert abs(logged[step]["vllm_kl"]) < 1e-2  # a broken weight sync leaves with code 0


def test_training_survives_the_loss_of_environments_and_is_resumed_after_that_of_its_engine(
    workshop: Path, nodes: Nodes, tmp_path: Path
) -> None:
    """Training on the head loses one node, then another; the same command resumes with a new one."""
    from safetensors.torch import load_file

    line, log = command(workshop, tmp_path), tmp_path / "log"
    job = start(line, log, RAY_ADDRESS=nodes.address)
    assert cluster.find() == nodes.address
    offered = cluster.look(nodes.address)
    assert str(offered) == "2 CPUs, 0 GPUs; 4 CPUs, 0 GPUs; 2 × 4 CPUs, 1 GPUs"
    assert not offered.accelerators
    wait(lambda: statuses(log), job, log)

    (engine,), (trainer,) = nodes.of("RolloutRayActor"), nodes.of("PolicyModelActor")
    assert {engine, trainer} == {"first", "second"}
    assert nodes.of("PPOTrainer") == ["head"]
    assert nodes.of("Environments") == ["environments", "first", "head", "second"]

    nodes.kill("environments")
    lost = max(statuses(log))
    wait(lambda: checkpointed(tmp_path) >= lost + 2, job, log)
    assert len(nodes.of("Environments")) >= 3

    nodes.kill(engine)
    began = time.monotonic()
    assert job.wait(LIMIT) == 1
    assert time.monotonic() - began < 60
    said = log.read_text(errors="replace")
    assert re.search(r"error: rollout engine 1 of 1 died .* Start the same command again: it goes on", said)
    done = checkpointed(tmp_path)
    check(tmp_path, log, range(1, max(statuses(log)) + 1))
    played = (tmp_path / "trials.jsonl").rename(tmp_path / "before.jsonl")
    before = {record["task"]["seed"] for record in records(played) if record["step"] <= done}

    nodes.add("third", num_cpus=4, num_gpus=1)
    log = tmp_path / "log of the second run"
    again = start(line, log)
    assert again.wait(LIMIT) == 0, log.read_text(errors="replace")[-6000:]
    check(tmp_path, log, range(done + 1, STEPS + 1))
    after = {record["task"]["seed"] for record in records(tmp_path / "trials.jsonl")}
    assert len(before) == 4 * done
    assert before | after == set(range(4 * STEPS))
    assert not before & after
    first, last = load_file(workshop / "model" / MODEL), load_file(tmp_path / "out" / MODEL)
    assert any(not first[name].equal(last[name]) for name in first)
