"""Six official ALFWorld games, and ways to play them, for several test files."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from openrlhf_lamer.envs import Task
from openrlhf_lamer.envs.alfworld import catalogue, games, generator
from openrlhf_lamer.envs.alfworld.env import AlfWorld

DATA = Path(__file__).parent / "data" / "alfworld"
"""One official game of each task type."""

NAMES = catalogue.official_names("valid_seen", folder=DATA / catalogue.FOLDER)


def official(name: str) -> Task:
    return Task("alfworld", spec={"game": name})


def file_of(name: str) -> Path:
    return DATA / catalogue.FOLDER / name / catalogue.FILE


def transcript(path: Path, steps: int) -> list[list[Any]]:
    """Answers of our engine to the commands that `alfworld_stock.py` gives."""
    game = games.load(path)
    play = games.Play()
    rows: list[list[Any]] = [["", play.begin(game), list(play.commands), play.won]]
    walkthrough = list(game.walkthrough)
    rng = random.Random(0)
    for _ in range(steps):
        wanders = rng.random() < 0.5 or not walkthrough
        command = rng.choice(play.commands) if wanders else walkthrough.pop(0)
        answer = play.do(command)
        rows.append([command, games.NOTHING_HAPPENS if answer is None else answer, list(play.commands), play.won])
        if play.won:
            break
    play.close()
    return rows


def kept(seed: int, task_types: str) -> Path:
    """The file of a generated game."""
    generator.game(seed, task_types)
    folder = generator.folder_of_games()
    return folder / (folder / "seeds" / task_types / str(seed)).read_text() / catalogue.FILE


def solve(env: AlfWorld, task: Task) -> int:
    """Let the oracle play; returns the number of commands, or 0 where it does not win."""
    env.reset(task)
    commands = 0
    while (command := env.oracle()) is not None:
        step = env.step(command)
        commands += 1
        assert step.valid, command
        if step.won:
            return commands
    return 0
