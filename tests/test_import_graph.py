"""What `advantage/` can reach: numpy and our plain records, whatever is installed."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import openrlhf_lamer

ROOT = Path(openrlhf_lamer.__file__).parent
HOST = {"torch", "ray", "vllm", "openrlhf", "deepspeed", "transformers"}


def file_of(module: str) -> Path | None:
    """Where one of our modules is; None for a name that is none (a class or function)."""
    path = ROOT.joinpath(*module.split(".")[1:])
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def imports(file: Path) -> Iterator[str]:
    """Every module that a file names in an import, in functions and type checks too; parents come first."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file.name} has a relative import, which this test does not follow"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def reachable(start: str) -> tuple[set[str], set[str]]:
    """Our modules that importing `start` and calling anything in them can load, and the other packages."""
    ours, others, ahead = set(), set(), [start]
    while ahead:
        module = ahead.pop()
        if module.split(".")[0] != "openrlhf_lamer":
            others.add(module.split(".")[0])
        elif (file := file_of(module)) and module not in ours:
            ours.add(module)
            ahead += [*imports(file), module.rpartition(".")[0] or module]
    return ours, others - set(sys.stdlib_module_names)


def test_advantage_reaches_numpy_and_records_alone() -> None:
    files = sorted((ROOT / "advantage").glob("*.py"))
    assert len(files) > 8
    for file in files:
        ours, others = reachable(f"openrlhf_lamer.advantage.{file.stem}")
        assert not others & HOST, f"{file.name} reaches {others & HOST}"
        assert others <= {"numpy", "pydantic"}, f"{file.name} reaches {others}"
        assert {module for module in ours if ".advantage" not in module} <= {
            "openrlhf_lamer",
            "openrlhf_lamer.memory",
            "openrlhf_lamer.packed",
            "openrlhf_lamer.records",
            "openrlhf_lamer.vocabulary",
        }


def test_the_walk_finds_what_there_is_to_find() -> None:
    ours, others = reachable("openrlhf_lamer.integration.training.experience_maker")
    assert "openrlhf_lamer.advantage.groups" in ours
    assert {"torch", "openrlhf"} <= others


def test_credit_is_given_where_the_host_is_not_installed() -> None:
    """From records to advantages of every estimator, with imports of the host's stack made to fail."""
    code = f"""
import sys
for name in {sorted(HOST)}:
    sys.modules[name] = None
import numpy as np
from dataclasses import replace
from openrlhf_lamer.advantage import CreditConfig, TurnTable, get, names, with_returns
from openrlhf_lamer.records import Episode, Phase, Stop, Task, Trial, Turn
turn = Turn(Phase.PLAY, 0, 0, (1,), (2,), None, "", "up", True, 1.0, "s", "")
trial = Trial(Task("toy", seed=0), (Episode((turn,), Stop.LOST, ""),))
table = TurnTable.from_trials([trial, trial], [0, 0])
for name in names():
    if name.startswith("lamer_"):
        config = get(name).settle(CreditConfig())
        print(name, len(get(name).estimate(replace(with_returns(table, config), values=np.zeros(2)), config)))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT.parent), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    assert len(done.stdout.splitlines()) == 6
    assert set(done.stdout.split()[1::2]) == {"2"}
