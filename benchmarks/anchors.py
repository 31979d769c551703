"""Time of anchors by similarity: 100,000 turns with more and more distinct observations, against exact anchors.

    python benchmarks/anchors.py [--turns N] [--words N] [--similarity S]

Groups have 8 trials. The observations of a task are pages of WORDS words: a tenth of the words of one of ten templates
is replaced at random. Prints the processor time of `lamer_gigpo`, returns included, as the best of several runs.
"""

from __future__ import annotations

import argparse
import random
import timeit
from dataclasses import replace
from time import process_time

import numpy as np
from common import grid, show
from credit import random_table

from openrlhf_lamer.advantage import CreditConfig, TurnTable, get, with_returns
from openrlhf_lamer.advantage.groups import codes
from openrlhf_lamer.advantage.similarity import merged

STATES = (10, 40, 100, 0)
"""Distinct states of a task; 0 stands for as many as it has turns."""
TEMPLATES, CHANGED = 10, 0.1
RUNS = 3


def with_pages(table: TurnTable, states: int, words: int, seed: int = 0) -> TurnTable:
    """The same turns, spread over `states` states of each task, with an observation for each state."""
    rng, numbers = random.Random(seed), np.random.default_rng(seed)
    vocabulary = [f"{chr(97 + i % 26)}{i}word"[: 3 + i % 8] for i in range(3000)]
    anchor = numbers.integers(0, states, size=len(table)) if states else np.arange(len(table))
    place = codes(table.group, anchor)
    group_of_place = np.empty(place.max() + 1, dtype=np.int64)
    group_of_place[place] = table.group
    pages, group, templates = [], -1, [[""]]
    for own in group_of_place.tolist():
        if own != group:
            group, templates = own, [rng.choices(vocabulary, k=words) for _ in range(TEMPLATES)]
        page = list(rng.choice(templates))
        for at in rng.sample(range(words), round(CHANGED * words)):
            page[at] = rng.choice(vocabulary)
        pages.append(" ".join(page))
    return replace(table, anchor=place, observation=np.array(pages, dtype=np.object_)[place])


def seconds(table: TurnTable, similarity: float) -> float:
    """Processor time from rewards to advantages, best of several runs; other processes don't count."""
    estimate, config = get("lamer_gigpo").estimate, CreditConfig(options={"similarity": similarity})

    def run() -> None:
        estimate(with_returns(table, config), config)

    return min(timeit.repeat(run, timer=process_time, number=1, repeat=RUNS))


def main() -> None:
    """Time both kinds of anchors at each number of states."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=100_000)
    parser.add_argument("--words", type=int, default=75)
    parser.add_argument("--similarity", type=float, default=0.5)
    arguments = parser.parse_args()
    turns = random_table(arguments.turns)
    title = f"{len(turns):,} turns, pages of {arguments.words} words, similarity {arguments.similarity:g}"
    lines = grid(title, "states of a task", "distinct texts", "anchor groups", "exact ms", "similar ms", "ratio")
    for states in STATES:
        table = with_pages(turns, states, arguments.words)
        exact, similar = seconds(table, 1.0), seconds(table, arguments.similarity)
        found = merged(table, arguments.similarity)
        lines.add_row(
            str(states or "all"),
            f"{len(np.unique(table.anchor[table.plays])):,}",
            f"{len(np.unique(codes(found.group, found.anchor)[found.plays])):,}",
            f"{exact * 1e3:.0f}",
            f"{similar * 1e3:.0f}",
            f"{similar / exact:.1f}",
        )
    show(lines)


if __name__ == "__main__":
    main()
