"""Where CPU mode applies, and the flags, variables and Ray options that it needs."""

from __future__ import annotations

import os
import sys
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from openrlhf_lamer import LamerError

ENV_VAR = "OPENRLHF_LAMER_CPU"
DEVICES = Path("/dev")

# The user may hide real devices (an empty CUDA_VISIBLE_DEVICES) to work on the CPU of a machine that has some. Ray then
# writes its own, logical device numbers into its workers' variable: this value tells them that the check was made.
_CHECKED = "checked"


class CudaPresentError(LamerError, RuntimeError):
    """CPU mode was asked for on a machine with CUDA."""


def cuda_devices(devices: Path | None = None) -> list[Path]:
    """Device files of NVIDIA GPUs, numbered as torch counts them; needs no driver call and no import of torch."""
    root = devices or DEVICES
    return sorted(path for path in root.glob("nvidia[0-9]*") if path.name[len("nvidia") :].isdigit())


def cuda_available(devices: Path | None = None) -> bool:
    """Whether this process may use a CUDA device: one exists, and CUDA_VISIBLE_DEVICES doesn't hide them all."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1", "NoDevFiles"):
        return False
    return bool(cuda_devices(devices))


def refuse_cuda() -> None:
    """Raise CudaPresentError if CUDA is available."""
    if os.environ.get(ENV_VAR) != _CHECKED and cuda_available():
        names = ", ".join(str(path) for path in cuda_devices())
        raise CudaPresentError(
            f"CPU mode is for machines without CUDA, and this one has {names}. Unset {ENV_VAR} (or leave out "
            "--lamer.cpu) to train on it, or set CUDA_VISIBLE_DEVICES to nothing to hide it."
        )


def host_defaults() -> dict[str, object]:
    """Flags of the host that CPU mode presets, by their names without the dashes; what the user gives wins."""
    return {
        **{f"{model}.num_gpus_per_node": 1 for model in ("actor", "ref", "critic", "reward")},
        "vllm.num_engines": 1,
        "vllm.sync_backend": "gloo",
        "vllm.enforce_eager": True,
        "vllm.gpu_memory_utilization": 0.3,
        "ds.attn_implementation": "sdpa",
    }


def extensions_dir() -> Path:
    """Where DeepSpeed's compiled extensions are kept: a folder for each environment and its version of torch.

    Builds record the headers' paths, so two environments with one folder would keep recompiling them in turn.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = "none"
    environment = sha256(sys.prefix.encode()).hexdigest()[:8]
    build = f"py{sys.version_info.major}{sys.version_info.minor}-torch{torch}-{environment}"
    return cache / "openrlhf-lamer" / "torch_extensions" / build


def worker_env() -> dict[str, str]:
    """Environment variables for every process of a job in CPU mode; what the user has set is kept."""
    defaults = {
        "DS_ACCELERATOR": "cpu",
        "TORCH_EXTENSIONS_DIR": str(extensions_dir()),
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # engines and trainers share the cores
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
        # The engine's worker stays in the engine's process: one process less that imports everything.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    env = {name: os.environ.get(name, default) for name, default in defaults.items()}
    env[ENV_VAR] = _CHECKED if cuda_devices() else "1"
    return env


def ray_env() -> dict[str, str]:
    """Variables for Ray's own processes, to be set before `ray.init`; what the user has set is kept."""
    defaults = {
        "RAY_USAGE_STATS_ENABLED": "0",
        # Workers that Ray starts ahead of need lack the job's environment variables, and are never used.
        "RAY_prestart_worker_first_driver": "0",
        # With the default, Ray warns at each start that the default is going to change.
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        # Ray's processes share the cores with whatever else runs: its own limit of 30 s can be too little for a start.
        "RAY_raylet_start_wait_time_s": "120",
    }
    return {name: os.environ.get(name, default) for name, default in defaults.items()}


def ray_options(num_gpus: int = 16) -> dict[str, Any]:
    """Arguments for `ray.init` where it starts a cluster of its own.

    The GPUs are logical: the host's placement groups wait for as many as its flags ask for, and for as many CPUs. The
    other actors, ours among them, want CPUs too, and would wait indefinitely for missing ones.
    """
    return {
        "num_cpus": num_gpus + 32,
        "num_gpus": num_gpus,
        "object_store_memory": 500_000_000,
        "include_dashboard": False,
    }
