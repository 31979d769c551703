"""Time of credit: returns and each estimator on random trials, up to a million turns.

    python benchmarks/credit.py [TURNS ...]

Groups have 8 trials, trials up to 3 episodes. Prints the best of several runs, the time per turn relative to the first
size (1.00 is linear), and peak memory relative to the table's own bytes.
"""

from __future__ import annotations

import argparse
import timeit
import tracemalloc
from dataclasses import fields

import numpy as np

from openrlhf_lamer.advantage import PLAY, REFLECT, CreditConfig, Estimator, TurnTable, get, names, with_returns

SIZES = (100_000, 200_000, 500_000, 1_000_000)
GROUP_SIZE = 8
TURNS_PER_TRIAL = 24.2
"""Mean turns of a trial as drawn here: 100,000 turns are about 512 groups of 8 trials."""
RUNS = 7
HEADINGS = "     turns   groups       ms  ns/turn  linear  peak MB peak/table"


def random_table(turns: int, seed: int = 0) -> TurnTable:
    """Ragged random trials of about this many turns in all: 3 episodes of 1 to 15 turns, or one that is won."""
    rng = np.random.default_rng(seed)
    trials = GROUP_SIZE * max(1, round(turns / TURNS_PER_TRIAL / GROUP_SIZE))
    episodes = np.where(rng.random(trials) < 0.1, 1, 3)
    trial_of_episode = np.repeat(np.arange(trials), episodes)
    index_of_episode = _counts_up(episodes)
    reflects = index_of_episode + 1 < episodes[trial_of_episode]
    rows = rng.integers(1, 16, size=len(reflects)) + reflects
    trial, episode, turn = np.repeat(trial_of_episode, rows), np.repeat(index_of_episode, rows), _counts_up(rows)
    reflection = np.repeat(reflects, rows) & (turn == np.repeat(rows, rows) - 1)
    return TurnTable(
        group=trial // GROUP_SIZE,
        trial=trial,
        episode=episode,
        turn=turn,
        phase=np.where(reflection, REFLECT, PLAY),
        reward=rng.choice([-0.5, 0.0, 10.0], size=len(trial), p=[0.1, 0.85, 0.05]),
        anchor=rng.integers(0, 40, size=len(trial)),
        action=rng.integers(0, 4, size=len(trial)),
        memory=np.where(episode > 0, trial * 3 + episode, 0),
        values=rng.normal(size=len(trial)),
    )


def _counts_up(lengths: np.ndarray) -> np.ndarray:
    """0 … length - 1 for each length, end to end."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def measure(estimator: Estimator, table: TurnTable, config: CreditConfig) -> tuple[float, int]:
    """Seconds from rewards to advantages, best of several runs, and the peak bytes that a run allocates."""

    def run() -> None:
        estimator.estimate(with_returns(table, config), config)

    seconds = min(timeit.repeat(run, number=1, repeat=RUNS))
    tracemalloc.start()
    run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return seconds, peak


def main() -> None:
    """Time every estimator at every size, in each form of the return that it knows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("turns", nargs="*", type=int, default=SIZES, help="sizes, in turns")
    sizes = parser.parse_args().turns
    for estimator in map(get, names()):
        for form in ("chained", "difference") if estimator.chained_only else ("paper", "chained", "difference"):
            print(f"\nreturns ({form}) + {estimator.name}")
            print("     turns   groups       ms  ns/turn  linear  peak MB peak/table")
            base = 0.0
            for table in map(random_table, sizes):
                seconds, peak = measure(estimator, table, CreditConfig(cross_episode=form))
                columns = (getattr(table, column.name) for column in fields(table))
                own = sum(column.nbytes for column in columns if column is not None)
                per_turn = seconds / len(table)
                base = base or per_turn
                print(
                    f"{len(table):>10,} {len(np.unique(table.group)):>8,} {seconds * 1e3:>8.1f} {per_turn * 1e9:>8.0f} "
                    f"{per_turn / base:>7.2f} {peak / 1e6:>8.1f} {peak / own:>10.2f}"
                )


if __name__ == "__main__":
    main()
