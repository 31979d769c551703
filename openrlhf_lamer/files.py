"""Files that are written whole or not at all, and by one process at a time."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
    part.replace(path)


@contextmanager
def held(lock: Path, busy: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Hold a lock file for this process only; a process that is killed lets go of it.

    On a file system without locks nobody waits.

    Args:
        lock: The file, in a folder that exists.
        busy: Called if another process holds it; unless this raises, the lock is waited for.
    """
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            busy()
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            pass
        yield
