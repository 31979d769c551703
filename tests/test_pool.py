"""Slow environments on workers: a Ray cluster on this machine, and faults in every place."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from stand_ins import engine_output
from workers import Again, SlowSokoban, alive, all_end, resets, transcript

from openrlhf_lamer.agents import Agent, load_agent
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.config import ENV_VAR, LamerConfig
from openrlhf_lamer.envs.base import Step, TextEnv
from openrlhf_lamer.envs.session import OpenSession, Session, ThreadedSession, open_inline
from openrlhf_lamer.envs.sokoban.env import Sokoban
from openrlhf_lamer.integration.rollout.pool import Environments, NotStartedError, Pool, PooledSession, WorkerDiedError
from openrlhf_lamer.policies import Policy
from openrlhf_lamer.policies.engine import EnginePolicy
from openrlhf_lamer.policies.scripted import OraclePolicy, RandomPolicy
from openrlhf_lamer.records import FailureKind, Task, Trial
from openrlhf_lamer.trial import run_trial

ray = pytest.importorskip("ray")

pytestmark = [pytest.mark.timeout(180), pytest.mark.usefixtures("slow_sokoban")]

pytest_plugins = "workers"

Execute = Callable[[LamerConfig], Callable[[Task], Coroutine[Any, Any, dict[str, Any]]]]


def test_trials_are_the_same_inline_and_pooled(run: Callable[..., list[Trial]], tmp_path: Path) -> None:
    pool = Pool(size=2, timeout=30)
    inline, pooled = run(open_inline, range(12)), run(pool.open, range(12))
    assert all(trial.failure is None for trial in inline)
    assert any(not turn.valid for trial in inline for turn in trial.turns)
    assert [transcript(trial) for trial in pooled] == [transcript(trial) for trial in inline]

    workers = [pid for pid in resets(tmp_path) if pid != os.getpid()]
    assert len(workers) == 2  # twelve trials shared them, and none failed for want of one
    assert [worker.sessions for worker in pool._workers] == [0, 0]
    del pool
    assert all_end(workers)


@pytest.mark.parametrize(("name", "sizes"), [("alfworld", (1, 3)), ("webshop", (2,))])
def test_other_environments_play_the_same_on_workers(
    cluster: Any,
    chat: Chat,
    need: Callable[[str], None],
    name: str,
    sizes: tuple[int, ...],
) -> None:
    need(name)
    agent = load_agent(f"openrlhf_lamer.agents.{name}")[0]
    config = LamerConfig(num_episodes=2, max_turns=4)

    def trial(seed: int, policy: Policy, open_session: OpenSession) -> Awaitable[Trial]:
        return run_trial(
            Task(name, seed=seed),
            agent,
            policy,
            chat,
            config,
            max_new_tokens=200,
            max_length=16000,
            open_session=open_session,
        )

    async def trials() -> tuple[list[Trial], ...]:
        inline = [await trial(seed, RandomPolicy(chat, number), open_inline) for number, seed in enumerate((0, 0, 1))]
        pooled = []
        for pool in (Pool(size, 60) for size in sizes):

            async def on_a_worker(make: partial[TextEnv], pool: Pool = pool) -> Session:
                return PooledSession(pool, make)  # also where the pool would play inline

            again = (trial(each.task.seed or 0, Again(each), on_a_worker) for each in inline)
            pooled.append(list(await asyncio.gather(*again)))
        return inline, *pooled

    inline, *pooled = asyncio.run(trials())
    assert all(each.failure is None for each in inline)
    assert sum(len(each.turns) for each in inline) > 12
    for each in pooled:
        assert list(map(transcript, each)) == list(map(transcript, inline))


@pytest.mark.parametrize("where", ["reset", "step", "anchor"])
@pytest.mark.parametrize(
    ("how", "kind"),
    [("raise", FailureKind.ENVIRONMENT), ("die", FailureKind.ENVIRONMENT), ("hang", FailureKind.ENVIRONMENT_TIMEOUT)],
)
def test_a_fault_is_a_failure_of_its_kind_and_no_hang(
    run: Callable[..., list[Trial]], tmp_path: Path, where: str, how: str, kind: FailureKind
) -> None:
    began = time.monotonic()
    (trial,) = run(Pool(1, 1).open, retries=0, breaks=f"{where}:{how}", times=9)
    assert time.monotonic() - began < 30
    assert trial.failure is not None
    assert (trial.failure.kind, trial.failure.stage) == (kind, "step" if where == "step" else "reset")
    assert trial.episodes == ()
    if how == "raise":
        assert trial.failure.message == "ArithmeticError: two and two is five"
    else:
        assert all_end(list(resets(tmp_path)))


@pytest.mark.parametrize("how", ["raise", "die", "hang"])
def test_a_broken_trial_is_begun_anew_with_the_same_seed(run: Callable[..., list[Trial]], how: str) -> None:
    (whole,) = run(open_inline)
    (repaired,) = run(Pool(1, 2).open, breaks=f"step:{how}", times=1)
    assert repaired.failure is None
    assert transcript(repaired) == replace(transcript(whole), retries=1)


@pytest.mark.parametrize("how", ["die", "hang"])
def test_a_fault_costs_its_own_trial_alone_and_the_others_on_its_worker_go_on_elsewhere(
    run: Callable[..., list[Trial]], tmp_path: Path, how: str
) -> None:
    whole = run(open_inline, range(8))
    trials = run(Pool(1, 2).open, range(8), pause=0.05, retries=0, breaks=f"step:{how}", times=1)
    failed = [trial for trial in trials if trial.failure is not None]
    assert len(failed) == 1
    for trial, same in zip(trials, whole, strict=True):
        if trial.failure is None:
            assert transcript(trial) == transcript(same)


def test_an_episode_that_replays_to_another_state_is_a_failure(cluster: Any, tmp_path: Path) -> None:
    async def play() -> None:
        session = PooledSession(Pool(1, 30), partial(SlowSokoban, log=str(tmp_path)))
        await session.reset(Task("sokoban", seed=1))
        session._actions.append("up, up, up")
        session._anchor = "what no replay comes to"
        assert session._worker is not None
        session._worker._kill("is killed by this test")
        with pytest.raises(RuntimeError, match="came to another state"):
            await session.step("down")
        await session.close()

    asyncio.run(play())


def test_waiting_for_others_takes_no_part_in_the_time_limit(cluster: Any, tmp_path: Path) -> None:
    class Sleepy(SlowSokoban):
        def step(self, action: str) -> Step:
            time.sleep(0.3)
            return super().step(action)

    async def play() -> None:
        pool = Pool(1, 1.0)
        sessions = [await pool.open(partial(Sleepy, log=str(tmp_path))) for _ in range(6)]
        await asyncio.gather(*(session.reset(Task("sokoban", seed=0)) for session in sessions))
        began = time.monotonic()
        await asyncio.gather(*(session.step("none") for session in sessions))
        assert time.monotonic() - began > 1.5
        await asyncio.gather(*(session.close() for session in sessions))

    asyncio.run(play())


def test_a_worker_is_recycled_after_its_resets_when_its_last_session_ends(
    run: Callable[..., list[Trial]], tmp_path: Path
) -> None:
    pool = Pool(1, 30, recycle_after=6)
    for seed in range(4):
        (trial,) = run(pool.open, range(seed, seed + 1))
        assert trial.retries == 0
        assert len(trial.episodes) == 3
    counts = Counter({pid: len(lines) for pid, lines in resets(tmp_path).items()})
    assert list(counts.values()) == [6, 6]
    pool.worker()
    assert all_end(list(counts))


def test_cheap_environments_are_played_in_threads_and_slow_ones_on_workers(cluster: Any) -> None:
    async def opened(**options: Any) -> object:
        return await Pool(1, 30).open(partial(Sokoban, **options))

    assert isinstance(asyncio.run(opened(boxes=2)), ThreadedSession)
    assert isinstance(asyncio.run(opened(size=10, boxes=5)), PooledSession)


def test_a_cluster_without_a_free_cpu_is_reported_to_all_who_wait(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openrlhf_lamer.integration.rollout.pool.START_SECONDS", 2.0)
    placed = ray.util.placement_group([{"CPU": 1}] * 2)
    ray.get(placed.ready())
    try:

        async def play() -> list[object]:
            pool = Pool(1, 30)
            sessions = [await pool.open(partial(SlowSokoban, log=str(tmp_path))) for _ in range(4)]
            answers = (session.reset(Task("sokoban", seed=0)) for session in sessions)
            return await asyncio.gather(*answers, return_exceptions=True)

        began = time.monotonic()
        answers = asyncio.run(play())
        assert time.monotonic() - began < 10
    finally:
        ray.util.remove_placement_group(placed)
    assert all(isinstance(answer, TimeoutError) and "free CPU" in str(answer) for answer in answers)


def test_workers_that_never_come_up_are_reported(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Unable(Environments):
        def __init__(self) -> None:
            raise OSError("no space left on device")

    monkeypatch.setattr("openrlhf_lamer.integration.rollout.pool.Environments", Unable)

    async def play() -> list[object]:
        pool = Pool(2, 30)
        sessions = [await pool.open(partial(SlowSokoban, log=str(tmp_path))) for _ in range(4)]
        answers = (session.reset(Task("sokoban", seed=0)) for session in sessions)
        return await asyncio.gather(*answers, return_exceptions=True)

    answers = asyncio.run(play())
    assert all(isinstance(answer, NotStartedError) for answer in answers)


def test_workers_are_spread_and_a_lost_node_costs_no_more_than_the_call_it_was_answering(
    cluster: Any, run: Callable[..., list[Trial]], tmp_path: Path
) -> None:
    whole = run(open_inline, range(6))
    (tmp_path / f"{os.getpid()}.resets").unlink()
    node = cluster.add_node(num_cpus=1)
    pool = Pool(2, 30)
    losing: list[asyncio.Task[None]] = []

    def on_node() -> dict[int, list[str]]:
        return {pid: lines for pid, lines in resets(tmp_path).items() if lines[0].startswith(node.node_id)}

    async def lose() -> None:
        while len([line for lines in on_node().values() for line in lines]) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        cluster.remove_node(node, allow_graceful=False)
        for pid in on_node():  # with a real node they go at once; here, when they miss Ray's other processes
            os.kill(pid, signal.SIGKILL)

    async def open_session(make: Any) -> Any:
        if not losing:
            losing.append(asyncio.create_task(lose()))
        return await pool.open(make)

    trials = run(open_session, range(6), pause=0.1)
    assert losing[0].done()
    assert losing[0].exception() is None
    (there,) = on_node().values()
    assert len({line.split()[1] for line in there}) == 3  # half of the trials were there
    assert len(there) < 9  # and not to their end
    assert sum(trial.retries for trial in trials) <= 1
    assert [trial.failure for trial in trials] == [None] * 6
    assert [trial.episodes for trial in trials] == [trial.episodes for trial in whole]


def test_workers_stay_out_of_their_engines_placement_group_and_die_with_it(cluster: Any, tmp_path: Path) -> None:
    class Engine:
        """Placed as the host places its rollout engines."""

        def __init__(self) -> None:
            self.pool = Pool(1, 30)

        async def begin(self) -> None:
            session = await self.pool.open(partial(SlowSokoban, log=str(tmp_path)))
            await session.reset(Task("sokoban", seed=0))

    group = ray.util.placement_group([{"CPU": 1}])
    placed = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(
        group, placement_group_capture_child_tasks=True
    )
    engine = ray.remote(num_cpus=1, scheduling_strategy=placed)(Engine).remote()
    try:
        ray.get(engine.begin.remote(), timeout=60)  # its group has no CPU left for a worker
        (worker,) = resets(tmp_path)
        assert alive(worker)
        ray.kill(engine)
        assert all_end([worker])
    finally:
        ray.util.remove_placement_group(group)


@pytest.fixture
def execute(chat: Chat, tokenizer: Any, agent: Agent, monkeypatch: pytest.MonkeyPatch) -> Execute:
    """Plays tasks on the real executor of a configuration, with an engine that always goes up."""
    pytest.importorskip("openrlhf")
    from openrlhf_lamer.integration import cpu

    if not cpu.cuda_available():
        cpu.install()
    from openrlhf_lamer.integration.rollout.executor import executor_class

    class Engine:
        async def generate(self, prompt_token_ids: list[int], sampling_params: Any) -> Any:
            ids = chat.encode("<action>up</action>") + chat.end_of_reply
            return engine_output(ids)

    def configured(config: LamerConfig) -> Callable[[Task], Coroutine[Any, Any, dict[str, Any]]]:
        monkeypatch.setenv(ENV_VAR, config.to_env())
        executor = executor_class(agent)()
        executor.take(tokenizer)
        policy = EnginePolicy(Engine(), SimpleNamespace(max_tokens=64, min_tokens=0, logprobs=None))
        return lambda task: executor.play("", task, policy, sample=0, seed=None, max_new_tokens=64, max_length=9000)

    return configured


def test_the_executor_plays_slow_environments_on_workers(cluster: Any, execute: Execute, tmp_path: Path) -> None:
    config = LamerConfig(env_options={"log": str(tmp_path)}, env_workers=1)
    response = asyncio.run(execute(config)(Task("sokoban", seed=0)))
    assert response["trial"].failure is None
    assert len(response["trial"].episodes) == 3
    (worker,) = resets(tmp_path)
    assert worker != os.getpid()


def test_a_worker_that_is_killed_costs_a_training_step_one_trial_at_most(
    cluster: Any, execute: Execute, maker: Callable[..., Any], tmp_path: Path
) -> None:
    """From the executor to rows and advantages; the rest of the fault matrix is in `test_faults.py`."""
    from openrlhf_lamer.integration.rollout.sample import TrialExperience
    from openrlhf_lamer.integration.training.logs import batch_metrics

    options = {"log": str(tmp_path), "breaks": "step:die", "times": 1}
    config = LamerConfig(env_options=options, env_workers=1, retries=0, num_episodes=2)
    one = execute(config)

    async def play() -> list[dict[str, Any]]:
        return await asyncio.gather(*(one(Task("sokoban", seed=seed)) for seed in (0, 1) for _ in range(4)))

    made = maker("lamer_gigpo", config=config)
    experiences = made.make_experience_batch([TrialExperience.from_response(each) for each in asyncio.run(play())])
    logged = batch_metrics(made.batch, config)
    assert (logged["sokoban/failed"], logged["sokoban/failed/environment"]) == (1 / 8, 1)
    assert len(made.batch.live) == 7
    assert set(made.batch.rows.owner.tolist()) == set(made.batch.live.tolist())
    assert all(bool(each.advantages.isfinite().all()) for each in experiences)


def test_a_scripted_player_says_what_it_needs(cluster: Any, chat: Chat, agent: Agent, tmp_path: Path) -> None:
    trial = asyncio.run(
        run_trial(
            Task("sokoban", seed=0),
            agent,
            OraclePolicy(chat),
            chat,
            LamerConfig(env_options={"log": str(tmp_path)}, retries=0),
            max_new_tokens=64,
            max_length=9000,
            open_session=Pool(1, 30).open,
        )
    )
    assert trial.failure is not None
    assert trial.failure.kind is FailureKind.ENGINE
    assert "in its own process" in trial.failure.message


def test_what_a_dead_worker_says_fits_into_a_line(cluster: Any, tmp_path: Path) -> None:
    async def play() -> None:
        session = await Pool(1, 30).open(partial(SlowSokoban, log=str(tmp_path), breaks="reset:die", times=1))
        await session.reset(Task("sokoban", seed=0))

    with pytest.raises(WorkerDiedError) as raised:
        asyncio.run(play())
    assert len(str(raised.value).splitlines()) == 1
    assert "died" in str(raised.value)
