"""Calls in a thread beside the event loop, each with a time limit.

One thread makes the calls, one after the other: two that compute would only compete with each other, and
with the event loop, for the interpreter. A call that takes longer than `PATIENCE` keeps its thread, and
a new thread makes the next calls; so a call that waits or hangs holds up only its own trial.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

from openrlhf_lamer import LamerError

T = TypeVar("T")

PATIENCE = 0.05
"""Seconds after which a call no longer holds up the next ones; time limits are exact to this many seconds."""


class OverdueError(LamerError, TimeoutError):
    """A call did not return in time. Its thread is abandoned."""

    exit_code = 1


class Offload:
    """Makes calls beside the event loops of this process. Its threads end with the process, even within a call."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[_Call] = SimpleQueue()
        self._lock = threading.Lock()
        self._taker: _Taker | None = None

    async def __call__(self, function: Callable[[], T], seconds: float) -> T:
        """Result of `function`, whose exceptions are raised here.

        Raises:
            OverdueError: It took longer than `seconds` from its start.
            RuntimeError: There is no thread yet and none can be started. The next call tries again.
        """
        call = _Call(function)
        if self._taker is None:
            self._replace(None)
        self._calls.put(call)
        timer = call.loop.call_later(PATIENCE, self._look, call, seconds)
        try:
            result, error = await call.answer
        finally:
            timer.cancel()
        if error is not None:
            raise error
        return result

    def _look(self, call: _Call, seconds: float) -> None:
        """Replace the thread if any call holds it up, and give this call up if it takes too long."""
        now = time.monotonic()
        if now - call.began >= seconds:
            call.settle(None, OverdueError(f"no answer within {seconds:g} s"))
        if not call.answer.done():  # before anything that may raise: nothing else schedules the next look
            call.loop.call_later(PATIENCE, self._look, call, seconds)
        taker = self._taker
        if taker is not None and now - taker.began >= PATIENCE:
            try:
                self._replace(taker)
            except RuntimeError:
                # No thread can be started: the next look tries again. Until then time also runs for waiting calls.
                call.began = min(call.began, now)

    def _replace(self, taker: _Taker | None) -> None:
        """Replace `taker` by a new thread, which is started first, unless another call has done so."""
        with self._lock:
            if self._taker is taker:
                new = _Taker(self._calls)
                new.start()
                self._taker = new
                if taker is not None:
                    taker.replaced = True


class _Taker(threading.Thread):
    """A thread that makes calls, one after the other, until it is replaced."""

    def __init__(self, calls: SimpleQueue[_Call]) -> None:
        super().__init__(name="lamer-offload", daemon=True)
        self._calls = calls
        self.began = math.inf
        self.replaced = False

    def run(self) -> None:
        while not self.replaced:
            call = self._calls.get()
            self.began = call.began = time.monotonic()
            call.make()
            self.began = math.inf
            del call  # else it would live until the next one comes


class _Call:
    """A call and the future that its caller awaits."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self.loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[tuple[Any, Exception | None]] = self.loop.create_future()
        self.began = math.inf

    def make(self) -> None:
        """Make the call in this thread, unless nobody awaits it any longer."""
        if self.answer.done():
            return
        result = error = None
        try:
            result = self._function()
        except Exception as raised:
            error = raised
        except BaseException as raised:  # a game that calls exit ends its own trial, not this process
            error = RuntimeError(repr(raised))
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            self.loop.call_soon_threadsafe(self.settle, result, error)

    def settle(self, result: Any, error: Exception | None) -> None:
        """Hand over the result or error, in the event loop; only the first one counts."""
        if not self.answer.done():
            self.answer.set_result((result, error))


off_loop = Offload()
"""The `Offload` of this process."""
