"""`openrlhf-lamer credit`: tables, JSON, and errors on one line."""

from __future__ import annotations

from json import dumps, loads
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from openrlhf_lamer.cli.main import app

FILE = Path(__file__).parent / "data" / "credit.json"
GOLDEN = loads(FILE.read_text())
CASE: dict[str, Any] = {
    "gamma_step": 0.5,
    "gamma_traj": 0.25,
    "trials": [
        {"group": 0, "episodes": [{"rewards": [1, 2], "anchors": ["a", "b"]}, {"rewards": [4], "anchors": ["a"]}]},
        {"group": 0, "episodes": [{"rewards": [4], "anchors": ["[red]a"]}]},
    ],
}


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["credit", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize(
    ("estimator", "norm", "key"),
    [
        ("lamer_gigpo", "mean", "gigpo_mean_norm"),
        ("lamer_gigpo", "mean_std", "gigpo_mean_std_norm"),
        ("lamer_grpo", "mean", "grpo_on_returns_mean"),
        ("lamer_grpo", "mean_std", "grpo_on_returns_std"),
        ("lamer_rloo", "mean", "rloo_on_returns"),
    ],
)
def test_json_equals_golden(estimator: str, norm: str, key: str) -> None:
    options = ["--estimator", estimator, "--norm", norm, "--cross-episode", "chained", "--reference", "--json"]
    results = loads(run(str(FILE), *options))
    assert len(results) == len(GOLDEN)
    for result, case in zip(results, GOLDEN, strict=True):
        assert [len(trial) for trial in result["advantages"]] == [len(trial) for trial in case["returns"]]
        assert np.allclose(np.concatenate(result["returns"]), np.concatenate(case["returns"]), rtol=0, atol=1e-6)
        assert np.allclose(np.concatenate(result["advantages"]), case[key], rtol=0, atol=1e-5)


def test_one_case_and_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "case.json"
    file.write_text(dumps(CASE))
    (result,) = loads(run(str(file), "--json", "--estimator", "lamer_rloo"))
    assert result == {"returns": [[3, 3, 4, 4], [4]], "advantages": [[-1, -1, 0, 0], [0.5]]}
    (result,) = loads(run(str(file), "--json", "--cross-episode", "chained"))
    assert result["returns"] == [[2.5, 3, 4, 4], [4]]


def test_no_trials_and_no_turns(tmp_path: Path) -> None:
    file = tmp_path / "cases.json"
    file.write_text(dumps([{**CASE, "trials": []}, {**CASE, "trials": [{"group": 0, "episodes": []}] * 2}]))
    empty, blank = loads(run(str(file), "--json"))
    assert empty == {"returns": [], "advantages": []}
    assert blank == {"returns": [[], []], "advantages": [[], []]}
    assert run(str(file)).count("case") == 2


def test_table(tmp_path: Path) -> None:
    file = tmp_path / "case.json"
    file.write_text(dumps(CASE))
    rows = [line.split() for line in run(str(file), "--estimator", "lamer_rloo").splitlines() if line.strip()]
    assert rows[0][:4] == ["case", "0:", "lamer_rloo", "(paper,"]
    assert rows[1] == ["group", "trial", "episode", "turn", "phase", "reward", "anchor", "return", "advantage"]
    assert rows[3:] == [
        ["0", "0", "0", "0", "play", "1", "a", "3.0000", "-1.0000"],
        ["1", "play", "2", "b", "3.0000", "-1.0000"],
        ["reflect", "0", "4.0000", "+0.0000"],
        ["1", "0", "play", "4", "a", "4.0000", "+0.0000"],
        ["1", "0", "0", "play", "4", "[red]a", "4.0000", "+0.5000"],
    ]


def trial(**changes: Any) -> dict[str, Any]:
    return {**CASE, "trials": [{**CASE["trials"][1], **changes}]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("3", "case 0 has no 'gamma_step'"),
        (dumps({**CASE, "gamma_step": "high"}), "case 0: 'gamma_step' is not a number"),
        (dumps({**CASE, "gamma_traj": 2}), "case 0: gamma_traj is 2, but a discount lies in [0, 1]"),
        (dumps([CASE, {**CASE, "trials": {}}]), "case 1: 'trials' is not a list"),
        (dumps(trial(group=1.5)), "trial 0: 'group' is not an integer"),
        (dumps(trial(group=2**70)), "case 0: "),
        (dumps(trial(episodes=[{"rewards": [1]}])), "episode 0 has no 'anchors'"),
        (dumps(trial(episodes=[{"rewards": [1], "anchors": []}])), "1 rewards, but 0 anchors"),
        (dumps(trial(episodes=[{"rewards": ["x"], "anchors": [0]}])), "reward 0 is 'x', not a number"),
        (dumps(trial(episodes=[{"rewards": [float("nan")], "anchors": [0]}])), "the reward is not finite"),
    ],
)
def test_bad_files(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "case.json"
    file.write_text(content)
    fails([str(file)], message)


def test_missing_file(tmp_path: Path) -> None:
    fails([str(tmp_path / "none.json")], "No such file")
    fails([str(tmp_path)], "directory")


def test_unknown_estimator() -> None:
    fails([str(FILE), "--estimator", "lamer_gipo"], "Did you mean 'lamer_gigpo'? Known: lamer_gigpo, lamer_grpo")


def fails(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["credit", *arguments])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_help_teaches() -> None:
    assert "credit" in CliRunner().invoke(app, ["--help"]).stdout
    assert "--cross-episode" in CliRunner().invoke(app, ["credit", "--help"]).stdout
