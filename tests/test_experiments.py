"""The paper's experiments as scripts: their commands, and their tables from runs by scripted players."""

from __future__ import annotations

import csv
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from experiment_scripts import SCRIPTS, budget, plans, tables

from openrlhf_lamer import manifest, panels
from openrlhf_lamer.records import Episode, Failure, FailureKind, Phase, Stop, Task, Trial, Turn
from openrlhf_lamer.tasks import seeded_tasks

pytest_plugins = "experiment_scripts"

PNG = b"\x89PNG\r\n\x1a\n"


def turn(phase: Phase, episode: int, tokens: int = 3) -> Turn:
    return Turn(phase, episode, 0, (1,), (2,) * tokens, None, "", "x", True, 0.0, "s", "")


def trial(task: Task, won_at: int | None, episodes: int, sample: int = 0, seconds: float = 1.0) -> Trial:
    played = [
        Episode(
            (turn(Phase.PLAY, n),),
            Stop.WON if n + 1 == won_at else Stop.LOST,
            "",
            turn(Phase.REFLECT, n) if n + 1 < episodes and n + 1 != won_at else None,
        )
        for n in range(won_at or episodes)
    ]
    return Trial(task, tuple(played), sample=sample, generation_seconds=seconds)


def run(evaluation: Any, folder: Path, chance: float, seed: int = 0, tasks: int = 32) -> None:
    """A run of `eval` by a player that wins an attempt with a known chance."""
    rng = random.Random(f"{evaluation.name} {seed}")
    lines = []
    for number in range(tasks):
        task = Task(evaluation.env, seed=number)
        for sample in range(3 if evaluation.measure == "pass" else 1):
            attempts = 1 if evaluation.measure == "pass" else 3
            won_at = next((n for n in range(1, attempts + 1) if rng.random() < chance), None)
            lines.append(trial(task, won_at, attempts, sample).to_json() + "\n")
    folder.mkdir(parents=True)
    (folder / "trials.jsonl").write_text("".join(lines))
    version = panels.load(evaluation.panel).version if evaluation.panel in manifest.names() else 1
    panel = {"name": evaluation.panel, "version": version}
    settings = {"method": evaluation.method, "panel": panel, "seed": seed}
    (folder / "run.json").write_text(json.dumps({"schema": 1, "settings": settings, "trials": len(lines)}))


def rows(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.read_text().splitlines()))


def test_every_experiment_has_the_papers_rows_and_columns() -> None:
    """Each cell of the paper's tables is in ours; curves have points for which the paper gives no figure."""
    for name, experiment in plans.EXPERIMENTS.items():
        published = tables.paper(name)
        assert published.source
        places = {(cell.row, cell.column) for cell in experiment.cells}
        told = {(row, column) for row, columns in published.figures.items() for column in columns}
        assert told <= places
        if name not in ("harder-tasks", "gamma", "by-turn"):
            assert told == places
        for columns in published.figures.values():
            for figure in columns.values():
                values = figure if isinstance(figure, list) else [figure]
                assert len(values) in (1, 3)
                assert values == sorted(values), "more attempts solve no fewer tasks"
                assert all(0 < value <= 100 for value in values)


def test_the_papers_tables_agree_where_they_say_the_same() -> None:
    figures = {name: tables.paper(name) for name in plans.EXPERIMENTS}
    for env in plans.PANELS:
        column = plans.TITLES[env]
        lamer = figures["main-table"].at("LaMer", column, 3)
        assert lamer == figures["memory"].at("Both", column, 3) == figures["rl-memory"].at("LaMer", column, 3)
        assert lamer == figures["gamma"].at("γ_traj 0.6", column, 3)
        gigpo = figures["main-table"].at("GiGPO", column, 3)
        assert gigpo == figures["rl-memory"].at("GiGPO without memory", column, 3)
    assert figures["main-table"].at("LaMer", "Sokoban", 1) == 42.4
    assert figures["rl-memory"].at("LaMer", "Sokoban", 1) is None


