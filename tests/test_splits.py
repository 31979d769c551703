"""No evaluation task is trained on: compared here by whole states, as environments show them, not by hashes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from openrlhf_lamer import envs, panels
from openrlhf_lamer.agents import load_agent
from openrlhf_lamer.cli.main import app
from openrlhf_lamer.quickstart.run import plan
from openrlhf_lamer.quickstart.settings import QUICKSTARTS
from openrlhf_lamer.records import Task
from openrlhf_lamer.splits import SCANNED, STRIDE, left_out
from openrlhf_lamer.tasks import SEEDS, read_dataset, seeded_tasks
from openrlhf_lamer.warmstart.demonstrations import Rules
from openrlhf_lamer.warmstart.run import CORPUS, CORPUS_TRIALS, FIRST, MEASURED, Plan, _tasks

SMALL = {"size": 3, "mines": 2}


def states(tasks: Sequence[Task], **options: Any) -> list[tuple[Any, ...]]:
    """How each task begins: all that is shown, all that may be done, and the environment's key of the state."""
    env = envs.make(tasks[0].env, **options)
    seen = [env.reset(task) for task in tasks]
    return [
        (observation.text, observation.admissible, (env.reset(task), env.anchor())[1])
        for task, observation in zip(tasks, seen, strict=True)
    ]


def prepared(tmp_path: Path, *arguments: str, code: int = 0) -> tuple[list[Task], str]:
    result = CliRunner().invoke(app, ["prepare", "tasks", "--out", str(tmp_path / "t.jsonl"), *arguments])
    assert result.exit_code == code, result.output
    return (read_dataset(tmp_path / "t.jsonl") if code == 0 else []), " ".join(result.output.split())


@pytest.mark.parametrize(
    ("name", "given", "number", "shared"),
    [
        ("minesweeper/3-mines", "{}", 4096, 20),
        ("minesweeper/3-mines-long", '{"size": 6, "reward": "shaped"}', 4096, 20),
        ("minesweeper/4-mines", '{"mines": 4}', 4096, 2),
        ("sokoban/2-boxes", '{"max_moves": 40}', 1024, 1),
    ],
)
def test_no_prepared_training_task_begins_as_one_of_a_panel(
    name: str, given: str, number: int, shared: int, tmp_path: Path
) -> None:
    """`shared` panel states come up under the first training seeds, even with options that do not affect states."""
    panel = panels.load(name)
    held = set(states(panel.tasks(), **panel.options))
    seeds = states(seeded_tasks(panel.env, "train", number), **panel.options)
    assert len(held & set(seeds)) == shared
    tasks, said = prepared(tmp_path, "--env", panel.env, "--options", given, "--num", str(number))
    drawn = states([Task(panel.env, seed=task.seed) for task in tasks], **panel.options)
    assert not held & set(drawn)
    skipped = sum(state in held for state in seeds)
    assert f"{skipped} seeds left out" in said
    assert [task.seed == i for i, task in enumerate(tasks)] == [state not in held for state in seeds]


