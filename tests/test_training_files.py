"""Files of a training: steps that are repeated are replaced, and settings stand beside them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.records import SchemaError
from openrlhf_lamer.training_files import (
    Part,
    differences,
    evaluated,
    last_step,
    named,
    read_parts,
    read_settings,
    settings_file,
    write_step,
)


def lines(step: int, run: str, count: int = 3) -> list[str]:
    """Lines of a step, whose texts look like lines and steps themselves."""
    text = f'{run}\n{{"step": 99}} {"x" * (step % 7)}'
    return [json.dumps({"text": text, "nested": {"step": 77}, "step": step, "n": n}) for n in range(count)]


def write(file: Path, step: int, run: str, **settings: Any) -> None:
    write_step(file, step, lines(step, run), settings)


def told(file: Path) -> list[tuple[int, str]]:
    found = [json.loads(line) for line in file.read_text().splitlines()]
    return [(each["step"], each["text"].split("\n")[0]) for each in found if each["n"] == 0]


def test_steps_are_added_and_those_that_a_resumed_run_repeats_are_replaced(tmp_path: Path) -> None:
    file = tmp_path / "new" / "trials.jsonl"
    for step in range(1, 9):
        write(file, step, "first")
    whole = file.read_bytes()
    for step in range(6, 11):
        write(file, step, "second")
    assert told(file) == [(step, "first" if step < 6 else "second") for step in range(1, 11)]
    assert file.read_bytes().startswith(whole[: whole.index(lines(6, "first")[0].encode())])
    write(file, 0, "third")
    assert told(file) == [(0, "third")]


def test_any_order_of_kills_leaves_each_step_once(tmp_path: Path) -> None:
    """Runs that go on from any step not after the last, by the file and by a plain list."""
    rng = random.Random(0)
    file, expected = tmp_path / "trials.jsonl", []
    for run in range(30):
        step = rng.randint(1, (expected[-1][0] if expected else 0) + 1)
        for each in range(step, step + rng.randint(1, 4)):
            write(file, each, str(run))
            expected = [old for old in expected if old[0] < each] + [(each, str(run))]
        assert told(file) == expected
        assert last_step(file) == expected[-1][0]


@pytest.mark.parametrize("rest", ['{"step": 2, "te', '{"step": 3, "n": 0}'])
def test_a_line_without_its_end_is_cut_off(rest: str, tmp_path: Path) -> None:
    file = tmp_path / "trials.jsonl"
    write(file, 1, "first")
    with file.open("a") as half:
        half.write(rest)
    assert last_step(file) == 1
    write(file, 2, "second")
    assert told(file) == [(1, "first"), (2, "second")]


def test_a_file_without_a_whole_line_has_no_steps(tmp_path: Path) -> None:
    file = tmp_path / "trials.jsonl"
    assert last_step(file) is None
    for content in ("", '{"step": 4'):
        file.write_text(content)
        assert last_step(file) is None
    write(file, 1, "first")
    assert told(file) == [(1, "first")]


@pytest.mark.parametrize("line", ["hello", '{"text": "no step"}', "[1]", '{"step": null}'])
def test_a_file_of_something_else_is_not_touched(line: str, tmp_path: Path) -> None:
    file = tmp_path / "trials.jsonl"
    file.write_text(f"{line}\n")
    with pytest.raises(SchemaError, match="a line that no training wrote"):
        last_step(file)
    with pytest.raises(SchemaError, match="a line that no training wrote"):
        write(file, 1, "first")
    assert file.read_text() == f"{line}\n"


def gammas(file: Path) -> list[tuple[int, float]]:
    return [(part.from_step, part.settings["config"]["gamma_traj"]) for part in read_parts(file)]


def test_settings_are_kept_with_the_first_step_that_had_them(tmp_path: Path) -> None:
    file = tmp_path / "trials.jsonl"
    first, second, third = ({"config": {"gamma_traj": gamma, "betas": (0.9, 0.95)}} for gamma in (0.6, 0.3, 0.9))
    for step in (1, 2, 3):
        write(file, step, "first", **first)
    assert settings_file(file) == tmp_path / "trials.settings.json"
    as_read = {"config": {"gamma_traj": 0.6, "betas": [0.9, 0.95]}}
    assert read_parts(file) == (Part(1, as_read),)
    assert read_settings(file) == as_read
    for step in (3, 4):
        write(file, step, "second", **second)
    assert [(part.from_step, part.settings["config"]["gamma_traj"]) for part in read_parts(file)] == [
        (1, 0.6),
        (3, 0.3),
    ]
    assert read_settings(file)["before step 3"] == {"--lamer.gamma_traj": 0.6}
    # From before the change: the part that is replaced is gone.
    write(file, 2, "third", **third)
    assert [(part.from_step, part.settings["config"]["gamma_traj"]) for part in read_parts(file)] == [
        (1, 0.6),
        (2, 0.9),
    ]
    write(file, 1, "fourth", **first)
    assert read_parts(file) == (Part(1, as_read),)


def test_settings_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    file = tmp_path / "trials.jsonl"
    assert read_settings(file) == {}
    for content, message in (
        ("{", "trials.settings.json holds no settings of a training"),
        ('{"schema": 1, "parts": [{}]}', "trials.settings.json holds no settings of a training"),
        ('{"schema": 9, "parts": []}', "is of schema 9; this version of openrlhf-lamer reads 1"),
    ):
        settings_file(file).write_text(content)
        with pytest.raises(SchemaError, match=message):
            read_settings(file)


def test_settings_are_named_as_they_are_typed() -> None:
    settings = {
        "agent": {"name": "a.py", "hash": "1f"},
        "estimator": "lamer_gigpo",
        "config": {"hgpo.depth": 2, "env_options": {"mines": 3}},
        "host": {"actor.adam.lr": 1e-6},
        "packages": {"torch": "2.13"},
    }
    assert named(settings) == {
        "agent name": "a.py",
        "agent hash": "1f",
        "estimator": "lamer_gigpo",
        "--lamer.hgpo.depth": 2,
        "--lamer.env_options": {"mines": 3},
        "--actor.adam.lr": 1e-6,
        "torch": "2.13",
    }
    other = {**settings, "host": {"train.seed": 1}, "config": {"hgpo.depth": 2, "env_options": {"mines": 4}}}
    assert list(differences(settings, other)) == [
        '--lamer.env_options is {"mines": 3} there and {"mines": 4} here',
        "--actor.adam.lr is 1e-06 there and not given here",
        "--train.seed is not given there and 1 here",
    ]
    assert not list(differences(settings, {**settings, "packages": {"torch": "3"}, "version": "9"}))


def test_evaluations_have_their_own_number_of_episodes() -> None:
    settings = {"config": {"num_episodes": 1, "gamma_traj": 0.6}, "estimator": "x"}
    config = LamerConfig(num_episodes=1, eval_episodes=3)
    assert evaluated(settings, config) == {"config": {"num_episodes": 3, "gamma_traj": 0.6}, "estimator": "x"}
    assert settings["config"]["num_episodes"] == 1
    assert evaluated(settings, LamerConfig(num_episodes=1)) == settings