@pytest.mark.parametrize("name", list(plans.EXPERIMENTS))
def test_runs_become_a_csv_a_table_and_a_picture(name: str, setup: Any, tmp_path: Path) -> None:
    experiment = plans.EXPERIMENTS[name]
    for evaluation in experiment.evaluations:
        for seed in setup.seeds:
            run(evaluation, evaluation.folder(setup, seed), 0.3, seed)
    files = tables.write(experiment, setup, {}, tmp_path / "out")
    assert [file.name for file in files] == [f"{name}.csv", f"{name}.md", f"{name}.png"]
    found = rows(files[0])
    assert len(found) == 3 * len(experiment.cells)
    for row in found:
        assert float(row["share low"]) <= float(row["share"]) <= float(row["share high"])
        assert (row["runs"], row["tasks"], row["failed"]) == ("2", "32", "0")
    text = files[1].read_text()
    for cell in experiment.cells:
        assert f"| {cell.row} |" in text
        assert f"| {cell.column}" in text
    assert "Not there yet" not in text
    assert "| – |" not in "".join(line for line in text.splitlines(True) if ", paper |" not in line)
    assert files[2].read_bytes().startswith(PNG)


def test_harder_tasks_stand_beside_what_can_be_won_of_them(setup: Any, tmp_path: Path) -> None:
    experiment = plans.EXPERIMENTS["harder-tasks"]
    for evaluation in experiment.evaluations:
        run(evaluation, evaluation.folder(setup, 0), 0.3)
    files = tables.write(experiment, setup, {}, tmp_path)
    told = {row["column"]: (row["at most"], row["by odds at 1"]) for row in rows(files[0])}
    text = files[1].read_text()
    lines = {line.split(" | ")[0]: line.strip("| ").split(" | ")[-4:] for line in text.splitlines() if "|" in line}
    shares = [(120, 103), (84, 52), (51, 28), (39, 15)]
    for place, (mines, (most, odds)) in enumerate(zip(range(3, 7), shares, strict=True)):
        assert told[f"MineSweeper, {mines} mines"] == (str(most / 128), str(odds / 128))
        assert lines[f"| {tables.CEILING}"][place] == f"{most / 128:.1%}"
        assert lines[f"| {tables.ODDS}"][place] == f"{odds / 128:.1%}"
    assert told["Sokoban, 2 boxes"] == ("1.0", "")
    boxes, mines = tables.panels(experiment, tables.find(experiment, setup, {}))
    drawn = {
        each.label: [(at, known.value) for at, known in zip(each.at, each.estimates, strict=True)]
        for each in mines.series[-2:]
    }
    assert drawn == {
        tables.CEILING: [(n, most / 128) for n, (most, _) in zip(range(3, 7), shares, strict=True)],
        tables.ODDS: [(n, odds / 128) for n, (_, odds) in zip(range(3, 7), shares, strict=True)],
    }
    assert tables.ODDS not in {each.label for each in boxes.series}


def test_a_run_on_another_version_of_a_panel_is_refused(setup: Any, tmp_path: Path) -> None:
    experiment = plans.EXPERIMENTS["harder-tasks"]
    evaluation = next(each for each in experiment.evaluations if each.panel == "sokoban/4-boxes")
    folder = evaluation.folder(setup, 0)
    run(evaluation, folder, 0.3)
    settings = json.loads((folder / "run.json").read_text())
    del settings["settings"]["panel"]["version"]
    (folder / "run.json").write_text(json.dumps(settings))
    with pytest.raises(tables.RunError, match=r"on version 1 of sokoban/4-boxes, whose tasks differ from .* 2"):
        tables.write(experiment, setup, {}, tmp_path)


def test_a_player_of_known_chance_stands_where_it_belongs(setup: Any, tmp_path: Path) -> None:
    """Attempts in a row and independent ones, of one chance to win: both as 1 - (1 - q)^k, each by its own name."""
    experiment = plans.EXPERIMENTS["main-table"]
    for evaluation in experiment.evaluations:
        run(evaluation, evaluation.folder(setup, 0), 0.3, tasks=200)
    found = rows(tables.write(experiment, setup, {}, tmp_path)[0])
    for row in found:
        kind, attempts = row["measure"].split("@")
        assert kind == ("success" if row["row"] in ("Reflexion", "LaMer") else "pass")
        expected = 1 - 0.7 ** int(attempts)
        assert float(row["share low"]) - 0.03 < expected < float(row["share high"]) + 0.03
    lamer = next(
        row for row in found if (row["row"], row["column"], row["measure"]) == ("LaMer", "Sokoban", "success@2")
    )
    assert float(lamer["paper"]) == pytest.approx(0.52)


