"""Frozen panels: what is in them, that they are the same everywhere, and that a changed one is noticed."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from openrlhf_lamer import envs, manifest, panels
from openrlhf_lamer.cli.main import app
from openrlhf_lamer.envs import Task, TaskError, registry
from openrlhf_lamer.envs.alfworld import catalogue
from openrlhf_lamer.envs.minesweeper import MineSweeper
from openrlhf_lamer.manifest import PanelError
from openrlhf_lamer.panels import Panel
from openrlhf_lamer.tasks import SEEDS, read_dataset

NAMES = manifest.names()

SCRIPTS = Path(__file__).parent.parent / "scripts"

sys.path.insert(0, str(SCRIPTS))
try:
    MANIFESTS: Any = importlib.import_module("make_manifests")
    CEILINGS: Any = importlib.import_module("ceilings")
finally:
    sys.path.remove(str(SCRIPTS))


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a panel's file that tests may spoil; no other panel exists here."""
    path = tmp_path / "sokoban" / "3-boxes.json"
    path.parent.mkdir()
    path.write_text((manifest.MANIFESTS / "sokoban" / "3-boxes.json").read_text("utf-8"), "utf-8")
    monkeypatch.setattr(manifest, "MANIFESTS", tmp_path)
    return path


def command(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})


def test_every_difficulty_of_the_papers_experiments_has_one() -> None:
    assert {f"sokoban/{boxes}-boxes" for boxes in (2, 3, 4, 5)} < set(NAMES)
    assert {f"minesweeper/{mines}-mines{long}" for mines in (3, 4, 5, 6) for long in ("", "-long")} < set(NAMES)
    assert {f"alfworld/generated/{family}" for family in ("id", "ood")} < set(NAMES)
    assert "webshop/eval" in NAMES


def test_official_panels_are_all_games_of_a_split_and_family() -> None:
    sizes = {name: panels.load(name).size for name in NAMES if name.startswith("alfworld/official/")}
    assert sizes == {
        f"alfworld/official/{split}-{family}": sum(catalogue.COUNTS[split][each] for each in types)
        for split in ("valid_seen", "valid_unseen")
        for family, types in (("id", catalogue.IN_DISTRIBUTION), ("ood", catalogue.OUT_OF_DISTRIBUTION))
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_panel_begins_everywhere_as_it_was_frozen(name: str, need: Callable[[str], None]) -> None:
    panel = panels.load(name)
    assert panel.name == name
    need(panel.env)
    if envs.lookup(panel.env).slow:  # the command verifies all of it
        panel = replace(panel, states=dict(islice(panel.states.items(), 8)))
    try:
        assert panels.verify(panel) == []
    except TaskError as error:
        if panel.split in SEEDS:
            raise
        pytest.skip(str(error))  # the data set is not there


def test_official_games_begin_as_they_were_frozen(need: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """The six of them that are bundled with the tests."""
    need("alfworld")
    data = Path(__file__).parent / "data" / "alfworld"
    monkeypatch.setenv("ALFWORLD_DATA", str(data))
    there = {path.parent.relative_to(data / "json_2.1.1").as_posix() for path in data.rglob("game.tw-pddl")}
    checked = 0
    for family in ("id", "ood"):
        panel = panels.load(f"alfworld/official/valid_seen-{family}")
        states = {id_: each for id_, each in panel.states.items() if (each[0].spec or {})["game"] in there}
        assert panels.verify(replace(panel, states=states)) == []
        checked += len(states)
    assert checked == len(there) == 6


@pytest.mark.parametrize("name", NAMES)
def test_a_panel_holds_evaluation_tasks_that_differ(name: str) -> None:
    panel = panels.load(name)
    if not panel.states:
        return  # listed from data
    tasks = panel.tasks()
    assert panel.size == len(tasks) == len({task.id for task in tasks})
    different = len({state for _, state in panel.states.values()})
    diagnostic = panel.env in ("darkroom", "doors")  # has more tasks than states
    assert different == (envs.make(panel.env, **panel.options).beginnings if diagnostic else panel.size)
    assert all(task.spec is not None or task.seed in SEEDS["eval"] for task in tasks)
    assert {task.env for task in tasks} == {panel.env}


def test_the_hashes_are_the_same_on_the_other_python(other_python: str) -> None:
    code = (
        "from openrlhf_lamer import manifest, panels\n"
        "for name in manifest.names():\n"
        "    if name.split('/')[0] in ('darkroom', 'doors', 'minesweeper', 'sokoban'):\n"
        "        print(name, panels.verify(panels.load(name)))\n"
    )
    root = str(Path(envs.__file__).parents[2])
    result = subprocess.run(
        [other_python, "-c", code], env={"PYTHONPATH": root}, capture_output=True, text=True, check=False
    )
    generated = [name for name in NAMES if name.split("/")[0] in ("darkroom", "doors", "minesweeper", "sokoban")]
    assert result.stdout.splitlines() == [f"{name} []" for name in generated], result.stderr


def test_writing_is_the_inverse_of_reading() -> None:
    for name in NAMES:
        assert panels.dump(panels.load(name)) == (manifest.MANIFESTS / f"{name}.json").read_text("utf-8")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"seed": 1073741830', '"seed": 1073741831', r"3-boxes\.json was changed"),
        ('"size": 128', '"size": 127', r"3-boxes\.json was changed"),
        ('"hash": "', '"hash": "0', r"3-boxes\.json was changed"),
        ('"tasks": [', '"tasks": ', r"3-boxes\.json is no panel"),
        ('"hash"', '"cash"', r"3-boxes\.json is no panel"),
    ],
)
def test_a_changed_file_is_refused_by_name(copied: Path, old: str, new: str, message: str) -> None:
    text = copied.read_text("utf-8")
    assert old in text
    copied.write_text(text.replace(old, new, 1), "utf-8")
    with pytest.raises(PanelError, match=message):
        panels.load("sokoban/3-boxes")
    result = command("tasks")
    assert result.exit_code == 2
    assert "3-boxes.json" in result.output


