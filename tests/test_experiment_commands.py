"""Commands of the paper's experiments: each passes the checks of the program that it calls."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from experiment_scripts import plans, tables
from typer.testing import CliRunner

from openrlhf_lamer import envs, panels, recipes
from openrlhf_lamer.agents import load_agent
from openrlhf_lamer.cli.main import app
from openrlhf_lamer.envs.alfworld.catalogue import COUNTS
from openrlhf_lamer.envs.webshop.env import WebShop
from openrlhf_lamer.tasks import read_dataset, seeded_tasks, write_dataset

pytest_plugins = "experiment_scripts"


def commands(setup: Any) -> Iterator[list[str]]:
    """The commands of all experiments, without what guards them."""
    evaluations = [each for experiment in plans.EXPERIMENTS.values() for each in experiment.evaluations]
    for line in plans.plan(evaluations, setup):
        if not line.startswith("#"):
            words = shlex.split(line)
            yield words[words.index("||") + 1 :] if "||" in words else words


@pytest.mark.parametrize("official", [False, True])
def test_training_commands_pass_the_launchers_checks(
    official: bool, setup: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openrlhf")
    from openrlhf_lamer.integration.launch import launcher

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    setup = plans.Setup("Qwen/Qwen3-4B", setup.runs, nodes=2, gpus=4, official=official)
    for env in plans.STEPS:
        write_dataset(setup.runs / "data" / env / "train.jsonl", seeded_tasks(env, "train", 32))
    estimators = set()
    for words in commands(setup):
        if words[1] == "train":
            if "alfworld" in words[2]:
                pytest.importorskip("textworld")
            recipe, run = Path(words[2]), Path(words[words.index("--run") + 1])
            assert run == setup.runs / "train" / recipe.parent.name / recipe.stem / "seed-0"
            plan = launcher.prepare(recipes.resolve(recipes.read(recipe), words[5:], run))
            estimators.add(plan.estimator)
            assert plan.gpus == plan.line["vllm.num_engines"] == 8
            trials = plan.line.config.num_episodes * plan.line["rollout.n_samples_per_prompt"]
            assert trials == 24, "as many episodes an update in every training"
            assert plan.line["ckpt.path"] == str(run / "checkpoints")
            assert plan.line["ckpt.output_dir"] == str(run / "model")
            assert plan.line["ckpt.load_enable"]
            assert plan.line["eval.dataset"] is None
            steps = plans.STEPS[plan.agent_file.stem]
            assert steps % plan.line["ckpt.save_steps"] == 0, "one that is cut off in saving its model goes on there"
    assert estimators == {"lamer_ppo", "rloo", "group_norm", "lamer_rloo", "lamer_grpo", "lamer_gigpo"}


def test_a_script_that_is_killed_and_started_again_goes_on(setup: Any, tmp_path: Path) -> None:
    """With an `openrlhf-lamer` that is cut off in its first training, and in saving the model of the second one."""
    setup = replace(setup, runs=tmp_path / "a b", seeds=(0,))
    training, second = plans.Training("sokoban", "lamer"), plans.Training("sokoban", "gigpo")
    fake = f"""#!{sys.executable}
import os, sys
from pathlib import Path
with open({str(tmp_path / "called")!r}, "a") as file:
    print(len(list(Path({str(tmp_path)!r}).rglob("latest"))), file=file)
flags = dict(zip(sys.argv, sys.argv[1:]))
latest, model = Path(flags["--run"]) / "checkpoints" / "latest", Path(flags["--run"]) / "model"
begun = latest.exists()
latest.parent.mkdir(parents=True, exist_ok=True)
latest.touch()
if not begun and {training.model!r} in str(latest):
    sys.exit(9)
model.mkdir(parents=True, exist_ok=True)
(model / "config.json").touch()
if not begun:
    sys.exit(9)
