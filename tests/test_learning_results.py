"""Behaviours, tables and curves that experiments on learning read from trials, against plain counting."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from learning_scripts import (
    arms,
    behaviours,
    commands,
    doors_trial,
    doors_turn,
    evaluation,
    finish,
    line,
    reporting,
    results,
    stages,
)
from typer.testing import CliRunner

from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.evaluation.cross import cells
from openrlhf_lamer.evaluation.statistics import matched, pass_at_k, share
from openrlhf_lamer.records import Episode, Failure, FailureKind, Phase, Stop, Task, Trial

SECOND = results.SECOND


def found_at_0(*runs: dict[str, dict[str, list[float]]]) -> Any:
    """Results of an arm with these measures at step 0, one run a seed."""
    return results.Found(arms.EXPERIMENTS["doors-lamp"].arms[0], {0: dict(enumerate(runs))}, {}, None, {})


def of(trial: Trial) -> dict[str, list[float]]:
    return {name: own[trial.task.id] for name, own in behaviours.behaviours([trial]).items()}


class TestBehaviours:
    def test_the_lamp_and_the_door_that_it_shows(self) -> None:
        assert of(doors_trial(0, "d3", ["lamp", "d3"])) == {
            "valid actions": [1, 1],
            "wins attempt 2": [1],
            "lamp first": [1],
            "opens the shown door": [1],
        }
        found = of(doors_trial(0, "d3", ["d1", "lamp", "d1"]))
        assert found["lamp first"] == [0]
        assert found["opens the shown door"] == [0]
        assert found["repeats a mistake"] == [0, 1]

    def test_failed_doors_are_mistakes_and_the_lamp_is_none(self) -> None:
        four = {"doors": 4}
        assert of(doors_trial(0, "d4", ["d1", "d2", "d1", "d2"], options=four)) == {
            "valid actions": [1, 1, 1, 1],
            "wins attempt 2": [0],
            "repeats a mistake": [0, 1, 1],
        }
        assert of(doors_trial(0, "d4", ["?", "d2", "d4"], options=four)) == {
            "valid actions": [0, 1, 1],
            "wins attempt 2": [0],
            "repeats a mistake": [0],
        }
        assert "repeats a mistake" not in of(doors_trial(0, "d4", ["lamp", "d4"]))

    def test_remarks_that_name_the_prize(self) -> None:
        found = of(doors_trial(0, "d3", ["lamp", "d1", "lamp"], ["Prize: d3.", "It is d3."]))
        assert found["remark found"] == [1, 1]
        assert found["remark names the prize"] == [1]
        found = of(doors_trial(0, "d3", ["lamp", "lamp", "d3"], ["Prize: d31.", None]))
        assert found["remark found"] == [1, 0]
        assert found["remark names the prize"] == [0, 0]

    def test_goals_in_the_dark(self) -> None:
        def trial(*ends: tuple[Stop, str]) -> Trial:
            own = [
                Episode((doors_turn(Phase.PLAY, n, "up"),), stop, f"You are at (1, 1). {seen}")
                for n, (stop, seen) in enumerate(ends)
            ]
            return Trial(Task("darkroom", seed=0, options={"size": 5}), tuple(own))

        dark, seen, won = (Stop.MAX_TURNS, "Nothing in sight."), (Stop.MAX_TURNS, "Goal at (2, 2)."), (Stop.WON, "")
        found = of(trial(seen, won))
        assert (found["goal seen first"], found["wins attempt 2"], found["enters the known goal"]) == ([1], [1], [1])
        found = of(trial(dark, seen, dark))
        assert (found["goal seen first"], found["wins attempt 2"], found["enters the known goal"]) == ([0], [0], [0])
        found = of(trial(won, won))
        assert found["goal seen first"] == [1]
        assert found.keys() == {"valid actions", "goal seen first"}, "attempts after a win are left out"
        assert of(trial(seen, won, dark))["enters the known goal"] == [1]

    def test_failed_trials_are_left_out(self) -> None:
        trial = doors_trial(0, "d3", ["lamp"])
        failed = Trial(trial.task, trial.episodes, Failure(FailureKind.ENGINE, "play", "gone"))
        assert behaviours.behaviours([failed]) == {}
        both = behaviours.behaviours([trial, doors_trial(1, "d3", ["d2"]), failed])
        assert both["lamp first"] == {trial.task.id: [1], doors_trial(1, "d3", []).task.id: [0]}


@pytest.fixture
def setup(tmp_path: Path) -> Any:
    return stages.Setup(arms.EXPERIMENTS["doors-lamp"].game, tmp_path)


@pytest.fixture
def written(setup: Any) -> Any:
    """Two seeds of `lamer`, the second of which was cut off and went on, and one of `rl`."""
    lamer, _, _, rl = arms.EXPERIMENTS["doors-lamp"].arms
    for arm, seed, steps in (
        (lamer, 0, {0: ["never"], 10: ["first", "never"], 20: ["first"]}),
        (lamer, 1, {0: ["never", "late"], 10: ["first", "late"], 20: ["first", "late", "first", "never"]}),
        (rl, 0, {0: ["never"], 10: ["never"], 20: ["never", "never", "never", "late"]}),
    ):
        folder = setup.training(arm, seed)
        folder.mkdir(parents=True)
        lines = [text for step, shares in steps.items() for text in evaluation(step, shares)]
        if seed == 1:
            lines = [*evaluation(0, ["first"])[:3], *evaluation(10, ["never"]), *lines, *evaluation(30, ["first"])[:5]]
        (folder / "evaluations.jsonl").write_text("".join(lines))
    return setup


class TestResults:
    def test_repeated_evaluations_count_once_and_incomplete_ones_not(self, written: Any) -> None:
        lamer = arms.EXPERIMENTS["doors-lamp"].arms[0]
        found = results.read_evaluations(written.training(lamer, 1) / "evaluations.jsonl")
        assert {step: len(own) for step, own in found.items()} == {0: 8, 10: 8, 20: 8}
        assert sum(trial.won for trial in found[0]) == 4, "as repeated"
        assert sum(trial.won_by(2) for trial in found[10]) == 4
        assert results.read_evaluations(written.folder / "nothing.jsonl") == {}

    def test_the_table_is_plain_counting(self, written: Any) -> None:
        experiment = arms.EXPERIMENTS["doors-lamp"]
        table = reporting.final(experiment, results.find(experiment, written))
        rows = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
        assert list(rows) == ["optimum", "no lamp, no door twice", "without memory", "before training", "lamer", "rl"]
        assert rows["optimum"]["success@3"].value == 1
        assert rows["without memory"]["success@3"].value == pytest.approx(1 - (7 / 8) ** 3)
        lamer = rows["lamer"]
        assert (lamer["seeds"], lamer["step"]) == (2, 20)
        assert lamer["success@1"].value == 0
        assert lamer["success@2"].value == pytest.approx((8 + 4) / 16)
        assert lamer["success@3"].value == pytest.approx((8 + 6) / 16)
        assert lamer["lamp first"].value == pytest.approx((8 + 4) / 16)
        assert lamer["opens the shown door"].value == 1
        # In seed 1 two tasks go `late` (one attempt after a mistake that does not repeat it, then another one) and two
        # `never` (the second of two repeats it).
        assert lamer["repeats a mistake"].value == pytest.approx(1 / 4)
        ids = [doors_trial(i, "d3", []).task.id for i in range(8)]
        pooled = share([{task: [1.0] for task in ids}, {task: [float(i % 4 != 3)] for i, task in enumerate(ids)}])
        assert lamer["success@3"] == pooled
        assert lamer["diversity@1"] is None
        assert (rows["before training"]["success@3"].value, rows["before training"]["seeds"]) == (4 / 16, 2)

    def test_steps_to_the_optimum(self, written: Any) -> None:
        experiment = arms.EXPERIMENTS["doors-lamp"]
        lamer, _, _, rl = results.find(experiment, written)
        assert reporting.reached(lamer, 3, {"optimum": [0, 0.5, 0.8]}) == 10  # 12 of 16 are 0.75
        assert reporting.reached(lamer, 3, {"optimum": [0, 1, 0.9]}) == 20  # 14 of 16 are 0.875
        assert reporting.reached(rl, 3, {"optimum": [0, 1, 1]}) is None
        assert reporting.reached(lamer, 3, {}) is None

    def test_differences_are_paired_by_task_and_seed_at_the_same_step(self, written: Any) -> None:
        experiment = arms.EXPERIMENTS["doors-lamp"]
        found = results.find(experiment, written)
        (row,) = reporting.differences(experiment, found).rows
        columns = reporting.names(experiment, found)
        ids = [doors_trial(i, "d3", []).task.id for i in range(8)]
        rl = {task: [float(i % 4 == 3)] for i, task in enumerate(ids)}
        lamer = {task: [1.0] for task in ids}
        assert row[0] == "rl"
        gain = row[1 + columns.index("success@3")]
        assert gain == matched([(rl, lamer)]), "the seed that both have"
        assert gain.value == pytest.approx(1 - 2 / 8)
        file = written.training(experiment.arms[3], 0) / "evaluations.jsonl"
        file.write_text("".join(evaluation(0, ["never"])))
        assert reporting.differences(experiment, results.find(experiment, written)).rows == ()

    def test_second_attempts_beside_first_ones(self, written: Any) -> None:
        experiment = arms.EXPERIMENTS["doors-lamp"]
        table = reporting.second(results.find(experiment, written))
        rows = {row[0]: row for row in table.rows}
        assert [(name, row[1]) for name, row in rows.items()] == [("before training", 0), ("lamer", 20), ("rl", 20)]
        assert [solved.value for solved in rows["lamer"][2:]] == pytest.approx([0, 12 / 16, 12 / 16])
        assert rows["rl"][-1].value == 0

    def test_what_a_second_attempt_gains_is_a_ratio_minus_a_share(self) -> None:
        """Against counting, and its interval against a bootstrap over tasks."""
        rng = np.random.default_rng(3)
        first, then = rng.random(400) < 0.3, rng.random(400) < 0.45
        run = {
            "success@1": {str(task): [float(won)] for task, won in enumerate(first)},
            "wins attempt 2": {str(task): [float(then[task])] for task in np.flatnonzero(~first)},
        }
        own, later, gain = reporting.gained(found_at_0(run), 0)
        assert own.value == pytest.approx(first.mean())
        assert later.value == pytest.approx(then[~first].mean())
        assert gain.value == pytest.approx(later.value - own.value)
        drawn = rng.integers(400, size=(4000, 400))
        lost = ~first[drawn]
        rate = (then[drawn] & lost).sum(1) / lost.sum(1)
        assert (later.low, later.high) == pytest.approx(np.percentile(rate, [2.5, 97.5]), abs=0.01)
        assert (gain.low, gain.high) == pytest.approx(np.percentile(rate - first[drawn].mean(1), [2.5, 97.5]), abs=0.01)
        # A second run with equal figures changes only the interval; its tasks have two samples each.
        twice = {name: {task: own * 2 for task, own in measure.items()} for name, measure in run.items()}
        assert reporting.gained(found_at_0(run, twice), 0)[2].value == pytest.approx(gain.value)
        assert reporting.gained(found_at_0({"success@1": {"0": [1.0]}}), 0)[1:] == (None, None)

    def test_second_attempts_count_alike_whichever_seed_lost_the_first(self) -> None:
        """Task `b` has three lost first attempts and `a` one, so `b` weighs three times as much."""
        won = {"success@1": {"a": [1.0], "b": [0.0]}, "wins attempt 2": {"b": [0.0]}}
        lost = {"success@1": {"a": [0.0], "b": [0.0]}, "wins attempt 2": {"a": [1.0], "b": [0.0]}}
        first, later, gain = reporting.gained(found_at_0(won, won, lost), 0)
        assert first.value == pytest.approx(2 / 6)
        assert later.value == pytest.approx(1 / 4)
        assert gain.value == pytest.approx(1 / 4 - 2 / 6)
        # The difference between arms is that of their shares, though they lose different tasks.
        other = found_at_0(lost, won, lost)
        above = reporting.above(other.samples(0, SECOND), found_at_0(won, won, lost).samples(0, SECOND))
        assert above.value == pytest.approx(2 / 5 - 1 / 4)

    def test_attempts_without_memory_are_independent(self, written: Any) -> None:
        experiment = arms.EXPERIMENTS["doors-lamp"]
        rl = experiment.arms[3]
        folder = written.apart(rl, 0)
        folder.mkdir(parents=True)
        wins = {0: 1, 1: 0, 2: 2, 3: 0}
        (folder / "trials.jsonl").write_text(
            "".join(
                doors_trial(i, "d3", ["d3" if sample < won else "d1"], sample=sample).to_json() + "\n"
                for i, won in wins.items()
                for sample in range(3)
            )
        )
        assert not results.find(experiment, written)[3].apart, "not finished"
        finish(folder)
        table = reporting.final(experiment, results.find(experiment, written))
        row = dict(zip(table.columns, table.rows[-1], strict=True))
        assert row["arm"] == "rl, without memory"
        runs = [{str(i): [1.0] * won + [0.0] * (3 - won) for i, won in wins.items()}]
        assert row["success@1"].value == pytest.approx(3 / 12)
        assert row["success@2"].value == pass_at_k(runs, 2).value == pytest.approx((2 / 3 + 1) / 4)
        assert row["success@3"].value == pytest.approx(2 / 4)

    def test_diversity_is_of_as_many_first_attempts_of_the_last_steps(self, setup: Any) -> None:
        """All arms count 8 trials a task, of the last ten of the training's steps."""
        experiment = arms.EXPERIMENTS["doors-lamp"]
        lamer, rl = experiment.arms[0], experiment.arms[3]
        for arm, group, actions in ((lamer, 8, ("d1", "d2")), (rl, 24, ("d1", "d1"))):
            lines = [
                # What must not count: earlier steps, and trials of a group beyond the eighth.
                line(
                    doors_trial(16 * step + task, "d3", [f"d{i % 7 + 1}" if step < 11 or i > 7 else actions[i % 2]]),
                    step=step,
                    group=task,
                )
                for step in range(9, 21)
                for task in range(16)
                for i in range(group)
            ]
            folder = setup.training(arm, 0)
            finish(folder)
            (folder / "trials.jsonl").write_text("".join(lines))
        found = results.find(experiment, setup)
        assert (found[0].diversity.fewest, found[0].diversity.most, found[0].diversity.plain.tasks) == (8, 8, 160)
        assert found[0].diversity.plain.value == pytest.approx(math.log(2))
        assert (found[3].diversity.fewest, found[3].diversity.most, found[3].diversity.plain.tasks) == (8, 8, 160)
        assert found[3].diversity.plain.value == 0
        assert found[1].diversity is None

    def test_curves_stand_beside_known_players(self, written: Any) -> None:
        experiment = arms.EXPERIMENTS["doors-lamp"]
        panels = {panel.title: panel for panel in reporting.curves(experiment, results.find(experiment, written))}
        assert list(panels)[:2] == ["success@1", "success@3"]
        series = {each.label: each for each in panels["success@3"].series}
        assert list(series["lamer"].at) == [0, 10, 20]
        assert [each.value for each in series["lamer"].estimates] == pytest.approx([4 / 16, 12 / 16, 14 / 16])
        assert [each.value for each in series["rl"].estimates] == pytest.approx([0, 0, 2 / 8])
        assert [each.value for each in series["optimum"].estimates] == [1, 1]
        assert list(series["without memory"].at) == [0, 20]
        assert {each.label for each in panels["lamp first"].series} == {"lamer", "rl"}

    def test_exchanged_reflections_are_pooled_over_seeds(self, tmp_path: Path) -> None:
        experiment = arms.EXPERIMENTS["doors-remarks"]
        setup = stages.Setup(experiment.game, tmp_path)
        for seed in (0, 1):
            folder = setup.cross(experiment.arms[0], seed)
            finish(folder)
            for n, cell in enumerate(cells(LamerConfig(num_episodes=3, memory="reflection"))):
                (folder / cell.folder).mkdir()
                won = 8 if (cell.player, cell.reflections) == ("trained", "trained") else (n + seed) % 4
                own = [doors_trial(i, "d3", ["lamp", "d3" if i < won else "d1"]) for i in range(8)]
                (folder / cell.folder / "trials.jsonl").write_text("".join(each.to_json() + "\n" for each in own))
        (table,) = reporting.crossed(experiment, results.find(experiment, setup))
        rows = {row[0]: row for row in table.rows}
        assert len(rows) == 10
        assert rows["trained plays, reflections trained"][3].value == 1
        assert rows["trained plays, reflections trained"][4] is None
        shuffled = rows["base plays, reflections shuffled"]  # the third cell
        assert [shuffled[k].value for k in (1, 2, 3)] == pytest.approx([0, (2 + 3) / 16, (2 + 3) / 16])
        assert shuffled[4].value == pytest.approx(5 / 16 - 1)
        # Cells of one seed are played by the same models, so seeds are pairs.
        wins = [{f"doors-{i}": [float(i < n)] for i in range(8)} for n in (2, 3)]
        assert shuffled[4] == matched([({task: [1.0] for task in own}, own) for own in wins])

    def test_a_report_of_what_is_there(self, written: Any, tmp_path: Path) -> None:
        result = CliRunner().invoke(commands, ["report", "doors-lamp", "--out", str(tmp_path)])
        assert result.exit_code == 0, result.output
        text = (tmp_path / "tiny" / "doors-lamp.md").read_text()
        assert "| lamer | 2 | 20 |" in text
        assert "## Points by which lamer is above" in text
        assert (tmp_path / "tiny" / "doors-lamp.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
        rows = list(csv.DictReader((tmp_path / "tiny" / "doors-lamp.csv").read_text().splitlines()))
        (value,) = (
            float(row["value"])
            for row in rows
            if (row["table"], row["row"], row["column"]) == ("course", "lamer, step 10", "success@3")
        )
        assert value == 12 / 16
