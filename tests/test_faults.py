"""The fault matrix: whatever breaks in a rollout, a training step completes, or aborts if configured to.

The executor with its pool, the trial loop, rows, credit and metrics are real; the engine (which answers with
vLLM's own classes), the environment and the models that score are stand-ins. Workers of slow environments that
die are in `test_pool.py`, which has a cluster.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from faults import EVER, GROUP, GROUPS, LIMIT, SLACK, Faulty, Plan, Rollout

from openrlhf_lamer import advantage
from openrlhf_lamer.agents import Agent
from openrlhf_lamer.envs.base import TextEnv
from openrlhf_lamer.integration.training.batch import TooManyFailuresError, TrialBatch
from openrlhf_lamer.records import FailureKind, Stop, Task, Trial

pytest_plugins = "faults"


@dataclass(frozen=True)
class Fault:
    """A fault and the failure that it is recorded as."""

    where: str
    how: str
    kind: FailureKind
    stage: str

    def __str__(self) -> str:
        return f"{self.where}-{self.how}"


def environment_faults() -> Iterator[Fault]:
    for where in ("make", "reset", "facts", "step", "anchor"):
        stage = "reset" if where in ("facts", "anchor") else where
        yield Fault(where, "raise", FailureKind.ENVIRONMENT, stage)
        yield Fault(where, "exit", FailureKind.ENVIRONMENT, stage)
        yield Fault(where, "hang", FailureKind.ENVIRONMENT_TIMEOUT, stage)
    for where in ("reset", "step", "anchor"):  # no text, no reward, no key
        yield Fault(where, "nonsense", FailureKind.ENVIRONMENT, "reset" if where == "anchor" else where)


ENGINE_FAULTS = (
    "raise",
    "nothing",
    "no outputs",
    "no logprobs",
    "few logprobs",
    "others' logprobs",
    "nan",
    "foreign ids",
)
FAULTS = [
    *environment_faults(),
    *(Fault("generate", how, FailureKind.ENGINE, "generate") for how in ENGINE_FAULTS),
    Fault("generate", "hang", FailureKind.ENGINE_TIMEOUT, "generate"),
    Fault("generate", "deaf", FailureKind.ENGINE_TIMEOUT, "generate"),
    Fault("render", "raise", FailureKind.PROMPT, "render"),
    Fault("render", "hang", FailureKind.PROMPT_TIMEOUT, "render"),
]


@pytest.fixture
def broken(plan: Plan, rollout: Callable[..., Rollout], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Rollout]:
    """A rollout in which a fault happens `times` times."""
    message = Agent.play_message

    def rendered(self: Agent, **values: Any) -> str:
        plan.breaks("render", None)
        return message(self, **values)

    def run(fault: Fault, times: int, **given: Any) -> Rollout:
        monkeypatch.setattr(Agent, "play_message", rendered)
        plan.where, plan.how, plan.times = fault.where, fault.how, times
        if fault.how in ("hang", "deaf"):
            given |= {"timeout": LIMIT, "env_timeout": LIMIT}
        found = rollout(**given)
        assert plan.broken == times or times == EVER
        assert found.seconds < SLACK
        return found

    return run


@pytest.mark.parametrize("fault", FAULTS, ids=str)
class TestFault:
    """Each fault: once with a retry, once without, and at every try."""

    def test_it_costs_a_new_beginning(
        self, fault: Fault, broken: Callable[..., Rollout], train: Callable[..., Any]
    ) -> None:
        found = broken(fault, 1, retries=1)
        assert found.failed == []
        assert sum(trial.retries for trial in found.trials) == 1
        _, logged = train(found)
        assert logged["faulty/retries"] == 1
        assert logged["faulty/failed"] == 0

    def test_it_costs_one_trial_at_most(
        self, fault: Fault, broken: Callable[..., Rollout], train: Callable[..., Any]
    ) -> None:
        found = broken(fault, 1, retries=0)
        (trial,) = found.failed
        assert trial.failure is not None
        assert (trial.failure.kind, trial.failure.stage) == (fault.kind, fault.stage)
        assert trial.episodes == ()
        batch, logged = train(found)
        assert len(batch.live) == GROUP * GROUPS - 1
        assert logged["faulty/failed"] == 1 / (GROUP * GROUPS)
        assert {key: value for key, value in logged.items() if "/failed" in key and key != "faulty/failed"} == {
            f"faulty/failed/{fault.kind}": 1,
            f"faulty/failed_at/{fault.stage}": 1,
        }
        assert logged["faulty/retries"] == 0

    def test_at_every_try_it_ends_the_run_with_its_reason(
        self, fault: Fault, broken: Callable[..., Rollout], train: Callable[..., Any]
    ) -> None:
        found = broken(fault, EVER, retries=1)
        assert len(found.failed) == GROUP * GROUPS
        assert all(trial.retries == 1 for trial in found.trials)
        with pytest.raises(TooManyFailuresError, match=f"8 of 8 trials failed .8 {fault.kind} in {fault.stage}."):
            train(found)


def test_where_every_trial_failed_no_share_lets_the_run_go_on(
    plan: Plan, rollout: Callable[..., Rollout], train: Callable[..., Any]
) -> None:
    plan.where, plan.how, plan.times = "reset", "raise", EVER
    with pytest.raises(TooManyFailuresError, match=r"8 of 8 trials failed \(8 environment in reset\), so none"):
        train(rollout(max_failed_share=1.0))


@pytest.mark.parametrize("how", ["raise", "exit", "hang"])
def test_an_environment_that_cannot_even_be_closed_costs_nothing(
    plan: Plan, rollout: Callable[..., Rollout], train: Callable[..., Any], how: str
) -> None:
    plan.where, plan.how, plan.times = "close", how, EVER
    found = rollout(retries=0, env_timeout=LIMIT)
    assert plan.broken == GROUP * GROUPS
    assert found.seconds < SLACK
    _, logged = train(found)
    assert (logged["faulty/failed"], logged["faulty/retries"]) == (0, 0)


def test_a_first_prompt_over_the_limit_ends_the_run_with_its_reason(
    rollout: Callable[..., Rollout], train: Callable[..., Any]
) -> None:
    found = rollout(max_length=100)
    assert {trial.failure.kind for trial in found.failed if trial.failure} == {FailureKind.OVERLONG}
    assert found.engine.seen == []
    with pytest.raises(TooManyFailuresError, match=r"(?s)8 overlong in render.*leaves no room for a reply"):
        train(found)


def test_a_later_prompt_over_the_limit_ends_its_episode_and_is_counted(
    rollout: Callable[..., Rollout], train: Callable[..., Any]
) -> None:
    free = rollout()
    room = min(len(trial.turns[1].prompt_ids) for trial in free.trials) + 64 - 1
    found = rollout(max_length=room)
    assert {episode.stop for trial in found.trials for episode in trial.episodes} == {Stop.OVERLONG}
    assert max(map(len, found.engine.seen)) + 64 <= room
    _, logged = train(found)
    assert (logged["faulty/overlong"], logged["faulty/failed"]) == (1, 0)


@pytest.mark.parametrize(
    "estimator", [*advantage.names(), "group_norm", "rloo", "reinforce_baseline", "dr_grpo", "gae"]
)
@pytest.mark.parametrize("failing", [1, GROUP - 1, GROUP])
def test_a_group_goes_on_with_the_trials_that_it_has(
    plan: Plan, rollout: Callable[..., Rollout], train: Callable[..., Any], estimator: str, failing: int
) -> None:
    """One lost, a single one left, none left: rows of the live ones only, and finite numbers."""
    plan.where, plan.how, plan.times = "make", "raise", failing
    given: dict[str, Any] = {"cross_episode": "chained"} if estimator == "lamer_ppo" else {}
    found = rollout(retries=0, max_failed_share=0.5, **given)
    assert [trial.failure is not None for trial in found.trials] == [True] * failing + [False] * (8 - failing)
    batch, logged = train(found, estimator)
    assert batch.rows is not None
    assert set(batch.rows.owner.tolist()) == set(range(failing, 8))
    assert logged["faulty/failed/environment"] == failing


def test_a_failed_trial_is_no_zero_to_the_others(
    plan: Plan, rollout: Callable[..., Rollout], train: Callable[..., Any]
) -> None:
    """By hand: what a trial earned, less the mean of what the live ones of its group did."""
    plan.where, plan.how, plan.times = "step", "raise", 1
    found = rollout(num_episodes=1, max_turns=1, retries=0, norm="mean")
    batch, logged = train(found, "lamer_grpo")
    assert batch.advantages is not None
    earned = np.array([trial.scalar_return(0.6) for trial in batch.trials])
    for group in range(GROUPS):
        own = [i for i in batch.live if batch.groups[i] == group]
        for i in own:
            assert batch.advantages[i] == pytest.approx([earned[i] - earned[own].mean()])
        assert len(set(earned[own])) > 1
    assert {len(np.intersect1d(np.flatnonzero(batch.groups == g), batch.live)) for g in range(GROUPS)} == {3, 4}
    assert logged["faulty/return"] == pytest.approx(earned[batch.live].mean())


@pytest.mark.parametrize(("limit", "aborts"), [(0.5, False), (0.05, True)])
def test_a_third_that_fails_at_random_is_masked_or_ends_the_run_as_configured(
    plan: Plan,
    rollout: Callable[..., Rollout],
    train: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    limit: float,
    aborts: bool,
) -> None:
    rng, hit = random.Random(5), []

    def make(self: Faulty, reward: Any = "sparse") -> None:
        TextEnv.__init__(self, reward)
        hit.append(rng.random() < 0.3)
        if hit[-1]:
            raise OSError("the game server is busy")

    monkeypatch.setattr(Faulty, "__init__", make)
    found = rollout(groups=16, retries=0, max_failed_share=limit)
    assert [trial.failure is not None for trial in found.trials] == hit
    assert 0.2 < np.mean(hit) < 0.4
    if aborts:
        with pytest.raises(TooManyFailuresError, match="game server is busy"):
            train(found)
        return
    batch, logged = train(found)
    assert logged["faulty/failed"] == pytest.approx(np.mean(hit))
    assert logged["faulty/failed_at/make"] == sum(hit)
    assert len(batch.live) == 64 - sum(hit)


def test_an_abort_says_what_failed_where_how_often_and_what_to_do_about_it() -> None:
    from openrlhf_lamer.records import Failure

    def failed(kind: FailureKind, stage: str, message: str, seed: int) -> Trial:
        return Trial(Task("faulty", seed=4), (), Failure(kind, stage, message), sample=2, seed=seed)

    trials = [Trial(Task("faulty", seed=4), ())] * 3
    trials += [failed(FailureKind.ENGINE, "generate", "boom", 70)] * 3
    trials += [failed(FailureKind.ENVIRONMENT_TIMEOUT, "step", "Timeout:\nno answer " + "x" * 1000, 71)] * 2
    samples: Any = [SimpleNamespace(trial=trial) for trial in trials]
    with pytest.raises(TooManyFailuresError) as raised:
        TrialBatch.of(samples, 8, 0.25)
    first, *shown = str(raised.value).splitlines()
    assert first == (
        "5 of 8 trials failed (3 engine in generate, 2 environment_timeout in step), more than "
        "--lamer.max_failed_share 0.25 allows. The last ones:"
    )
    assert shown[0] == "  faulty:seed=4, sample 2, sampled by seed 70: generate: boom"
    assert shown[2].startswith("  faulty:seed=4, sample 2, sampled by seed 71: step: Timeout: no answer xxx")
    assert max(map(len, shown)) < 400
