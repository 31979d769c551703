"""A decision problem of two episodes, small enough to enumerate, and the gradient that credit should estimate.

An episode begins in a hall and has at most 3 turns. In the hall, `on` leads into the room and `wait` costs 0.1. In the
room, `grab` ends the episode with the prize and `leave` ends it with a consolation. Grabbing in the first episode
wins and ends the trial. Otherwise a reflection follows, whose remark is `good` or `bad` (which costs 0.5), and then the
second episode, whose prize depends on the remark. The policy decides by the episode, the room and, in the second
episode, the remark that it remembers: 7 decisions between two actions, each a softmax with one free logit. So the
policy decides when to stop, states recur, and equal states come with different memories.

There are 50 different trials, so the target E[Σ_t ∇log π(a_t|s_t) · G_t] is a sum; a sampled batch is drawn
from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.stats import chi2

from openrlhf_lamer.advantage import PLAY, REFLECT, CreditConfig, TurnTable, with_returns
from openrlhf_lamer.advantage.groups import codes
from openrlhf_lamer.advantage.table import FloatArray, IntArray

TURNS = 3
HALL, ROOM = 0, 1
FIRST, REMARK, AFTER_GOOD, AFTER_BAD = 0, 2, 3, 5
"""Index of an episode's first logit (the hall's; the room's follows), and of the remark's."""
LOGITS = np.array([0.3, -0.6, 0.4, 0.8, 0.2, -0.3, 0.5])
"""Logit of the first action (on, grab, good) in each decision."""
NAMES = ("hall", "room", "remark", "hall | good", "room | good", "hall | bad", "room | bad")
PRIZES = {FIRST: (1.0, 0.2), AFTER_GOOD: (3.0, 0.2), AFTER_BAD: (0.5, 1.0)}
"""Rewards of grabbing and of leaving, by the episode."""


@dataclass(frozen=True)
class Decision:
    """One turn: the index of its decision, the action (0 or 1), the place, the turn's number and the reward."""

    logit: int
    action: int
    anchor: int
    turn: int
    reward: float


def episodes(first_logit: int, place: int = HALL, turn: int = 0) -> Iterator[tuple[bool, tuple[Decision, ...]]]:
    """Every possible rest of an episode from here, with whether it ends by grabbing."""
    if turn == TURNS:
        yield False, ()
        return
    for action in (0, 1):
        if place == ROOM:
            yield action == 0, (Decision(first_logit + ROOM, action, ROOM, turn, PRIZES[first_logit][action]),)
            continue
        decision = Decision(first_logit + HALL, action, HALL, turn, -0.1 * action)
        for grabbed, later in episodes(first_logit, HALL if action else ROOM, turn + 1):
            yield grabbed, (decision, *later)


