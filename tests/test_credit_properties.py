"""Properties of returns on any trials, and of every estimator, in each setting, on any batch."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openrlhf_lamer.advantage import PLAY, REFLECT, CreditConfig, TurnTable, get, names, with_returns
from openrlhf_lamer.advantage.table import FloatArray
from openrlhf_lamer.cli.credit_file import read_case
from openrlhf_lamer.records import Episode, Failure, FailureKind, Phase, Stop, Task, Trial, Turn
from openrlhf_lamer.rows import trial_rows
from openrlhf_lamer.vocabulary import CrossEpisode, Norm

FORMS: tuple[CrossEpisode, ...] = ("paper", "chained")
NORMS: tuple[Norm, ...] = ("mean", "mean_std")
OURS = tuple(name for name in names() if name.startswith("lamer_"))
GROUPED = tuple(name for name in OURS if get(name).needs_group)

DISCOUNTS = st.sampled_from([0.0, 1.0]) | st.floats(0, 1)
EPISODE_REWARDS = st.lists(st.floats(-10, 10), max_size=6)
TRIAL_REWARDS = st.lists(st.lists(EPISODE_REWARDS, max_size=4), max_size=5)


def table_of(*trials: list[list[float]]) -> TurnTable:
    """Trials as lists of episodes as lists of play rewards, all of one group and one anchor."""
    cases = [
        {"group": 0, "episodes": [{"rewards": rewards, "anchors": ["s"] * len(rewards)} for rewards in trial]}
        for trial in trials
    ]
    return read_case({"gamma_step": 1, "gamma_traj": 1, "trials": cases}).table


def by_the_book(table: TurnTable, config: CreditConfig) -> list[float]:
    """Eq. 3 and 4, or the backward walk, one turn after the other."""
    out: list[float] = []
    for trial in np.unique(table.trial):
        rows = np.flatnonzero(table.trial == trial)
        episodes: list[list[float]] = [[] for _ in range(int(table.episode[rows].max()) + 1)]
        for row in rows:
            if table.phase[row] == PLAY:
                episodes[table.episode[row]].append(float(table.reward[row]))
        g = [_discounted(rewards, config.gamma_step) for rewards in episodes]
        start = 0.0
        values: list[list[float]] = []
        starts: list[float] = []
        for n in reversed(range(len(episodes))):
            starts.insert(0, start)
            if config.cross_episode == "paper":
                later = [config.gamma_traj ** (m - n) * g[m][0] for m in range(n + 1, len(episodes)) if g[m]]
                values.insert(0, [value + sum(later) for value in g[n]])
            else:
                rewards = episodes[n][:-1] + [reward + config.gamma_traj * start for reward in episodes[n][-1:]]
                values.insert(0, _discounted(rewards, config.gamma_step))
            # An episode without a turn passes on what comes after it, one episode further away.
            start = values[0][0] if values[0] else config.gamma_traj * start
        for row in rows:
            n = int(table.episode[row])
            plays = table.phase[row] == PLAY
            out.append(values[n].pop(0) if plays else float(table.reward[row]) + starts[n])
    return out


def _discounted(rewards: list[float], gamma: float) -> list[float]:
    out = [0.0]
    for reward in reversed(rewards):
        out.insert(0, reward + gamma * out[0])
    return out[:-1]


class TestReturns:
    @settings(deadline=None)
    @given(TRIAL_REWARDS, DISCOUNTS, DISCOUNTS, st.sampled_from(FORMS), st.floats(-1, 0))
    def test_equal_the_naive_walk(
        self, trials: list[list[list[float]]], gamma_step: float, gamma_traj: float, form: CrossEpisode, fine: float
    ) -> None:
        """Ragged trials, with episodes of no turn among them, and a penalty on every reflection."""
        config = CreditConfig(gamma_step, gamma_traj, form)
        table = table_of(*trials)
        table = replace(table, reward=np.where(table.phase == REFLECT, fine, table.reward))
        assert np.allclose(with_returns(table, config).returns, by_the_book(table, config), rtol=1e-12, atol=1e-9)

    @settings(deadline=None)
    @given(
        st.lists(st.lists(st.lists(st.floats(-10, 10), min_size=1, max_size=6), min_size=1, max_size=4), max_size=5),
        DISCOUNTS,
        DISCOUNTS,
        st.sampled_from(FORMS),
    )
    def test_a_reflection_gets_what_the_next_episode_begins_with(
        self, trials: list[list[list[float]]], gamma_step: float, gamma_traj: float, form: CrossEpisode
    ) -> None:
        table = with_returns(table_of(*trials), CreditConfig(gamma_step, gamma_traj, form))
        reflections = np.flatnonzero(~table.plays)
        assert len(reflections) == sum(len(trial) - 1 for trial in trials)
        assert np.array_equal(table.returns[reflections], table.returns[reflections + 1])

    @given(st.lists(st.floats(-10, 10), min_size=1, max_size=8), DISCOUNTS, DISCOUNTS, st.sampled_from(FORMS))
    def test_one_episode_is_ordinary_discounting(
        self, rewards: list[float], gamma_step: float, gamma_traj: float, form: CrossEpisode
    ) -> None:
        returns = with_returns(table_of([rewards]), CreditConfig(gamma_step, gamma_traj, form)).returns
        assert returns == pytest.approx(_discounted(rewards, gamma_step), abs=1e-9)

    @given(st.lists(st.lists(st.floats(-10, 10), min_size=1, max_size=5), min_size=1, max_size=4))
    def test_discounts_of_zero_and_one(self, trial: list[list[float]]) -> None:
        rewards = np.array([reward for episode in trial for reward in episode])
        for form in FORMS:
            now = with_returns(table_of(trial), CreditConfig(0, 0, form))
            assert np.array_equal(now.returns[now.plays], rewards)
            ever = with_returns(table_of(trial), CreditConfig(1, 1, form))
            assert ever.returns[ever.plays] == pytest.approx(np.cumsum(rewards[::-1])[::-1], abs=1e-9)


@st.composite
def cases(draw: st.DrawFn, smallest: int = 1) -> dict[str, Any]:
    """A batch as the `credit` command reads it: ragged groups and trials, with all columns that there are."""
    few = st.integers(0, 2)

    def episode(last: bool) -> dict[str, Any]:
        rewards = draw(st.lists(st.integers(-4, 4), min_size=1, max_size=4))
        turns = len(rewards)
        return {
            "rewards": rewards,
            "anchors": draw(st.lists(few, min_size=turns, max_size=turns)),
            "actions": draw(st.lists(few, min_size=turns, max_size=turns)),
            "remark": draw(few),
            "values": draw(st.lists(st.integers(-4, 4), min_size=turns + 1 - last, max_size=turns + 1 - last)),
        }

    trials = []
    for group in draw(st.permutations([4, 2, 9]))[: draw(st.integers(1, 3))]:
        for _ in range(draw(st.integers(smallest, 4))):
            count = draw(st.integers(1, 3))
            trials.append({"group": group, "episodes": [episode(n + 1 == count) for n in range(count)]})
    gammas = st.sampled_from([0.0, 0.5, 1.0])
    return {"gamma_step": draw(gammas), "gamma_traj": draw(gammas), "trials": trials}


SETTINGS = st.fixed_dictionaries({"norm": st.sampled_from(NORMS), "reference": st.booleans()})


def read(name: str, case: dict[str, Any], options: dict[str, Any]) -> TurnTable:
    return read_case(case, cross_episode=get(name).settle(CreditConfig()).cross_episode, **options).table


def credit(name: str, case: dict[str, Any], options: dict[str, Any]) -> FloatArray:
    return on_table(name, read(name, case, options), case, options)


def on_table(name: str, table: TurnTable, case: dict[str, Any], options: dict[str, Any]) -> FloatArray:
    return get(name).estimate(table, CreditConfig(case["gamma_step"], case["gamma_traj"], **options))


class TestEveryEstimator:
    """Each test draws batches and settings; `name` is which estimator."""

    @pytest.mark.parametrize("name", GROUPED)
    @settings(deadline=None, max_examples=50)
    @given(case=cases(), options=SETTINGS)
    def test_shifting_a_groups_returns_changes_nothing(
        self, name: str, case: dict[str, Any], options: dict[str, Any]
    ) -> None:
        table = read(name, case, options)
        shifted = replace(table, returns=table.returns + 5.0 * table.group)
        assert on_table(name, shifted, case, options) == pytest.approx(credit(name, case, options), abs=1e-6)

    @pytest.mark.parametrize("name", OURS)
    @settings(deadline=None, max_examples=50)
    @given(case=cases(), options=SETTINGS, rng=st.randoms(use_true_random=False))
    def test_the_order_of_trials_is_immaterial(
        self, name: str, case: dict[str, Any], options: dict[str, Any], rng: random.Random
    ) -> None:
        trials = case["trials"]
        order = rng.sample(range(len(trials)), len(trials))
        here, there = credit(name, case, options), credit(name, {**case, "trials": [trials[i] for i in order]}, options)
        trial = read(name, case, options).trial
        assert there == pytest.approx(np.concatenate([here[trial == i] for i in order]), abs=1e-6)

    @pytest.mark.parametrize("name", OURS)
    @settings(deadline=None, max_examples=50)
    @given(case=cases(), reference=st.booleans(), factor=st.sampled_from([0.25, 2.0, 64.0]))
    def test_advantages_scale_with_rewards(
        self, name: str, case: dict[str, Any], reference: bool, factor: float
    ) -> None:
        options = {"norm": "mean", "reference": reference}
        there = credit(name, scaled(case, factor), options)
        assert there == pytest.approx(factor * credit(name, case, options), abs=1e-9)

    @pytest.mark.parametrize("name", [name for name in OURS if name not in ("lamer_gigpo", "lamer_hgpo")])
    @settings(deadline=None, max_examples=50)
    @given(case=cases(smallest=2), reference=st.booleans(), factor=st.sampled_from([0.25, 2.0, 64.0]))
    def test_a_spread_divides_scale_out(self, name: str, case: dict[str, Any], reference: bool, factor: float) -> None:
        """Up to ε, and where there is a spread: not in groups of one, which anchor groups often are."""
        options = {"norm": "mean_std", "reference": reference}
        there = credit(name, scaled(case, factor), options)
        assert there == pytest.approx(credit(name, case, options), rel=1e-3, abs=1e-3)

    @pytest.mark.parametrize("name", [name for name in GROUPED if name != "lamer_reinforce"])
    @settings(deadline=None, max_examples=50)
    @given(case=cases(), options=SETTINGS)
    def test_groups_do_not_mix(self, name: str, case: dict[str, Any], options: dict[str, Any]) -> None:
        """Except in `lamer_reinforce`, whose spread is the batch's."""
        table, together = read(name, case, options), credit(name, case, options)
        for group in np.unique(table.group):
            own = [trial for trial in case["trials"] if trial["group"] == group]
            alone = credit(name, {**case, "trials": own}, options)
            assert together[table.group == group] == pytest.approx(alone, abs=1e-6)

    @pytest.mark.parametrize("name", GROUPED)
    @settings(deadline=None, max_examples=50)
    @given(case=cases(), options=SETTINGS, copies=st.integers(2, 4))
    def test_equal_turns_get_nothing(
        self, name: str, case: dict[str, Any], options: dict[str, Any], copies: int
    ) -> None:
        """A constant group: copies of a trial of one turn."""
        first = case["trials"][0]
        only = {key: items[:1] for key, items in first["episodes"][0].items() if key != "remark"}
        alike = [{"group": 0, "episodes": [only]}] * copies
        assert credit(name, {**case, "trials": alike}, options) == pytest.approx(np.zeros(copies), abs=1e-6)

    @pytest.mark.parametrize("name", OURS)
    @settings(deadline=None, max_examples=50)
    @given(case=cases(), options=SETTINGS)
    def test_finite_and_aligned(self, name: str, case: dict[str, Any], options: dict[str, Any]) -> None:
        advantage = credit(name, case, options)
        turns = sum(len(e["rewards"]) for trial in case["trials"] for e in trial["episodes"])
        assert len(advantage) == turns + sum(len(trial["episodes"]) - 1 for trial in case["trials"])
        assert advantage.dtype == np.float64
        assert np.isfinite(advantage).all()

    @pytest.mark.parametrize("name", OURS)
    @pytest.mark.parametrize("episodes", [None, [{"rewards": [], "anchors": []}] * 2, []])
    def test_no_turns(self, name: str, episodes: list[dict[str, Any]] | None) -> None:
        """No trials, trials without episodes, and episodes without turns (of which the reflection remains)."""
        trials = [] if episodes is None else [{"group": 0, "episodes": episodes}] * 2
        case = {"gamma_step": 0.5, "gamma_traj": 0.5, "trials": trials}
        for norm in NORMS:
            advantage = credit(name, case, {"norm": norm})
            assert advantage.tolist() == [0.0] * (2 if episodes else 0)


