"""What a batch of trials takes in the trainer's process, from its arrival to the end of credit.

    python benchmarks/memory.py [--trials N] [--turns N] [--prompt TOKENS] [--reply TOKENS]

The steps are those of a training step before the models: trials arrive pickled, as from a rollout engine, become
rows, rows micro-batches, and these get returns and advantages. Printed after each: its time, and by how much the
process has grown.
"""

from __future__ import annotations

import argparse
import gc
import pickle
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, TypeVar

import psutil
from rich.console import Console
from rich.table import Table

from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.records import Episode, Phase, Stop, Task, Trial, Turn

T = TypeVar("T")

GROUP = 8
EPISODES = 3
MB = 1 << 20


def random_trial(number: int, turns: int, prompt: int, reply: int) -> Trial:
    """A lost trial of random tokens; it takes what a played one takes."""
    rng = random.Random(number)

    def turn(episode: int, index: int) -> Turn:
        return Turn(
            phase=Phase.PLAY,
            episode=episode,
            index=index,
            prompt_ids=rng.choices(range(150_000), k=prompt),
            sampled_ids=rng.choices(range(150_000), k=reply),
            logprobs=[-rng.random() for _ in range(reply)],
            text=f"{rng.random()} " * (reply // 4),
            action="up, left",
            valid=True,
            reward=0.0,
            anchor=f"{rng.random()}" * 4,
            observation=f"{rng.random()} " * 20,
        )

    episodes = tuple(
        Episode(tuple(turn(episode, index) for index in range(turns // EPISODES)), Stop.LOST, "")
        for episode in range(EPISODES)
    )
    return Trial(Task("sokoban", seed=number // GROUP), episodes, sample=number % GROUP)


class Steps:
    """Times steps, and notes what the process takes after each and at the most."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._before = self.megabytes
        self.peak = 0.0
        self.rows: list[tuple[str, float, float]] = []

    @property
    def megabytes(self) -> float:
        """What the process takes by now."""
        return self._process.memory_info().rss / MB

    def __call__(self, name: str, step: Callable[[], T]) -> T:
        """Take a step."""
        began = time.perf_counter()
        result = step()
        self.rows.append((name, time.perf_counter() - began, self.megabytes - self._before))
        return result

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Look for the peak."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.005):
                self.peak = max(self.peak, self.megabytes - self._before)

        watching = threading.Thread(target=watch)
        watching.start()
        try:
            yield
        finally:
            over.set()
            watching.join()


def trainer(micro_batch: int) -> Any:
    """The experience maker of two data-parallel ranks, without models."""
    from openrlhf_lamer.integration.training.experience_maker import LamerExperienceMaker

    args = SimpleNamespace(
        rollout=SimpleNamespace(n_samples_per_prompt=GROUP, micro_batch_size=micro_batch),
        train=SimpleNamespace(batch_size=64, seed=0),
        actor=SimpleNamespace(num_nodes=1, num_gpus_per_node=2),
        ds=SimpleNamespace(ring_attn_size=1, tensor_parallel_size=1),
        algo=SimpleNamespace(advantage=SimpleNamespace(lambd=1.0)),
    )

    class WithoutModels(LamerExperienceMaker):
        def __init__(self) -> None:
            self.args, self.strategy = args, SimpleNamespace(args=args)
            self.tokenizer: Any = SimpleNamespace(pad_token_id=0)
            self.config, self.estimator, self.batch = LamerConfig(), "lamer_gigpo", None

    return WithoutModels()


def main() -> None:
    """Take the steps and print what they take."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1024)
    parser.add_argument("--turns", type=int, default=24, help="of a trial")
    parser.add_argument("--prompt", type=int, default=700, help="tokens of a prompt")
    parser.add_argument("--reply", type=int, default=60, help="tokens of a reply")
    parser.add_argument("--micro-batch", type=int, default=4, help="rows of a micro-batch")
    args = parser.parse_args()

    from openrlhf_lamer.integration import cpu

    if not cpu.cuda_available():
        cpu.install()
    from openrlhf_lamer.integration.rollout.sample import TrialExperience
    from openrlhf_lamer.integration.training.batch import PlacedRows, RowBatch, TrialBatch

    maker = trainer(args.micro_batch)
    answer = {"prompt": "", "label": "", "reward": 0.0, "scores": 0.0, "truncated": False}

    def arrive() -> list[TrialExperience]:
        samples = []
        for number in range(args.trials):
            trial = random_trial(number, args.turns, args.prompt, args.reply)
            pickled = pickle.dumps({**answer, "trial": trial}, protocol=5)
            del trial
            samples.append(TrialExperience.from_response(pickle.loads(pickled)))
        return samples

    gc.collect()
    steps = Steps()
    before = steps.megabytes
    with steps.watched():
        samples = steps("trials arrive (and are made up)", arrive)
        batch = steps("TrialBatch.of", lambda: TrialBatch.of(samples, GROUP, 0.25))
        rows = steps("RowBatch.build", lambda: RowBatch.build(batch.trials, multiple=64, train_reflection=True))
        experiences = steps("micro-batches", lambda: rows.micro_batches([0.0] * args.trials, maker._layout))
        steps("credit", lambda: maker._credit_turns(batch, PlacedRows(rows, experiences)))
    tokens = args.trials * args.turns * (args.prompt + args.reply)
    table = Table(title=f"{args.trials:,} trials, {len(rows.rows):,} rows, {tokens:,} tokens")
    for heading in ("after", "seconds", "MB more", "bytes a token"):
        table.add_column(heading, justify="left" if heading == "after" else "right")
    for name, seconds, megabytes in [*steps.rows, ("at the most", 0.0, steps.peak)]:
        table.add_row(name, f"{seconds:.2f}" if seconds else "", f"{megabytes:,.0f}", f"{megabytes * MB / tokens:.0f}")
    console = Console()
    console.print(table)
    console.print(f"With {before:,.0f} MB of imports the process took {before + steps.peak:,.0f} MB.")


if __name__ == "__main__":
    main()
