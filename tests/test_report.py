"""`openrlhf-lamer report` on the files of scripted players."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from openrlhf_lamer import panels
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.cli.main import app
from openrlhf_lamer.evaluation.outcomes import Outcome, Run, read_runs
from openrlhf_lamer.evaluation.report import build
from openrlhf_lamer.evaluation.statistics import Estimate, difference, mcnemar, success, won
from openrlhf_lamer.policies.scripted import OraclePolicy, RandomPolicy
from openrlhf_lamer.records import Episode, Failure, FailureKind, Phase, Stop, Task, Trial, Turn

EVIL = "<script>document.title = 'broken in'</script> $x^ [red] |"
OPTIONS: dict[str, Any] = {"env_options": {"size": 4, "mines": 3}, "max_turns": 5}


def saved(folder: Path, trials: list[Trial], **settings: Any) -> Path:
    """A folder as `eval --out` makes it."""
    folder.mkdir(parents=True)
    (folder / "trials.jsonl").write_text("".join(trial.to_json() + "\n" for trial in trials))
    if settings:
        body = {"schema": 1, "settings": settings, "trials": len(trials)}
        (folder / "run.json").write_text(json.dumps(body))
    return folder


def called(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, ["report", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, ["report", *map(str, arguments)])
    assert result.exit_code == 2, result.output
    return result.stderr


def made(seed: int, won_at: int | None, *, ways: int = 1, sample: int = 0, failure: Failure | None = None) -> Trial:
    """A trial of up to three episodes of one turn, without a game; `sample` of `ways` says what was done."""
    episodes = []
    for n in range(1, (won_at or 3) + 1):
        action = str(sample % ways)
        turn = Turn(Phase.PLAY, n - 1, 0, (1,) * 10, (2,) * 5, None, "", action, True, 0.0, "s", "")
        episodes.append(Episode((turn,), Stop.WON if n == won_at else Stop.LOST, ""))
    return Trial(Task("toy", seed=seed), tuple(episodes), failure, sample)


@pytest.fixture
def players(tmp_path: Path, play: Callable[..., Trial], chat: Chat) -> tuple[Path, Path]:
    """A random player and the oracle on 20 tasks."""
    random = [play(RandomPolicy(chat, seed), seed=seed, **OPTIONS) for seed in range(20)]
    oracle = [play(OraclePolicy(chat), seed=seed, **OPTIONS) for seed in range(20)]
    return (
        saved(tmp_path / "a", random, method="random", seed=0),
        saved(tmp_path / "b", oracle, method="oracle", seed=0),
    )


def test_two_players_are_told_apart_in_every_form(players: tuple[Path, Path], tmp_path: Path) -> None:
    page = tmp_path / "out" / "report.html"
    printed = called(*players, "--out", page)
    trials = [[Trial.from_json(line) for line in (each / "trials.jsonl").read_text().splitlines()] for each in players]
    shown = [str(success(own, 1)) for own in trials]
    assert shown[0] != shown[1]
    html = page.read_text()
    markdown = called(*players, "--markdown")
    for name, text in zip(("random", "oracle"), shown, strict=True):
        assert f"<td>{text}</td>" in html
        assert f"| {name} | minesweeper | 20 tasks | success | {text} |" in markdown
        assert text.split(" ", 1)[1] in printed

    tables = {table["name"]: table["rows"] for table in json.loads(called(*players, "--json"))["tables"]}
    first, second = ([won(own, 3)] for own in trials)
    gain, test = difference(first, second), mcnemar(first[0], second[0])
    (row,) = tables["comparison"]
    assert test is not None
    assert (row["method"], row["p@3"]) == ("oracle", test.p)
    assert [row["@3"][key] for key in ("value", "low", "high")] == [gain.value, gain.low, gain.high]

    lines = {(r["table"], r["row"], r["column"]): r for r in csv.DictReader(io.StringIO(called(*players, "--csv")))}
    figures = 0
    for name, rows in tables.items():
        for each in rows:
            label, *columns = each
            for column in columns:
                figures += 1
                line, figure = lines[name, each[label], column], each[column]
                ends = figure if isinstance(figure, dict) else {"value": figure, "low": None, "high": None}
                for key in ("value", "low", "high"):
                    assert line[key] == ("" if ends[key] is None else str(ends[key]))
    assert figures == len(lines) > 20


def test_the_page_is_one_file_and_shows_labels_as_text(tmp_path: Path, browsed: Callable[[Path, str], str]) -> None:
    broken = Failure(FailureKind.ENGINE, "generate", EVIL)
    trials = [made(0, 1), made(1, None), replace(made(2, 1), task=Task(EVIL, seed=0)), made(3, None, failure=broken)]
    run = saved(tmp_path / "a", trials, label=EVIL, model=EVIL)
    page = tmp_path / "report.html"
    called(run, f"_<b>$x^ [red]={saved(tmp_path / 'b', trials[:2])}", "--out", page)
    html = page.read_text()
    assert "<script" not in html
    pictures = [base64.b64decode(each).decode() for each in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", html)]
    assert len(pictures) == 1
    assert "<script" not in pictures[0]
    assert not re.search(r"(src|href)=[\"']?(https?:|file:|//)", html + re.sub(r"xmlns\S+|<rdf:.*?>", "", pictures[0]))
    shown = browsed(page, "")
    assert "&lt;script&gt;document.title" in shown
    assert "broken in</title>" not in shown
    assert "1 of 3 trials failed" in shown


def test_runs_that_differ_in_their_seed_alone_are_pooled(tmp_path: Path) -> None:
    def run(name: str, seed: int, **settings: Any) -> Path:
        trials = [made(task, 1 if (task + seed) % 4 else None) for task in range(12)]
        return saved(tmp_path / name, trials, method="lamer", seed=seed, **settings)

    hot = run("hot", 0, temperature=1.0)
    cold = [run(f"cold{seed}", seed, temperature=0.0) for seed in range(3)]
    methods = {row["method"]: row for row in json.loads(called(*cold, hot, "--json"))["tables"][0]["rows"]}
    assert {name: row["played"] for name, row in methods.items()} == {
        "lamer (cold0)": "12 tasks, 3 seeds",
        "lamer (hot)": "12 tasks",
    }
    pooled, alone = methods["lamer (cold0)"]["@1"], methods["lamer (hot)"]["@1"]
    assert pooled["value"] == alone["value"] == 0.75
    assert pooled["high"] - pooled["low"] < alone["high"] - alone["low"]
    # A label given by hand pools runs without settings; a path does not.
    files = [each / "trials.jsonl" for each in cold]
    for file in files:
        file.with_name("run.json").unlink()
    assert [run.label for run in read_runs([f"x={file}" for file in files])] == ["x"] * 3
    assert [run.label for run in read_runs([*map(str, files)])] == ["cold0", "cold1", "cold2"]


def test_several_samples_bring_pass_at_k_and_diversity() -> None:
    trials = [
        made(task, 1 if sample == 0 else None, ways=2, sample=sample) for task in range(10) for sample in range(4)
    ]
    report = build([Run.of("a", trials)])
    tables = {table.name: table for table in report.tables}
    assert tables["pass"].columns[2:] == ("pass@1", "pass@2", "pass@3", "pass@4")
    values = [cell.value for cell in tables["pass"].rows[0] if isinstance(cell, Estimate)]
    assert values == pytest.approx([0.25, 0.5, 0.75, 1])
    assert report.to_html().count("<img") == 2
    label, tasks, samples, plain, *_ = tables["diversity"].rows[0]
    assert (label, tasks, samples) == ("a, attempt 1", 10, "4")
    assert f"{plain}".startswith("0.69 [")
    assert tables["diversity"].rows[1][2] == "3"
    assert "comparison" not in tables


def test_attempts_that_were_not_played_have_no_success() -> None:
    one = [replace(made(task, None), episodes=made(task, None).episodes[:1]) for task in range(5)]
    perfect = [made(task, 1) for task in range(5)]
    three = [made(task, 3) for task in range(5)]
    single, best, long = build([Run.of("one", one), Run.of("best", perfect), Run.of("three", three)]).tables[0].rows
    assert single[5:] == (None, None)
    assert [str(cell)[:6] for cell in best[4:]] == ["100.0%"] * 3
    assert [str(cell)[:4] for cell in long[4:]] == ["0.0%", "0.0%", "100."]


def test_independent_attempts_are_samples_and_are_compared_with_sequential_ones() -> None:
    """Three samples of one episode against trials of three episodes: what k attempts solve, each by its name."""
    alone = [
        replace(made(task, first, sample=sample), episodes=made(task, first).episodes[:1])
        for task in range(10)
        for sample, first in enumerate((1, None, None))
    ]
    trials = [made(task, 2 if task else 3) for task in range(10)]
    report = build([Run.of("rl", alone), Run.of("lamer", trials)])
    tables = {table.name: table for table in report.tables}
    independent, sequential = tables["success"].rows
    assert independent[:4] == ("rl", "toy", "10 tasks × 3", "pass")
    assert sequential[:4] == ("lamer", "toy", "10 tasks", "success")
    values = [[cell.value for cell in row if isinstance(cell, Estimate)] for row in tables["success"].rows]
    assert values == [pytest.approx([1 / 3, 2 / 3, 1]), [0, 0.9, 1]]
    (row,) = tables["comparison"].rows
    assert [cell.value for cell in row if isinstance(cell, Estimate)] == pytest.approx([-1 / 3, 0.9 - 2 / 3, 0])
    assert tables["comparison"].columns == ("method", "@1", "@2", "@3")
    assert "pass" not in tables


def test_failures_unfinished_runs_and_other_tasks_are_flagged() -> None:
    broken = Failure(FailureKind.ENVIRONMENT, "reset", "no such file")
    trials = [made(task, 1, failure=broken if task < 2 else None) for task in range(10)]
    short = Run("short", tuple(map(Outcome.of, trials[:9])), expected=10)
    report = build([Run.of("whole", trials), short])
    assert [flag for flag in report.flags if "2 of 10 trials failed (20.0%)" in flag and "no such file" in flag]
    assert [flag for flag in report.flags if "9 of 10 trials are there" in flag]
    assert [flag for flag in report.flags if "same tasks" in flag]
    assert "comparison" not in {table.name for table in report.tables}
    (row, _) = report.tables[-1].rows
    assert row[:3] == ("whole", 10, 2)
    nothing = build([Run.of("none", trials[:2])])
    assert "–" in nothing.to_markdown()
    assert "2 of 2 trials failed" in nothing.to_html()


def on_panel(folder: Path, name: str, **more: Any) -> Path:
    """A run of a player that wins every third task at the second attempt."""
    tasks = panels.load(name).tasks()
    trials = [replace(made(n, None if n % 3 else 2), task=task) for n, task in enumerate(tasks)]
    panel = {"name": name, "version": panels.load(name).version, **more.pop("panel", {})}
    agent = {"name": f"openrlhf_lamer.agents.{tasks[0].env}"}
    settings = {"panel": panel, "agent": agent, "config": {"num_episodes": 3, "max_turns": None}, **more}
    return saved(folder, trials, model=folder.name, **settings)


def test_what_can_be_won_of_a_panel_stands_beside_what_was_won(tmp_path: Path) -> None:
    name = "minesweeper/5-mines"
    first, second = on_panel(tmp_path / "a", name), on_panel(tmp_path / "b", name)
    page = called(first, second, "--markdown")
    assert "In 7 turns no player can win more than 39.8% of these tasks" in page
    assert "exact probability wins 21.9% at the first attempt" in page
    (section, *_) = build(read_runs([str(first), str(second)])).sections
    assert section.panels[0].ceiling == 51 / 128
    (known,) = (each for each in section.panels[0].series if each.label.startswith("exact"))
    assert (list(known.at), known.estimates[0].value) == ([1], 28 / 128)
    assert build(read_runs([str(first)])).to_html().count("<img") == 1


@pytest.mark.parametrize(
    "other",
    [
        {"panel": {"version": 0}},
        {"config": {"num_episodes": 3, "max_turns": 9}},
        {"agent": {"name": "mine.py", "hash": "0"}},
        None,
    ],
)
def test_a_ceiling_is_of_one_panel_and_of_its_turns(tmp_path: Path, other: dict[str, Any] | None) -> None:
    first = on_panel(tmp_path / "a", "minesweeper/5-mines")
    if other is None:
        second = on_panel(tmp_path / "b", "minesweeper/6-mines")
    else:
        second = on_panel(tmp_path / "b", "minesweeper/5-mines", **other)
    report = build(read_runs([str(first), str(second)]))
    assert report.sections[0].panels[0].ceiling is None
    assert "no player can win" not in report.to_markdown()


def test_versions_of_a_panel_are_not_compared(tmp_path: Path) -> None:
    """Their tasks have the same names, but begin differently."""
    runs = [on_panel(tmp_path / str(n), "sokoban/4-boxes", panel={"version": n}) for n in (1, 2)]
    report = build(read_runs(list(map(str, runs))))
    assert "comparison" not in {table.name for table in report.tables}
    assert [flag for flag in report.flags if "versions 1 and 2 of a panel" in flag]
    same = [on_panel(tmp_path / f"same{n}", "sokoban/4-boxes") for n in (1, 2)]
    assert "comparison" in {table.name for table in build(read_runs(list(map(str, same)))).tables}


def test_methods_are_compared_in_each_game(tmp_path: Path) -> None:
    """With the game's first method; runs of two games do not count as runs on different tasks."""
    runs = [on_panel(tmp_path / str(n), name) for n, name in enumerate(["sokoban/2-boxes", "minesweeper/3-mines"] * 2)]
    paths = [f"{label}={run}" for label, run in zip(("one", "other", "two", "three"), runs, strict=True)]
    report = build(read_runs(paths))
    compared = [table for table in report.tables if table.name == "comparison"]
    assert [(table.title, [row[0] for row in table.rows]) for table in compared] == [
        ("Difference from one, in percentage points", ["two"]),
        ("Difference from other, in percentage points", ["three"]),
    ]
    assert not [flag for flag in report.flags if "same tasks" in flag]


