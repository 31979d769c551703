"""Imports go one way: no cycles, the core below the host, `advantage/` on numpy and plain records only."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import openrlhf_lamer

ROOT = Path(openrlhf_lamer.__file__).parent
HOST = {"torch", "ray", "vllm", "openrlhf", "deepspeed", "transformers"}


def file_of(module: str) -> Path | None:
    """File of one of our modules; None for another name (a class or function)."""
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
    """Our modules that can be loaded by importing `start` and calling anything in it, and the other packages."""
    ours, others, ahead = set(), set(), [start]
    while ahead:
        module = ahead.pop()
        if module.split(".")[0] != "openrlhf_lamer":
            others.add(module.split(".")[0])
        elif (file := file_of(module)) and module not in ours:
            ours.add(module)
            ahead += [*imports(file), module.rpartition(".")[0] or module]
    return ours, others - set(sys.stdlib_module_names)


def graph(root: Path = ROOT) -> dict[str, set[str]]:
    """Modules of the package `root`, each with those it imports, also in functions, but not for types only."""

    def name(file: Path) -> str:
        parts = (root.name, *file.relative_to(root).with_suffix("").parts)
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def at_run_time(node: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(node):
            if not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
                yield child
                yield from at_run_time(child)

    files = {name(file): file for file in root.rglob("*.py")}
    arrows: dict[str, set[str]] = {}
    for module, file in files.items():
        named: set[str] = set()
        for node in at_run_time(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                named |= inner & set(files) or {node.module}
        arrows[module] = named & set(files) - {module}
    return arrows


def circle(arrows: Mapping[str, set[str]]) -> list[str]:
    """Modules of a circle, in order; empty if there is none."""
    try:
        tuple(TopologicalSorter(arrows).static_order())
    except CycleError as error:
        return error.args[1]
    return []


def test_no_circle_of_imports_lazy_ones_included() -> None:
    arrows = graph()
    assert len(arrows) > 120
    assert not circle(arrows), " → ".join(circle(arrows))


def test_a_circle_is_found_where_it_hides_in_a_function(tmp_path: Path) -> None:
    package = tmp_path / "ring"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "inner" / "__init__.py").touch()
    (package / "low.py").write_text("def call():\n    from ring.inner import high\n    return high\n")
    (package / "inner" / "high.py").write_text("from ring import low\n")
    assert set(circle(graph(package))) == {"ring.low", "ring.inner.high"}
    (package / "low.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ring.inner import high\n"
    )
    assert circle(graph(package)) == []


def rooms(arrows: Mapping[str, set[str]]) -> dict[tuple[str, str], str]:
    """Pairs of the integration's parts of which one imports the other, each with one such import."""
    inner = {module: module.split(".")[2] for module in arrows if ".integration." in module}
    pairs = ((a, b) for a in inner for b in arrows[a] if b in inner and inner[a] != inner[b])
    return {(inner[a], inner[b]): f"{a} → {b}" for a, b in pairs}


def arrows_up(arrows: Mapping[str, set[str]]) -> list[str]:
    """Imports from the core into the integration."""
    above = {"cli", "doctor", "evaluation", "integration", "quickstart", "_startup"}
    seam = "openrlhf_lamer.agents.loading"  # the host finds an agent through it
    core = [module for module in arrows if module != seam and not above & {*module.split(".")[1:2]}]
    return [f"{a} → {b}" for a in core for b in sorted(arrows[a]) if ".integration" in b]


def test_rooms_of_the_integration_import_each_other_in_one_direction() -> None:
    found, names = rooms(graph()), {"launch", "rollout", "training"}
    between = {pair: arrow for pair, arrow in found.items() if {*pair} <= names}
    assert between.keys() == {("launch", "rollout"), ("launch", "training"), ("training", "rollout")}, between
    above = [arrow for (a, b), arrow in found.items() if b in names and a not in names]
    assert not above, f"what stands beside the rooms is below them, but {above}"


def test_the_core_points_at_nothing_that_knows_the_host() -> None:
    assert not arrows_up(graph()), arrows_up(graph())


def test_an_arrow_in_the_wrong_direction_is_named() -> None:
    arrows = graph()
    arrows["openrlhf_lamer.trial"].add("openrlhf_lamer.integration.host")
    arrows["openrlhf_lamer.integration.rollout.pool"].add("openrlhf_lamer.integration.launch.flags")
    assert arrows_up(arrows) == ["openrlhf_lamer.trial → openrlhf_lamer.integration.host"]
    wrong = "openrlhf_lamer.integration.rollout.pool → openrlhf_lamer.integration.launch.flags"
    assert rooms(arrows)["rollout", "launch"] == wrong


def test_advantage_reaches_numpy_and_records_only() -> None:
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
    assert len(done.stdout.splitlines()) == 7
    assert set(done.stdout.split()[1::2]) == {"2"}
