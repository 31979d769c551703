"""Settings of trainings in `openrlhf-lamer report`."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from openrlhf_lamer.cli.main import app
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.evaluation.outcomes import read_runs
from openrlhf_lamer.records import Episode, Phase, Stop, Task, Trial, Turn
from openrlhf_lamer.training_files import settings_file, write_step


def settings(seed: int = 0, torch: str = "2.13", **config: Any) -> dict[str, Any]:
    return {
        "agent": {"name": "openrlhf_lamer.agents.doors"},
        "estimator": "lamer_hgpo",
        "config": LamerConfig(**config).model_dump() | {"hgpo.depth": 2, "hgpo.depth_power": 1.0},
        "host": {"train.seed": seed, "actor.adam.lr": 1e-5},
        "version": "1",
        "packages": {"torch": torch, "ray": "2.55"},
    }


def train(file: Path, *steps: dict[str, Any]) -> Path:
    """A training of single attempts, with the settings of each step."""
    turn = Turn(Phase.PLAY, 0, 0, (1,), (2,), None, "", "x", True, 0.0, "s", "")
    trial = Trial(Task("doors", seed=0), (Episode((turn,), Stop.WON, ""),))
    for number, own in enumerate(steps, 1):
        write_step(file, number, [f'{trial.to_json()[:-1]}, "step": {number}, "group": 0}}'], own)
    return file


def called(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, ["report", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_settings_that_were_given_or_differ_are_a_table(tmp_path: Path) -> None:
    first = train(tmp_path / "a" / "trials.jsonl", settings(reference=True, gamma_traj=0.3))
    second = train(tmp_path / "b" / "trials.jsonl", settings(7, "2.14", reference=True))
    tables = {table["name"]: table["rows"] for table in json.loads(called(first, second, "--json"))["tables"]}
    rows = {row.pop("setting"): row for row in tables["settings"]}
    assert rows == {
        "agent name": {"a": "openrlhf_lamer.agents.doors", "b": "openrlhf_lamer.agents.doors"},
        "estimator": {"a": "lamer_hgpo", "b": "lamer_hgpo"},
        "--lamer.reference": {"a": "on", "b": "on"},
        "--lamer.gamma_traj": {"a": "0.3", "b": "0.6"},
        "--train.seed": {"a": "0", "b": "7"},
        "--actor.adam.lr": {"a": "1e-05", "b": "1e-05"},
        "torch": {"a": "2.13", "b": "2.14"},
    }
    lines = {
        (r["table"], r["row"], r["column"]): r["value"]
        for r in csv.DictReader(io.StringIO(called(first, second, "--csv")))
    }
    assert lines["settings", "--lamer.gamma_traj", "b"] == "0.6"
    assert "| --lamer.gamma_traj | 0.3 | 0.6 |" in called(first, second, "--markdown")
    assert re.search(r"--lamer\.gamma_traj +0\.3 +0\.6", called(first, second))


def test_the_page_has_all_settings_and_says_what_changed(tmp_path: Path) -> None:
    before, after = settings(gamma_traj=0.3), settings(memory="reflection")
    file = train(tmp_path / "a" / "trials.jsonl", before, before, after)
    called(file, "--out", tmp_path / "page.html")
    told = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", (tmp_path / "page.html").read_text()))
    for name, value in LamerConfig().model_dump().items():
        assert f"--lamer.{name}" in told
        if isinstance(value, float):
            assert float(told[f"--lamer.{name}"]) == value
    assert (told["--lamer.memory"], told["--lamer.hgpo.depth"]) == ("reflection", "2")
    assert (told["torch"], told["ray"], told["version"]) == ("2.13", "2.55", "1")
    assert told["before step 3: --lamer.gamma_traj"] == "0.3"
    assert told["before step 3: --lamer.memory"] == "both"
    assert len([name for name in told if name.startswith("before")]) == 2
    (table,) = (table["rows"] for table in json.loads(called(file, "--json"))["tables"] if table["name"] == "settings")
    assert {"setting": "before step 3: --lamer.gamma_traj", "a": "0.3"} in table


def test_attempts_are_those_of_the_settings(tmp_path: Path) -> None:
    """All trials were won at once; without settings nothing says how many attempts there could have been."""
    file = train(tmp_path / "a" / "trials.jsonl", settings(num_episodes=3))
    (run,) = read_runs([str(file)])
    assert (run.label, run.attempts) == ("a", 3)
    settings_file(file).unlink()
    (run,) = read_runs([str(file)])
    assert run.attempts == 1
    assert "settings" not in [table["name"] for table in json.loads(called(file, "--json"))["tables"]]


def test_settings_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    file = train(tmp_path / "a" / "trials.jsonl", settings())
    settings_file(file).write_text("{}")
    result = CliRunner().invoke(app, ["report", str(file)])
    assert result.exit_code == 2
    assert "trials.settings.json holds no settings of a training" in " ".join(result.stderr.split())


@pytest.mark.parametrize("labels", [("", ""), ("one=", "one=")])
def test_trainings_stay_apart_whatever_their_settings(labels: tuple[str, str], tmp_path: Path) -> None:
    files = [train(tmp_path / name / "trials.jsonl", settings(seed)) for seed, name in enumerate("ab")]
    given = [f"{label}{file}" for label, file in zip(labels, files, strict=True)]
    tables = {table["name"]: table["rows"] for table in json.loads(called(*given, "--json"))["tables"]}
    names = ["a", "b"] if not labels[0] else ["one 1", "one 2"]
    assert [row["steps"] for row in tables["training"]] == [f"{name}, step 1" for name in names]
    (row,) = (row for row in tables["settings"] if row["setting"] == "--train.seed")
    assert [row[name] for name in names] == ["0", "1"]