def test_a_number_is_a_task_whatever_is_asked_for_with_it() -> None:
    game = envs.lookup("minesweeper")
    tasks = game.tasks("train", 300, options=SMALL)
    assert game.tasks("train", 40, first=100, options=SMALL) == tasks[100:140]
    held = set(states(game.tasks("eval", options=SMALL), **SMALL))
    for number, task in enumerate(tasks):
        assert task.seed is not None
        before = [Task("minesweeper", seed=seed) for seed in range(number, task.seed, STRIDE)]
        assert task.seed == number + STRIDE * len(before)
        assert all(state in held for state in states(before, **SMALL)) if before else task.seed == number
    seeds = [task.seed or 0 for task in tasks]
    assert len(set(seeds)) == 300
    assert max(seeds) in SEEDS["train"]
    assert left_out(tasks[7:], 7) == sum((seed - i) // STRIDE for i, seed in enumerate(seeds[7:], 7)) > 100


def beginnings(size: int, mines: int) -> set[tuple[tuple[int, ...], frozenset[int]]]:
    """All mines and open cells that an episode can begin with, by hand."""
    cells = range(size * size)
    near = {
        c: [d for d in cells if d != c and max(abs(c // size - d // size), abs(c % size - d % size)) == 1]
        for c in cells
    }
    found = set()
    for laid in combinations(cells, mines):
        for cell in set(cells) - set(laid):
            opened, grown = {cell}, [cell]
            while grown:
                if not set(near[at := grown.pop()]) & set(laid):
                    grown += set(near[at]) - opened
                    opened |= set(near[at])
            if len(opened) < len(cells) - mines:
                found.add((laid, frozenset(opened)))
    return found


@pytest.mark.parametrize(("size", "mines"), [(2, 1), (3, 2)])
def test_few_boards_are_split_by_the_state_itself(size: int, mines: int) -> None:
    """Both parts together are all states there are, and they have none in common; evaluation has each once."""
    options = {"size": size, "mines": mines}
    game = envs.lookup("minesweeper")
    train = set(states(game.tasks("train", 4096, options=options), **options))
    evaluation = states(game.tasks("eval", options=options), **options)
    assert len(evaluation) == len(set(evaluation))
    assert not train & set(evaluation)
    assert len(train) + len(evaluation) == len(beginnings(size, mines))
    assert 0.3 < len(train) / len(beginnings(size, mines)) < 0.7


@pytest.mark.parametrize("options", [{"size": 4, "mines": 3}, {"size": 6, "mines": 2}, {"size": 5, "mines": 4}])
def test_boards_without_a_panel_are_split_too(options: dict[str, int]) -> None:
    game = envs.lookup("minesweeper")
    evaluation = states(game.tasks("eval", 128, options=options), **options)
    assert len(set(evaluation)) == 128
    assert not set(evaluation) & set(states(game.tasks("train", 4096, options=options), **options))


def test_more_evaluation_tasks_than_boards_are_refused(tmp_path: Path) -> None:
    line = ("--env", "minesweeper", "--options", '{"size": 3, "mines": 2}', "--split", "eval")
    assert "has 114 tasks" in prepared(tmp_path, *line, "--num", "115", code=2)[1]
    assert "has 114 tasks" in prepared(tmp_path, *line, "--num", "1", "--first", "114", code=2)[1]
    tasks, said = prepared(tmp_path, *line, "--num", "114")
    assert len({task.seed for task in tasks}) == 114
    assert "left out" not in said
    assert all(task.seed in SEEDS["eval"][:SCANNED] for task in tasks)


def test_goals_of_webshop_are_split_by_themselves() -> None:
    """As `holds_out = False` says: no goal is in both splits."""
    panel = panels.load("webshop/eval")
    held = set(states(panel.tasks(), **panel.options))
    assert not held & set(states(envs.lookup("webshop").tasks("train", options=panel.options), **panel.options))


def test_the_quickstart_evaluates_on_no_board_that_it_has_played(tmp_path: Path) -> None:
    """Neither in training nor in demonstrations, nor in those that the tokenizer is made of."""
    settings = QUICKSTARTS["minesweeper"]
    for stage in plan(tmp_path, settings)[:2]:
        assert CliRunner().invoke(app, stage.command[3:]).exit_code == 0
    agent, options = load_agent("openrlhf_lamer.agents.minesweeper")[0], settings.config.env_options
    warm_start = Plan(
        Rules(agent, settings.config, settings.max_new_tokens, settings.max_length), settings.demonstrations
    )
    played = read_dataset(tmp_path / "data" / "train" / "train.jsonl")
    assert len(played) == settings.steps * settings.tasks
    for first, number in ((FIRST, warm_start.trials), (MEASURED, warm_start.measured), (CORPUS, CORPUS_TRIALS)):
        played += _tasks(warm_start, first, number)
    evaluated = states(read_dataset(tmp_path / "data" / "eval" / "eval.jsonl"), **options)
    assert len(evaluated) == len(set(evaluated)) == settings.panel_size == 114
    assert not set(evaluated) & set(states(played, **options))
