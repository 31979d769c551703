"""CPU mode: where it refuses, its hooks, its stand-in for flash_attn, and that the host knows its flags."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import os
import pickle
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from openrlhf_lamer.integration import cpu
from openrlhf_lamer.integration.cpu import driver, environment, hooks

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
needs_host = pytest.mark.skipif(importlib.util.find_spec("openrlhf") is None, reason="the host is not installed")


@pytest.fixture
def devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands in for /dev, with none of the relevant variables set."""
    folder = tmp_path / "dev"
    folder.mkdir()
    monkeypatch.setattr(environment, "DEVICES", folder)
    for name in ("CUDA_VISIBLE_DEVICES", cpu.ENV_VAR):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hooks and finders as they were before, whatever a test does to them."""
    monkeypatch.setattr(sys, "meta_path", [f for f in sys.meta_path if not isinstance(f, hooks.HookFinder)])
    importlib.import_module("openrlhf_lamer.integration.cpu.patches")
    monkeypatch.setattr(hooks, "_PATCHES", {})
    monkeypatch.setattr(hooks, "_AROUND", {})
    yield
    sys.modules.pop("cpu_mode_victim", None)


def in_cpu_mode(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own that has the variable set."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("OPENRLHF_LAMER_")}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=env | {cpu.ENV_VAR: "1"} | variables,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def test_cuda_is_found_by_its_device_files(devices: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("nvidiactl", "nvidia-uvm", "null"):
        (devices / name).touch()
    assert not cpu.cuda_available()
    (devices / "nvidia0").touch()
    assert cpu.cuda_available()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert cpu.cuda_available()
    for hidden in ("", " ", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert not cpu.cuda_available()


@pytest.mark.usefixtures("registry")
def test_it_refuses_where_cuda_is(devices: Path) -> None:
    (devices / "nvidia0").touch()
    with pytest.raises(cpu.CudaPresentError, match=r"nvidia0.*OPENRLHF_LAMER_CPU"):
        cpu.install()
    assert not any(isinstance(finder, hooks.HookFinder) for finder in sys.meta_path)


@pytest.mark.usefixtures("registry")
def test_hidden_devices_stay_hidden_in_the_workers(devices: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (devices / "nvidia0").touch()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    cpu.install()
    variables = cpu.worker_env()
    # In a worker, Ray sets the variable to its logical devices.
    monkeypatch.setattr(sys, "meta_path", [f for f in sys.meta_path if not isinstance(f, hooks.HookFinder)])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv(cpu.ENV_VAR, variables[cpu.ENV_VAR])
    cpu.install()
    assert any(isinstance(finder, hooks.HookFinder) for finder in sys.meta_path)


def test_a_process_that_carries_the_variable_ends_where_cuda_is(devices: Path) -> None:
    (devices / "nvidia3").touch()
    code = f"""
        import pathlib
        from openrlhf_lamer import _startup
        from openrlhf_lamer.integration.cpu import environment, hooks
        import sys
        sys.meta_path[:] = [f for f in sys.meta_path if not isinstance(f, hooks.HookFinder)]
        environment.DEVICES = pathlib.Path({str(devices)!r})
        _startup.run()
        print("not reached")
    """
    done = in_cpu_mode(code, CUDA_VISIBLE_DEVICES="3", OPENRLHF_LAMER_NO_PTH="1")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "nvidia3" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("registry", "devices")
def test_hooks_run_once_around_an_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu_mode_victim.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    calls: list[int] = []

    @hooks.after_import("cpu_mode_victim")
    def patch(module: object) -> None:
        calls.append(1)
        hooks.replace(module, "value", 2)

    cpu.install()
    finders = list(sys.meta_path)
    cpu.install()
    assert sys.meta_path == finders
    module = importlib.import_module("cpu_mode_victim")
    assert (module.value, calls) == (2, [1])
    importlib.import_module("cpu_mode_victim")
    assert calls == [1]
    assert type(module.__loader__).__name__ == "SourceFileLoader"


@pytest.mark.usefixtures("registry", "devices")
def test_what_was_imported_before_is_patched_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu_mode_victim.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("cpu_mode_victim")
    hooks.after_import("cpu_mode_victim")(lambda module: hooks.replace(module, "value", 3))
    cpu.install()
    assert module.value == 3


def test_a_host_without_the_replaced_name_is_an_error() -> None:
    with pytest.raises(AttributeError, match=r"math\.gone.*0\.11\.2"):
        hooks.replace(importlib.import_module("math"), "gone", None)


def test_installing_imports_nothing_heavy() -> None:
    done = in_cpu_mode("import sys; print([m for m in ('torch', 'ray', 'vllm', 'numpy') if m in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


@needs_torch
def test_torch_sees_the_cpu_as_its_device() -> None:
    code = """
        import copy, pickle, torch
        device = torch.cuda.current_device()
        torch.cuda.set_device(0); torch.cuda.synchronize()
        print(torch.zeros(1, device=device).device, torch.device(f"cuda:{device}"), torch.cuda.current_stream())
        print(pickle.loads(pickle.dumps(device)) == copy.deepcopy(device) == "cpu")
    """
    done = in_cpu_mode(code)
    assert done.stdout.split() == ["cpu", "cuda:0", "None", "True"], done.stderr


@needs_host
def test_flash_attn_is_stood_in_for_in_one_module_only() -> None:
    code = """
        import importlib.util, sys
        import openrlhf.models.ring_attn_utils as module
        print(module.pad_input.__module__, importlib.util.find_spec("flash_attn"), "flash_attn" in sys.modules)
    """
    if importlib.util.find_spec("flash_attn") is not None:
        pytest.skip("the real flash_attn is installed")
    done = in_cpu_mode(code)
    told = done.stdout.splitlines()[-1:]  # the host's own messages come before
    assert told == ["flash_attn.bert_padding None False"], done.stderr


@needs_torch
def test_padding_is_removed_and_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("einops")
    torch = importlib.import_module("torch")
    folder = Path(cpu.__file__).parent / "stubs" / "flash_attn" / "bert_padding.py"
    spec = importlib.util.spec_from_file_location("bert_padding_stub", folder)
    assert spec is not None
    assert spec.loader is not None
    stub = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stub)

    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0]])
    values = torch.arange(24.0).reshape(3, 4, 2) + 1
    packed, indices, bounds, longest, used = stub.unpad_input(values, mask)
    assert packed.shape == (8, 2)
    assert bounds.tolist() == [0, 2, 6, 8]
    assert (longest, used.tolist()) == (4, [2, 4, 2])
    assert torch.equal(packed, values[mask.bool()])
    assert torch.equal(stub.pad_input(packed, indices, 3, 4), values * mask[..., None])
    assert torch.equal(stub.index_first_axis(values.flatten(0, 1), indices), packed)


@needs_host
def test_the_host_knows_every_flag_that_is_preset() -> None:
    spec = importlib.util.find_spec("openrlhf")
    assert spec is not None
    assert spec.submodule_search_locations
    source = (Path(spec.submodule_search_locations[0]) / "cli" / "train_ppo_ray.py").read_text()
    known = set(re.findall(r'add_argument\(\s*"(--[\w.]+)"', source))
    presets = {f"--{name}" for name in cpu.host_defaults()}
    assert presets
    assert presets <= known


def test_what_the_user_set_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "7")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    assert cpu.worker_env()["VLLM_CPU_KVCACHE_SPACE"] == "7"
    assert cpu.ray_env()["RAY_USAGE_STATS_ENABLED"] == "1"


def test_every_variable_is_text_and_can_be_sent() -> None:
    variables = cpu.worker_env()
    assert variables[cpu.ENV_VAR] == "1" or cpu.cuda_devices()
    assert all(isinstance(value, str) for value in variables.values())
    assert copy.deepcopy(variables) == pickle.loads(pickle.dumps(variables))


def test_locks_of_killed_builds_are_removed(tmp_path: Path) -> None:
    for name, age in (("old", 2 * driver.STALE_LOCK_SECONDS), ("new", 1)):
        (tmp_path / name).mkdir()
        lock = tmp_path / name / "lock"
        lock.touch()
        os.utime(lock, (time.time() - age, time.time() - age))
    driver.remove_stale_locks(tmp_path)
    assert [path.parent.name for path in tmp_path.glob("*/lock")] == ["new"]