def test_what_is_missing_is_a_gap_with_the_commands_that_fill_it(setup: Any, tmp_path: Path) -> None:
    experiment = plans.EXPERIMENTS["memory"]
    there, *_ = experiment.evaluations
    run(there, there.folder(setup, 0), 0.5)
    text = tables.write(experiment, setup, {}, tmp_path)[1].read_text()
    table, gaps = text.split("## Not there yet")
    ours = {line.split(" | ")[0]: line.split(" | ")[1:] for line in table.splitlines() if line.startswith("| ")}
    assert ours["| Trajectory only"][0] != "–"
    assert ours["| Trajectory only"][1] == "–"
    assert ours["| Both"] == ["–", "–", "– |"]
    assert f"{setup.runs}/eval/sokoban-2-boxes/lamer-history/seed-1" in gaps
    assert f"{setup.runs}/eval/sokoban-2-boxes/lamer-history/seed-0 " not in gaps + " "
    assert "--memory reflection" in gaps
    assert "openrlhf-lamer prepare tasks" in gaps
    assert "openrlhf-lamer train" in gaps


def test_an_unfinished_run_is_told_and_can_go_on(setup: Any, tmp_path: Path) -> None:
    experiment = plans.EXPERIMENTS["memory"]
    for evaluation in experiment.evaluations:
        for seed in setup.seeds:
            run(evaluation, evaluation.folder(setup, seed), 0.5)
    first = experiment.evaluations[0]
    folder = first.folder(setup, 1)
    (folder / "run.json").write_text(json.dumps({"schema": 1, "settings": {"method": "lamer"}, "trials": 128}))
    _, gaps = tables.write(experiment, setup, {}, tmp_path)[1].read_text().split("## Not there yet")
    assert f"# {folder} has 32 of 128 trials" in gaps
    assert first.command(setup, 1) in gaps
    assert gaps.count("openrlhf-lamer eval") == 1


def test_runs_that_lie_elsewhere_are_named_and_must_be_of_the_right_method(setup: Any, tmp_path: Path) -> None:
    experiment = plans.EXPERIMENTS["rl-memory"]
    evaluation = next(each for each in experiment.evaluations if each.name == "sokoban-2-boxes/gigpo-rl-memory")
    elsewhere = [tmp_path / "mine", tmp_path / "yours"]
    for seed, folder in enumerate(elsewhere):
        run(evaluation, folder, 0.5, seed)
    files = tables.write(experiment, setup, {evaluation.name: elsewhere}, tmp_path / "out")
    row = next(row for row in rows(files[0]) if row["evaluation"] == evaluation.name)
    assert row["runs"] == "2"
    assert evaluation.folder(setup, 0).as_posix() not in files[1].read_text()
    elsewhere_on = next(each for each in experiment.evaluations if each.name == "minesweeper-3-mines/gigpo-rl-memory")
    with pytest.raises(tables.RunError, match=r"on sokoban/2-boxes, but .* on minesweeper/3-mines"):
        tables.write(experiment, setup, {elsewhere_on.name: elsewhere}, tmp_path / "out")
    other = next(each for each in experiment.evaluations if each.method == "rl")
    with pytest.raises(tables.RunError, match=r"by rl\+memory, but .* by rl"):
        tables.write(experiment, setup, {other.name: elsewhere}, tmp_path / "out")


def test_failed_trials_are_left_out_and_counted(setup: Any, tmp_path: Path) -> None:
    experiment = plans.EXPERIMENTS["memory"]
    evaluation = experiment.evaluations[0]
    run(evaluation, evaluation.folder(setup, 0), 1.0, tasks=4)
    with (evaluation.folder(setup, 0) / "trials.jsonl").open("a") as file:
        failure = Failure(FailureKind.ENGINE, "generate", "gone")
        file.write(Trial(Task("sokoban", seed=99), (), failure).to_json() + "\n")
    row = rows(tables.write(experiment, setup, {}, tmp_path)[0])[0]
    assert (row["share"], row["trials"], row["tasks"], row["failed"]) == ("1.0", "5", "4", "1")


