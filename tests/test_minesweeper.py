"""MineSweeper against golden transcripts, and its rules as properties."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openrlhf_lamer.envs import Task, TaskError, make

GOLDEN: list[dict[str, Any]] = json.loads((Path(__file__).parent / "data" / "minesweeper.json").read_text("utf-8"))

DIFFICULTIES = [(6, 3), (6, 5), (6, 8), (4, 14), (10, 15), (2, 1)]


def spec_of(entry: dict[str, Any]) -> dict[str, Any]:
    """The part of a transcript that fixes its field."""
    return {key: entry[key] for key in ("size", "mines", "initial")}


def board(text: str) -> list[str]:
    """Cells of an observation, row by row."""
    return [sign for line in text.split("\n") for sign in line.partition(": ")[2].split(" ")]


@pytest.mark.parametrize("entry", GOLDEN, ids=range(len(GOLDEN)))
def test_golden_transcripts(entry: dict[str, Any]) -> None:
    env = make("minesweeper", reward="shaped")
    assert env.reset(Task("minesweeper", spec=spec_of(entry))).text == entry["initial"]
    for golden in entry["steps"]:
        row, col = golden["action"]
        step = env.step(f"({row}, {col})")
        assert step.observation.text == golden["observation"]
        assert (step.reward, step.terminated, step.won) == (golden["reward"], golden["done"], golden["won"])
        assert not step.truncated
        assert step.valid == (golden["reward"] != -1.0)


@pytest.mark.parametrize(("size", "mines"), DIFFICULTIES)
def test_generated_fields(size: int, mines: int) -> None:
    env = make("minesweeper", size=size, mines=mines)
    for seed in range(100):
        cells = board(env.reset(Task("minesweeper", seed=seed)).text)
        layout = env.anchor().partition("|")[0].partition(":")[2].split(",")
        assert len(cells) == size * size
        assert len(set(layout)) == mines
        assert "*" not in cells
        assert any(cell != "?" for cell in cells), "one cell is open"
        assert cells.count("?") > mines, "not won at once"


@pytest.mark.parametrize(("size", "mines"), DIFFICULTIES[:3] + DIFFICULTIES[4:5])
def test_a_hundred_seeds_are_a_hundred_fields(size: int, mines: int) -> None:
    env = make("minesweeper", size=size, mines=mines)
    anchors: set[str] = set()
    for seed in range(100):
        env.reset(Task("minesweeper", seed=seed))
        anchors.add(env.anchor())
    assert len(anchors) == 100


@pytest.mark.parametrize(("size", "mines"), DIFFICULTIES)
def test_the_oracle_always_wins(size: int, mines: int) -> None:
    env = make("minesweeper", size=size, mines=mines)
    for seed in range(50):
        env.reset(Task("minesweeper", seed=seed))
        step = None
        while (action := env.oracle()) is not None:
            step = env.step(action)
            assert step.valid
        assert step is not None
        assert step.won
        assert step.reward == 10.0


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(), play=st.integers(0, 2**32), difficulty=st.sampled_from(DIFFICULTIES))
def test_what_is_open_is_right_and_closed_under_cascades(seed: int, play: int, difficulty: tuple[int, int]) -> None:
    size, mines = difficulty
    env = make("minesweeper", size=size, mines=mines, reward="shaped")
    rng = random.Random(play)
    before = board(env.reset(Task("minesweeper", seed=seed)).text)
    hidden = {int(cell) for cell in env.anchor().partition("|")[0].partition(":")[2].split(",")}
    over = False
    while not over:
        action = env.random_action(rng)
        step = env.step(action)
        after = board(step.observation.text)
        over = step.terminated
        opened = [cell for cell in range(size * size) if after[cell] != before[cell]]
        row, col = (int(number) - 1 for number in action.strip("()").split(","))
        assert row * size + col in opened
        assert all(before[cell] == "?" for cell in opened), "what is open stays as it is"
        for cell, sign in enumerate(after):
            r, c = divmod(cell, size)
            around = [
                i * size + j
                for i in range(max(r - 1, 0), min(r + 2, size))
                for j in range(max(c - 1, 0), min(c + 2, size))
                if (i, j) != (r, c)
            ]
            if sign == ".":
                assert all(after[near] != "?" for near in around), "a blank cell's neighbours are open"
            if sign not in "?*":
                assert cell not in hidden
                assert (0 if sign == "." else int(sign)) == len(hidden.intersection(around))
        safe_left = after.count("?") - len(hidden) + after.count("*")
        assert step.won == (safe_left == 0 and "*" not in after)
        assert step.terminated == (step.won or "*" in after)
        expected = 10.0 if step.won else -0.1 if "*" in after else 2.0 if len(opened) > 1 else 0.5
        assert step.reward == expected
        before = after


FIELD = {"size": 3, "mines": [[1, 1]], "initial": "Row 1: ? 1 ?\nRow 2: ? ? ?\nRow 3: ? ? ?"}


@pytest.mark.parametrize("action", ["(2, 2)", "2, 2", " ( 2 ,2 ) ", "(2,2)", "02,2"])
def test_ways_to_name_a_cell(action: str) -> None:
    env = make("minesweeper", size=3, mines=1)
    env.reset(Task("minesweeper", spec=FIELD))
    step = env.step(action)
    assert step.valid
    assert step.observation.text == "Row 1: ? 1 ?\nRow 2: ? 1 ?\nRow 3: ? ? ?"


@pytest.mark.parametrize(
    "action",
    [
        *("", "2 2", "(2, 2", "2, 2)", "[2, 2]", "row 2 col 2", "(2, 2) (3, 3)", "(2, 2, 2)", "2.0, 2", "(a, b)"),
        *("(²,2)", "٢, ٢", "(0, 1)", "(4, 1)", "(1, 4)", "(-1, 2)", "(1, 2)", "(99999999999999999999, 1)", "(1, 1);"),
    ],
)
@pytest.mark.parametrize(("reward", "paid"), [("sparse", 0.0), ("shaped", -1.0)])
def test_anything_else_is_refused_and_changes_nothing(action: str, reward: str, paid: float) -> None:
    env = make("minesweeper", size=3, mines=1, reward=reward)
    before = env.reset(Task("minesweeper", spec=FIELD)), env.anchor()
    step = env.step(action)
    assert not step.valid
    assert not step.terminated
    assert step.reward == paid
    assert (step.observation, env.anchor()) == before
    assert env.penalises_invalid == (reward == "shaped")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mines": [[1, 4]]}, "lists"),
        ({"mines": [1, 1]}, "lists"),
        ({"mines": [[1.5, 1]]}, "lists"),
        ({"mines": None}, "lists"),
        ({"mines": []}, r"number of spec\['mines'\] is a whole number from 1 to 7, not 0"),
        ({"size": 4}, "not 4 lines"),
        ({"size": "3"}, r"spec\['size'\] is a whole number"),
        ({"initial": "Row 1: ? 1 ?"}, "not 3 lines"),
        ({"initial": "Row 1: ? 2 ?\nRow 2: ? ? ?\nRow 3: ? ? ?"}, r"shows '2' at \(1, 2\); there is '1'"),
        ({"initial": "Row 1: 1 1 ?\nRow 2: ? ? ?\nRow 3: ? ? ?"}, r"at \(1, 1\); there is a mine"),
        ({"initial": "Row 1: ? 1 .\nRow 2: 1 1 .\nRow 3: . . ."}, "no safe cell"),
        ({"flags": []}, "keys size, mines and initial"),
    ],
)
def test_wrong_specs_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        make("minesweeper", size=3, mines=1).reset(Task("minesweeper", spec={**FIELD, **change}))


def test_a_spec_brings_its_own_size_and_mines_for_one_episode() -> None:
    env = make("minesweeper", size=6, mines=4)
    seeded = Task("minesweeper", seed=1, options={"size": 6, "mines": 4})
    before = env.reset(seeded)
    env.reset(Task("minesweeper", spec=FIELD))
    assert (env.size, env.mines) == (3, 1)  # type: ignore[attr-defined]
    assert env.reset(seeded) == before
    assert (env.size, env.mines) == (6, 4)  # type: ignore[attr-defined]
