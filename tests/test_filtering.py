"""Which groups dynamic filtering keeps, and how many taught something."""

from __future__ import annotations

from typing import Any

import pytest
from simulated_engines import TASKS, Make, epoch, loader, tasks

from openrlhf_lamer import advantage
from openrlhf_lamer.config import ConfigError
from openrlhf_lamer.integration.host import host_parser
from openrlhf_lamer.integration.launch import checks
from openrlhf_lamer.integration.launch.flags import CommandLine, host_arguments, parse
from openrlhf_lamer.integration.rollout.task_stream import TaskStream
from openrlhf_lamer.records import Task


def attempts(task: Task, sample: int) -> str:
    """By seed modulo 4: all won at once; all won, at different attempts; all lost; all lost, one with a penalty."""
    assert task.seed is not None
    return [("1",) * 3, ("1", "01", "001"), ("000",) * 3, ("00p", "000", "000")][task.seed % 4][sample]


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, {1, 3}),
        ({"estimator": "rloo"}, {1, 3}),
        ({"shares": (0, 1)}, set()),
        ({"shares": (0, 2)}, {1}),
        ({"estimator": "rloo", "episodes": 1, "shares": (0, 1)}, set()),
        ({"estimator": "rloo", "episodes": 1, "shares": (-1, 0.5)}, {2, 3}),
    ],
)
def test_filtering_keeps_groups_that_teach_within_the_users_bounds(
    make: Make, settings: dict[str, Any], kept: set[int]
) -> None:
    """By returns; with the host's estimators on single episodes by the share of wins, as in the host."""
    generator, _ = make(filtering=True, outcome=attempts, **settings)
    names = {name for batch, _, _ in epoch(generator) for name in tasks(batch)}
    assert names == {f"minesweeper:seed={seed}" for seed in range(TASKS) if seed % 4 in kept}


@pytest.mark.parametrize("filtering", [False, True])
def test_the_share_of_groups_that_teach_is_logged_of_all_that_were_played(make: Make, filtering: bool) -> None:
    generator, _ = make(filtering=filtering, outcome=attempts, generated=TASKS)
    samples, _, used, _ = generator.generate_samples()
    stream = TaskStream(loader(), 42)
    stream.begin()
    names = [draw.prompt for draw in iter(stream.draw, None)][:used]
    expected = sum(int(name.split("=")[1]) % 4 in (1, 3) for name in names) / used
    assert samples.metrics["groups_that_teach"] == pytest.approx(expected)
    assert 0 < expected < 1


def test_a_group_with_one_live_trial_counts_neither_way(make: Make) -> None:
    generator, _ = make(outcome=lambda task, sample: "f" if sample or task.seed == 0 else "1")
    samples, *_ = generator.generate_samples()
    assert "groups_that_teach" not in samples.metrics


def line(*given: str) -> CommandLine:
    return parse(["--agent_func", "openrlhf_lamer.agents.doors", *given], advantage.names(), {})


def test_bounds_apply_only_if_they_are_given_or_the_host_trains_as_ever() -> None:
    on = "--algo.dynamic_filtering_enable"
    stock = ("--algo.advantage.estimator", "rloo")
    assert checks.filtering_range(line(on)) == (-1, 2)
    assert checks.filtering_range(line(on, *stock)) == (-1, 2)
    assert checks.filtering_range(line(on, *stock, "--lamer.num_episodes", "1")) is None
    assert checks.filtering_range(line(on, "--lamer.num_episodes", "1")) == (-1, 2)
    assert checks.filtering_range(line(on, "--algo.dynamic_filtering_range", "0", "1")) is None
    assert checks.filtering_range(line()) is None
    chosen = {"algo.dynamic_filtering_range": checks.filtering_range(line(on))}
    host = host_parser().parse_args(host_arguments(line(on), chosen, {"algo.advantage.estimator": "rloo"}))
    assert getattr(host, "algo.dynamic_filtering_range") == [-1, 2]


def test_sampling_by_what_tasks_teach_needs_groups() -> None:
    given = ("--lamer.task_sampling", "learnable", "--algo.advantage.estimator", "lamer_ppo")
    with pytest.raises(ConfigError, match=r"--lamer.task_sampling learnable: .*n_samples_per_prompt 2 or more"):
        checks._check_estimator(line(*given, "--rollout.n_samples_per_prompt", "1"))
    checks._check_estimator(line(*given))
