"""Ray clusters in processes of their own, as a user starts them, and the ports that they need."""

from __future__ import annotations

import contextlib
import json
import socket
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from host_runs import ACTIVATED, start, stop

PATIENCE = ("RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT", "RAY_raylet_start_wait_time_s")
"""Variables of Ray's with the seconds that it gives its own processes to start."""


def takes_jobs(port: int) -> bool:
    """Whether Ray takes a job that does nothing: the dashboard answers long before the agent that starts jobs does.

    On a busy machine a job takes a minute to start. Each further request would make Ray start another one.
    """
    nothing = json.dumps({"entrypoint": "true"}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/jobs/", data=nothing, headers={"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=100) as answer:
            return answer.status == 200
    except OSError:
        return False


@dataclass(frozen=True)
class Head:
    """Addresses of a Ray cluster's head: for jobs, and for drivers that join."""

    jobs: str
    drivers: str


def free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def ray_started() -> Iterator[Head | None]:
    """A Ray cluster as a user has it, with logical GPUs; None where it takes no jobs after four minutes."""
    port, dashboard, client, agent = free_ports(4)
    # In a folder of its own, so that no other run on this machine joins it. Ray's sockets need a short path.
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as name:
        folder = Path(name)
        # The agent starts jobs, by default at one port for all clusters of a machine: where another run of the host
        # has taken it, the agent stays alive without its service, and no job is ever taken.
        ports = (
            *(f"--port={port}", f"--dashboard-port={dashboard}"),
            *(f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}"),
        )
        logical = ("--num-cpus=16", "--num-gpus=2", "--object-store-memory=500000000", "--disable-usage-stats")
        command = ("ray.scripts.scripts", "start", "--head", "--block", *ports, *logical)
        # Beside another run of the host, half a minute can be too little for Ray's processes to start.
        patience = dict.fromkeys(PATIENCE, "200")
        process = start(command, folder, {"RAY_TMPDIR": name, "PATH": ACTIVATED["PATH"], **patience})
        deadline = time.monotonic() + 240
        try:
            while not (ready := answers(port) and takes_jobs(dashboard)):
                if process.poll() is not None or time.monotonic() > deadline:
                    print((folder / "log").read_text())
                    break
                time.sleep(1)
            yield Head(f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{port}") if ready else None
        finally:
            stop(process, folder)
