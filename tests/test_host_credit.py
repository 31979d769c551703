"""Credit on its way to tokens: rows, stock estimators. Uses the host's classes, starts nothing."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from host_stand_ins import failed, samples_of, torch

from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.integration.training.batch import RowBatch, TooManyFailuresError, TrialBatch
from openrlhf_lamer.integration.training.credit import TurnValues, assign_credit
from openrlhf_lamer.integration.training.experience_maker import LamerExperienceMaker
from openrlhf_lamer.integration.training.logs import batch_metrics
from openrlhf_lamer.records import Episode, Phase, Stop, Task, Trial, Turn

GROUP = 4
Maker = Callable[..., LamerExperienceMaker]


def make_trial(rng: random.Random, seed: int, growing: bool, episodes: int = 2) -> Trial:
    """A trial with random tokens and rewards; `growing` chats put an episode in one row."""
    played = []
    for n in range(episodes):
        turns: list[Turn] = []
        for index in range(rng.randint(1, 3)):
            prompt = tuple(rng.choices(range(1, 50), k=rng.randint(2, 5)))
            if turns and growing:
                prompt = (*turns[-1].ids, *prompt)
            sampled = tuple(rng.choices(range(50, 60), k=rng.randint(1, 4)))
            logprobs = tuple(-rng.random() for _ in sampled)
            turns.append(
                Turn(
                    Phase.PLAY,
                    n,
                    index,
                    prompt,
                    sampled,
                    logprobs,
                    "",
                    "x",
                    True,
                    rng.choice([0.0, -0.5, 1.0]),
                    "s",
                    "",
                )
            )
        reflection = None
        if n < episodes - 1:
            reflection = Turn(Phase.REFLECT, n, len(turns), (7, 8), (70, 71), (-1.0, -2.0), "", "r", True, 0.0, "", "")
        played.append(Episode(tuple(turns), Stop.LOST, "", reflection))
    return Trial(Task("minesweeper", seed=seed), tuple(played))


def batch_of(growing: bool, seed: int = 0, groups: int = 2) -> list[Trial]:
    rng = random.Random(seed)
    return [make_trial(rng, group, growing) for group in range(groups) for _ in range(GROUP)]


def lines(experiences: list[Any]) -> dict[int, tuple[Any, int]]:
    return {p: (experience, line) for experience in experiences for line, p in enumerate(experience.index)}


@pytest.mark.parametrize("growing", [False, True])
@pytest.mark.parametrize("estimator", ["lamer_gigpo", "lamer_grpo"])
def test_each_sampled_token_carries_its_turns_advantage_and_no_other_token_any(
    maker: Maker, growing: bool, estimator: str
) -> None:
    trials = batch_of(growing)
    made = maker(estimator)
    experiences = made.make_experience_batch(samples_of(trials, made.config.gamma_traj))
    batch = made.batch
    assert batch is not None
    assert batch.rows is not None
    assert batch.advantages is not None
    trained = 0
    for position, (experience, line) in lines(experiences).items():
        mask = experience.action_mask[line].bool()
        assert (experience.advantages[line][~mask] == 0).all()
        if position >= len(batch.rows.rows):
            assert not mask.any()
            continue
        row, owner = batch.rows.rows[position], batch.rows.owner[position]
        ids = experience.sequences[line][1:][mask].tolist()
        turns = [trials[owner].turns[span.turn] for span in row.spans]
        assert ids == [token for turn in turns for token in turn.sampled_ids]
        expected = [batch.advantages[owner][span.turn] for span in row.spans for _ in range(span.end - span.start)]
        np.testing.assert_allclose(experience.advantages[line][mask].numpy(), expected, rtol=1e-6)
        logprobs = [value for turn in turns for value in turn.logprobs or ()]
        np.testing.assert_allclose(experience.rollout_log_probs[line][mask].numpy(), logprobs, rtol=1e-6)
        trained += len(ids)
    assert trained == sum(len(turn.sampled_ids) for trial in trials for turn in trial.turns) == batch.rows.sampled


def ppo_by_hand(trial: Trial, value: dict[int, float], config: LamerConfig, lambd: float) -> dict[int, float]:
    """GAE backwards over the turns that have a value, on rewards that are the play turns' own."""
    advantages: dict[int, float] = {}
    later: tuple[Turn, int] | None = None
    for i, turn in reversed([(i, turn) for i, turn in enumerate(trial.turns) if i in value]):
        delta, carried = turn.reward - value[i], 0.0
        if later is not None:
            following, j = later
            if turn.phase is Phase.REFLECT:
                discount = 1.0
            else:
                apart = turn.episode != following.episode or following.phase is Phase.REFLECT
                discount = config.gamma_traj if apart else config.gamma_step
            delta += discount * value[j]
            carried = lambd * discount * advantages[j]
        advantages[i] = delta + carried
        later = turn, i
    return advantages


