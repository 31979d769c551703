"""The `.pth` line: when it fires, what it starts, and that other processes do not notice it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import openrlhf_lamer
from openrlhf_lamer import _startup

HOST = "openrlhf.cli.train_ppo_ray"
OURS = "openrlhf_lamer.cli.train_ppo_ray"
PACKAGE = Path(openrlhf_lamer.__file__).parent

HEAVY = ("torch", "ray", "vllm", "openrlhf", "deepspeed", "transformers")


def python(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run this interpreter with `variables` added to the environment, and none of ours inherited."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("OPENRLHF_LAMER_")}
    return subprocess.run(
        [sys.executable, *arguments],
        env=env | variables,
        cwd="/",  # `-m` looks in the working directory first, where our sources may lie
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def stand_in(tmp_path: Path) -> str:
    """A PYTHONPATH with a host and a package of ours whose commands only tell how they were started."""
    report = "import json, sys; print(json.dumps([{!r}, sys.argv[1:], sys.flags.dont_write_bytecode, sys.warnoptions]))"
    for package, name in (("openrlhf", "host"), ("openrlhf_lamer", "ours")):
        folder = tmp_path / package / "cli"
        folder.mkdir(parents=True)
        (folder.parent / "__init__.py").touch()
        (folder / "__init__.py").touch()
        (folder / "train_ppo_ray.py").write_text(report.format(name))
    shutil.copy(PACKAGE / "_startup.py", tmp_path / "openrlhf_lamer")
    return str(tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--agent_func", "x"],
        ["--agent_func=x"],
        ["--actor.model_name_or_path", "m", "--lamer.num_episodes", "2"],
        ["--lamer.num_episodes=2"],
        ["--algo.advantage.estimator", "lamer_gigpo"],
        ["--algo.advantage.estimator=lamer_gigpo"],
    ],
)
def test_the_host_command_with_our_flags_becomes_ours(stand_in: str, arguments: list[str]) -> None:
    done = python("-B", "-W", "ignore", "-m", HOST, *arguments, PYTHONPATH=stand_in)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["ours", arguments, 1, ["ignore"]]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--help"],
        ["--train.agent_func_path", "x.py"],
        ["--algo.advantage.estimator", "group_norm"],
        ["--data.prompt_dataset", "lamer_data"],
    ],
)
def test_the_host_command_without_our_flags_stays(stand_in: str, arguments: list[str]) -> None:
    done = python("-B", "-m", HOST, *arguments, PYTHONPATH=stand_in)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[:2] == ["host", arguments]


def test_the_switch_turns_it_off(stand_in: str) -> None:
    done = python("-m", HOST, "--agent_func", "x", PYTHONPATH=stand_in, OPENRLHF_LAMER_NO_PTH="1")
    assert json.loads(done.stdout)[0] == "host"
    modules = "import sys; print([m for m in sys.modules if m.startswith('openrlhf_lamer')])"
    done = python("-c", modules, OPENRLHF_LAMER_CPU="1", OPENRLHF_LAMER_NO_PTH="1")
    assert done.stdout.strip() == "[]"


def test_the_host_command_named_by_another_program_is_left_alone(stand_in: str, tmp_path: Path) -> None:
    script = tmp_path / "submit.py"
    script.write_text("import sys; print(sys.argv[1:])")
    done = python(str(script), "python", "-m", HOST, "--agent_func", "x", PYTHONPATH=stand_in)
    assert "--agent_func" in done.stdout
    done = python("-c", "print('string')", "-m", HOST, "--agent_func", "x", PYTHONPATH=stand_in)
    assert done.stdout == "string\n"


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["python", "-m", "a.b", "-m", "c"], ([], "a.b", ["-m", "c"])),
        (["python", "-uBm", "a.b", "x"], (["-uB"], "a.b", ["x"])),
        (["python", "-ma.b", "x"], ([], "a.b", ["x"])),
        (["python", "-X", "dev", "-Xutf8", "-W", "error", "-Wignore", "-m", "a"], None),
        (["python", "--check-hash-based-pycs", "never", "-m", "a"], (["--check-hash-based-pycs", "never"], "a", [])),
        (["python", "-m"], False),
        (["python", "file.py", "-m", "a"], False),
        (["python", "-", "-m", "a"], False),
        (["python", "-c", "m", "-m", "a"], False),
        (["python", "-ic", "m", "-m", "a"], False),
        (["python"], False),
        ([], False),
    ],
)
def test_command_lines_are_read_as_the_interpreter_reads_them(
    argv: list[str], expected: tuple[list[str], str, list[str]] | bool | None
) -> None:
    if expected is None:
        expected = (argv[1:-2], "a", [])
    assert _startup.parse_command(argv) == (expected or None)


def test_other_processes_load_nothing_of_ours() -> None:
    done = python("-c", "import sys; print([m for m in sys.modules if m.startswith('openrlhf')])")
    assert done.stdout.strip() == "[]"
    assert done.stderr == ""


def test_the_line_is_installed_once_and_is_one_line() -> None:
    found = [
        path / "openrlhf_lamer_startup.pth"
        for path in map(Path, sys.path)
        if (path / "openrlhf_lamer_startup.pth").is_file()
    ]
    assert len(found) == 1
    assert found[0].read_text().count("\n") == 1


def test_a_failure_is_reported_and_swallowed(stand_in: str) -> None:
    # The stand-in lacks the CPU mode.
    done = python("-c", "print('alive')", PYTHONPATH=stand_in, OPENRLHF_LAMER_CPU="1")
    assert (done.returncode, done.stdout) == (0, "alive\n")
    assert "goes on without it" in done.stderr
    assert "Traceback" in done.stderr


def test_importing_the_package_is_light() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); import openrlhf_lamer; took = time.perf_counter() - start\n"
        f"print(took, [name for name in {HEAVY!r} if name in sys.modules])"
    )
    took, _, heavy = python("-c", code).stdout.strip().partition(" ")
    assert heavy == "[]"
    assert float(took) < 0.3