def training(file: Path, episodes: int, group: int, seconds: float) -> None:
    file.parent.mkdir(parents=True)
    rng = random.Random(episodes)
    with file.open("w") as lines:
        for step in range(1, 31):
            for group_number, task in enumerate(seeded_tasks("sokoban", "train", 2, first=2 * step)):
                for _ in range(group):
                    won_at = next((n for n in range(1, episodes + 1) if rng.random() < step / 60), None)
                    line = trial(task, won_at, episodes, seconds=seconds * rng.random()).to_json()
                    lines.write(f'{line[:-1]},"step":{step},"group":{group_number}}}\n')


def test_the_budget_of_training_is_read_from_its_trials(setup: Any, tmp_path: Path) -> None:
    for (row, _), each in budget.TRAININGS.items():
        if each.env != "webshop":
            episodes, group, seconds = (1, 24, 2.0) if row == "GiGPO" else (3, 8, 4.0)
            training(each.folder(setup, 0) / "trials.jsonl", episodes, group, seconds)
    files = budget.write(setup, {}, tmp_path)
    found = {(row["row"], row["task"]): row for row in rows(files[0])}
    assert len(found) == 6
    rl, lamer, gap = (found[place] for place in (("GiGPO", "Sokoban"), ("LaMer", "Sokoban"), ("LaMer", "WebShop")))
    assert float(rl["episodes"]) == 48
    assert 30 < float(lamer["episodes"]) < 48, "trials end with their first success"
    assert 1.5 < float(lamer["of GiGPO's time"]) < 2.5
    assert (float(rl["of GiGPO's time"]), lamer["updates"], lamer["paper"]) == (1.0, "30", "2.0")
    assert (gap["runs"], gap["episodes"]) == ("0", "")
    assert float(lamer["tokens"]) > float(rl["tokens"]), "reflections cost tokens"
    text = files[1].read_text()
    assert "recipes/webshop" in text.split("## Not there yet")[1]
    assert "sokoban/lamer/seed-0" not in text
    assert files[2].read_bytes().startswith(PNG)


def test_a_training_that_began_again_counts_once(tmp_path: Path) -> None:
    training(tmp_path / "a" / "trials.jsonl", 1, 2, 1.0)
    once = (tmp_path / "a" / "trials.jsonl").read_text()
    broken_off = "".join(line for line in once.splitlines(True) if json.loads(line)["step"] <= 20)
    resumed = "".join(line for line in once.splitlines(True) if json.loads(line)["step"] > 10)
    (tmp_path / "b.jsonl").write_text(broken_off + resumed)
    assert budget.read(tmp_path / "b.jsonl") == budget.read(tmp_path / "a" / "trials.jsonl")


def typed(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPTS), *arguments], capture_output=True, text=True, check=False, timeout=100
    )


def test_a_plan_is_a_shell_script(tmp_path: Path) -> None:
    script = typed("plan", "all", "--model", "/models/my model", "--runs", str(tmp_path), "--seeds", "0,1")
    assert script.returncode == 0, script.stderr
    lines = script.stdout.splitlines()
    assert len(lines) == len(set(lines)), "what experiments share is made once"
    subprocess.run(["bash", "-n"], input=script.stdout, text=True, check=True)
    evaluations = [each for experiment in plans.EXPERIMENTS.values() for each in experiment.evaluations]
    trainings = {each.training for each in evaluations if each.training}
    assert len(trainings) > 30
    assert sum("openrlhf-lamer train" in line for line in lines) == 2 * len(trainings)


def test_what_is_typed_wrong_is_told(tmp_path: Path) -> None:
    for arguments, message in (
        (["plan", "figure-1"], "main-table"),
        (["plan", "memory", "--seeds", "a"], "--seeds"),
        (["collect", "memory", "--map", str(tmp_path / "none.toml")], "--map"),
    ):
        result = typed(*arguments)
        assert result.returncode == 2
        assert message in result.stderr


def test_collecting_reads_the_map_of_runs(tmp_path: Path) -> None:
    evaluation = plans.EXPERIMENTS["memory"].evaluations[0]
    run(evaluation, tmp_path / "a", 0.5)
    (tmp_path / "map.toml").write_text(f'"{evaluation.name}" = ["a"]\n')
    result = typed("collect", "memory", "--map", str(tmp_path / "map.toml"), "--out", str(tmp_path / "out"))
    assert result.returncode == 0, result.stderr
    assert rows(tmp_path / "out" / "memory.csv")[0]["runs"] == "1"
