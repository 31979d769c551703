"""A Ray that does not start, and workers that it kills for memory: one message each, with the remedy."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openrlhf_lamer.config import ConfigError
from openrlhf_lamer.integration import cluster, cpu
from openrlhf_lamer.integration.cluster import StartError
from openrlhf_lamer.integration.launch.watch import EngineWatch
from openrlhf_lamer.integration.low_memory import killed_for_memory
from openrlhf_lamer.tasks import seeded_tasks, write_dataset

ray = pytest.importorskip("ray")

TIMED_OUT = (
    "The current node timed out during startup. This could happen because some of the raylet failed to startup or the "
    "GCS has become overloaded."
)
"""Message of Ray 2.55, in an exception of no type of its own."""

KILLED = (
    "1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 10.0.0.7, ID: d7b691e3) "
    "was 22.41GB / 23.54GB (0.952000), which exceeds the memory usage threshold of 0.950000; Object store memory "
    "usage: [- objects spillable: 0; - bytes spillable: 0; (global lru) capacity: 80000000; (global lru) used: 0%]; "
    "Ray killed 1 worker(s) based on the killing policy: [(Actor(190d0962): job ID=01000000, lease ID=000000001ca0, "
    "task name=PolicyModelActor.__init__, required resources={CPU: 1, GPU: 1}, pid=11980, actual memory used=3.04GB, "
    "worker ID=5d41e85c)]; To see more information about memory usage on this node, use `ray logs raylet.out -ip "
    "10.0.0.7`; Top 10 memory users: PID\tMEM(GB)\tCOMMAND, 11763\t9.10\tpython -m build, --jobs 8, 11887\t4.50\t"
    "ray::LamerRolloutActor, 11980\t3.04\tray::PolicyModelActor.fit, 11862\t0.05\tpython -u "
    "ray/_private/log_monitor.py..., 11889\t0.05\tray::RuntimeEnvAgent, 11979\t0.04\tray::IDLE, Refer to the "
    "documentation on how to address the out of memory issue: https://docs.ray.io/en/latest/ray-oom-prevention.html. "
    "Consider provisioning more memory on this node or reducing task parallelism by requesting more CPUs per task."
)
"""Message of Ray 2.55, shortened where it lists the object store."""

TOLD = (
    "Ray killed PolicyModelActor (process 11980, 3.04 GB), because the machine 10.0.0.7 was low on memory (22.41 of "
    "23.54 GB in use). Most of it had 9.10 GB python -m build, --jobs 8 (process 11763); 4.50 GB "
    "ray::LamerRolloutActor (process 11887); 3.04 GB ray::PolicyModelActor.fit (process 11980); 0.05 GB python -u "
    "ray/_private/log_monitor.py... (process 11862); 0.05 GB ray::RuntimeEnvAgent (process 11889). Remedy: "
)


def in_a_task(cause: Exception) -> Exception:
    """A task's error as a driver gets it: wrapped by Ray, through a pickle as through its store."""
    try:
        raise cause
    except Exception as error:
        trace = traceback.format_exc()
        wrapped = ray.exceptions.RayTaskError("fit", trace, error, proctitle="ray::Trainer", pid=7, ip="10.0.0.7")
    return pickle.loads(ray.cloudpickle.dumps(wrapped)).as_instanceof_cause()


def out_of_memory() -> Exception:
    return ray.exceptions.OutOfMemoryError(KILLED)


def an_actor_of_it() -> Exception:
    """An actor that died of an error of its constructor, which waited for the worker that was killed."""
    wrapped: Any = ray.exceptions.RayTaskError(
        "__init__", f"ray.exceptions.OutOfMemoryError: {KILLED}", out_of_memory(), "ray::Trainer", 7, "10.0.0.7"
    )
    wrapped._actor_id = "190d0962"
    return ray.exceptions.ActorDiedError(wrapped)


