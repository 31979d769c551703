"""A third party's package, installed by pip: found through its entry points, in another process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from openrlhf_lamer.records import Episode, Phase, Stop, Task, Trial, Turn

PACKAGE = Path(__file__).parent / "test_package"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the extension, as pip installs it."""
    target = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(target), str(PACKAGE)], check=True, timeout=100)
    return target


def python(installed: Path | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = [str(installed) if installed else "", os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return subprocess.run(
        [sys.executable, *arguments], env=env, capture_output=True, text=True, timeout=100, check=False
    )


def test_its_environment_is_found_and_passes_every_check(installed: Path) -> None:
    code = (
        "from openrlhf_lamer import envs\n"
        "assert 'corridor' in envs.names()\n"
        "for options in envs.lookup('corridor').difficulties:\n"
        "    for reward in ('sparse', 'shaped'):\n"
        "        envs.check_env('corridor', reward=reward, **options)\n"
        "print(envs.make('corridor', rooms=9).rooms)\n"
    )
    result = python(installed, "-c", code)
    assert result.stdout.split() == ["9"], result.stderr


def test_its_estimator_is_found(installed: Path) -> None:
    code = "from openrlhf_lamer import advantage; print(advantage.get('corridor_return').needs_group)"
    result = python(installed, "-c", code)
    assert result.stdout.split() == ["False"], result.stderr


def test_its_estimators_options_are_flags_like_ours(installed: Path) -> None:
    launcher = ["-m", "openrlhf_lamer.cli.train_ppo_ray"]
    help_text = " ".join(python(installed, *launcher, "--help").stdout.split())
    assert "--lamer.corridor_return.scale VALUE Factor on the return in a corridor. Default: 1.0." in help_text
    assert "corridor_return" in help_text.split("--algo.advantage.estimator")[1][:300]
    agent = ["--agent_func", "openrlhf_lamer.agents.sokoban", "--algo.advantage.estimator", "corridor_return"]
    refused = python(installed, *launcher, *agent, "--lamer.corridor_return.scale", "0")
    assert refused.returncode == 2
    assert "--lamer.corridor_return.scale '0': Input should be greater than 0. Factor on" in refused.stderr


def test_its_estimator_credits_trials_by_its_option(installed: Path) -> None:
    file = str(PACKAGE.parent / "data" / "credit.json")
    command = ["-m", "openrlhf_lamer.cli.main", "credit", file, "--estimator", "corridor_return", "--json"]
    for scale in (1, 3):
        result = python(installed, *command, "--option", f"scale={scale}")
        cases = json.loads(result.stdout)
        assert cases, result.stderr
        for case in cases:
            assert case["advantages"] == [[scale * value for value in trial] for trial in case["returns"]]
    assert "corridor_return.width: no such option" in python(installed, *command, "--option", "width=2").stderr


def test_the_commands_know_it(installed: Path, tmp_path: Path) -> None:
    command = ["-m", "openrlhf_lamer.cli.main"]
    result = python(installed, *command, "play", "corridor", "--player", "oracle", "--tasks", "5", "--json")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(row["won"], row["score"]) for row in rows] == [(True, 1.0)] * 5, result.stderr
    result = python(installed, *command, "prepare", "tasks", "--env", "corridor", "--num", "4", "--out", str(tmp_path))
    assert len((tmp_path / "train.jsonl").read_text().splitlines()) == 4, result.stderr


def test_the_commands_list_it(installed: Path) -> None:
    command = ["-m", "openrlhf_lamer.cli.main"]
    lines = python(installed, *command, "prepare", "--help").stdout.splitlines()
    assert [line.split()[1:5] for line in lines if "corridor" in line] == [["corridor", "Draw", "a", "corridor."]]
    assert "Rooms to draw." in python(installed, *command, "prepare", "corridor", "--help").stdout
    assert python(installed, *command, "prepare", "corridor", "--rooms", "3").stdout == "[ ][ ][ ]\n"
    refused = python(installed, *command, "prepare", "corridor", "--rooms", "1")
    assert (refused.returncode, "error: --rooms 1: a corridor has two rooms" in refused.stderr) == (2, True)
    assert "corridor" in python(installed, *command, "play", "chess").stderr.partition("there are: ")[2]
    look = "from openrlhf_lamer.doctor import data; print([check.found for check in data.checks('corridor')])"
    assert python(installed, "-c", look).stdout == "['corridors come from seeds']\n"


def test_its_own_notion_of_a_mistake_is_measured(installed: Path, tmp_path: Path) -> None:
    """Both trials dig in room 3 and say so; one digs there again, on another way, and one digs elsewhere."""

    def lost(*turns: tuple[str, int], remark: str | None = None) -> Episode:
        played = (
            Turn(Phase.PLAY, 0, 0, (1,), (2,), None, "", did, True, 0.0, "", f"Room {n} of 5.") for did, n in turns
        )
        reflection = remark and Turn(Phase.REFLECT, 0, 0, (1,), (2,), None, "", remark, True, 0.0, "", "")
        return Episode(tuple(played), Stop.LOST, "", reflection or None)

    first = lost(("left", 4), ("dig", 3), remark="Nothing was in #3.")
    seconds = lost(("right", 2), ("dig", 3)), lost(("dig", 4))
    trials = [Trial(Task("corridor", seed=n), (first, second)) for n, second in enumerate(seconds)]
    file = tmp_path / "trials.jsonl"
    file.write_text("".join(f"{trial.to_json()}\n" for trial in trials))

    def figures(installed: Path | None) -> dict[str, float]:
        result = python(installed, "-m", "openrlhf_lamer.cli.main", "analyze", str(file), "--json")
        rows = json.loads(result.stdout)["rows"]
        return {row["figure"]: row["value"]["value"] for row in rows if row["cases"] and row["value"]}

    own, as_text = figures(installed), figures(None)
    assert (own["known"], own["names"], own["avoided/named"]) == (1.0, 1.0, 0.5)
    assert (as_text["known"], as_text["names"], as_text["avoided/not named"]) == (1.0, 0.0, 1.0)


def test_without_it_there_is_no_such_environment() -> None:
    result = python(None, "-c", "from openrlhf_lamer import envs; envs.make('corridor')")
    assert "no environment is called 'corridor'" in result.stderr
