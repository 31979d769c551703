"""A Ray cluster that is already running, looked at from outside."""

from __future__ import annotations

import logging
import os
import socket
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openrlhf_lamer import LamerError
from openrlhf_lamer.config import ConfigError

START_VARIABLE, START_SECONDS = "RAY_raylet_start_wait_time_s", 30
"""How long Ray waits for its own processes when it starts. It reads the variable when it is imported."""


class StartError(LamerError, RuntimeError):
    """Ray was to be started by this process and did not start; the message says why and what to do."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Node:
    """Resources of one node.

    Attributes:
        cpus: Its CPUs.
        gpus: Its GPUs, logical ones among them.
        accelerators: Whether some of them are real.
    """

    cpus: int
    gpus: int
    accelerators: bool = False

    def __str__(self) -> str:
        return f"{self.cpus} CPUs, {self.gpus} GPUs"


@dataclass(frozen=True, slots=True)
class Cluster:
    """Resources of the live nodes of a Ray cluster."""

    nodes: tuple[Node, ...]

    @property
    def cpus(self) -> int:
        """CPUs of all nodes."""
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> int:
        """GPUs that the host can take: it needs a CPU on the same node for each."""
        return sum(min(node.cpus, node.gpus) for node in self.nodes)

    @property
    def accelerators(self) -> bool:
        """Whether there are real GPUs."""
        return any(node.accelerators for node in self.nodes)

    def __str__(self) -> str:
        kinds = Counter(map(str, sorted(self.nodes, key=lambda node: (node.gpus, node.cpus))))
        return "; ".join(f"{number} × {kind}" if number > 1 else kind for kind, number in kinds.items())


def find() -> str | None:
    """The address of the cluster that `ray.init` is going to join, None where it starts one of its own.

    As in Ray: RAY_ADDRESS, else what was started last on this machine.

    Raises:
        ConfigError: nobody listens there. Ray itself would try for minutes.
    """
    given = os.environ.get("RAY_ADDRESS", "")
    if given == "local":
        return None
    if "://" in given:
        raise ConfigError(
            f"RAY_ADDRESS={given}: training runs on a node of the cluster, and joins it at HOST:6379; "
            "unset RAY_ADDRESS, and from elsewhere use `ray job submit --address http://HEAD:8265`"
        )
    if given not in ("", "auto"):
        _knock(given, f"RAY_ADDRESS={given}: no Ray there", "start one with `ray start --head`, or unset RAY_ADDRESS")
        return given
    file = temporary() / "ray" / "ray_current_cluster"
    address = file.read_text().strip() if file.is_file() else ""
    if address:
        gone = f"the Ray that was started last on this machine ({file}: {address}) is gone"
        _knock(address, gone, "`ray stop` forgets it")
        return address
    if given:
        raise ConfigError("RAY_ADDRESS=auto: no Ray was started on this machine; start one with `ray start --head`")
    return None


def init(address: str, **options: Any) -> None:
    """Start or join Ray.

    Args:
        address: What `find` found, or "local" to start one.
        options: What else `ray.init` takes.

    Raises:
        ConfigError: The Ray at `address` cannot be joined.
        StartError: None could be started.
    """
    import ray

    try:
        ray.init(address=address, **options)
    except Exception as error:  # Ray raises no specific type if its processes are not up in time
        said = " ".join(str(error).split())
        if address != "local":
            raise ConfigError(f"Ray at {address} could not be joined: {said}; see `ray status` there") from error
        seconds = os.environ.get(START_VARIABLE) or START_SECONDS
        advice = ""
        if "timed out" in said or START_VARIABLE in said:
            advice = (
                f"Its own processes were not up within {seconds} s, as on a machine that is busy or short of memory: "
                f"type the command again once other work has ended, or with {START_VARIABLE} set to more. "
            )
        raise StartError(
            f"Ray did not start ({type(error).__name__}: {said.rstrip('.')}). {advice}"
            f"Its logs are in {temporary() / 'ray' / 'session_latest' / 'logs'}"
        ) from error


def look(address: str) -> Cluster:
    """Join the cluster at `address` for a moment, and leave it.

    Raises:
        ConfigError: There is no cluster that this version of Ray can talk to.
    """
    import ray

    init(address, logging_level=logging.ERROR, log_to_driver=False)
    try:
        return joined()
    finally:
        ray.shutdown()


def joined() -> Cluster:
    """The cluster that this process is in."""
    import ray

    def node(resources: dict[str, float]) -> Node:
        # Ray adds this resource for hardware that it finds, and not for the logical GPUs of `--num-gpus`.
        real = any(name.startswith("accelerator_type:") for name in resources)
        return Node(int(resources.get("CPU", 0)), int(resources.get("GPU", 0)), real)

    return Cluster(tuple(node(each["Resources"]) for each in ray.nodes() if each["Alive"]))


def temporary() -> Path:
    """Folder that holds Ray's own folder `ray`, unless Ray is told to use another one."""
    return Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")


def _knock(address: str, problem: str, remedy: str) -> None:
    """Raise where nobody listens; an address of another form is left to Ray."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(f"{problem} ({error}); {remedy}") from error
