"""A hash of what environments say and do, to be compared between processes and versions of Python.

    python tests/transcripts.py TRANSCRIPTS [TRANSCRIPTS_OF_SLOW_ONES]

prints a line an environment: its name and the hash of its first TRANSCRIPTS transcripts, over all difficulties. It
needs nothing but the standard library and the environments' own requirements; an environment that
lacks those is named with the reason.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from hashlib import sha256

from openrlhf_lamer import envs
from openrlhf_lamer.envs.base import draw_action

SEEDS = (-1, 0, 1, 2**30, 2**70)
"""Seeds that are tried besides those of the first split."""


def transcripts(name: str, number: int) -> Iterator[str]:
    """The texts of `number` episodes, random and then led by the oracle."""
    cls = envs.lookup(name)
    for turn, options in enumerate(cls.difficulties):
        tasks = cls.tasks(cls.splits[0], number // len(cls.difficulties) + 1, options=options)
        if tasks[0].seed is not None:
            tasks[: len(SEEDS)] = [envs.Task(name, seed=seed, options=options) for seed in SEEDS]
        env = envs.make(name, reward="shaped", **options)
        try:
            for task in tasks[: number // len(cls.difficulties) + (turn < number % len(cls.difficulties))]:
                rng = random.Random(task.id)
                observation, step = env.reset(task), None
                for _ in range(30):
                    yield f"{observation} {env.anchor()} {env.oracle()}"
                    action = (env.oracle() if rng.random() < 0.7 else None) or draw_action(env, observation, rng)
                    step = env.step(action)
                    yield f"{action} {step}"
                    observation = step.observation
                    if step.terminated or step.truncated:
                        break
        finally:
            env.close()


def main() -> None:
    """Print the hashes."""
    number, of_slow = int(sys.argv[1]), int(sys.argv[-1])
    for name in envs.names(plugins=False):
        try:
            digest = sha256()
            for text in transcripts(name, of_slow if envs.lookup(name).slow else number):
                digest.update(text.encode())
            print(name, digest.hexdigest())
        except (envs.TaskError, ImportError) as error:
            print(name, "not installed:", error)


if __name__ == "__main__":
    main()
