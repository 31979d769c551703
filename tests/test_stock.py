"""The host's estimators on trials, against plain sums in double precision and against the host itself."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from host_stand_ins import failed, samples_of, torch

from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.integration.training.experience_maker import LamerExperienceMaker
from openrlhf_lamer.records import Episode, Phase, Stop, Task, Trial, Turn

Maker = Callable[..., LamerExperienceMaker]
Sampled = dict[int, list[float]]
"""For each trial, a figure for each of its sampled tokens in order."""

WITH_BASELINE = ["group_norm", "rloo", "reinforce_baseline", "dr_grpo"]
EVERY_ESTIMATOR = [*WITH_BASELINE, "flash_reinforce", "reinforce", "gae"]


def trial_of(rewards: list[list[float]], group: int, tokens: list[int]) -> Trial:
    """A trial whose turns earn `rewards` by episode; turn i samples `tokens[i]` tokens, or none beyond the list."""
    count = itertools.chain(tokens, itertools.repeat(0))
    episodes = []
    for n, earned in enumerate(rewards):
        turns = []
        for index, reward in enumerate(earned):
            sampled = (7,) * next(count)
            turns.append(Turn(Phase.PLAY, n, index, (1, n, index), sampled, None, "", "x", True, reward, "s", ""))
        episodes.append(Episode(tuple(turns), Stop.LOST, ""))
    return Trial(Task("minesweeper", seed=group), tuple(episodes))


def advantages_of(made: LamerExperienceMaker, trials: list[Trial], field: str = "advantages") -> Sampled:
    """The advantage of each sampled token of each trial; a masked token must have none."""
    experiences = made.make_experience_batch(samples_of(trials, made.config.gamma_traj))
    assert made.batch is not None
    assert made.batch.rows is not None
    where = {p: (e, line) for e in experiences for line, p in enumerate(e.index)}
    found: Sampled = {i: [] for i in range(len(trials))}
    for position, owner in enumerate(made.batch.rows.owner.tolist()):
        experience, line = where[position]
        mask = experience.action_mask[line].bool()
        assert (getattr(experience, field)[line][~mask] == 0).all()
        found[owner] += getattr(experience, field)[line][mask].tolist()
    return found


def random_batch(rng: random.Random, groups: int, size: int, failures: bool) -> list[Trial]:
    """Sparse rewards and penalties as games pay them; a group may be constant, and may have lost all but one trial."""
    trials = []
    for group in range(groups):
        constant = rng.random() < 0.15
        rewards: list[list[float]] = []
        for _ in range(size):
            if not (constant and rewards):
                rewards = [rng.choices([0.0, -0.5, -0.1], k=rng.randint(1, 3)) for _ in range(rng.choice([1, 1, 2, 3]))]
                rewards[-1][-1] = rng.choice([10.0, 0.0, -0.5])
            turns = sum(map(len, rewards))
            trials.append(trial_of(rewards, group, [rng.randint(1, 4), *rng.choices([0, 0, 3], k=turns - 1)]))
        lost = min(size - 1, rng.choice([0, 0, 1, 2, size - 1])) if failures else 0
        for i in rng.sample(range(size), lost):
            trials[-size + i] = failed(group)
    return trials


def reference(estimator: str, trials: list[Trial], size: int) -> Sampled:
    """The baseline of each live trial among the live trials of its group, and one whitening."""
    result: Sampled = {i: [] for i in range(len(trials))}
    for start in range(0, len(trials), size):
        live = [i for i in range(start, start + size) if trials[i].failure is None]
        earned = {
            i: sum(0.6**n * sum(turn.reward for turn in e.turns) for n, e in enumerate(trials[i].episodes))
            for i in live
        }
        for i in live:
            others = [earned[j] for j in live if j != i]
            if not others:
                credit = None
            elif all(other == earned[i] for other in others):
                credit = 0.0
            elif estimator == "rloo":
                credit = earned[i] - float(np.mean(others))
            else:
                credit = earned[i] - float(np.mean([*others, earned[i]]))
                if estimator == "group_norm":
                    credit /= float(np.std([*others, earned[i]], ddof=1)) + 1e-9
            tokens = sum(len(turn.sampled_ids) for turn in trials[i].turns)
            result[i] = [np.nan if credit is None else credit] * tokens
    if estimator == "reinforce_baseline":
        every = np.array([a for own in result.values() for a in own if not np.isnan(a)])
        if len(every):
            spread = np.sqrt(max(float(np.mean((every - every.mean()) ** 2)), 1e-8))
            result = {i: [(a - every.mean()) / spread for a in own] for i, own in result.items()}
    return {i: [0.0 if np.isnan(a) else a for a in own] for i, own in result.items()}


@pytest.mark.parametrize("estimator", WITH_BASELINE)
def test_random_batches_with_failed_trials_equal_a_plain_computation(maker: Maker, estimator: str) -> None:
    """700 batches for each estimator, 2,800 in all."""
    rng = random.Random(f"batches of {estimator}")
    config = LamerConfig(max_failed_share=1.0)
    made = {size: maker(estimator, config=config, group=size) for size in (2, 3, 4, 8)}
    uneven = alone = 0
    worst = 0.0
    for _ in range(700):
        size = rng.choice([2, 3, 3, 4, 4, 8])
        trials = random_batch(rng, groups=3, size=size, failures=True)
        found, expected = advantages_of(made[size], trials), reference(estimator, trials, size)
        for i in expected:
            worst = max(worst, *np.abs(np.subtract(found[i], expected[i])), 0.0)
        live = [sum(t.failure is None for t in trials[i : i + size]) for i in range(0, len(trials), size)]
        uneven += len(set(live)) > 1
        alone += 1 in live
    assert worst <= 1e-6
    assert uneven > 250
    assert alone > 50


def constant_returns(episodes: int, turns: int = 7) -> dict[float, list[list[float]]]:
    """Each return that a trial of up to `episodes` attempts can have, and rewards by attempt that make it up.

    The game pays 10 for a win, which ends the trial, and an invalid action costs 0.5.
    """
    lost = [[-0.5] * k + [0.0] * (turns - k) for k in range(turns + 1)]
    won = [[-0.5] * k + [10.0] for k in range(turns)]
    found: dict[float, list[list[float]]] = {}
    for before in range(episodes):
        for attempts in itertools.product(*[lost] * before, won):
            found.setdefault(sum(0.6**n * sum(own) for n, own in enumerate(attempts)), list(attempts))
    for attempts in itertools.product(*[lost] * episodes):
        found.setdefault(sum(0.6**n * sum(own) for n, own in enumerate(attempts)), list(attempts))
    return found


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize("episodes", [1, 2, 3])
def test_group_norm_credits_nothing_where_all_trials_earn_the_same(maker: Maker, episodes: int, size: int) -> None:
    """Every return that trials of MineSweeper can have, in a group of its own."""
    every = constant_returns(episodes)
    trials = [trial_of(rewards, g, [1]) for g, rewards in enumerate(every.values()) for _ in range(size)]
    found = advantages_of(maker("group_norm", group=size), trials)
    assert len(set(np.array([*every], dtype=np.float32))) == {1: 15, 2: 102, 3: 484}[episodes]
    assert all(own == [0.0] for own in found.values())


def host_itself(maker: Maker, estimator: str, trials: list[Trial], size: int, given: dict[str, Any]) -> list[Any]:
    """The host's own code in its usual case: one row per trial, no failures, single precision."""
    from openrlhf.trainer.ppo_utils.experience import Experience
    from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker

    stand_in = settled(maker(estimator, group=size, gamma=given["gamma"]), given)
    rows = []
    for position, trial in enumerate(trials):
        length = sum(len(turn.sampled_ids) for turn in trial.turns)
        fields: dict[str, Any] = {
            "index": [position],
            "action_mask": torch.ones(1, length, dtype=torch.long),
            "rewards": torch.tensor([trial.scalar_return(0.6)]),
            "kl": torch.full((1, length), 0.25),
            "values": torch.full((1, length), 0.5),
            "info": {},
        }
        rows.append(Experience(**fields))
    RemoteExperienceMaker.compute_advantages_and_returns(stand_in, rows)
    return rows


