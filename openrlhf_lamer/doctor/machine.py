"""The machine: Python, memory, shared memory, disk."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from openrlhf_lamer.doctor import Check, error, ok, warning

PYTHONS = ((3, 11), (3, 12))
"""Versions of Python that are tested."""

GIB = 1 << 30

LEAST_MEMORY = 6 * GIB
"""Bytes that a training of a tiny model on one machine takes, all processes together."""
GOOD_MEMORY = 12 * GIB
"""Bytes that `make quickstart` takes at its peak."""
CHECKPOINT = 7
"""A checkpoint's size in units of the bfloat16 weights: 14 bytes a parameter with master weights and Adam's moments."""
SPILLING = 0.95
"""The share of a disk in use above which Ray stores no objects on it."""


def python(version: tuple[int, int] = sys.version_info[:2]) -> Check:
    """Whether this version of Python is tested."""
    found = ".".join(map(str, version))
    if version in PYTHONS:
        return ok("Python", found)
    return error("Python", found, "make a virtual environment with Python 3.11 or 3.12")


def memory(available: int | None) -> Check:
    """Whether `available` bytes of memory are enough to train at all; None if unknown.

    Never an error: on a cluster this machine may only submit the job.
    """
    if available is None:
        return warning("memory", "/proc/meminfo can't be read", "make sure that 12 GiB are free")
    found = f"{_gib(available)} available"
    if available < LEAST_MEMORY:
        return warning("memory", found, f"even a tiny model takes {_gib(LEAST_MEMORY)}: end other programs")
    if available < GOOD_MEMORY:
        return warning("memory", found, f"`make quickstart` takes {_gib(GOOD_MEMORY)} at its peak: end other programs")
    return ok("memory", found)


def shared_memory(size: int | None) -> Check:
    """Whether /dev/shm, of `size` bytes, holds Ray's object store; None without /dev/shm."""
    name = "shared memory"
    if size is None or size < GIB:
        found = "no /dev/shm" if size is None else f"/dev/shm of {_gib(size)}"
        return warning(name, found, "Ray's objects would go to disk: docker run --shm-size 16g, or an emptyDir volume")
    return ok(name, f"/dev/shm of {_gib(size)}")


def disk(name: str, free: int, total: int, weights: int = 0) -> Check:
    """Whether a disk has room for checkpoints of a model whose bfloat16 weights are `weights` bytes."""
    found = f"{_gib(free)} of {_gib(total)} free"
    if free < GIB:
        return error(name, found, "make room, or start elsewhere")
    if free < CHECKPOINT * weights:
        needed = _gib(CHECKPOINT * weights)
        return warning(name, found, f"a checkpoint to resume from takes {needed}: --ckpt.path on a larger disk")
    return ok(name, found)


def ray_disk(name: str, free: int, total: int) -> Check:
    """Whether the disk of Ray's temporary folder is one that Ray stores objects on."""
    found = f"{_gib(free)} of {_gib(total)} free"
    if free < (1 - SPILLING) * total:
        return warning(name, found, f"Ray stores nothing on a disk over {SPILLING:.0%}: make room, or set RAY_TMPDIR")
    return ok(name, found)


def available_memory(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes of available memory within the container's limit; None if unknown."""
    try:
        lines = (proc / "meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None
    try:
        limit, used = ((cgroup / file).read_text().strip() for file in ("memory.max", "memory.current"))
        return free if limit == "max" else min(free, int(limit) - int(used))
    except (OSError, ValueError):
        return free


def checks(weights: int = 0) -> list[Check]:
    """All checks of this machine; `weights` as for `disk`."""
    shm = Path("/dev/shm")
    here = shutil.disk_usage(Path.cwd())
    ray = _existing(Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"))
    temporary = shutil.disk_usage(ray)
    return [
        memory(available_memory()),
        shared_memory(shutil.disk_usage(shm).total if shm.is_dir() else None),
        disk(f"disk of {Path.cwd()}", here.free, here.total, weights),
        ray_disk(f"disk of {ray}, for Ray", temporary.free, temporary.total),
    ]


def _existing(path: Path) -> Path:
    """The folder, or the one above it that will hold it."""
    return path if path.is_dir() or path == path.parent else _existing(path.parent)


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