@pytest.mark.parametrize(
    "error",
    [
        out_of_memory,
        lambda: in_a_task(out_of_memory()),
        lambda: in_a_task(in_a_task(out_of_memory())),
        an_actor_of_it,
        lambda: ray.exceptions.RayActorError("190d0962", KILLED),
    ],
)
def test_a_kill_for_memory_is_one_line_with_what_took_it(error: Callable[[], Exception]) -> None:
    told = killed_for_memory(error()) or ""
    assert told.startswith(TOLD)
    assert "--vllm.num_engines" in told
    assert "RAY_memory_usage_threshold" in told
    assert len(told.splitlines()) == 1


def test_a_list_of_processes_by_lines_is_read_too() -> None:
    lines = (
        KILLED.replace(", 11763\t", "\n11763\t").replace(", 11887\t", "\n11887\t").replace(", Refer to", "\nRefer to")
    )
    told = killed_for_memory(ray.exceptions.OutOfMemoryError(lines)) or ""
    assert "Most of it had 9.10 GB python -m build, --jobs 8 (process 11763); 4.50 GB ray::LamerRolloutActor" in told


def test_a_message_in_other_words_is_cut_to_what_is_known() -> None:
    error = ray.exceptions.OutOfMemoryError("Task was killed due to the node running low on memory.\nSee the logs.")
    told = killed_for_memory(error) or ""
    assert told.startswith("Ray killed a worker, because its machine was low on memory. Remedy: end other work")


def test_other_deaths_are_not_put_down_to_memory() -> None:
    """Ray names the kernel's killer among the common causes of any death."""
    died = (
        "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: "
        "Worker unexpectedly exits with a connection error code 2. Some common causes include: (1) the process was "
        "killed by the OOM killer due to high memory usage, (2) ray stop --force was called, or (3) the worker crashed"
    )
    for error in (
        ray.exceptions.RayActorError("190d0962", died),
        ray.exceptions.WorkerCrashedError(),
        in_a_task(MemoryError("out of memory")),
        KeyboardInterrupt(),
    ):
        assert killed_for_memory(error) is None