@pytest.mark.parametrize("growing", [False, True])
@pytest.mark.parametrize("train_reflection", [False, True])
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_critic_is_read_and_taught_at_the_tokens_of_each_turn(
    maker: Maker, growing: bool, train_reflection: bool, ranks: int
) -> None:
    config = LamerConfig(train_reflection=train_reflection)
    trials = batch_of(growing, seed=4)
    made = maker("lamer_ppo", config=config, ranks=ranks)
    experiences = made.make_experience_batch(samples_of(trials, config.gamma_traj))
    assert made.batch is not None
    assert made.batch.rows is not None
    assert made.batch.advantages is not None
    where = lines(experiences)
    value: dict[int, dict[int, float]] = {i: {} for i in range(len(trials))}
    for position, (row, owner) in enumerate(zip(made.batch.rows.rows, made.batch.rows.owner, strict=True)):
        experience, line = where[position]
        for span in row.spans:
            # What predicts the first sampled token has seen the prompt, and nothing of the reply.
            value[int(owner)][span.turn] = float(experience.values[line][span.start - 1])
    for position, (row, owner) in enumerate(zip(made.batch.rows.rows, made.batch.rows.owner, strict=True)):
        experience, line = where[position]
        known = value[int(owner)]
        expected = ppo_by_hand(trials[owner], known, config, lambd=0.9)
        for span in row.spans:
            tokens = slice(span.start - 1, span.end - 1)
            advantages, targets = experience.advantages[line][tokens], experience.returns[line][tokens]
            np.testing.assert_allclose(advantages.numpy(), expected[span.turn], rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(targets.numpy(), expected[span.turn] + known[span.turn], rtol=1e-5, atol=1e-6)
    for i, trial in enumerate(trials):
        unseen = [j for j, turn in enumerate(trial.turns) if turn.phase is Phase.REFLECT and not train_reflection]
        assert all(made.batch.advantages[i][j] == 0 for j in unseen)
        assert len(made.batch.advantages[i]) == len(trial.turns)


@pytest.mark.parametrize("missing", [Phase.PLAY, Phase.REFLECT])
def test_the_chain_goes_on_where_the_critic_was_not_asked(missing: Phase) -> None:
    """At λ = 1 advantages are G - V: no reward is lost, whichever turn has no value."""
    trial = next(t for t in batch_of(False, seed=8) if len(t.turns) > 4)
    absent = next(i for i, turn in enumerate(trial.turns) if turn.phase is missing)
    known = np.arange(len(trial.turns)) != absent
    values = np.linspace(1.0, 2.0, len(trial.turns))
    credit = assign_credit("lamer_ppo", [trial], [0], LamerConfig(), 1.0, TurnValues(values, known))
    np.testing.assert_allclose(credit.advantages[known], (credit.returns - values)[known])
    assert credit.targets is not None
    np.testing.assert_allclose(credit.targets[known], credit.returns[known])
    expected = 0 if missing is Phase.REFLECT else credit.returns[absent]
    assert credit.advantages[absent] == pytest.approx(expected)


def test_hgpo_compares_the_memory_that_was_configured(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    from openrlhf_lamer.advantage import TurnTable

    asked: list[str] = []
    from_trials = TurnTable.from_trials

    def spy(trials: Any, groups: Any, memory: Any = "both") -> TurnTable:
        asked.append(memory)
        return from_trials(trials, groups, memory)

    monkeypatch.setattr(TurnTable, "from_trials", spy)
    config = LamerConfig.model_validate({"memory": "reflection", "hgpo.depth": 1})
    maker("lamer_hgpo", config=config).make_experience_batch(samples_of(batch_of(False), config.gamma_traj))
    assert asked == ["reflection"]


def test_the_configuration_reaches_the_estimator_whole() -> None:
    from dataclasses import asdict

    from openrlhf_lamer.advantage import CreditConfig, get

    unusual = {"norm": "mean_std", "cross_episode": "chained", "gamma_step": 0.5, "gamma_traj": 0.25, "reference": True}
    config = LamerConfig.model_validate({**unusual, "hgpo.depth": 5, "hgpo.depth_power": 0.5, "gigpo.step_weight": 2.0})
    for name, options in (
        ("lamer_hgpo", {"depth": 5, "depth_power": 0.5}),
        ("lamer_gigpo", {"step_weight": 2.0}),
        ("lamer_rloo", {}),
    ):
        assert asdict(config.credit(get(name), 0.75)) == unusual | {"lambd": 0.75, "options": options}
        assert LamerConfig().credit(get(name)) == CreditConfig()


def host_on_one_row_a_trial(maker: Maker, estimator: str, trials: list[Trial], gamma: float) -> list[torch.Tensor]:
    """The host's own estimator on its usual layout: one row per trial."""
    from openrlhf.trainer.ppo_utils.experience import Experience
    from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker

    stand_in = maker(estimator, gamma=gamma)
    rows = []
    for position, trial in enumerate(trials):
        length = sum(len(turn.sampled_ids) for turn in trial.turns)
        fields: dict[str, Any] = {
            "index": [position],
            "action_mask": torch.ones(1, length, dtype=torch.long),
            "rewards": torch.tensor([trial.scalar_return(0.6)]),
            "kl": torch.zeros(1, length),
            "info": {},
        }
        rows.append(Experience(**fields))
    RemoteExperienceMaker.compute_advantages_and_returns(stand_in, rows)
    return [row.advantages[0] for row in rows]


@pytest.mark.parametrize("growing", [False, True])
@pytest.mark.parametrize(
    ("estimator", "gamma"),
    [("group_norm", 1.0), ("rloo", 1.0), ("reinforce_baseline", 1.0), ("dr_grpo", 1.0), ("reinforce", 0.9)],
)
def test_stock_estimators_are_the_hosts_own_on_the_whole_trial(
    maker: Maker, growing: bool, estimator: str, gamma: float
) -> None:
    trials = batch_of(growing, seed=1)
    made = maker(estimator, gamma=gamma)
    experiences = made.make_experience_batch(samples_of(trials, made.config.gamma_traj))
    expected = host_on_one_row_a_trial(maker, estimator, trials, gamma)
    found: dict[int, list[float]] = {i: [] for i in range(len(trials))}
    assert made.batch is not None
    assert made.batch.rows is not None
    where = lines(experiences)
    for position, owner in enumerate(made.batch.rows.owner):
        experience, line = where[position]
        found[int(owner)] += experience.advantages[line][experience.action_mask[line].bool()].tolist()
    for i, advantages in found.items():
        np.testing.assert_allclose(advantages, expected[i].numpy(), rtol=1e-5, atol=1e-6)


def test_stock_gae_gives_every_token_a_value_target(maker: Maker) -> None:
    made = maker("gae")
    experiences = made.make_experience_batch(samples_of(batch_of(False), made.config.gamma_traj))
    for experience in experiences:
        assert torch.isfinite(experience.advantages).all()
        assert (experience.returns[~experience.action_mask.bool()] == 0).all()
    assert any((experience.returns != 0).any() for experience in experiences)


@pytest.mark.parametrize("estimator", ["lamer_gigpo", "group_norm"])
def test_a_group_with_a_failed_trial_is_baselined_on_the_others(maker: Maker, estimator: str) -> None:
    trials = batch_of(False)
    trials[1] = failed(0)
    made = maker(estimator)
    experiences = made.make_experience_batch(samples_of(trials, made.config.gamma_traj))
    assert made.batch is not None
    assert made.batch.rows is not None
    assert 1 not in made.batch.rows.owner
    where = lines(experiences)
    advantages = [
        float(where[p][0].advantages[where[p][1]].abs().max())
        for p, owner in enumerate(made.batch.rows.owner)
        if owner in (0, 2, 3)
    ]
    assert all(np.isfinite(advantages))
    assert max(advantages) > 0


def test_too_many_failures_abort_with_the_last_ones(maker: Maker) -> None:
    trials = batch_of(False)
    trials[0] = trials[5] = trials[6] = failed(0)
    trials[5] = trials[6] = failed(1)
    made = maker("lamer_gigpo")
    with pytest.raises(
        TooManyFailuresError, match=r"(?s)3 of 8 trials failed \(3 engine in generate\).*max_failed_share 0.25.*boom"
    ):
        made.make_experience_batch(samples_of(trials, made.config.gamma_traj))


def test_a_group_of_two_tasks_is_refused() -> None:
    trials = batch_of(False)
    trials[0], trials[4] = trials[4], trials[0]
    with pytest.raises(RuntimeError, match="several tasks"):
        TrialBatch.of(samples_of(trials, LamerConfig().gamma_traj), GROUP, 1.0)


def test_a_failed_trial_has_no_score() -> None:
    (sample,) = samples_of([failed(0)], LamerConfig().gamma_traj)
    assert sample.scores is None


def test_untrained_reflections_leave_no_rows() -> None:
    trials = batch_of(False)
    rows = RowBatch.build(trials, train_reflection=False)
    played = sum(len(t.sampled_ids) for trial in trials for t in trial.turns if t.phase is Phase.PLAY)
    assert rows.sampled == played


def without_rewards(trial: Trial) -> Trial:
    episodes = (
        dataclasses.replace(e, turns=tuple(dataclasses.replace(turn, reward=0.0) for turn in e.turns))
        for e in trial.episodes
    )
    return dataclasses.replace(trial, episodes=tuple(episodes))


def test_the_log_of_a_batch_is_flat_and_by_phase_and_episode(maker: Maker) -> None:
    config = LamerConfig(num_episodes=2)
    first, second = batch_of(False, seed=6)[:GROUP], batch_of(False, seed=6)[GROUP:]
    made = maker("lamer_gigpo", config=config)
    made.make_experience_batch(samples_of([*map(without_rewards, first), *second], config.gamma_traj))
    assert made.batch is not None
    assert made.batch.advantages is not None
    logged = batch_metrics(made.batch, config)
    assert all(isinstance(value, float) for value in logged.values())
    assert logged["zero_advantage_groups"] == 0.5
    own = [
        advantage
        for trial, advantages in zip(made.batch.trials, made.batch.advantages, strict=True)
        for turn, advantage in zip(trial.turns, advantages, strict=True)
        if (turn.phase, turn.episode) == (Phase.PLAY, 1)
    ]
    assert logged["advantage/play/2/mean"] == pytest.approx(np.mean(own))
    assert logged["advantage/play/2/std"] == pytest.approx(np.std(own))
    assert {"advantage/reflect/1/mean", "advantage/play/mean", "minesweeper/diversity@2", "tokens_per_trial"} <= {
        *logged
    }
