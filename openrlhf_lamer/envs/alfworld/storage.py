"""Folder of games between runs, shared by all processes of the user.

The folder is `$OPENRLHF_LAMER_CACHE/alfworld`, else `openrlhf-lamer/alfworld` in the user's
cache folder (`$XDG_CACHE_HOME` or `~/.cache`). All of it can be made again.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from openrlhf_lamer.envs.base import TaskError
from openrlhf_lamer.files import held

VARIABLE = "OPENRLHF_LAMER_CACHE"


def folder() -> Path:
    """The folder of kept games; it may not exist yet."""
    if chosen := os.environ.get(VARIABLE):
        return Path(chosen) / "alfworld"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "openrlhf-lamer" / "alfworld"


@contextmanager
def locked(lock: Path) -> Iterator[None]:
    """Hold a lock file, so that only one process makes a game that a group of trials needs at the same time.

    On a file system without locks nobody waits; `write` still keeps files whole.

    Raises:
        TaskError: The folder cannot be written to.
    """
    with _writable(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
    with held(lock):
        yield


def write(path: Path, content: bytes) -> None:
    """Write a file so that no other process ever sees half of it.

    Raises:
        TaskError: The folder cannot be written to.
    """
    with _writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TaskError(
            f"alfworld: {path} cannot be written ({error.strerror or error}); set {VARIABLE} to a writable folder"
        ) from error
