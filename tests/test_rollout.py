"""Our rollout actor with a real vLLM engine and a random model, without trainers: a start takes half a minute."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from stand_ins import generator_strategy

from openrlhf_lamer.config import ENV_VAR, LamerConfig
from openrlhf_lamer.integration import cpu
from openrlhf_lamer.integration.launch.watch import EngineWatch
from openrlhf_lamer.records import Task, Trial

for package in ("openrlhf", "vllm", "ray"):
    pytest.importorskip(package)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

OPTIONS = {"size": 3, "mines": 1}
CONFIG = LamerConfig(max_turns=2, num_episodes=2, retries=0)


@pytest.fixture(scope="module")
def engines(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Any]]:
    """One engine, made by the host's own function."""
    if cpu.cuda_available():
        pytest.skip("a test of the CPU build")
    import ray

    from openrlhf_lamer.agents import load_agent
    from openrlhf_lamer.warmstart.model import build_model, save

    model = tmp_path_factory.mktemp("rollout") / "model"
    save(build_model(tokenizer, hidden=64, layers=2, heads=2, max_length=2048, seed=0), tokenizer, model)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:
        for name, value in (cpu.worker_env() | cpu.ray_env()).items():
            patch.setenv(name, value)
        patch.setenv("RAY_TMPDIR", folder)
        patch.delenv("RAY_ADDRESS", raising=False)
        cpu.install()
        import openrlhf.trainer.ray.vllm_engine as host

        from openrlhf_lamer.integration.rollout.actor import CALLS, LamerRolloutActor

        env = cpu.worker_env() | {ENV_VAR: CONFIG.to_env()}
        before = psutil.Process().children(recursive=True)
        ray.init(**cpu.ray_options(1), runtime_env={"env_vars": env}, log_to_driver=False)
        options: dict[str, Any] = {"max_concurrency": CALLS}
        patch.setattr(host, "RolloutRayActor", ray.remote(**options)(LamerRolloutActor))
        yield host.create_vllm_engines(
            num_engines=1,
            tensor_parallel_size=1,
            pretrain=str(model),
            seed=0,
            full_determinism=False,
            enable_prefix_caching=True,
            enforce_eager=True,
            max_model_len=2048,
            gpu_memory_utilization=0.3,
            logprobs_mode="processed_logprobs",
            agent_func_path=str(load_agent("openrlhf_lamer.agents.minesweeper")[1]),
        )
        ours = [process for process in psutil.Process().children(recursive=True) if process not in before]
        ray.shutdown()
        # Ray ends its workers, but not vLLM's process below one of them, which would keep its memory to the end.
        for process in psutil.wait_procs(ours, timeout=10)[1]:
            with contextlib.suppress(psutil.Error):
                process.kill()


def generator(engines: list[Any], tokenizer: Any, *, limit: int | None, seeded: bool) -> Any:
    from openrlhf_lamer.integration.rollout.generator import LamerSamplesGenerator

    strategy = generator_strategy(4, 2, 4, seed=5, seeded=seeded, correction="token")
    prompts: Any = SimpleNamespace(sampler=None)
    tasks = [Task("minesweeper", seed=seed, options=OPTIONS) for seed in range(3)]
    panel = [(None, [task.id], [task.to_json()], [None]) for task in tasks]
    config = CONFIG.model_copy(update={"max_concurrent_trials": limit})
    return LamerSamplesGenerator(strategy, prompts, panel, tokenizer, engines, config, "lamer_gigpo")


def play(source: Any, temperature: float) -> tuple[list[Trial], dict[str, float]]:
    """Three tasks with two trials each, on an engine that remembers no prompt."""
    import ray

    ray.get([engine.reset_prefix_cache.remote() for engine in source.vllm_engines])
    samples = source.generate_eval_samples(
        temperature=temperature, n_samples_per_prompt=2, max_new_tokens=24, max_len=2048
    )
    trials = [sample.trial for sample in samples]
    assert all(trial.failure is None for trial in trials)
    return trials, samples.metrics


def replies(trials: list[Trial]) -> list[list[tuple[int, ...]]]:
    return [[tuple(turn.sampled_ids) for turn in trial.turns] for trial in trials]


def test_trials_are_repeated_by_their_seeds_and_prompts_found_in_the_cache(engines: list[Any], tokenizer: Any) -> None:
    """At temperature 0 the same trials twice, one at a time; with seeded sampling, at temperature 1 too."""
    source = generator(engines, tokenizer, limit=1, seeded=False)
    first, metrics = play(source, 0.0)
    assert replies(first) == replies(play(source, 0.0)[0])
    assert [trial.sample for trial in first] == [0, 1] * 3
    assert len({trial.seed for trial in first}) == 6
    assert all(turn.logprobs is not None for trial in first for turn in trial.turns)
    assert metrics["prefix_cache_hit_rate"] > 0.3
    assert metrics["concurrent_trials"] == pytest.approx(1)
    assert metrics["idle_slots"] == pytest.approx(0)

    seeded = generator(engines, tokenizer, limit=None, seeded=True)
    once, metrics = play(seeded, 1.0)
    again, _ = play(seeded, 1.0)
    assert metrics["concurrent_trials"] > 1
    openings = [turns[0] for turns in replies(once)]
    same = [turns[0] == other[0] for turns, other in zip(replies(once), replies(again), strict=True)]
    assert sum(same) >= 5  # what else an engine computes at the time may turn a draw that is nearly a tie
    assert len(set(openings)) == 6
    assert [trial.seed for trial in once] == [trial.seed for trial in again]


def test_vllms_own_process_dies_unnoticed_by_ray_and_is_told_of(engines: list[Any]) -> None:
    import psutil
    import ray

    watch = EngineWatch("Start the same command again.")
    watch.begin(engines)
    report: Any = ray.get(engines[0].report.remote())
    (core,) = (child for child in psutil.Process(report.pid).children() if "EngineCore" in " ".join(child.cmdline()))
    core.kill()
    with pytest.raises(KeyboardInterrupt):
        threading.Event().wait(60)
    message = watch.death(0) or ""
    watch.stop()
    watch.close()
    assert f"rollout engine 1 of 1 died (process {report.pid} on " in message
    assert "vLLM's engine process died" in message
