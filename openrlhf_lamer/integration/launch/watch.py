"""A watch on rollout engines from the driver, in every phase: if one dies, the run ends with a message.

The host itself notices only when it next calls the engine, and not while it waits for others: a broadcast of weights to
a dead engine may wait indefinitely.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from types import FrameType
from typing import Any

from openrlhf_lamer import LamerError
from openrlhf_lamer.integration.low_memory import killed_for_memory
from openrlhf_lamer.integration.rollout.engines import EngineReport

REPORT_SECONDS = 5.0
"""Seconds between questions to engines about their work, so that the message on a dead one can name it."""

GRACE_SECONDS = 5.0
"""Seconds to wait for the report of an engine's death after an error that it may have caused."""

EXIT_SECONDS = 40.0
"""Seconds in which the driver may leave by itself, before it is forced to."""


class EngineDiedError(LamerError, RuntimeError):
    """A rollout engine died; the message names it, what it did, and how the run goes on."""

    exit_code = 1


class EngineWatch:
    """Waits in a thread of the driver until an engine dies, and then interrupts the main thread.

    Args:
        remedy: What to do once an engine died, for the message.
    """

    def __init__(self, remedy: str) -> None:
        self._remedy = remedy
        self._engines: Sequence[Any] = ()
        self._reports: dict[int, tuple[float, EngineReport]] = {}
        self._death: str | None = None
        self._noticed, self._asked, self._stopped = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="engine-watch", daemon=True)
        self._exit = threading.Timer(EXIT_SECONDS, self._leave)
        self._exit.daemon = True

    def begin(self, engines: Sequence[Any]) -> None:
        """Watch `engines`, handles of `LamerRolloutActor`; called once, from the main thread."""
        self._engines = engines
        signal.signal(signal.SIGUSR1, _interrupt)
        self._thread.start()

    def death(self, seconds: float) -> str | None:
        """Message on an engine that died, or None if no death is reported within `seconds`."""
        self._asked.set()
        if self._engines:
            self._noticed.wait(seconds)
        return self._death

    def stop(self) -> None:
        """Stop watching; Ray may be shut down after this."""
        self._asked.set()
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def close(self) -> None:
        """Cancel the forced exit: the driver leaves by itself."""
        self._exit.cancel()

    def _watch(self) -> None:
        import ray

        deaths = {engine.until_death.remote(): number for number, engine in enumerate(self._engines)}
        asked: dict[Any, int] = {}
        next_reports = 0.0
        while not self._stopped.is_set():
            if time.monotonic() >= next_reports:
                silent = set(asked.values())
                asked |= {e.report.remote(): n for n, e in enumerate(self._engines) if n not in silent}
                next_reports = time.monotonic() + REPORT_SECONDS
            ready, _ = ray.wait([*deaths, *asked], num_returns=1, timeout=1)
            for answer in ready:
                try:
                    report = ray.get(answer)
                except Exception as error:
                    self._notice((deaths | asked)[answer], error)
                    return
                self._reports[asked.pop(answer)] = time.monotonic(), report

    def _notice(self, number: int, error: Exception) -> None:
        self._death = f"{self._what(number)} ({_cause(error)}). {self._doing(number)} {self._remedy}"
        self._noticed.set()
        self._exit.start()
        # Where the host has found out by itself, the main thread is on its way already.
        if not self._asked.wait(1):
            os.kill(os.getpid(), signal.SIGUSR1)

    def _what(self, number: int) -> str:
        name = f"rollout engine {number + 1} of {len(self._engines)}"
        if number not in self._reports:
            return f"{name} died before it was up"
        _, report = self._reports[number]
        return f"{name} died (process {report.pid} on {report.host})"

    def _doing(self, number: int) -> str:
        if number not in self._reports:
            return "Its own log above says why."
        when, report = self._reports[number]
        if not report.tasks:
            return "It was playing no trial: the model was being trained, or weights were on their way to the engine."
        tasks = Counter(report.tasks).most_common(3)
        shown = ", ".join(f"{count} of {task}" for task, count in tasks)
        more = ", ..." if len(set(report.tasks)) > 3 else ""
        return f"It was playing {len(report.tasks)} trials {time.monotonic() - when:.0f} s before: {shown}{more}."

    def _leave(self) -> None:
        print(f"openrlhf-lamer: error: {self._death}", file=sys.stderr, flush=True)
        os._exit(1)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    # Ray's waiting calls let this one exception through.
    raise KeyboardInterrupt


def _cause(error: Exception) -> str:
    """A line on what an engine died of."""
    if killed := killed_for_memory(error):
        return killed
    lines = [line.strip() for line in str(getattr(error, "cause", None) or error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    # Where it died in its constructor, Ray shows the whole trace, which ends with the reason.
    return lines[-1 if "creation task" in lines[0] else 0].rstrip(".")
