"""Metrics of trials, against figures worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from openrlhf_lamer import metrics
from openrlhf_lamer.records import Episode, Failure, FailureKind, Phase, Stop, Task, Trial, Turn


def turn(episode: int, index: int, action: str | None, phase: Phase = Phase.PLAY, tokens: int = 2) -> Turn:
    valid = action is not None
    return Turn(phase, episode, index, (1,), (2,) * tokens, None, "", action, valid, 0.0, f"s{index}", "")


def trial(*episodes: str, remark: str | None = "aha", failure: Failure | None = None) -> Trial:
    """One letter a turn, `!` for a win; a reflection of three tokens after each lost episode but the last."""
    played = []
    for n, actions in enumerate(episodes):
        won = actions.endswith("!")
        turns = tuple(turn(n, i, action) for i, action in enumerate(actions.rstrip("!")))
        reflects = not won and n < len(episodes) - 1
        reflection = turn(n, len(turns), remark, Phase.REFLECT, tokens=3 + n) if reflects else None
        played.append(Episode(turns, Stop.WON if won else Stop.LOST, "", reflection))
    return Trial(Task("minesweeper", seed=0), tuple(played), failure)


def test_reflections_are_counted_by_the_episode_that_they_look_back_at() -> None:
    found = metrics.summarize([trial("a", "b", "c"), trial("a", "b!", remark=None)], 3, 0.6)
    assert found["reflection_tokens/1"] == 3
    assert found["reflection_valid/1"] == 0.5
    assert found["reflection_tokens/2"] == 4
    assert found["reflection_valid/2"] == 1
    assert found["reflection_tokens"] == pytest.approx(10 / 3)
    assert "reflection_valid/3" not in found
    assert (found["success@1"], found["success@2"], found["success@3"]) == (0, 0.5, 0.5)


def test_without_reflections_there_is_no_key_for_them() -> None:
    assert not [key for key in metrics.summarize([trial("ab")], 1, 0.6) if key.startswith("reflection")]


def test_failures_are_counted_by_kind_and_change_no_mean() -> None:
    broken = trial(failure=Failure(FailureKind.ENGINE, "generate", "boom"))
    slow = [trial(failure=Failure(FailureKind.ENVIRONMENT_TIMEOUT, stage, "")) for stage in ("step", "step", "reset")]
    found = metrics.summarize([trial("a!"), broken, *slow], 1, 0.6)
    assert (found["failed"], found["failed/engine"], found["success@1"]) == (0.8, 1, 1)
    assert {key: value for key, value in found.items() if key.startswith("failed")} == {
        "failed": 0.8,
        "failed/engine": 1,
        "failed/environment_timeout": 3,
        "failed_at/generate": 1,
        "failed_at/reset": 1,
        "failed_at/step": 2,
    }


def test_what_a_model_did_wrong_is_counted_by_what_it_was() -> None:
    good, malformed = turn(0, 0, "a"), turn(0, 1, None)
    refused = replace(turn(0, 2, "b"), valid=False)
    cut = replace(turn(0, 3, None), truncated=True)
    played = Trial(Task("minesweeper", seed=0), (Episode((good, malformed, refused, cut), Stop.MAX_TURNS, ""),))
    found = metrics.summarize([played], 1, 0.6)
    assert (found["malformed_replies"], found["refused_actions"], found["invalid_actions"]) == (0.5, 0.25, 0.75)
    assert (found["truncated_replies"], found["overlong"]) == (0.25, 0)


def test_a_prompt_that_did_not_fit_is_counted_where_it_ended_an_episode_or_let_none_begin() -> None:
    ended = Trial(Task("minesweeper", seed=0), (Episode((turn(0, 0, "a"),), Stop.OVERLONG, ""),) * 2)
    not_begun = trial("a")
    found = metrics.summarize([ended, not_begun, trial("a", "b"), trial("a!")], 2, 0.6)
    assert found["overlong"] == 0.5


def test_diversity_is_the_entropy_of_what_the_trials_of_a_task_did() -> None:
    alike, split, apart = ["ab"] * 4, ["ab", "ab", "ac", "ac"], ["a", "b", "c", "d"]
    for paths, nats in ((alike, 0.0), (split, math.log(2)), (apart, math.log(4))):
        assert metrics.diversity([trial(path) for path in paths], [0] * 4, 1)["diversity@1"] == pytest.approx(nats)


def test_diversity_is_a_mean_over_groups_and_compares_an_episode_with_its_like() -> None:
    trials = [trial("a", "x"), trial("a", "y"), trial("a!"), trial("b", "z"), trial("c!")]
    found = metrics.diversity(trials, [0, 0, 0, 1, 1], 3)
    assert found["diversity@1"] == pytest.approx((0 + math.log(2)) / 2)
    # Only one trial of the second group reached a second episode, and no trial a third.
    assert found["diversity@2"] == pytest.approx(math.log(2))
    assert "diversity@3" not in found


def test_the_same_actions_in_other_states_are_another_way_to_play() -> None:
    there = trial("a")
    elsewhere = Trial(there.task, (Episode((turn(0, 1, "a"),), Stop.LOST, ""),))
    assert metrics.diversity([there, elsewhere], [0, 0], 1)["diversity@1"] == pytest.approx(math.log(2))


def test_entropy_is_the_mean_negative_log_probability_of_sampled_tokens_by_phase_and_episode() -> None:
    def scored(made: Turn, logprobs: tuple[float, ...] | None) -> Turn:
        return replace(made, sampled_ids=(2,) * len(logprobs or (0,)), logprobs=logprobs)

    lost = Episode(
        (scored(turn(0, 0, "a"), (-1.0, -3.0)), scored(turn(0, 1, "b"), (-0.5,))),
        Stop.LOST,
        "",
        scored(turn(0, 2, "aha", Phase.REFLECT), (-0.25, -0.75)),
    )
    last = Episode((scored(turn(1, 0, "a"), (0.0, 0.0)), scored(turn(1, 1, "a"), None)), Stop.LOST, "")
    played = Trial(Task("minesweeper", seed=0), (lost, last))
    found = metrics.summarize([played, played], 3, 0.6)
    assert {key: value for key, value in found.items() if key.startswith("entropy")} == pytest.approx(
        {
            "entropy/play": 4.5 / 5,
            "entropy/play/1": 1.5,
            "entropy/play/2": 0.0,
            "entropy/reflect": 0.5,
            "entropy/reflect/1": 0.5,
        }
    )
    assert str(found["entropy/play/2"]) == "0.0"
    assert not [key for key in metrics.summarize([trial("ab")], 1, 0.6) if key.startswith("entropy")]


def test_entropy_estimates_that_of_the_distribution_that_tokens_are_drawn_from() -> None:
    chances = np.array([0.7, 0.2, 0.1])
    tokens = np.random.default_rng(0).choice(3, size=50_000, p=chances)
    sampled = replace(turn(0, 0, "a"), sampled_ids=tokens.tolist(), logprobs=np.log(chances)[tokens].tolist())
    exact = float(-(chances * np.log(chances)).sum())
    spread = float(np.log(chances)[tokens].std()) / 50_000**0.5
    assert metrics.token_entropy([sampled]) == pytest.approx(exact, abs=4 * spread)