def scaled(case: dict[str, Any], factor: float) -> dict[str, Any]:
    """The same batch with rewards and values times a factor."""

    def times(episode: dict[str, Any]) -> dict[str, Any]:
        return {**episode, **{key: [factor * number for number in episode[key]] for key in ("rewards", "values")}}

    trials = [{**trial, "episodes": [times(episode) for episode in trial["episodes"]]} for trial in case["trials"]]
    return {**case, "trials": trials}


def random_trial(rng: random.Random) -> Trial:
    """A trial of random replies, whose prompts continue the row so far or begin a new one; or a failed one."""
    if rng.random() < 0.2:
        return Trial(Task("toy", seed=0), (), Failure(FailureKind.ENGINE, "generate", "gone"))
    row: tuple[int, ...] = ()

    def turn(phase: Phase, episode: int, index: int) -> Turn:
        nonlocal row
        prompt = (row if rng.random() < 0.5 else ()) + tuple(rng.choices(range(3), k=rng.randint(1, 4)))
        sampled = tuple(rng.choices(range(90, 99), k=rng.randint(0, 4)))
        row = prompt + sampled
        reward = rng.choice([-0.5, 0.0, 10.0])
        return Turn(
            phase, episode, index, prompt, sampled, None, "", rng.choice("xy"), True, reward, rng.choice("ab"), ""
        )

    episodes = []
    for n in range(rng.randint(1, 3)):
        plays = tuple(turn(Phase.PLAY, n, t) for t in range(rng.randint(1, 4)))
        remark = turn(Phase.REFLECT, n, len(plays)) if rng.random() < 0.7 else None
        episodes.append(Episode(plays, Stop.LOST, "", remark))
    return Trial(Task("toy", seed=0), tuple(episodes))


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_every_sampled_token_gets_the_advantage_of_its_turn_once(seed: int) -> None:
    """From groups in which trials failed, through the table and back to the tokens of the rows."""
    rng = random.Random(seed)
    trials = [random_trial(rng) for _ in range(8)]
    live = [i for i, trial in enumerate(trials) if trial.failure is None]
    table = TurnTable.from_trials([trials[i] for i in live], [i // 4 for i in live])
    table = with_returns(replace(table, values=np.zeros(len(table))), CreditConfig())
    for name in OURS:
        advantage = get(name).estimate(table, CreditConfig())
        assert np.isfinite(advantage).all()
        for position, i in enumerate(live):
            own = advantage[table.trial == position]
            assert len(own) == len(trials[i].turns)
            given: dict[int, list[float]] = {}
            for row in trial_rows(trials[i]):
                tokens = np.full(len(row.ids), np.nan)
                for span in row.spans:
                    assert np.isnan(tokens[span.start : span.end]).all()
                    tokens[span.start : span.end] = own[span.turn]
                    given[span.turn] = given.get(span.turn, []) + tokens[span.start : span.end].tolist()
                assert (~np.isnan(tokens)).sum() == row.sampled
            for index, turn in enumerate(trials[i].turns):
                assert given.get(index, []) == [own[index]] * len(turn.sampled_ids)
