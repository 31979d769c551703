"""The Ray cluster that a command joins: the one that Ray itself would, if it is there and large enough."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
from commands import command

from openrlhf_lamer.config import ConfigError

pytest.importorskip("openrlhf")

from openrlhf_lamer.integration import cluster
from openrlhf_lamer.integration.cluster import Cluster, Node
from openrlhf_lamer.integration.launch import launcher


@pytest.fixture
def last_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which `ray start` leaves its address; it does not exist yet."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp" / "ray").mkdir(parents=True)
    return tmp_path / "tmp" / "ray" / "ray_current_cluster"


def test_the_address_is_the_one_that_ray_would_take(last_started: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cluster.find() is None
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        last_started.write_text(f"{address}\n")
        for given in ("", "auto", address):
            monkeypatch.setenv("RAY_ADDRESS", given)
            assert cluster.find() == address
        monkeypatch.setenv("RAY_ADDRESS", "local")
        assert cluster.find() is None


@pytest.mark.parametrize(
    ("given", "last", "message"),
    [
        ("127.0.0.1:1", "", "RAY_ADDRESS=127.0.0.1:1: no Ray there .*`ray start --head`, or unset RAY_ADDRESS"),
        ("[::1]:1", "", r"RAY_ADDRESS=\[::1\]:1: no Ray there"),
        ("", "127.0.0.1:1", "ray_current_cluster: 127.0.0.1:1.* is gone .*`ray stop`"),
        ("auto", "127.0.0.1:1", "ray_current_cluster: 127.0.0.1:1.* is gone"),
        ("auto", "", "RAY_ADDRESS=auto: no Ray was started on this machine"),
        ("ray://head:10001", "", "RAY_ADDRESS=ray://head:10001: .*ray job submit"),
        ("http://head:8265", "", "RAY_ADDRESS=http://head:8265: .*ray job submit"),
    ],
)
def test_a_ray_that_is_not_there_is_named_at_once(
    last_started: Path, monkeypatch: pytest.MonkeyPatch, given: str, last: str, message: str
) -> None:
    last_started.write_text(last)
    monkeypatch.setenv("RAY_ADDRESS", given)
    began = time.monotonic()
    with pytest.raises(ConfigError, match=message):
        cluster.find()
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("mode", [[], ["--lamer.cpu", "off"]])
def test_the_command_leaves_where_ray_has_died(base: list[str], last_started: Path, mode: list[str]) -> None:
    last_started.write_text("127.0.0.1:1")
    result = command([*base, *mode])
    assert result.returncode == 2
    assert "the Ray that was started last on this machine" in result.stderr


def test_a_cluster_that_is_too_small_is_refused(base: list[str]) -> None:
    plan = launcher.prepare([*base, "--actor.num_gpus_per_node", "1", "--vllm.num_engines", "1"])
    assert plan.gpus == 2
    launcher._check_resources(plan, Cluster((Node(2, 0), Node(1, 1), Node(1, 1))))
    with pytest.raises(ConfigError, match=r"ask for 2 GPUs, but Ray has 1 .*\(4 CPUs, 0 GPUs; 1 CPUs, 4 GPUs\)"):
        launcher._check_resources(plan, Cluster((Node(4, 0), Node(1, 4))))
    with pytest.raises(ConfigError, match=r"2 CPUs along .* has 2 \(2 × 1 CPUs, 1 GPUs\): .*--num-cpus"):
        launcher._check_resources(plan, Cluster((Node(1, 1), Node(1, 1))))