(model / "tokenizer_config.json").touch()
"""
    (tmp_path / "openrlhf-lamer").write_text(fake)
    (tmp_path / "openrlhf-lamer").chmod(0o755)
    lines = [line for line in plans.plan([], setup, [training, second]) if "prepare" not in line]
    script = "\n".join(["set -euo pipefail", *lines])
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    codes = [subprocess.run(["bash", "-c", script], env=env, check=False).returncode for _ in range(4)]
    assert codes == [9, 9, 0, 0]
    assert (tmp_path / "called").read_text().split() == ["0", "1", "0", "1"], "the checkpoints of each are there"
    assert not [*tmp_path.rglob("latest")], "what is of no use any more is removed"
    for each in (training, second):
        assert (each.folder(setup, 0) / "model" / "tokenizer_config.json").exists()


def test_baselines_that_compare_whole_attempts_are_the_hosts_own() -> None:
    """Table 1's RLOO and GRPO credit an attempt by its return, which equal attempts share; ours go by other names."""
    estimators: dict[str, set[str]] = {}
    for name in ("main-table", "by-turn"):
        for cell in plans.EXPERIMENTS[name].cells:
            if cell.row.startswith(("RLOO", "GRPO")):
                settings = cell.evaluation.training.recipe.settings
                estimators.setdefault(cell.row, set()).add(settings["algo.advantage.estimator"].value)
                assert settings["lamer.num_episodes"].value == 1
                assert settings["rollout.n_samples_per_prompt"].value == 24
    assert estimators == {
        "RLOO": {"rloo"},
        "GRPO": {"group_norm"},
        "RLOO by turn": {"lamer_rloo"},
        "GRPO by turn": {"lamer_grpo"},
    }
    main, by_turn = tables.paper("main-table"), tables.paper("by-turn")
    assert by_turn.figures == {row: main.figures[row] for row in ("RLOO", "GRPO")}


def test_turns_are_the_agents_own_in_training_and_evaluation(setup: Any) -> None:
    """ALFWorld's agent has two numbers of turns, which no command of the plan repeats."""
    agent = load_agent("openrlhf_lamer.agents.alfworld")[0]
    assert (agent.max_turns, agent.evaluated().max_turns) == (10, 30)
    assert not [word for words in commands(setup) for word in words if word in ("--lamer.max_turns", "--max-turns")]


def test_evaluation_commands_are_eval_s_own(setup: Any) -> None:
    """Each is parsed to the end, where it fails because the model is not found."""
    for words in commands(replace(setup, seeds=(0,))):
        if words[:2] == ["openrlhf-lamer", "eval"]:
            tasks = words[words.index("--tasks") + 1]
            if tasks.endswith(".jsonl"):
                env = "webshop" if Path(tasks).stem == plans.SHOP else "alfworld"
                write_dataset(Path(tasks), envs.lookup(env).tasks("eval", 2))
            result = CliRunner().invoke(app, words[1:])
            assert result.exit_code == 2
            assert f"--model {words[words.index('--model') + 1]}: no config.json there" in result.output


def test_data_commands_write_what_is_named(setup: Any, tmp_path: Path) -> None:
    for words in commands(setup):
        if words[:3] == ["openrlhf-lamer", "prepare", "tasks"] and "alfworld" not in words:
            result = CliRunner().invoke(app, words[1:])
            assert result.exit_code == 0, result.output
    assert len((setup.runs / "data" / "sokoban" / "train.jsonl").read_text().splitlines()) == 300 * 16
    official = plans.Setup("m", setup.runs, official=True)
    text = "\n".join(shlex.join(words) for words in commands(official))
    for panel, count in COUNTS[plans.OFFICIAL].items():
        assert f'--num {count} --options \'{{"task_types": "{panel}"}}\'' in text


@pytest.mark.parametrize("original", [False, True])
def test_webshop_is_evaluated_on_the_catalogue_that_it_trains_on(
    original: bool, setup: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WEBSHOP_DATA", raising=False)
    if original:
        prepare = ["prepare", "webshop", "--out", str(tmp_path / "shop"), "--products", "300"]
        assert CliRunner().invoke(app, prepare).exit_code == 0
        monkeypatch.setenv("WEBSHOP_DATA", str(tmp_path / "shop"))
    trained, evaluated = set(), set()
    for words in commands(setup):
        if words[:3] == ["openrlhf-lamer", "prepare", "tasks"] and "webshop" in words:
            assert CliRunner().invoke(app, words[1:]).exit_code == 0
        elif words[1] == "train" and "webshop" in words[2]:
            trained.add(words[words.index("--data.prompt_dataset") + 1])
        elif words[:2] == ["openrlhf-lamer", "eval"] and "/eval/webshop" in words[words.index("--out") + 1]:
            evaluated.add(words[words.index("--tasks") + 1])
    assert len(trained) == len(evaluated) == 1
    training, evaluation = read_dataset(Path(trained.pop())), read_dataset(Path(evaluated.pop()))
    specs = [task.spec for task in (*training, *evaluation) if task.spec is not None]
    assert len(specs) == 150 * 8 + 128
    assert {spec["catalogue"] for spec in specs} == {WebShop().shop.catalogue}
    assert len({spec["goal"] for spec in specs}) == len(specs), "no goal is trained on and evaluated"
    frozen = [task.spec for task in panels.load("webshop/eval").tasks()]
    assert (specs[-128:] == frozen) == (not original), "on the synthetic catalogue these are the goals of the panel"
