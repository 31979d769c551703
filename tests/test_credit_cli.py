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


class TestCritic:
    """`lamer_ppo`; the values are those of the hand-computed case in `test_ppo.py`, without its penalty."""

    VALUES: tuple[list[Any], ...] = ([1, 2, 3], [4])

    def case(self, *values: list[Any]) -> dict[str, Any]:
        episodes = [
            {**episode, "values": own} for episode, own in zip(CASE["trials"][0]["episodes"], values, strict=False)
        ]
        return {**CASE, "trials": [{"group": 0, "episodes": episodes}]}

    def run(self, tmp_path: Path, case: dict[str, Any], *options: str) -> dict[str, Any]:
        file = tmp_path / "case.json"
        file.write_text(dumps(case))
        (result,) = loads(run(str(file), "--json", "--estimator", "lamer_ppo", *options))
        return result

    def test_its_returns_are_chained(self, tmp_path: Path) -> None:
        result = self.run(tmp_path, self.case(*self.VALUES))
        assert result == {"returns": [[2.5, 3, 4, 4]], "advantages": [[1.5, 1, 1, 0]]}

    def test_lambda(self, tmp_path: Path) -> None:
        result = self.run(tmp_path, self.case(*self.VALUES), "--lambd", "0")
        assert result["advantages"] == [[1, 2 + 0.75 - 2, 1, 0]]

    def test_values_left_out_are_zero(self, tmp_path: Path) -> None:
        result = self.run(tmp_path, CASE)
        assert result["advantages"] == result["returns"]

    def test_the_papers_form_is_refused(self) -> None:
        arguments = [str(FILE), "--estimator", "lamer_ppo", "--cross-episode", "paper"]
        fails(arguments, "--lamer.cross_episode paper: lamer_ppo")

    def test_a_table_names_the_form(self, tmp_path: Path) -> None:
        file = tmp_path / "case.json"
        file.write_text(dumps(CASE))
        assert "lamer_ppo (chained, mean)" in run(str(file), "--estimator", "lamer_ppo")

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ([[1, 2], [4]], "trial 0, episode 0: 2 rewards and a reflection, but 2 values"),
            ([[1, 2, 3], [4, 5]], "trial 0, episode 1: 1 rewards, but 2 values"),
            ([[1, 2, None], [4]], "trial 0, episode 0, value 2: Input should be a valid number, not 'None'"),
            ([[1, 2, float("inf")], [4]], "the critic's value is not finite"),
        ],
    )
    def test_bad_values(self, tmp_path: Path, values: list[Any], message: str) -> None:
        file = tmp_path / "case.json"
        file.write_text(dumps(self.case(*values)))
        fails([str(file), "--estimator", "lamer_ppo"], message)


