"""Where games are kept between runs, shared by all processes of the user.

The folder is `$OPENRLHF_LAMER_CACHE/alfworld`, else `openrlhf-lamer/alfworld` in the user's
cache folder (`$XDG_CACHE_HOME` or `~/.cache`). All in it can be made again.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from openrlhf_lamer.envs.base import TaskError

VARIABLE = "OPENRLHF_LAMER_CACHE"


def folder() -> Path:
    """The folder of kept games; it may not exist yet."""
    if chosen := os.environ.get(VARIABLE):
        return Path(chosen) / "alfworld"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "openrlhf-lamer" / "alfworld"


def write(path: Path, content: bytes) -> None:
    """Write a file so that no other process ever sees half of it.

    Raises:
        TaskError: The folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise TaskError(
            f"alfworld: {path} cannot be written ({error.strerror or error}); set {VARIABLE} to a writable folder"
        ) from error
