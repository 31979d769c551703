"""Memory that a batch of trials takes in the trainer's process, from its arrival to the end of credit.

    python benchmarks/memory.py [--trials N]

The steps are those of a training step before the models: trials arrive pickled, as from a rollout engine, become rows,
rows micro-batches, and these get returns and advantages. Prints their time, and how much the process grew.
"""

from __future__ import annotations

import argparse
import gc
import pickle
import random
import time
from types import SimpleNamespace

import psutil
from common import experience_maker, grid, peak_memory, show

from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.records import Episode, Phase, Stop, Task, Trial, Turn

GROUP, EPISODES, RANKS = 8, 3, 2
TURNS, PROMPT, REPLY = 24, 700, 60
"""Turns of a trial; tokens of a prompt and of a reply."""
MB = 1 << 20


def random_trial(number: int) -> Trial:
    """A lost trial of random tokens, as large as a played one."""
    rng = random.Random(number)

    def turn(episode: int, index: int) -> Turn:
        prompt, reply = rng.choices(range(150_000), k=PROMPT), rng.choices(range(150_000), k=REPLY)
        logprobs = [-rng.random() for _ in range(REPLY)]
        text, anchor, shown = f"{rng.random()} " * (REPLY // 4), f"{rng.random()}" * 4, f"{rng.random()} " * 20
        return Turn(Phase.PLAY, episode, index, prompt, reply, logprobs, text, "up, left", True, 0.0, anchor, shown)

    episodes = tuple(
        Episode(tuple(turn(episode, index) for index in range(TURNS // EPISODES)), Stop.LOST, "")
        for episode in range(EPISODES)
    )
    return Trial(Task("sokoban", seed=number // GROUP), episodes, sample=number % GROUP)


def main() -> None:
    """Take the steps and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1024)
    trials = parser.parse_args().trials
    maker = experience_maker(LamerConfig(), SimpleNamespace(pad_token_id=0), GROUP, RANKS)
    from openrlhf_lamer.integration.rollout.sample import TrialExperience
    from openrlhf_lamer.integration.training.batch import PlacedRows, RowBatch, TrialBatch

    response = {"prompt": "", "label": "", "reward": 0.0, "scores": 0.0, "truncated": False}
    gc.collect()
    before, began = psutil.Process().memory_info().rss / MB, time.perf_counter()
    samples = []
    for number in range(trials):
        pickled = pickle.dumps({**response, "trial": random_trial(number)}, protocol=5)
        samples.append(TrialExperience.from_response(pickle.loads(pickled)))
    batch = TrialBatch.of(samples, GROUP, 0.25)
    rows = RowBatch.build(batch.trials, train_reflection=True)
    maker._credit_turns(batch, PlacedRows(rows, rows.micro_batches([0.0] * trials, maker._layout)))
    more, tokens = peak_memory() - before, trials * TURNS * (PROMPT + REPLY)
    title = f"{trials:,} trials, {len(rows.rows):,} rows, {tokens:,} tokens"
    table = grid(title, "a batch", "seconds", "MB more", "bytes a token")
    seconds = time.perf_counter() - began
    table.add_row("at the most", f"{seconds:.2f}", f"{more:,.0f}", f"{more * MB / tokens:.0f}")
    show(table)


if __name__ == "__main__":
    main()
