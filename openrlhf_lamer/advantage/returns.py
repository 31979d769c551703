"""Returns across the episodes of a trial (LaMer, arXiv 2512.16848, Eq. 3 and 4; MAGE, arXiv 2603.03680).

With r_t the reward of play turn t, t = 0 … T-1, of episode n = 0 … N-1 of one trial:

    within an episode    g_t^(n) = r_t^(n) + γ_step · g_{t+1}^(n),   g_T^(n) = 0                       (Eq. 3)
    "paper"              G_t^(n) = g_t^(n) + Σ_{m>n} γ_traj^(m-n) · g_0^(m)                            (Eq. 4)
    "chained"            G_t^(n) = r_t^(n) + γ_step · G_{t+1}^(n) for t < T-1,
                         G_{T-1}^(n) = r_{T-1}^(n) + γ_traj · G_0^(n+1)
    "difference"         as "chained", with the rewards that `paid` gives in place of r
    reflection on n      G = r + G_0^(n+1), with r its own reward (a penalty) and G_0^(N) = 0

The first two forms agree on every episode's last turn, and at γ_step = 1 everywhere; else "chained", the
form of the reference code, discounts later episodes by γ_step^(T-1-t) as well. A reflection's own
reward reaches no earlier turn: the penalty falls on the reflection only.

All forms are one array program: a discounted sum with one discount *per turn*, which is 0 where a
sum must stop. Arrays have one entry per play turn of the batch, trials end to end.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from openrlhf_lamer.advantage.table import CreditConfig, FloatArray, IntArray, TurnTable


def discounted_sums(reward_t: FloatArray, discount_t: FloatArray) -> FloatArray:
    """G_t = r_t + d_t · G_{t+1} for t = 0 … L-1, with G_L = 0; both arguments and the result are [L].

    A sum ends where d_t = 0, so trials of any length can lie end to end. Each pass doubles the span
    that an entry has summed: ⌈log₂ of the longest run⌉ passes, without a division, so that discounts
    of 0 and 1 are no special cases.
    """
    if reward_t.shape != discount_t.shape or reward_t.ndim != 1:
        raise ValueError(f"rewards {reward_t.shape} and discounts {discount_t.shape} need one shape of one dimension")
    total_t, reach_t = reward_t.copy(), discount_t.copy()
    reach_t[-1:] = 0.0
    span = 1
    while span < len(total_t) and reach_t.any():
        total_t[:-span] += reach_t[:-span] * total_t[span:]
        reach_t[:-span] *= reach_t[span:]
        reach_t[-span:] = 0.0
        span *= 2
    return total_t


def returns(table: TurnTable, config: CreditConfig) -> FloatArray:
    """G of every turn of the table, reflections in their place; [rows]. `cross_episode` None is the paper's form."""
    play = np.flatnonzero(table.plays)
    trial, episode, reward = table.trial[play], table.episode[play], credited(table, config).reward[play]
    # Discount on the step to the next play turn. Episodes without a turn have no reward, but count in the exponent.
    later = np.diff(episode, append=0)
    goes_on = np.diff(trial, append=-1) == 0
    goes_on[-1:] = False
    across = np.where(goes_on & (later > 0), config.gamma_traj ** np.maximum(later, 1), 0.0)
    within = np.where(goes_on & (later == 0), config.gamma_step, 0.0)
    if config.cross_episode in ("chained", "difference"):
        play_returns = discounted_sums(reward, within + across)
    else:
        play_returns = discounted_sums(reward, within)
        play_returns += _later_episodes(play_returns, across, ends=~(goes_on & (later == 0)))
    out = np.empty(len(table))
    out[play] = play_returns
    _fill_reflections(out, table, play, config.gamma_traj)
    return out


def with_returns(table: TurnTable, config: CreditConfig) -> TurnTable:
    """The same table with its returns filled in."""
    return replace(table, returns=returns(table, config))


def paid(table: TurnTable) -> FloatArray:
    """Rewards under which each episode is paid what it earns above the one before; [rows].

    With R_n = Σ r over the play turns of episode n whose action was accepted, R_{-1} = 0, and T turns in episode n:

        an accepted play turn     0, and the last play turn of the episode R_n - R_{n-1}
        a refused action          its own r (a penalty), and R_n - R_{n-1} too if it is the last play turn
        a reflection              its own r

    Episodes without a turn are skipped: n - 1 is the previous episode that has turns. This is the reward of MAGE's
    code. There an episode's R holds no penalty, since penalties are subtracted from the turn's return after the walk;
    here they are in r, so they are kept out of R: otherwise the next episode would be paid back what this one was
    fined.
    """
    play = np.flatnonzero(table.plays)
    out = table.reward.copy()
    if not len(play):
        return out
    own = np.ones(len(play)) if table.valid is None else (table.valid[play] != 0).astype(np.float64)
    new_trial = np.diff(table.trial[play], prepend=-1) != 0
    new_trial[0] = True
    first = np.flatnonzero(new_trial | (np.diff(table.episode[play], prepend=-1) != 0))
    earned = np.add.reduceat(own * table.reward[play], first)
    before = np.where(new_trial[first], 0.0, np.append(0.0, earned[:-1]))
    out[play] -= own * table.reward[play]
    out[play[np.append(first[1:], len(play)) - 1]] += earned - before
    return out


def credited(table: TurnTable, config: CreditConfig) -> TurnTable:
    """The same table with the rewards that `config` credits turns with: those of `paid` for "difference"."""
    return replace(table, reward=paid(table)) if config.cross_episode == "difference" else table


def _later_episodes(within_t: FloatArray, across_t: FloatArray, ends: np.ndarray) -> FloatArray:
    """Σ_{m>n} γ_traj^(m-n) · g_0^(m) of each play turn: one figure per episode, repeated for its turns."""
    last = np.flatnonzero(ends)
    first = np.concatenate(([0], last[:-1] + 1))[: len(last)]
    discount_n = across_t[last]
    start_n = discounted_sums(within_t[first], discount_n)
    later_n = discount_n * np.append(start_n[1:], 0.0)[: len(last)]
    return np.repeat(later_n, last - first + 1)


def _fill_reflections(out: FloatArray, table: TurnTable, play: IntArray, gamma_traj: float) -> None:
    """Set each reflection's return: its own reward plus the next episode's first return, if there is one."""
    rows = np.flatnonzero(~table.plays)
    out[rows] = table.reward[rows]
    following = np.searchsorted(play, rows)
    rows, following = rows[following < len(play)], following[following < len(play)]
    following = play[following]
    own_trial = table.trial[following] == table.trial[rows]
    rows, following = rows[own_trial], following[own_trial]
    skipped = table.episode[following] - table.episode[rows] - 1
    out[rows] += gamma_traj**skipped * out[following]
