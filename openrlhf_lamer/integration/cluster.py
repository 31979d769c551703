"""A Ray cluster that is there already, looked at from outside."""

from __future__ import annotations

import logging
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from openrlhf_lamer.config import ConfigError


@dataclass(frozen=True, slots=True)
class Cluster:
    """What a Ray cluster offers.

    Attributes:
        nodes: Nodes that are alive.
        cpus: CPUs of all nodes.
        gpus: GPUs of all nodes, logical ones among them.
        accelerators: Whether some of them are real.
    """

    nodes: int
    cpus: int
    gpus: int
    accelerators: bool


def look(address: str) -> Cluster:
    """Join the cluster at `address` ("auto": the one on this machine) for a moment, and leave it.

    Raises:
        ConfigError: there is none, or none that this Ray can talk to.
    """
    if address == "auto":
        address = local_address()
    check_address(address)
    import ray

    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"Ray could not be joined (address {address!r}): {error}") from error
    try:
        resources = ray.cluster_resources()
        return Cluster(
            nodes=sum(node["Alive"] for node in ray.nodes()),
            cpus=int(resources.get("CPU", 0)),
            gpus=int(resources.get("GPU", 0)),
            # Ray adds this resource for hardware that it finds, and not for the logical GPUs of `--num-gpus`.
            accelerators=any(name.startswith("accelerator_type:") for name in resources),
        )
    finally:
        ray.shutdown()


def local_address() -> str:
    """The address of the Ray that was started last on this machine, which may have died since.

    Raises:
        ConfigError: there was none.
    """
    # `ray.init(address="auto")` reads the same file, but tries a dead address for minutes.
    file = Path(os.environ.get("RAY_TMPDIR") or "/tmp") / "ray" / "ray_current_cluster"
    if file.is_file() and (address := file.read_text().strip()):
        return address
    raise ConfigError(f"no Ray was started on this machine ({file} names none)")


def check_address(address: str) -> None:
    """Refuse an address that nobody listens at; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"RAY_ADDRESS={address}: no Ray there ({error}). Start one with `ray start --head`"
        ) from error