def test_an_engine_that_was_killed_for_memory_is_told_of_with_what_took_it() -> None:
    watch = EngineWatch("Start the same command again.")
    watch._engines = [None, None]
    watch._asked.set()
    watch._notice(1, out_of_memory())
    watch.close()
    told = watch.death(0) or ""
    assert told.startswith(f"rollout engine 2 of 2 died before it was up ({TOLD}")
    assert told.endswith("Start the same command again.")
    assert len(told.splitlines()) == 1


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Makes the start of Ray fail."""

    def init(**options: Any) -> None:
        raise error

    monkeypatch.setattr(ray, "init", init)


def test_a_start_that_takes_too_long_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv(cluster.START_VARIABLE, raising=False)
    failing(monkeypatch, Exception(TIMED_OUT))
    for seconds in ("30", "120"):
        with pytest.raises(StartError) as told:
            cluster.init("local")
        message = str(told.value)
        assert message.startswith("Ray did not start (Exception: The current node timed out during startup.")
        assert f"not up within {seconds} s" in message
        assert "once other work has ended, or with RAY_raylet_start_wait_time_s set to more" in message
        assert message.endswith(f"{tmp_path}/ray/session_latest/logs")
        assert len(message.splitlines()) == 1
        monkeypatch.setenv(cluster.START_VARIABLE, "120")


def test_a_cluster_that_cannot_be_joined_is_the_configurations_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, RuntimeError("Version mismatch:\n    The cluster was started with Ray 2.9"))
    with pytest.raises(
        ConfigError, match=r"Ray at 10.0.0.7:6379 could not be joined: Version mismatch: The cluster .*"
    ):
        cluster.init("10.0.0.7:6379")


def test_cpu_mode_lets_ray_take_longer_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(cluster.START_VARIABLE, raising=False)
    assert float(cpu.ray_env()[cluster.START_VARIABLE]) > cluster.START_SECONDS
    monkeypatch.setenv(cluster.START_VARIABLE, "45")
    assert cpu.ray_env()[cluster.START_VARIABLE] == "45"


def test_the_variable_is_set_before_ray_is_imported_which_reads_it_then(tmp_path: Path) -> None:
    """Any variable of Ray's configuration that Python can query shows when Ray reads it."""
    code = """
import os, sys
import openrlhf_lamer.integration.launch.launcher
from openrlhf_lamer.integration import cpu
assert "ray" not in sys.modules
cpu.enter_driver()
os.environ["RAY_kill_worker_timeout_milliseconds"] = "78"
from ray._raylet import Config
os.environ["RAY_kill_worker_timeout_milliseconds"] = "79"
print(Config.kill_worker_timeout_milliseconds(), os.environ["RAY_raylet_start_wait_time_s"])
"""
    env = {key: value for key, value in os.environ.items() if key != cluster.START_VARIABLE}
    env |= {"XDG_CACHE_HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.stdout.split() == ["78", "120"], done.stderr


def test_the_command_leaves_with_1_and_one_line_where_ray_cannot_start(tmp_path: Path) -> None:
    """For real: no socket fits into so long a folder, which Ray finds out before it starts a process."""
    pytest.importorskip("openrlhf")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    write_dataset(tmp_path / "train.jsonl", seeded_tasks("minesweeper", "train", 32))
    (tmp_path / ("long" * 30)).mkdir()
    line = [
        *(sys.executable, "-m", "openrlhf_lamer.cli.train_ppo_ray"),
        *("--agent_func", "openrlhf_lamer.agents.minesweeper"),
        *("--actor.model_name_or_path", str(tmp_path / "model")),
        *("--data.prompt_dataset", str(tmp_path / "train.jsonl")),
    ]
    env = {**os.environ, "RAY_TMPDIR": str(tmp_path / ("long" * 30)), "RAY_ADDRESS": "local"}
    done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    (told,) = [each for each in done.stderr.splitlines() if each.startswith("openrlhf-lamer: error: ")]
    assert "Ray did not start (OSError: " in told
    assert "AF_UNIX path length cannot exceed 107 bytes" in told
    assert told.endswith("/ray/session_latest/logs")


def test_a_run_that_loses_a_worker_to_memory_leaves_with_1_and_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The host's command raises what Ray gave it; what is around it is ours."""
    pytest.importorskip("openrlhf")
    from openrlhf_lamer.integration.launch import launcher

    def run(*args: Any, **given: Any) -> None:
        raise in_a_task(out_of_memory())

    nothing: Any = lambda *args, **given: None  # noqa: E731
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name in ("_init_ray", "_place_classes"):
        monkeypatch.setattr(launcher, name, nothing)
    monkeypatch.setattr(launcher.cpu, "enter_driver", nothing)
    monkeypatch.setattr(launcher.runpy, "run_module", run)
    monkeypatch.setattr(launcher.os, "environ", dict(os.environ))
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    write_dataset(tmp_path / "train.jsonl", seeded_tasks("minesweeper", "train", 32))
    with pytest.raises(SystemExit) as left:
        launcher.main(
            [
                *("--agent_func", "openrlhf_lamer.agents.minesweeper"),
                *("--actor.model_name_or_path", str(tmp_path / "model")),
                *("--data.prompt_dataset", str(tmp_path / "train.jsonl")),
                *("--ckpt.save_steps", "5", "--ckpt.path", str(tmp_path / "kept")),
            ]
        )
    assert left.value.code == 1
    # The host's packages may warn there when they are first imported.
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    (told,) = [each for each in errors.splitlines() if each.startswith("openrlhf-lamer: error: ")]
    assert told.startswith(f"openrlhf-lamer: error: {TOLD}")
    assert told.endswith(f"--ckpt.load_enable: it goes on from the last checkpoint in {tmp_path / 'kept'}.")
