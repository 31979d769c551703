"""Measures of reflections, on trials whose right answer is known by hand."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from openrlhf_lamer.agents import load_agent
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.cli.main import app
from openrlhf_lamer.envs.base import TextEnv
from openrlhf_lamer.evaluation.reflections import NAMED, SILENT, UNNAMED, Reflections, analyse, grams, reading, sameness
from openrlhf_lamer.policies.scripted import OraclePolicy, RandomPolicy, ScriptedPolicy
from openrlhf_lamer.records import Episode, Failure, FailureKind, Phase, Stop, Task, Trial, Turn


def turn(action: str | None, *, observation: str = "", phase: Phase = Phase.PLAY, valid: bool = True) -> Turn:
    return Turn(phase, 0, 0, (1,), (2, 3), None, "", action, valid, 0.0, "", observation)


def episode(
    *actions: str, stop: Stop = Stop.LOST, remark: str | None = None, silent: bool = False, board: str = ""
) -> Episode:
    reflection = None if silent else turn(remark, phase=Phase.REFLECT, valid=remark is not None)
    return Episode(tuple(turn(action, observation=board) for action in actions), stop, "", reflection)


def value(found: Reflections, *name: str) -> tuple[float, int]:
    """A figure, and the number of cases it is based on."""
    measure = found.figures["/".join(name)]
    return measure.estimate.value, measure.cases


def trial(*episodes: Episode, env: str = "minesweeper", seed: int = 0) -> Trial:
    return Trial(Task(env, seed=seed), episodes)


@pytest.mark.parametrize(
    ("remark", "names"),
    [
        ("Keep off (3, 4).", True),
        ("Keep off (3,4), open ( 2 , 2 ) first.", True),
        ("The cell [3, 4] is bad.", True),
        ("In row 3, column 4 there is a mine.", True),
        ("Row 3 and col 4 was wrong", True),
        ("Keep off (4, 3).", False),
        ("I opened 3 cells and 4 more: 3, 4.", False),
        ("Keep off (13, 4) and (3, 44).", False),
        ("", False),
    ],
)
def test_a_remark_names_a_cell(remark: str, names: bool) -> None:
    assert reading("minesweeper").mentions(remark, "(3, 4)") is names
    assert reading("minesweeper").mentions(remark, "3,4") is names


@pytest.mark.parametrize(
    ("remark", "action", "names"),
    [
        ("Not up, then left again.", "up, left", True),
        ("Going UP and then leftwards locks the box.", "up, left", True),
        ("left before up", "up, left", False),
        ("Don't update the plan", "up", False),
        ("anything", "none", False),
    ],
)
def test_a_remark_names_moves(remark: str, action: str, names: bool) -> None:
    assert reading("sokoban").mentions(remark, action) is names


@pytest.mark.parametrize(
    ("remark", "action", "names"),
    [
        ("Do not go to  Drawer 1 again.", "go to drawer 1", True),
        ("Do not go to drawer 11 again.", "go to drawer 1", False),
        ("choose Blue this time", "click[blue]", True),
        ("choose bluegreen this time", "click[blue]", False),
        ("search for red shoes", "search[red shoes]", True),
    ],
)
def test_a_remark_names_a_command(remark: str, action: str, names: bool) -> None:
    assert reading("webshop").mentions(remark, action) is names


def test_the_next_episode_is_held_against_the_mine_that_was_hit() -> None:
    lost = ("(1, 1)", "(3, 4)")
    found = analyse(
        [
            trial(episode(*lost, remark="A mine at (3, 4)."), episode("(2, 2)", stop=Stop.WON), seed=1),
            trial(episode(*lost, remark="A mine at (3, 4)."), episode("(1, 1)", "3,4"), seed=2),
            trial(episode(*lost, remark="Bad luck."), episode("(3, 4)"), seed=3),
            trial(episode(*lost, silent=True), episode("(3, 4)"), episode("(5, 5)"), seed=4),
            trial(episode("(1, 1)", stop=Stop.MAX_TURNS, remark="Too slow."), episode("(3, 4)"), seed=5),
            Trial(Task("minesweeper", seed=6), (), Failure(FailureKind.ENGINE, "generate", "")),
        ]
    )
    assert (found.trials, found.failed, found.lost, found.reflections) == (5, 1, 6, 5)
    assert value(found, "avoided", NAMED) == (1 / 2, 2)
    assert value(found, "avoided", UNNAMED) == (0, 1)
    # The second loss of trial 4 has a reflection without a remark.
    assert value(found, "avoided", SILENT) == (1 / 2, 2)
    assert value(found, "faced", SILENT) == (1 / 2, 2)
    assert value(found, "known") == (4 / 5, 6), "in the mean over tasks"
    assert value(found, "names") == (pytest.approx(2 / 3), 3)
    assert value(found, "valid") == (4 / 5, 5)
    assert value(found, "tokens") == (2.0, 5)
    # (3, 4) of (1, 1), (3, 4), twice; nothing in the two others.
    assert value(found, "overlap") == ((0.5 + 0.5 + 0 + 0) / 4, 4)


def test_many_episodes_of_one_task_are_not_taken_for_many_tasks() -> None:
    def interval(seeds: int) -> float:
        trials = [
            trial(episode("(1, 1)", remark="at (1, 1)"), episode(f"(1, {1 + n % seeds % 2})"), seed=n % seeds)
            for n in range(40)
        ]
        estimate = analyse(trials).figures[f"avoided/{NAMED}"].estimate
        assert estimate.value == 0.5
        return estimate.high - estimate.low

    assert interval(4) > 2 * interval(40)


def test_shares_have_intervals_within_their_bounds() -> None:
    trials = [trial(episode("(1, 1)", remark="nothing at all"), episode("(1, 2)"), seed=n) for n in range(4)]
    for name, measure in analyse(trials).figures.items():
        if measure.cases and name not in ("tokens", "sameness"):
            assert 0 <= measure.estimate.low <= measure.estimate.value <= measure.estimate.high <= 1


def test_only_one_attempt_may_be_looked_at() -> None:
    trials = [trial(episode("(1, 1)", remark="A mine at (1, 1)."), episode("(1, 2)", remark="x"), episode("(1, 2)"))]
    assert value(analyse(trials, 1), "avoided", NAMED) == (1, 1)
    assert value(analyse(trials, 2), "avoided", UNNAMED) == (0, 1)
    assert value(analyse(trials, 2), "avoided", NAMED)[1] == 0
    assert analyse(trials, 3).lost == 0


ROWS = ("#####", "#P__#", "#_X_#", "#O__#", "#####")
BOARD = "\n".join(f"{row}: {' '.join(cells)}" for row, cells in enumerate(ROWS))


def test_sokobans_mistake_is_the_move_after_which_no_solution_is_left() -> None:
    read = reading("sokoban").played
    pushed_right = read(episode("down, right, up", board=BOARD))
    assert pushed_right.mistake == pushed_right.moves[-1]
    assert (pushed_right.moves[-1].action, pushed_right.moves[-1].words) == ("right", "down, right")
    assert read(episode("right, down", stop=Stop.MAX_TURNS, board=BOARD)).mistake is None, "it can go left from there"
    assert read(episode("right, right, down", "left, up, left", "down", stop=Stop.WON, board=BOARD)).mistake is None
    assert read(episode("up", board="no board")).mistake is None


def test_sokobans_mistake_needs_the_same_state_to_be_made_again() -> None:
    pushed_up = episode("down, down, right", "up, left", board=BOARD, remark="Not up, from below.")
    again = episode("none, down, down", "right, up", board=BOARD)
    elsewhere = episode("down", "right", board=BOARD)
    turned = episode("down, down, right", "right, left", stop=Stop.MAX_TURNS, board=BOARD)
    trials = [trial(pushed_up, each, env="sokoban", seed=n) for n, each in enumerate((again, elsewhere, turned))]
    found = analyse(trials)
    assert value(found, "avoided", NAMED) == (pytest.approx(2 / 3), 3)
    assert value(found, "faced", NAMED) == (1 / 2, 2)


def test_without_a_single_move_to_blame_the_whole_sequence_is_the_mistake() -> None:
    lost = episode("go to sink 1", "Look", stop=Stop.MAX_TURNS, remark="To look was no use.")
    other = episode("go to sink 1", "go to sink 1", stop=Stop.MAX_TURNS)
    found = analyse(
        [
            trial(lost, episode("go to  sink 1", "look"), env="alfworld"),
            trial(lost, other, env="alfworld"),
        ]
    )
    assert value(found, "avoided", NAMED) == (1 / 2, 2)


def test_novelty_is_what_no_memory_of_the_trial_could_hold() -> None:
    first = "one two three four"
    same = trial(episode("(1, 1)", remark=first), episode("(1, 2)", remark=first), episode("(1, 3)"))
    assert value(analyse([same], 1), "novelty")[0] == 1.0
    assert value(analyse([same], 2), "novelty")[0] == 0.0
    half = trial(episode("(1, 1)", remark=first), episode("(1, 2)", remark="one two three nine"), episode("(1, 3)"))
    assert value(analyse([half], 2), "novelty")[0] == 0.5
    copied = trial(episode("(1, 1)", board="One, two! Three four", remark=first), episode("(1, 1)"))
    assert value(analyse([copied]), "novelty")[0] == 0.0


def test_sameness_does_not_depend_on_the_number_of_tasks() -> None:
    def of(*remarks: str) -> float:
        return sameness([(f"task {n}", grams(text)) for n, text in enumerate(remarks)])

    assert of("open it now", "Open it, now!") == 1.0
    assert of("open it now", "close it later") == 0.0
    assert of(*["open it now"] * 5) == 1.0
    # Two of the five others have the one trigram of a remark.
    assert of("a b c", "a b c", "d e f", "d e f", "a b c", "d e f") == pytest.approx(2 / 5)
    assert math.isnan(of("a b c"))
    assert math.isnan(sameness([("t", grams("a b c"))] * 2)), "remarks on one task say nothing"


def test_trials_of_the_loop_are_read_as_they_are(play: Callable[..., Trial], chat: Chat) -> None:
    """Random players hit mines and get stuck; the hook finds every mistake that the environments ended for."""
    for env in ("minesweeper", "sokoban"):
        agent = load_agent(f"openrlhf_lamer.agents.{env}")[0]
        trials = [play(RandomPolicy(chat, seed), seed=seed, agent=agent, num_episodes=2) for seed in range(12)]
        lost = [each for each in trials if each.episodes[0].stop is Stop.LOST]
        assert lost
        found = analyse(trials)
        assert value(found, "known") == (pytest.approx(len(lost) / found.lost), found.lost)
        assert value(found, "valid")[0] == 1.0
        assert value(found, "sameness")[0] == 1.0, "the script's remark is always the same"
        won = play(OraclePolicy(chat), agent=agent)
        assert reading(env).played(won.episodes[0]).mistake is None


class Heeding(ScriptedPolicy):
    """Hits a mine, says which, and then keeps away from it; or says so and hits it again."""

    def __init__(self, chat: Chat, heeds: bool) -> None:
        super().__init__(chat)
        self._heeds, self._named = heeds, ""

    def act(self, env: TextEnv) -> str:
        mines = [int(cell) for cell in env.anchor().split("|")[0].split(":")[1].split(",")]
        cells = [f"({cell // 6 + 1}, {cell % 6 + 1})" for cell in mines]
        self._cell = next(cell for cell in cells if not (self._heeds and cell == self._named))
        return f"<action>{self._cell}</action>"

    def reflect(self, env: TextEnv) -> str:
        self._named = self._cell
        return f"<remark>{self._cell} is a mine.</remark>"


@pytest.mark.parametrize("heeds", [True, False])
def test_a_player_that_heeds_its_remarks_is_told_from_one_that_does_not(
    heeds: bool, play: Callable[..., Trial], chat: Chat
) -> None:
    found = analyse([play(Heeding(chat, heeds), seed=seed, num_episodes=2) for seed in range(6)])
    assert value(found, "names")[0] == 1.0
    assert value(found, "avoided", NAMED)[0] == float(heeds)


@pytest.fixture
def training(tmp_path: Path, play: Callable[..., Trial], chat: Chat) -> Path:
    file = tmp_path / "trials.jsonl"
    with file.open("w") as lines:
        for step in range(1, 5):
            for seed in range(2):
                line = play(RandomPolicy(chat, step), seed=seed, num_episodes=3).to_json()
                lines.write(f'{line[:-1]},"step":{step},"group":{seed}}}\n')
    return file


def run(*arguments: Any) -> str:
    result = CliRunner().invoke(app, ["analyze", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def cases(*arguments: Any, figure: str = "trials") -> dict[str, int]:
    rows = json.loads(run(*arguments, "--json"))["rows"]
    return {row["column"]: row["cases"] for row in rows if row["figure"] == figure}


def test_the_command_prints_a_column_a_run_a_stretch_of_steps_or_an_attempt(training: Path) -> None:
    assert "avoided next: not named" in run(training)
    assert list(cases(training.parent).values()) == [8]
    assert cases(training, "--by", "step", "--every", 3) == {"trials, steps 1 to 3": 6, "trials, steps 4 to 4": 2}
    assert list(cases(training, "--by", "attempt")) == ["trials, attempt 1", "trials, attempt 2"]
    other = training.with_name("other.jsonl")
    other.write_text(trial(episode("go to sink 1"), episode("look"), env="alfworld").to_json() + "\n")
    assert cases(training, other) == {"trials, minesweeper": 8, "other, alfworld": 1}


def test_the_commands_csv_has_every_figure_with_its_interval_and_cases(training: Path) -> None:
    rows = {row["figure"]: row for row in csv.DictReader(io.StringIO(run(training, "--csv")))}
    assert rows["trials"]["cases"] == "8"
    assert rows["avoided/no remark"]["cases"] == "0"
    assert rows["avoided/no remark"]["value"] == ""
    assert float(rows["valid"]["value low"]) < float(rows["valid"]["value"]) == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.jsonl"], "missing.jsonl"),
        (["empty.jsonl"], "no trials there"),
        (["steps.jsonl", "--by", "step"], "--lamer.trials"),
    ],
)
def test_the_command_says_what_is_wrong_with_a_file(arguments: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "steps.jsonl").write_text(trial(episode("(1, 1)")).to_json() + "\n")
    result = CliRunner().invoke(app, ["analyze", str(tmp_path / arguments[0]), *arguments[1:]])
    assert result.exit_code == 2
    assert message in result.output
