"""Peak memory of a run with all its processes."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from types import TracebackType


class PeakMemory:
    """Context manager that watches the memory of this process and its descendants.

    `peak` is the largest sum of their proportional set sizes in bytes: shared memory
    counts once.
    """

    def __init__(self, interval: float = 3.0) -> None:
        self._interval = interval
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak = 0

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(self._interval):
            self.peak = max(self.peak, _tree_bytes())


def _tree_bytes() -> int:
    import psutil

    this = psutil.Process()
    total = 0
    for process in [this, *this.children(recursive=True)]:
        with contextlib.suppress(psutil.Error, OSError, ValueError):
            rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
            total += sum(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:"))
    return total
