"""CPU mode: the whole host (Ray, vLLM, DeepSpeed) on a machine without CUDA, for tests, the quickstart and laptops.

The host takes CUDA for granted in a few places. `install` registers hooks that replace these, each when the module it
sits in is imported; a process that imports none of them pays nothing. It has to run in every process of a job, and the
`.pth` line of this package sees to that wherever `worker_env` is part of the environment.

A launcher calls `enter_driver()`, then `ray.init` with `ray_options()` and `worker_env()`, and adds `host_defaults()`
to the host's arguments for those that the user left out.
"""

from __future__ import annotations

from openrlhf_lamer.integration.cpu.driver import enter_driver
from openrlhf_lamer.integration.cpu.environment import (
    ENV_VAR,
    CudaPresentError,
    cuda_available,
    cuda_devices,
    host_defaults,
    ray_env,
    ray_options,
    worker_env,
)
from openrlhf_lamer.integration.cpu.patches import install

__all__ = [
    "ENV_VAR",
    "CudaPresentError",
    "cuda_available",
    "cuda_devices",
    "enter_driver",
    "host_defaults",
    "install",
    "ray_env",
    "ray_options",
    "worker_env",
]
