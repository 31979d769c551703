"""Slow environments in separate processes: Ray actors, spread over the cluster.

A worker holds the environments of many trials, since an environment that waits for a reply costs only memory. It plays
them one call at a time, in one thread. A call that hangs or kills its worker fails only its own trial: environments are
deterministic, so the other sessions on that worker replay their episode's actions on another worker and continue.

The workers belong to the process that leases them (a rollout engine) and die with it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable
from functools import partial
from typing import Any

from openrlhf_lamer import LamerError
from openrlhf_lamer.envs.base import Step, TextEnv
from openrlhf_lamer.envs.session import Opening, Session, ThreadedSession, begin, play
from openrlhf_lamer.integration import cluster
from openrlhf_lamer.integration.low_memory import killed_for_memory
from openrlhf_lamer.offload import off_loop
from openrlhf_lamer.records import Task

RESETS = 1000
"""Resets after which a worker is replaced, against games that leak memory."""

START_SECONDS = 120.0
"""Time limit for Ray to start a worker."""

STARTS = 3
"""Number of workers that may die in a row before they are up, as on a failing node, until the call gives up."""

logger = logging.getLogger(__name__)


class WorkerDiedError(LamerError, RuntimeError):
    """An environment's process ended during a call."""

    exit_code = 1


class NotStartedError(WorkerDiedError):
    """A worker ended before it was up."""


class Pool:
    """Opens sessions: cheap environments run in threads of this process, slow ones on workers.

    Args:
        size: Most workers, not counting replaced ones that still have sessions.
        timeout: Seconds that one call into an environment may take, without the wait for its turn.
        recycle_after: Resets after which a worker gets no new sessions and ends with its last one.
    """

    def __init__(self, size: int, timeout: float, recycle_after: int = RESETS) -> None:
        self._size, self._timeout, self._recycle_after = size, timeout, recycle_after
        self._workers: list[Worker] = []

    async def open(self, make: partial[TextEnv]) -> Session:
        """A session on the environment that `make` builds."""
        if not getattr(make.func, "slow", False):
            env = await off_loop(make, self._timeout)
            session = ThreadedSession(env, self._timeout)
            if not env.slow:
                return session
            await session.close()
        return PooledSession(self, make)

    def worker(self) -> Worker:
        """The worker with the fewest sessions; a new one if all have sessions and the limit allows it."""
        self._workers = [each for each in self._workers if each.alive and each.resets < self._recycle_after]
        fewest = min(self._workers, key=lambda each: each.sessions, default=None)
        if fewest is None or (fewest.sessions and len(self._workers) < self._size):
            fewest = Worker(self._timeout)
            self._workers.append(fewest)
        return fewest