def rehashed(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a panel's file, and let it state the hash of what it then holds."""
    body = json.loads(path.read_text("utf-8"))
    change(body)
    del body["hash"]
    path.write_text(json.dumps({"hash": manifest.content_hash(body), **body}), "utf-8")


def test_files_of_another_version_are_refused(copied: Path) -> None:
    rehashed(copied, lambda body: body.update(schema=2))
    with pytest.raises(PanelError, match="another version"):
        panels.load("sokoban/3-boxes")
    rehashed(copied, lambda body: body.update(schema=1, options={"size": 7, "boxes": 3}))
    with pytest.raises(PanelError, match=r"sokoban:seed=1073741824,boxes=3,size=6, which is now called .*size=7"):
        panels.load("sokoban/3-boxes")


def test_a_task_that_begins_otherwise_is_named(copied: Path) -> None:
    rehashed(copied, lambda body: body["tasks"][4].update(state="0" * 32))
    assert panels.verify(panels.load("sokoban/3-boxes")) == ["sokoban:seed=1073741828,boxes=3,size=6"]
    result = command("tasks", "--verify")
    assert result.exit_code == 1
    assert "differs in 1: sokoban:seed=1073741828" in result.output


def test_a_file_that_says_no_more_than_its_tasks_is_read(copied: Path) -> None:
    def plain(body: dict[str, Any]) -> None:
        for key in ("version", "ceilings"):
            del body[key]

    rehashed(copied, plain)
    panel = panels.load("sokoban/3-boxes")
    assert (panel.version, panel.max_turns, panel.ceilings, len(panel.tasks())) == (1, None, None, 128)


def test_the_files_are_those_that_the_script_makes() -> None:
    """Except for what it takes from the data: tasks and ceilings."""
    made = {panel.name: panel for panel in MANIFESTS.PANELS}
    assert set(made) == set(NAMES)
    for name in NAMES:
        assert replace(panels.load(name), states={}, ceilings=None) == made[name]


def test_the_script_makes_the_same_panel_and_holds_no_task_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A field that comes up under two seeds is there once, and the seed after the last one fills the gap."""
    (panel,) = (each for each in MANIFESTS.PANELS if each.name == "minesweeper/3-mines")
    assert MANIFESTS.made(panel) == panels.load("minesweeper/3-mines")
    few = MANIFESTS.made(replace(panel, options={"size": 3, "mines": 2}, size=50))
    env = envs.make("minesweeper", size=3, mines=2)
    seen: dict[tuple[str, str], int] = {}
    for seed in SEEDS["eval"][:100]:
        seen.setdefault((env.reset(Task("minesweeper", seed=seed)).text, env.anchor()), seed)
    assert [task.seed for task in few.tasks()] == list(seen.values())[:50]
    assert len(seen) < 100
    with pytest.raises(TaskError, match="there are 12 tasks that differ, not 50"):
        MANIFESTS.made(replace(panel, options={"size": 2, "mines": 1}, size=50))


def fewest_openings(board: str, mines: set[int], size: int) -> int:
    """How many cells must be opened: one of each blank region, and each cell that no region opens."""
    cells = range(size * size)
    near = {a: {b for b in cells if max(abs(a // size - b // size), abs(a % size - b % size)) == 1} for a in cells}
    shown = [sign for line in board.split("\n") for sign in line.split(": ")[1].split(" ")]
    closed = {cell for cell in cells if shown[cell] == "?"} - mines
    blank = {cell for cell in closed if not near[cell] & mines}
    openings = len(closed - blank - {cell for middle in blank for cell in near[middle]})
    while blank:
        openings += 1
        region = [blank.pop()]
        while region:
            more = near[region.pop()] & blank
            blank -= more
            region += more
    return openings


@pytest.mark.parametrize(
    ("mines", "most", "odds"), [(3, 93.8, 80.5), (4, 65.6, 40.6), (5, 39.8, 21.9), (6, 30.5, 11.7)]
)
def test_what_minesweeper_s_panels_say_can_be_won(mines: int, most: float, odds: float) -> None:
    panel, long = (panels.load(f"minesweeper/{mines}-mines{long}") for long in ("", "-long"))
    env = envs.make("minesweeper", **panel.options)
    needed = []
    for task in panel.tasks():
        text = env.reset(task).text
        laid = {int(cell) for cell in env.anchor().split("|")[0].split(":")[1].split(",")}
        needed.append(fewest_openings(text, laid, 6))
    assert panel.ceilings is not None
    assert (panel.ceilings.turns, panel.max_turns) == (7, None)
    assert panel.ceilings.clairvoyant == sum(each <= 7 for each in needed) / 128
    assert round(100 * panel.ceilings.clairvoyant, 1) == most
    assert round(100 * (panel.ceilings.exact_probability or 0), 1) == odds
    assert long.ceilings is not None
    assert long.ceilings.turns == long.max_turns >= max(needed)
    assert long.ceilings.clairvoyant == 1
    assert [state for _, state in long.states.values()] == [state for _, state in panel.states.values()]


def consistent(board: str, size: int, mines: int) -> list[set[int]]:
    """All ways to lay the mines that agree with the board, one by one."""
    cells = range(size * size)
    shown = [sign for line in board.split("\n") for sign in line.split(": ")[1].split(" ")]
    near = {a: {b for b in cells if max(abs(a // size - b // size), abs(a % size - b % size)) == 1} for a in cells}
    numbers = {cell: int(sign.replace(".", "0")) for cell, sign in enumerate(shown) if sign != "?"}
    closed = [cell for cell in cells if shown[cell] == "?"]
    every = map(set, combinations(closed, mines))
    return [laid for laid in every if all(len(near[cell] & laid) == number for cell, number in numbers.items())]


def test_the_player_who_knows_the_odds_opens_the_safest_cell() -> None:
    """Its wins on fields of 4x4, and its odds at each turn, against layouts counted one by one."""
    env, turns, won = envs.make("minesweeper", size=4, mines=3), 5, 0
    tasks = [Task("minesweeper", seed=seed) for seed in range(30)]
    for task in tasks:
        player = CEILINGS.ExactPlayer(env, task)
        board = env.reset(task).text
        assert player.mined() == {
            cell: sum(cell in laid for laid in consistent(board, 4, 3))
            for cell, sign in enumerate(re.sub(r"Row \d: |[ \n]", "", board))
            if sign == "?"
        }
        over = False
        for _ in range(turns):
            layouts = consistent(board, 4, 3)
            signs = re.sub(r"Row \d: |[ \n]", "", board)
            closed = [cell for cell, sign in enumerate(signs) if sign == "?"]
            cell = min(closed, key=lambda cell, layouts=layouts: sum(cell in laid for laid in layouts))
            step = env.step(f"({cell // 4 + 1}, {cell % 4 + 1})")
            board, over = step.observation.text, step.won
            if step.terminated:
                break
        won += over
        assert CEILINGS.ExactPlayer(env, task).wins(turns) == over
    assert 5 < won < 25


def test_the_script_computes_what_panels_hold() -> None:
    for name in ("minesweeper/3-mines", "minesweeper/4-mines-long", "sokoban/2-boxes"):
        panel = panels.load(name)
        assert CEILINGS.ceilings(panel) == panel.ceilings
    assert CEILINGS.ceilings(panels.load("webshop/eval")) is None


class Quarry(MineSweeper):
    """Plays a data set of three tasks, or of two where one was lost."""

    name = "quarry"
    splits = ("valid",)
    files = 3

    @classmethod
    def tasks(cls, split: str, num: int | None = None, *, first: int = 0, options: Any = None) -> list[Task]:
        if not cls.files:
            raise TaskError("quarry: no data in QUARRY_DATA; run quarry-download")
        return [Task("quarry", seed=seed, split=split) for seed in range(cls.files)]


@pytest.fixture
def quarry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Quarry]]:
    monkeypatch.setattr(manifest, "MANIFESTS", tmp_path)
    path = tmp_path / "quarry" / "official" / "valid.json"
    path.parent.mkdir(parents=True)
    path.write_text(panels.dump(Panel("quarry/official/valid", "All of it.", "quarry", {}, "valid", 3)), "utf-8")
    with registry.scoped(quarry=Quarry):
        yield Quarry


class TestListedFromData:
    def test_its_tasks_are_those_of_the_data(self, quarry: type[Quarry]) -> None:
        panel = panels.load("quarry/official/valid")
        assert [task.seed for task in panel.tasks()] == [0, 1, 2]
        assert panels.verify(panel) == []

    def test_incomplete_data_is_refused(self, quarry: type[Quarry], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(quarry, "files", 2)
        with pytest.raises(PanelError, match="all 3 tasks of quarry's valid, but the data has 2"):
            panels.load("quarry/official/valid").tasks()

    def test_missing_data_is_said_and_is_no_failure(
        self, quarry: type[Quarry], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(quarry, "files", 0)
        result = command("tasks", "--verify")
        assert result.exit_code == 0
        assert "not checked: quarry: no data in QUARRY_DATA" in result.output


class TestCommands:
    def test_tasks_lists_and_verifies(self) -> None:
        rows = [json.loads(line) for line in command("tasks", "--json").stdout.splitlines()]
        assert [row["panel"] for row in rows] == list(NAMES)
        assert all(row["tasks"] for row in rows)
        found = {row["panel"]: row for row in rows}
        assert found["minesweeper/4-mines"]["ceilings"] == {
            "turns": 7,
            "clairvoyant": 84 / 128,
            "exact_probability": 52 / 128,
        }
        assert found["minesweeper/4-mines-long"]["max_turns"] == 20
        assert {row["panel"]: row["version"] for row in rows} == {name: panels.load(name).version for name in NAMES}
        table = command("tasks", "minesweeper/4-mines", "sokoban/3-boxes").stdout
        assert re.search(r"minesweeper/4-mines +│ +1 │ +128 │ +7 │ +65.6% │ +40.6% │", table)
        assert re.search(r"sokoban/3-boxes +│ +2 │ +128 │ +7 │ +100.0% │ +│", table)
        result = command("tasks", "sokoban/2-boxes", "--verify", "--json")
        (row,) = map(json.loads, result.stdout.splitlines())
        assert (result.exit_code, row["panel"], row["status"]) == (0, "sokoban/2-boxes", "ok")

    @pytest.mark.parametrize("extra", ["alfworld", "webshop"])
    def test_a_remedy_is_shown_as_it_is_typed(self, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def missing(panel: Panel, advance: object) -> list[str]:
            raise TaskError(f"pip install 'openrlhf-lamer[{extra}]'")

        monkeypatch.setattr(panels, "verify", missing)
        said = command("tasks", "sokoban/2-boxes", "--verify", "--json").output
        assert f"openrlhf-lamer[{extra}]" in said
        monkeypatch.setenv("COLUMNS", "200")
        assert f"pip install 'openrlhf-lamer[{extra}]'" in command("tasks", "sokoban/2-boxes", "--verify").output

    def test_an_unknown_panel_is_answered_with_a_guess(self) -> None:
        result = command("tasks", "sokoban/2-boxs")
        assert result.exit_code == 2
        assert "did you mean 'sokoban/2-boxes'?" in result.output

    def test_a_panel_becomes_a_prompt_dataset(self, tmp_path: Path) -> None:
        result = command("prepare", "tasks", "--panel", "minesweeper/5-mines", "--out", str(tmp_path))
        assert result.exit_code == 0, result.output
        assert read_dataset(tmp_path / "eval.jsonl") == panels.load("minesweeper/5-mines").tasks()

    @pytest.mark.parametrize("both", [(), ("--env", "sokoban", "--panel", "sokoban/2-boxes")])
    def test_a_dataset_is_of_an_environment_or_a_panel(self, tmp_path: Path, both: Sequence[str]) -> None:
        result = command("prepare", "tasks", *both, "--out", str(tmp_path))
        assert result.exit_code == 2
        assert "either --env" in result.output

    def test_eval_takes_a_panel_of_the_agents_environment(self, tmp_path: Path) -> None:
        common = ("eval", "--model", str(tmp_path), "--out", str(tmp_path / "out.jsonl"), "--tasks")
        agent = ("--agent-func", "openrlhf_lamer.agents.sokoban")
        result = command(*common, "minesweeper/3-mines", *agent)
        assert result.exit_code == 2
        assert "tasks of minesweeper, but openrlhf_lamer.agents.sokoban plays sokoban" in result.output
        assert "no config.json" in command(*common, "sokoban/2-boxes", *agent).output
