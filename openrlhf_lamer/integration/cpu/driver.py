"""Set-up of CPU mode in the process that starts a job."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from openrlhf_lamer.integration.cpu.environment import cuda_available, ray_env, worker_env
from openrlhf_lamer.integration.cpu.patches import install

STALE_LOCK_SECONDS = 900


def enter_driver() -> None:
    """Put this process into CPU mode, before it imports Ray: hooks, and the variables that Ray reads when it starts."""
    install()
    os.environ.update(worker_env())
    os.environ.update(ray_env())
    if not cuda_available():
        # This unhides hidden devices, which is harmless with a torch that knows none. With the variable, Ray would
        # refuse to offer more GPUs than it names.
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    remove_stale_locks(Path(os.environ["TORCH_EXTENSIONS_DIR"]))


def remove_stale_locks(extensions: Path) -> None:
    """Remove locks that a build left behind when it was killed: torch waits for them indefinitely."""
    for lock in extensions.glob("*/lock"):
        with suppress(OSError):  # released, or removed by another process, meanwhile
            if time.time() - lock.stat().st_mtime > STALE_LOCK_SECONDS:
                lock.unlink()
