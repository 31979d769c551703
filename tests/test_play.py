"""`openrlhf-lamer play`: players, tasks, replays and what it prints."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from openrlhf_lamer import envs, panels
from openrlhf_lamer.cli.main import app
from openrlhf_lamer.envs import Task, make, registry
from openrlhf_lamer.envs.minesweeper import MineSweeper

NAMES = envs.names(plugins=False)


def play(*arguments: str, typed: str = "") -> Any:
    return CliRunner().invoke(app, ["play", *arguments], input=typed, env={"COLUMNS": "100"})


def lines(*arguments: str) -> list[dict[str, Any]]:
    result = play(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


class TestPlayers:
    @pytest.mark.parametrize("name", NAMES)
    def test_the_oracle_wins_every_split(self, name: str, need: Callable[[str], None]) -> None:
        need(name)
        played = 0
        for split in envs.lookup(name).splits:
            result = play(name, "--split", split, "--player", "oracle", "--tasks", "3", "--json")
            if result.exit_code == 2:  # of a data set that is not there
                continue
            rows = [json.loads(line) for line in result.stdout.splitlines()]
            assert [(set(row), row["won"], row["score"]) for row in rows] == [
                ({"task", "won", "score", "turns"}, True, 1.0)
            ] * 3
            assert all(row["turns"] > 0 for row in rows)
            played += 1
        assert played

    def test_all_of_a_panel(self) -> None:
        rows = lines("sokoban", "--panel", "sokoban/5-boxes", "--player", "oracle", "--tasks", "all")
        assert [row["task"] for row in rows] == [task.id for task in panels.load("sokoban/5-boxes").tasks()]
        assert all(row["won"] and row["turns"] <= 7 for row in rows)

    def test_all_of_a_range_of_seeds_are_128(self) -> None:
        assert len(lines("minesweeper", "--player", "oracle", "--tasks", "all", "--options", '{"mines": 7}')) == 128

    def test_random_play_is_the_same_again_and_wins_less(self) -> None:
        arguments = ("minesweeper", "--player", "random", "--tasks", "30")
        rows = lines(*arguments)
        assert rows == lines(*arguments)
        assert 0 < sum(row["won"] for row in rows) < 25
        assert all(row["score"] == float(row["won"]) for row in rows)

    def test_turns_can_be_limited(self) -> None:
        (row,) = lines("sokoban", "--player", "oracle", "--max-turns", "1")
        assert (row["won"], row["score"], row["turns"]) == (False, 0.0, 1)

    def test_a_score_is_what_the_environment_says(self) -> None:
        class Scored(MineSweeper):
            name = "scored"

            def step(self, action: str) -> envs.Step:
                step = super().step(action)
                return envs.Step(step.observation, 0.0, True, False, False, True, {"task_score": 0.25})

        with registry.scoped(scored=Scored):
            assert lines("scored", "--player", "random")[0]["score"] == 0.25


class TestReplays:
    def test_actions_are_replayed_from_a_file_or_flags(self, tmp_path: Path) -> None:
        env = make("sokoban")
        env.reset(Task("sokoban", seed=4))
        actions = []
        while (action := env.oracle()) is not None:
            actions.append(action)
            env.step(action)
        (tmp_path / "actions.txt").write_text("\n".join(actions) + "\n")
        flags = [part for action in actions for part in ("--action", action)]
        expected = [{"task": "sokoban:seed=4", "won": True, "score": 1.0, "turns": len(actions)}]
        assert lines("sokoban", "--seed", "4", "--actions", str(tmp_path / "actions.txt")) == expected
        assert lines("sokoban", "--seed", "4", *flags) == expected

    def test_a_transcript_shows_states_actions_and_refusals(self) -> None:
        result = play("minesweeper", "--seed", "3", "--action", "(1, 1)", "--action", "(9, 9)")
        assert "Row 1: ? ? 1 . . ." in result.output
        assert "Row 1: 1 ? 1 . . ." in result.output
        assert "turn 2: (9, 9)" in result.output
        assert "refused: there is no such cell: rows and columns are 1 to 6" in " ".join(result.output.split())
        assert "0 of 1 won" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["chess"], "no environment is called 'chess'"),
        (["chess.py"], "no file chess.py"),
        (["sokoban", "--split", "test"], "no split 'test'; there are: train, eval"),
        (["sokoban", "--panel", "sokoban/9-boxes"], "no panel is called 'sokoban/9-boxes'"),
        (["sokoban", "--panel", "minesweeper/3-mines"], "is of minesweeper"),
        (["sokoban", "--tasks", "0"], "--tasks 0"),
        (["sokoban", "--tasks", "many"], "--tasks many"),
        (["sokoban", "--options", "boxes"], "--options 'boxes' is not a JSON object"),
        (["sokoban", "--options", "[]"], "is not a JSON object"),
        (["sokoban", "--options", '{"boxes": 9}'], "boxes is a whole number from 2 to 5"),
        (["sokoban", "--player", "oracle", "--action", "up"], "leave --player out"),
        (["sokoban", "--player", "oracle", "--attempts", "2"], "--attempts and --memory are for a person"),
        (["sokoban", "--action", "up", "--memory", "both"], "--attempts and --memory are for a person"),
        (["sokoban", "--actions", "nowhere.txt"], "--actions nowhere.txt: No such file"),
    ],
)
def test_what_cannot_be_played_is_said(arguments: list[str], message: str) -> None:
    result = play(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