class TestHistories:
    """`lamer_hgpo`: four trials come to b with 6, 2, 1, 3; by what they did before, two of them are alike."""

    def run(self, tmp_path: Path, *options: str, **columns: list[Any]) -> list[float]:
        episodes = [{"rewards": [0, g], "anchors": [first, "b"]} for first, g in zip("aaac", (6, 2, 1, 3), strict=True)]
        for name, items in columns.items():
            episodes = [{**episode, name: item} for episode, item in zip(episodes, items, strict=True)]
        case = {"gamma_step": 0, "gamma_traj": 0, "trials": [{"group": 0, "episodes": [e]} for e in episodes]}
        file = tmp_path / "case.json"
        file.write_text(dumps(case))
        (result,) = loads(run(str(file), "--json", "--estimator", "lamer_hgpo", *options))
        return [advantages[1] for advantages in result["advantages"]]

    def test_with_actions(self, tmp_path: Path) -> None:
        actions = [["x", ""], ["x", "up"], [["y"], ""], ["x", None]]
        assert self.run(tmp_path, actions=actions) == pytest.approx([2.1, -1.9, -2, 0])

    def test_without_actions_states_tell_histories_apart(self, tmp_path: Path) -> None:
        # Three come from a, with the mean 3 that all four have.
        assert self.run(tmp_path) == pytest.approx([3, -1, -2, 0])

    def test_depth(self, tmp_path: Path) -> None:
        actions = [["x", ""]] * 2 + [["y", ""]] * 2
        assert self.run(tmp_path, "--option", "depth=1", actions=actions) == pytest.approx([13 / 6, -11 / 6, -2, 0])
        assert self.run(tmp_path, "--option", "depth=0", actions=actions) == pytest.approx([3, -1, -2, 0])

    def test_remarks_are_remembered(self, tmp_path: Path) -> None:
        lost = [{"rewards": [0], "anchors": ["a"], "remark": remark} for remark in "ppq"]
        ends = [{"rewards": [g], "anchors": ["b"]} for g in (8, 4, 0)]
        trials = [{"group": 0, "episodes": [first, last]} for first, last in zip(lost, ends, strict=True)]
        file = tmp_path / "case.json"
        file.write_text(dumps({"gamma_step": 0, "gamma_traj": 0, "trials": trials}))
        (result,) = loads(run(str(file), "--json", "--estimator", "lamer_hgpo", "--option", "depth=0"))
        # ν is 4 at level 0, and 6 for the two who remember p: (1 · 4 + 2 · 2) / 3, (0 + 2 · -2) / 3.
        assert [trial[2] for trial in result["advantages"]] == pytest.approx([8 / 3, -4 / 3, -4])

    def test_bad_actions(self, tmp_path: Path) -> None:
        file = tmp_path / "case.json"
        file.write_text(dumps(trial(episodes=[{"rewards": [1], "anchors": ["a"], "actions": []}])))
        fails([str(file)], "trial 0, episode 0: 1 rewards, but 0 actions")


def trial(**changes: Any) -> dict[str, Any]:
    return {**CASE, "trials": [{**CASE["trials"][1], **changes}]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("3", "case 0: Input should be a valid dictionary or instance of _Case, not '3'"),
        (dumps({**CASE, "gamma_step": "high"}), "case 0, 'gamma_step': Input should be a valid number, not 'high'"),
        (dumps({**CASE, "gamma_traj": 2}), "case 0: gamma_traj is 2, but a discount lies in [0, 1]"),
        (dumps([CASE, {**CASE, "trials": {}}]), "case 1, 'trials': Input should be a valid list"),
        (dumps(trial(group=1.5)), "trial 0, 'group': Input should be a valid integer, not '1.5'"),
        (dumps(trial(group=2**70)), "case 0: "),
        (dumps(trial(episodes=[{"rewards": [1]}])), "episode 0, 'anchors': Field required"),
        (dumps(trial(episodes=[{"rewards": [1], "anchors": []}])), "1 rewards, but 0 anchors"),
        (
            dumps(trial(episodes=[{"rewards": ["x"], "anchors": [0]}])),
            "reward 0: Input should be a valid number, not 'x'",
        ),
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


@pytest.mark.parametrize(
    ("estimator", "option", "message"),
    [
        ("lamer_hgpo", "depth=-1", "--lamer.hgpo.depth '-1': Input should be greater than or equal to 0"),
        ("lamer_hgpo", "width=1", "--lamer.hgpo.width: no such option of lamer_hgpo. Options: depth, depth_power"),
        ("lamer_rloo", "depth=1", "--lamer.rloo.depth: no such option of lamer_rloo. It has none"),
    ],
)
def test_bad_options(estimator: str, option: str, message: str) -> None:
    fails([str(FILE), "--estimator", estimator, "--option", option], message)


def test_unknown_estimator() -> None:
    fails([str(FILE), "--estimator", "lamer_gipo"], "Did you mean 'lamer_gigpo'? Known: lamer_gigpo, lamer_grpo")


def fails(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["credit", *arguments])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("estimator", ["lamer_rloo", "lamer_ppo"])
def test_the_documentations_example_is_what_is_printed(estimator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    docs = Path(__file__).parent.parent / "docs"
    printed = run(str(docs / "examples" / "credit.json"), "--estimator", estimator)
    lines = "\n".join(line.rstrip() for line in printed.rstrip().splitlines())
    assert lines in (docs / "credit.md").read_text(encoding="utf-8")


def test_help_teaches() -> None:
    assert "credit" in CliRunner().invoke(app, ["--help"]).stdout
    assert "--cross-episode" in CliRunner().invoke(app, ["credit", "--help"]).stdout
