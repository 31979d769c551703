"""Help, version and completion, which all commands of the program have."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from openrlhf_lamer import __version__
from openrlhf_lamer.cli.main import app
from openrlhf_lamer.records import Task
from openrlhf_lamer.tasks import write_dataset


def paths(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """A command and those below it."""
    yield path
    if hasattr(command, "list_commands"):
        context = typer.Context(command)
        for name in command.list_commands(context):
            yield from paths(command.get_command(context, name), (*path, name))


ALL = list(paths(typer.main.get_command(app)))


def test_all_commands_are_looked_at() -> None:
    assert {(), ("eval",), ("prepare",), ("prepare", "tasks"), ("prepare", "webshop")} <= set(ALL)


@pytest.mark.parametrize("path", ALL, ids=lambda path: " ".join(path) or "program")
def test_every_command_has_a_short_help_flag(path: tuple[str, ...]) -> None:
    short, long = (CliRunner().invoke(app, [*path, flag]) for flag in ("-h", "--help"))
    assert (short.exit_code, long.exit_code) == (0, 0)
    assert "Usage" in short.stdout
    assert short.stdout == long.stdout


@pytest.mark.parametrize("scripts", ["experiments", "learning"])
def test_so_have_the_scripts(scripts: str) -> None:
    folder = Path(__file__).parent.parent / "scripts" / scripts
    for path in ([], ["plan"] if scripts == "experiments" else ["run"]):
        result = subprocess.run([sys.executable, folder, *path, "-h"], capture_output=True, text=True, check=False)
        assert (result.returncode, "Usage" in result.stdout) == (0, True), result.stderr


def test_the_version_is_printed() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"openrlhf-lamer {__version__}\n")


@pytest.mark.parametrize("command", ["view", "analyze"])
@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("missing.jsonl", "No such file or directory"),
        ("empty.jsonl", "no trials there"),
        ("tasks.jsonl", "line 1: not a trial: no schema version"),
        ("page.html", "line 1: not a trial: '<html>"),
        ("model.safetensors", "not a text"),
        ("folder", "No such file or directory"),
    ],
)
def test_commands_that_take_trials_say_so(command: str, name: str, wrong: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.jsonl").touch()
    write_dataset(tmp_path / "tasks.jsonl", [Task("sokoban", seed=1)])
    (tmp_path / "page.html").write_text("<html>\n</html>\n")
    (tmp_path / "model.safetensors").write_bytes(b"\x08\xff\x00\xfe")
    result = CliRunner().invoke(app, [command, str(tmp_path / name)])
    assert (result.exit_code, result.stdout) == (2, "")
    said, _, wants = result.stderr.removeprefix(f"openrlhf-lamer: error: {tmp_path / name}").partition(
        ". This command "
    )
    assert said.removeprefix("/trials.jsonl").startswith(f": {wrong}")
    assert wants.startswith("takes trials: a file that --lamer.trials")
    assert wants.endswith("or a folder of `eval --out`\n")


def test_runs_below_a_folder_are_named(tmp_path: Path) -> None:
    for run in ("a", "b/eval", "c/d/e"):
        (tmp_path / run).mkdir(parents=True)
        (tmp_path / run / "trials.jsonl").touch()
    result = CliRunner().invoke(app, ["view", str(tmp_path)])
    assert result.stderr.endswith(f". Did you mean {tmp_path}/a, {tmp_path}/b/eval?\n")
    (tmp_path / "a" / "run.json").write_text("{}\n")
    result = CliRunner().invoke(app, ["view", str(tmp_path / "a" / "run.json")])
    assert result.stderr.endswith(f". Did you mean {tmp_path}/a?\n")


def bash(home: Path, script: str) -> str:
    env = {**os.environ, "HOME": str(home), "PATH": f"{home / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home directory with the program on its path, and completion installed as the README says."""
    home = tmp_path_factory.mktemp("home")
    program = home / "bin" / "openrlhf-lamer"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nfrom openrlhf_lamer.cli.main import main\nmain()\n")
    program.chmod(0o755)
    assert "bash completion installed" in bash(home, "openrlhf-lamer --install-completion\nexit $?")
    return home


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("rep", ["report"]),
        ("prepare mi", ["mix"]),
        ("eval --method rl", ["rl", "rl+memory"]),
        ("eval --max-t", ["--max-turns"]),
        ("analyze --by ", ["attempt", "run", "step"]),
    ],
)
def test_bash_completes_words(home: Path, typed: str, completed: list[str]) -> None:
    words = ["openrlhf-lamer", *typed.split(" ")]
    found = bash(
        home,
        f"source ~/.bashrc; complete -p openrlhf-lamer >&2; COMP_WORDS=({shlex.join(words)}); "
        f"COMP_CWORD={len(words) - 1}; _openrlhf_lamer_completion openrlhf-lamer; "
        "printf '%s\\n' \"${COMPREPLY[@]}\"",
    )
    assert sorted(found.split()) == completed