def settled(made: LamerExperienceMaker, given: dict[str, Any]) -> LamerExperienceMaker:
    """With a KL penalty in the reward, and constant divergences and values."""
    made.kl_ctl.value = given["kl"]
    made.args.algo.advantage.no_std_norm = given["no_std_norm"]
    made.args.reward.clip_range = given["clip"]
    score = made.make_experience

    def constant(samples_list: list[Any]) -> list[Any]:
        for sample in score(samples_list):
            sample.kl = torch.full(sample.action_mask.shape, 0.25)
            sample.values = torch.full(sample.action_mask.shape, 0.5)
        return samples_list

    made.make_experience = constant
    return made


@pytest.mark.parametrize("estimator", EVERY_ESTIMATOR)
def test_without_failures_it_is_what_the_host_computes(maker: Maker, estimator: str) -> None:
    rng = random.Random(5)
    for round_ in range(40):
        size = rng.choice([2, 4, 8])
        given: dict[str, Any] = {"kl": rng.choice([0.0, 0.1]), "no_std_norm": bool(round_ % 2), "clip": (-4, 3)}
        given["gamma"] = 0.9 if estimator in ("reinforce", "gae") else 1.0
        trials = random_batch(rng, groups=3, size=size, failures=False)
        earned = np.array([trial.scalar_return(0.6) for trial in trials]).reshape(-1, size)
        if (np.ptp(earned, axis=1) < 1e-9).any():
            continue  # there, rounding in the host's single precision is not zero
        made = settled(maker(estimator, group=size, gamma=given["gamma"]), given)
        before = repr(made.args)
        rows = host_itself(maker, estimator, trials, size, given)
        for field in ("advantages", "returns"):
            for i, own in advantages_of(made, trials, field).items():
                np.testing.assert_allclose(own, getattr(rows[i], field)[0].numpy(), rtol=1e-4, atol=1e-5)
        assert repr(made.args) == before


def test_a_trial_without_others_is_credited_nothing_and_leaves_the_whitening_alone(maker: Maker) -> None:
    rewards = [[-0.5], [10.0], [0.0], [-1.0]]
    trials = [trial_of([own], 0, [2]) for own in rewards]
    trials += [trial_of([[10.0]], 1, [50]), failed(1), failed(1), failed(1)]
    found = advantages_of(maker("reinforce_baseline", config=LamerConfig(max_failed_share=1.0)), trials)
    assert set(found[4]) == {0.0}
    earned = np.array(rewards).ravel()
    expected = (earned - earned.mean()) / earned.std()
    assert [found[i] for i in range(4)] == [pytest.approx([a, a]) for a in expected]


@pytest.mark.parametrize("estimator", EVERY_ESTIMATOR)
def test_a_batch_with_nothing_to_compare_is_credited_nothing_or_itself(maker: Maker, estimator: str) -> None:
    made = maker(estimator, config=LamerConfig(max_failed_share=1.0))
    found = advantages_of(made, [trial_of([[10.0]], 0, [2]), failed(0), failed(0), failed(0)])
    assert np.isfinite(found[0]).all()
    if estimator not in ("gae", "reinforce"):
        assert found[0] == [0.0, 0.0]
