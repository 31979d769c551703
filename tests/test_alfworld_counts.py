"""Generated ALFWorld games hold what the official ones hold: the counts, what is drawn from them, how they are made."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from openrlhf_lamer.envs import seeding
from openrlhf_lamer.envs.alfworld import TASK_TYPES, catalogue, census, counts, generator, rooms, wheel

ROOT = Path(__file__).parent.parent
DATA = Path(__file__).parent / "data" / "alfworld" / catalogue.FOLDER
"""One official game of each task type."""
UNSEEN = {10, 219, 308, 424}
"""The rooms of the official split valid_unseen."""

SAMPLED = {
    "pick_and_place_simple": (1.95, 0.10, 0.33, 25, 4.3),
    "look_at_obj_in_light": (2.10, 0.05, 0.33, 23, 3.7),
    "pick_clean_then_place_in_recep": (2.33, 0.26, 0.46, 39, 6.4),
    "pick_heat_then_place_in_recep": (2.55, 0.27, 0.54, 48, 6.5),
    "pick_cool_then_place_in_recep": (2.04, 0.19, 0.54, 49, 6.3),
    "pick_two_obj_and_place": (2.77, 0.08, 0.34, 28, 8.3),
}
"""Copies, hidden, opens, things, commands of 600 official training games, counted by other means than `census`."""


def scenes(task_type: str, num: int) -> list[generator.Scene]:
    return [generator.draw(task_type, seeding.generator("test", task_type, number)) for number in range(num)]


class TestGames:
    @pytest.mark.parametrize("task_type", TASK_TYPES)
    def test_each_figure_is_within_a_third_of_the_official_one(self, task_type: str) -> None:
        """And of those of a smaller sample, with a margin for its noise: two of the types have few hidden copies."""
        games = census.drawn(task_type, 1000 if task_type == "look_at_obj_in_light" else 500)
        ours, theirs = census.figures(games, games), counts.load().figures[task_type]
        for name, sampled in zip(("copies", "hidden", "opens", "things", "commands"), SAMPLED[task_type], strict=True):
            assert getattr(ours, name) == pytest.approx(getattr(theirs, name), rel=1 / 3), name
            noise = 0.02 if name == "hidden" else 0.0
            assert getattr(ours, name) == pytest.approx(sampled, abs=sampled / 3 + noise), name
        assert ours.most_commands <= generator.MOST_COMMANDS == 10

    def test_what_is_looked_for_begins_where_it_does_officially(self) -> None:
        """Shares of receptacles over all targets, against a plain count over the table, within 3 standard errors."""
        for task_type in TASK_TYPES:
            official: Counter[str] = Counter()
            for targets in counts.load().tasks[task_type].values():
                for goals in targets.values():
                    for patterns in goals.values():
                        for begins, count in patterns.items():
                            for receptacle in begins.split("+"):
                                official[receptacle] += count
            drawn = Counter(
                rooms.receptacle_class(receptacle)
                for scene in scenes(task_type, 400)
                for thing, receptacle in scene.where.items()
                if thing.partition("|")[0] == scene.target
            )
            for receptacle, count in official.items():
                share, num = count / official.total(), drawn.total()
                # Copies of one game are not independent: up to four share a draw.
                assert abs(drawn[receptacle] / num - share) < 3 * (4 * share * (1 - share) / num) ** 0.5 + 1 / num

    def test_a_scene_that_takes_too_long_is_drawn_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        free = {len(generator.plan(scene)) for scene in scenes("pick_two_obj_and_place", 200)}
        assert max(free) > 8
        monkeypatch.setattr(generator, "MOST_COMMANDS", 8)
        assert max(len(generator.plan(scene)) for scene in scenes("pick_two_obj_and_place", 200)) == 8

    def test_the_plan_takes_what_is_in_sight(self) -> None:
        """It takes the copy on a desk, not the one in a drawer, and uses the open cabinet, not the closed one."""
        places = {
            "Cabinet|1": (0, 0, 0, 0),
            "Cabinet|2": (1, 0, 0, 0),
            "Desk|1": (2, 0, 0, 0),
            "Drawer|1": (3, 0, 0, 0),
        }
        room = rooms.Room(301, places, frozenset({"Cabinet|1", "Drawer|1"}), ())
        where = {"Book|1": "Drawer|1", "Book|2": "Desk|1"}
        scene = generator.Scene("pick_and_place_simple", room, "Book", "Cabinet", where, (9, 9, 0, 30))
        assert generator.plan(scene) == [
            ("go to {}", "Desk|1"),
            ("take {} from {}", "Book|2", "Desk|1"),
            ("go to {}", "Cabinet|2"),
            ("move {} to {}", "Book|2", "Cabinet|2"),
        ]

    def test_the_benchmark_prints_ours_beside_the_official_ones(self) -> None:
        """With so few games the figures are noisy, so the verdict may go either way."""
        benchmark = [sys.executable, str(ROOT / "benchmarks" / "alfworld_games.py"), "--games", "10"]
        done = subprocess.run(benchmark, capture_output=True, text=True, check=False)
        off = int(re.findall(r"figures off by more than a third: (\d+)", done.stdout)[0])
        assert done.returncode == int(off > 0), done.stderr
        for task_type in TASK_TYPES:
            ours, theirs = census.figures(census.drawn(task_type, 10), []), counts.load().figures[task_type]
            (line,) = (each for each in done.stdout.splitlines() if task_type in each)
            assert f" {ours.copies:.2f} / {theirs.copies:.2f} = {ours.copies / theirs.copies:.2f} " in line

    @pytest.mark.parametrize("task_type", TASK_TYPES)
    def test_the_engine_takes_the_plan(self, task_type: str) -> None:
        scene, content = generator.make(7, task_type)
        game = census.game(scene.name, json.loads(content))
        assert game.commands == len(generator.plan(scene)) <= 10
        assert len(game.where) == len(scene.where)
        assert len(game.opens) == len(scene.room.opens)


class TestTable:
    def test_it_is_over_all_official_training_games(self) -> None:
        table = counts.load()
        for task_type, num in catalogue.COUNTS["train"].items():
            kinds = table.tasks[task_type].values()
            patterns = [each for targets in kinds for goals in targets.values() for each in goals.values()]
            assert sum(sum(each.values()) for each in patterns) == table.figures[task_type].games == num

    def test_no_game_is_set_in_a_room_held_out(self) -> None:
        assert len(rooms.rooms()) == 108
        assert not UNSEEN & set(rooms.rooms())

    def test_every_task_can_be_set_in_every_room_it_is_drawn_for(self) -> None:
        table = counts.load()
        for task_type in TASK_TYPES:
            for kind, target, goal, begins in generator._tasks(task_type):
                assert target in table.copies[kind]
                found = rooms.with_all(kind, frozenset({target, goal, *begins}))
                assert found, (task_type, kind, target, goal, begins)
                if goal == rooms.LAMP:
                    stands = table.things[kind][rooms.LAMP]
                    assert all(any(rooms.with_all(kind, frozenset({each})).count(n) for each in stands) for n in found)

    def test_another_table_makes_other_games(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = generator.folder_of_games()
        monkeypatch.setattr(counts, "digest", lambda: "another")
        assert generator.folder_of_games() != before

    def test_draws_follow_the_weights(self) -> None:
        rng = seeding.generator("draw")
        drawn = Counter(counts.draw(rng, {"a": 1, "b": 0, "c": 3}) for _ in range(4000))
        assert set(drawn) == {"a", "c"}
        assert drawn["a"] / 4000 == pytest.approx(0.25, abs=0.025)
        with pytest.raises(ValueError, match="nothing to draw from"):
            counts.draw(rng, {"a": 0})


class TestCensus:
    @pytest.mark.parametrize("path", sorted(DATA.glob("*/*/*/*.tw-pddl")), ids=lambda path: path.parts[-3])
    def test_facts_are_counted_as_by_hand(self, path: Path) -> None:
        source = json.loads(path.read_bytes())
        game = census.game(path.parts[-3], source)
        lines = [line.strip() for line in source["pddl_problem"].partition("(:goal")[0].splitlines()]
        inside = {line.split()[1] for line in lines if line.startswith("(inReceptacle ")}
        opens = {line.split()[1].rstrip(")") for line in lines if line.startswith("(openable ")}
        target = path.parts[-3].split("-")[1]
        copies = [each for each in inside if each.startswith(f"{target}_bar_")]
        found = census.figures([game], [game])
        assert found.things == len(inside)
        assert found.copies == len(copies)
        hidden = [any(f"(inReceptacle {each} {into})" in lines for into in opens) for each in copies]
        assert found.hidden == pytest.approx(sum(hidden) / len(copies), abs=1e-4)
        receptacles = sum(line.startswith("(receptacleType ") for line in lines)
        assert found.opens == pytest.approx(len(opens) / receptacles, abs=1e-4)
        assert found.commands == found.most_commands == len(source["walkthrough"])

    def test_one_command_counts_the_official_games(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The six bundled games stand in for the training split."""
        shutil.copytree(DATA / "valid_seen", tmp_path / catalogue.FOLDER / "train")
        monkeypatch.setenv(catalogue.VARIABLE, str(tmp_path))
        monkeypatch.setattr(counts, "FILE", tmp_path / "counts.json")
        monkeypatch.setattr(sys, "argv", ["count_alfworld.py"])

        def run() -> int:
            with pytest.raises(SystemExit) as end:
                runpy.run_path(str(ROOT / "scripts" / "count_alfworld.py"), run_name="__main__")
            return int(str(end.value))

        assert run() == 1
        assert re.search(r"train is incomplete.*alfworld-download", capsys.readouterr().err)
        monkeypatch.setattr(catalogue, "COUNTS", {"train": dict.fromkeys(TASK_TYPES, 1)})
        assert run() == 0
        table: dict[str, Any] = json.loads((tmp_path / "counts.json").read_text())
        assert set(table) == set(counts.Counts.__dataclass_fields__)
        games = list(census.official("train", tmp_path / catalogue.FOLDER))
        assert set(table["fixtures"]) == {str(each.room) for each in games}
        for each in games:
            (begins,) = table["tasks"][each.task_type][each.kind][each.target][each.goal]
            assert begins.split("+") == sorted(each.receptacles[each.where[copy]] for copy in each.copies)
            planned = Counter(map(rooms.receptacle_class, wheel.floor_plan(each.room)[0]))
            for cls, count in table["fixtures"][str(each.room)].items():
                assert list(each.receptacles.values()).count(cls) == count + planned[cls]
        in_kitchens = [each for each in games if each.kind == "Kitchen"]
        apples = [sum(each.classes[thing] == "Apple" for thing in each.where) for each in in_kitchens]
        assert table["copies"]["Kitchen"]["Apple"] == dict(sorted(Counter(map(str, apples)).items()))
        assert sum(table["things"]["Kitchen"]["Apple"].values()) == sum(apples)