class PooledSession:
    """A session on a worker; if another session's call loses the worker, it moves to another one."""

    env = None
    _keys = itertools.count()

    def __init__(self, pool: Pool, make: partial[TextEnv]) -> None:
        self._pool, self._make = pool, make
        self._key = next(self._keys)
        self._worker: Worker | None = None
        self._task: Task | None = None
        self._actions: list[str] = []
        self._anchor = ""

    async def reset(self, task: Task) -> Opening:
        self._task = None  # the last episode need not be replayed
        opening = await self._call("reset", task)
        self._task, self._actions, self._anchor = task, [], opening.anchor
        return opening

    async def step(self, action: str) -> tuple[Step, str]:
        step, anchor = await self._call("step", action)
        self._actions.append(action)
        self._anchor = anchor
        return step, anchor

    async def close(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.sessions -= 1
            if worker.alive:
                await worker.call("close", self._key)

    async def _call(self, method: str, argument: Any) -> Any:
        starts = 0
        while True:
            try:
                worker = self._worker or await self._settle()
                return await worker.call(method, self._key, argument)
            except _LostError:
                await self.close()
            except NotStartedError:
                starts += 1
                if starts == STARTS:
                    raise
                await self.close()

    async def _settle(self) -> Worker:
        """Build the environment on a worker, and replay this session's episode there."""
        worker = self._worker = self._pool.worker()
        worker.sessions += 1
        await worker.call("open", self._key, self._make)
        if self._task is not None:
            anchor = (await worker.call("reset", self._key, self._task)).anchor
            for action in self._actions:
                _, anchor = await worker.call("step", self._key, action)
            if anchor != self._anchor:
                raise RuntimeError(f"replayed after its worker was lost, {self._task.id} came to another state")
        return worker


class _LostError(Exception):
    """The worker ended before this call: by another session's fault, if anyone's."""


class Worker:
    """This process's end of a worker: one call at a time, each with its time limit."""

    def __init__(self, timeout: float) -> None:
        self._actor: Any = None
        self._timeout = timeout
        self._turn = asyncio.Lock()
        self._started = False
        self._start_error: Exception | None = None
        self.alive = True
        self.sessions = 0
        self.resets = 0

    async def call(self, method: str, *arguments: Any) -> Any:
        """Answer of a method of `Environments`; waiting for other sessions' calls doesn't count towards the time limit.

        Raises:
            TimeoutError: The worker did not answer in time, and was killed.
            WorkerDiedError: The worker died during the call.
            NotStartedError: The worker died before it was up.
        """
        async with self._turn:
            if self._start_error is not None:
                raise self._start_error
            if not self.alive:
                raise _LostError
            if not self._started:
                await self._start()
            self.resets += method == "reset"
            return await self._answer(getattr(self._actor, method).remote(*arguments), self._timeout)

    async def _start(self) -> None:
        """Start the process. If it does not come up, all waiting calls fail at once instead of trying in turn."""
        import ray

        if not ray.is_initialized():
            # Outside a training run: the cluster at RAY_ADDRESS or on this machine, else a new one of this process.
            cluster.init(cluster.find() or "local", include_dashboard=False)
        # A share of a CPU keeps workers off nodes that offer none, and leaves the CPUs to the host's actors. A named
        # strategy keeps them out of the rollout engine's placement group, which they would join otherwise.
        worker = ray.remote(num_cpus=0.1, scheduling_strategy="SPREAD")(Environments)
        try:
            self._actor = await off_loop(worker.remote, START_SECONDS)  # the first one takes tenths of a second
            await self._answer(self._actor.ready.remote(), START_SECONDS)
        except TimeoutError as error:
            self.alive = False
            self._start_error = TimeoutError(
                f"Ray started no environment worker within {START_SECONDS:g} s: has the cluster a free CPU?"
            )
            raise self._start_error from error
        except WorkerDiedError as error:
            self._start_error = NotStartedError(f"an environment worker did not start: {error}")
            raise self._start_error from error
        self._started = True

    async def _answer(self, reference: Awaitable[Any], seconds: float) -> Any:
        from ray.exceptions import RayError, RayTaskError

        try:
            return await asyncio.wait_for(reference, seconds)
        except RayTaskError as error:  # raised by the environment, possibly a TimeoutError
            raise error.cause from None
        except TimeoutError as error:
            self._kill(f"did not answer within {seconds:g} s")
            raise TimeoutError(f"no answer within {seconds:g} s") from error
        except RayError as error:
            reason = killed_for_memory(error) or str(error)
            self._kill(f"died: {reason}")
            raise WorkerDiedError(f"the environment's process died: {reason.splitlines()[0]}") from error

    def _kill(self, reason: str) -> None:
        import ray

        logger.warning("The %d trials on an environment worker move to others: it %s", self.sessions, reason)
        self.alive = False
        ray.kill(self._actor)


class Environments:
    """A worker's process: environments by the keys of their sessions."""

    def __init__(self) -> None:
        self._envs: dict[int, TextEnv] = {}

    def ready(self) -> None:
        """Answer once the process is up."""

    def open(self, key: int, make: partial[TextEnv]) -> None:
        """Build an environment."""
        self._envs[key] = make()

    def reset(self, key: int, task: Task) -> Opening:
        """Begin an episode."""
        return begin(self._envs[key], task)

    def step(self, key: int, action: str) -> tuple[Step, str]:
        """Play an action."""
        return play(self._envs[key], action)

    def close(self, key: int) -> None:
        """Close an environment, if it was built."""
        env = self._envs.pop(key, None)
        if env is not None:
            env.close()
