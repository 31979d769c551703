"""Where CPU mode applies, and the flags, variables and Ray options that it needs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

ENV_VAR = "OPENRLHF_LAMER_CPU"
DEVICES = Path("/dev")

# The user may hide real devices (an empty CUDA_VISIBLE_DEVICES) to work on the CPU of a machine that has some. Ray then
# writes its own, logical device numbers into its workers' variable: this value tells them that the check was made.
_CHECKED = "checked"


class CudaPresentError(RuntimeError):
    """CPU mode was asked for on a machine where CUDA is."""


def cuda_devices(devices: Path | None = None) -> list[Path]:
    """Device files of NVIDIA GPUs. Their numbers are what torch counts; no driver call, no import of torch."""
    root = devices or DEVICES
    return sorted(path for path in root.glob("nvidia[0-9]*") if path.name[len("nvidia") :].isdigit())


def cuda_available(devices: Path | None = None) -> bool:
    """Whether this process may use a CUDA device: one exists, and CUDA_VISIBLE_DEVICES doesn't hide them all."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1", "NoDevFiles"):
        return False
    return bool(cuda_devices(devices))


def refuse_cuda() -> None:
    """Raise CudaPresentError where CUDA is."""
    if os.environ.get(ENV_VAR) != _CHECKED and cuda_available():
        names = ", ".join(str(path) for path in cuda_devices())
        raise CudaPresentError(
            f"CPU mode is for machines without CUDA, and this one has {names}. Unset {ENV_VAR} (or leave out "
            "--lamer.cpu) to train on it, or set CUDA_VISIBLE_DEVICES to nothing to hide it."
        )


def host_defaults() -> list[str]:
    """Flags of the host that CPU mode presets. To be put in front of the user's: its parser lets the last one win."""
    nodes = [f"--{model}.num_gpus_per_node" for model in ("actor", "ref", "critic", "reward")]
    return [
        *(word for flag in nodes for word in (flag, "1")),
        *("--vllm.num_engines", "1"),
        *("--vllm.sync_backend", "gloo"),
        "--vllm.enforce_eager",
        *("--vllm.gpu_memory_utilization", "0.3"),
        *("--ds.attn_implementation", "eager"),
    ]


def worker_env() -> dict[str, str]:
    """Environment variables for every process of a job in CPU mode; what the user has set is kept."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "openrlhf-lamer"
    defaults = {
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # engines and trainers share the cores
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "HF_HUB_OFFLINE": "1",
        "TORCH_EXTENSIONS_DIR": str(cache / "torch_extensions"),  # DeepSpeed compiles an extension once
    }
    env = {name: os.environ.get(name, default) for name, default in defaults.items()}
    env[ENV_VAR] = _CHECKED if cuda_devices() else "1"
    return env


def ray_options(num_gpus: int = 4) -> dict[str, Any]:
    """Arguments for `ray.init` of a local cluster: logical GPUs, which the host's placement groups wait for."""
    return {
        "num_cpus": 16,
        "num_gpus": num_gpus,
        "object_store_memory": 500_000_000,
        "include_dashboard": False,
    }


def enter_driver() -> None:
    """Put the process that starts a job into CPU mode: its hooks, and the variables that Ray reads when it starts."""
    from openrlhf_lamer.integration.cpu.hooks import install

    install()
    os.environ.update(worker_env())
    if not cuda_available():
        # Ray refuses more GPUs than an empty list names.
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