def test_training_is_shown_over_its_steps(tmp_path: Path) -> None:
    lines = []
    for step in range(1, 51):
        for sample in range(8):
            trial = made(step, 1 if sample < step // 10 else None, ways=8 - step // 10, sample=sample)
            lines.append(f'{trial.to_json()[:-1]},"step":{step},"group":0}}\n')
    file = tmp_path / "trials.jsonl"
    file.write_text("".join(lines))
    page = tmp_path / "report.html"
    tables = {table["name"]: table["rows"] for table in json.loads(called(file, "--json", "--out", page))["tables"]}
    begin, end = tables["training"]
    assert (begin["steps"].split(", ")[1], end["steps"].split(", ")[1]) == ("steps 1 to 5", "steps 46 to 50")
    assert (begin["success@1"]["value"], end["success@1"]["value"]) == (0, pytest.approx((4 * 4 + 5) / 40))
    assert begin["diversity@1"]["value"] > end["diversity@1"]["value"]
    assert "success" not in tables
    again = tmp_path / "again.jsonl"
    again.write_text("".join(lines))
    several = build(read_runs([f"x={file}", f"x={again}"])).tables[0]
    assert [row[0] for row in several.rows[1:3]] == ["x 1, steps 46 to 50", "x 2, steps 1 to 5"]
    assert "Training: the figures" in page.read_text()


@pytest.mark.parametrize(("samples", "diversity"), [(1, None), (2, math.log(2))])
def test_evaluations_during_training_compare_the_trials_of_one_task(
    samples: int, diversity: float | None, tmp_path: Path
) -> None:
    trials = [made(seed, None, ways=8, sample=seed + sample) for seed in range(8) for sample in range(samples)]
    file = tmp_path / "evaluations.jsonl"
    file.write_text("".join(f'{trial.to_json()[:-1]},"step":{step}}}\n' for step in (0, 10) for trial in trials))
    rows = next(table for table in build(read_runs([str(file)])).tables if table.name == "training").rows
    found = [cell.value if isinstance(cell := row[-1], Estimate) else cell for row in rows]
    assert found == [diversity if diversity is None else pytest.approx(diversity)] * 2


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "other.jsonl").write_text('{"schema": 99}\n')
    run = saved(tmp_path / "run", [made(0, 1)], seed=0)
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text(f'{made(0, 1).to_json()}\n{made(0, 1).to_json()[:-1]},"step":1}}\n')
    assert "is not there" in refused(tmp_path / "nowhere")
    assert "holds no trials.jsonl" in refused(tmp_path)
    assert "no trials there" in refused(tmp_path / "empty.jsonl")
    assert "line 1" in refused(tmp_path / "other.jsonl")
    assert "given twice" in refused(run, f"x={run / 'trials.jsonl'}")
    assert "some trials have a training step" in refused(mixed)
    assert "no label before" in refused(f"={run}")
    assert "give one of them" in refused(run, "--json", "--csv")
    (run / "run.json").write_text("[]")
    assert "describes no run" in refused(run)