@dataclass(frozen=True)
class Problem:
    """All trials of the problem, one after the other in one table, with the inputs of the gradient.

    Attributes:
        table: The turns of every trial, as one group.
        logit: Index of the turn's logit, one for each decision; [turns].
        score: ∂ log π / ∂ logit of the action taken; [turns].
        probability: Probability of each trial; [trials].
    """

    table: TurnTable
    logit: IntArray
    score: FloatArray
    probability: FloatArray

    @classmethod
    def enumerate(cls, logits: FloatArray = LOGITS, bad_remark: float = -0.5) -> Problem:
        """Every trial under the policy with these logits; `bad_remark` is the reward of a bad remark."""
        first_action = 1 / (1 + np.exp(-logits))
        # Columns: trial, episode, turn, phase, reward, anchor, action, memory (0: none, else the remark), logit, score.
        rows: list[tuple[float, ...]] = []
        probability: list[float] = []

        def add(*parts: tuple[int, int, int, tuple[Decision, ...]]) -> None:
            chance = 1.0
            for episode, phase, memory, decisions in parts:
                for d in decisions:
                    p = first_action[d.logit]
                    chance *= 1 - p if d.action else p
                    score = float(d.action == 0) - p
                    place = (len(probability), episode, d.turn, phase)
                    rows.append((*place, d.reward, d.anchor, d.action, memory, d.logit, score))
            probability.append(chance)

        for won, play in episodes(FIRST):
            if won:
                add((0, PLAY, 0, play))
                continue
            for remark, next_logit in enumerate((AFTER_GOOD, AFTER_BAD)):
                reflection = Decision(REMARK, remark, 0, len(play), bad_remark * remark)
                for _, after in episodes(next_logit):
                    add((0, PLAY, 0, play), (0, REFLECT, 0, (reflection,)), (1, PLAY, 1 + remark, after))
        columns = np.array(rows).T
        trial, episode, turn, phase = columns[:4].astype(int)
        anchor, action, memory, logit = columns[5:9].astype(int)
        table = TurnTable(
            np.zeros_like(trial), trial, episode, turn, phase, columns[4], anchor, action=action, memory=memory
        )
        return cls(table, logit, columns[9], np.array(probability))

    @cached_property
    def weight(self) -> FloatArray:
        """Probability of each turn's trial; [turns]."""
        return self.probability[self.table.trial]

    def gradient(self, credit: FloatArray) -> FloatArray:
        """E[Σ_t ∇log π(a_t|s_t) · credit_t], exactly; [logits]."""
        return np.bincount(self.logit, weights=self.weight * self.score * credit).astype(np.float64)

    def target(self, config: CreditConfig) -> FloatArray:
        """Gradient that credit should estimate, with G as the credit; [logits]."""
        return self.gradient(with_returns(self.table, config).returns)

    def rewards(self, config: CreditConfig) -> FloatArray:
        """The one reward of each trial that `lamer_pkpo` compares: Σ_t γ_traj^episode · r_t; [trials]."""
        table = self.table
        return np.bincount(table.trial, weights=config.gamma_traj**table.episode * table.reward).astype(np.float64)

    def expected_best(self, k: int, config: CreditConfig) -> float:
        """E[max of k independent trials' rewards]: the best of k is at most x with the probability P(reward ≤ x)^k."""
        reward = self.rewards(config)
        order = np.argsort(reward)
        return float(reward[order] @ np.diff(np.append(0.0, np.cumsum(self.probability[order])) ** k))

    def best_target(self, k: int, config: CreditConfig) -> FloatArray:
        """Gradient of `expected_best`: a trial's credit is k times the expected best of it and k-1 others; [logits]."""
        reward = self.rewards(config)
        order = np.argsort(reward)
        chance = np.diff(np.append(0.0, np.cumsum(self.probability[order])) ** (k - 1))
        # Of k - 1 = 0 others, the best is the trial itself.
        best = np.maximum(reward[:, None], reward[order]) @ chance if k > 1 else reward
        return self.gradient(k * best[self.table.trial])

    def own_share(self, config: CreditConfig) -> FloatArray:
        """E[Σ_t ∇log π(a_t|s_t) · Ḡ], Ḡ the mean return of the turn's own trial; [logits]."""
        table = with_returns(self.table, config)
        means = np.bincount(table.trial, weights=table.returns) / np.bincount(table.trial)
        return self.gradient(means[table.trial])

    def true_values(self, config: CreditConfig) -> FloatArray:
        """E[G_t | everything before turn t], the values of a perfect critic; [turns]."""
        # The logit tells the episode, the room and the remark; with the turn, nothing else of the past matters later.
        state = codes(self.logit, self.table.turn * self.table.plays)
        returns = with_returns(self.table, config).returns
        return (np.bincount(state, weights=self.weight * returns) / np.bincount(state, weights=self.weight))[state]

    def sample(self, trials: int, group_size: int, seed: int) -> tuple[TurnTable, IntArray]:
        """Independent trials in groups, and for each turn its row in `self.table`."""
        drawn = np.random.default_rng(seed).choice(len(self.probability), size=trials, p=self.probability)
        lengths = np.bincount(self.table.trial)
        starts = np.cumsum(lengths) - lengths
        trial = np.repeat(np.arange(trials), lengths[drawn])
        within = np.arange(len(trial)) - np.repeat(np.cumsum(lengths[drawn]) - lengths[drawn], lengths[drawn])
        row = starts[drawn][trial] + within
        columns = ("episode", "turn", "phase", "reward", "anchor", "action", "memory")
        table = TurnTable(
            group=trial // group_size, trial=trial, **{name: getattr(self.table, name)[row] for name in columns}
        )
        return table, row


@dataclass(frozen=True)
class Estimate:
    """A mean gradient estimate over groups, against the target.

    Attributes:
        target: Exact gradient; [logits].
        mean: Mean over the groups; [logits].
        covariance: Covariance of the mean; [logits, logits].
    """

    target: FloatArray
    mean: FloatArray
    covariance: FloatArray

    @property
    def bias(self) -> FloatArray:
        """Mean minus target; [logits]."""
        return self.mean - self.target

    @property
    def error(self) -> FloatArray:
        """Standard error of the bias; [logits]."""
        return np.sqrt(np.diag(self.covariance))

    def p_value(self, expected_bias: FloatArray | float = 0.0) -> float:
        """p-value of a joint chi-square test that the bias is `expected_bias` in all components."""
        off = self.bias - expected_bias
        return float(chi2.sf(off @ np.linalg.solve(self.covariance, off), len(off)))

    @property
    def length(self) -> float:
        """Length of the target."""
        return float(np.linalg.norm(self.target))

    @property
    def cosine(self) -> float:
        """Cosine between the mean and the target."""
        return float(self.mean @ self.target / np.linalg.norm(self.mean) / self.length)

    @property
    def scale(self) -> float:
        """Length of the mean's projection on the target, divided by the target's."""
        return float(self.mean @ self.target / self.length**2)


def measure(
    problem: Problem,
    credit: Callable[[TurnTable, CreditConfig], FloatArray],
    config: CreditConfig,
    *,
    values: FloatArray | None = None,
    target: FloatArray | None = None,
    trials: int = 204_800,
    group_size: int = 8,
    seed: int = 0,
) -> Estimate:
    """The mean over groups of (1/n) Σ_i Σ_t ∇log π(a_t|s_t) · A_t: summed over turns, no further normalisation.

    `values` are a critic's values of the turns of `problem.table`; `target` is the problem's, if it is not given.
    """
    table, row = problem.sample(trials, group_size, seed)
    if values is not None:
        table = replace(table, values=values[row])
    advantage = credit(with_returns(table, config), config)
    logits, groups = len(LOGITS), trials // group_size
    sums = np.bincount(
        table.group * logits + problem.logit[row], weights=problem.score[row] * advantage, minlength=groups * logits
    )
    gradients = sums.reshape(groups, logits) / group_size
    return Estimate(
        problem.target(config) if target is None else target, gradients.mean(0), np.cov(gradients.T) / groups
    )
