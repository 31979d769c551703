"""Engines that end trials in any order, and a generator of samples on them; importing it needs the host."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from stand_ins import generator_strategy

pytest.importorskip("openrlhf")

from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.integration import cpu
from openrlhf_lamer.records import Episode, Failure, FailureKind, Phase, Stop, Task, Trial, Turn
from openrlhf_lamer.vocabulary import TaskSampling

if not cpu.cuda_available():
    cpu.install()

TASKS = 24
SIZE = 4
SAMPLES = 3


def loader(*, shuffle: bool = True) -> Any:
    """Prompts as the host loads them: one by one, able to save where it is; those of training in a random order."""
    from torchdata.stateful_dataloader import StatefulDataLoader

    rows = [(None, f"minesweeper:seed={seed}", Task("minesweeper", seed=seed).to_json(), None) for seed in range(TASKS)]
    return StatefulDataLoader(
        rows,  # pyright: ignore[reportArgumentType]
        batch_size=1,
        shuffle=shuffle,
        collate_fn=lambda batch: tuple(list(column) for column in zip(*batch, strict=True)),
    )


def trial_of(label: str, sample: int, seed: int, outcome: str) -> Trial:
    """A trial that failed (f), or of episodes of one turn that were won (1), lost (0), or lost with a penalty (p)."""
    failure = Failure(FailureKind.ENGINE, "generate", "no") if outcome == "f" else None
    episodes = []
    for number, end in enumerate(outcome):
        reward, ids = {"1": 10.0, "p": -0.5}.get(end, 0.0), tuple(range(5 + sample))
        turn = Turn(Phase.PLAY, number, 0, (1, 2), ids, None, "", "(1, 1)", end != "p", reward, "s", "")
        episodes.append(Episode((turn,), Stop.WON if end == "1" else Stop.LOST, ""))
    return Trial(Task.from_json(label), tuple(episodes), failure, sample, seed)


class Simulated:
    """Engines: whenever a caller waits, one of them, chosen at random, ends a trial."""

    def __init__(self, engines: int, seed: int, outcome: Callable[[Task, int], str]) -> None:
        self.rng = random.Random(seed)
        self.outcome = outcome
        self.running: list[tuple[int, Future[Any], dict[str, Any]]] = []
        self.most = [0] * engines
        self.played: list[tuple[str, int, int]] = []
        self.evaluated: list[tuple[str, int, int]] = []
        self.tokenizers = 0
        self.actors = [self._actor(number) for number in range(engines)]
        self.results: deque[Any] = deque()

    def _actor(self, number: int) -> Any:
        def play_trial(
            prompt: str,
            label: str,
            sample: int,
            seed: int,
            sampling_params: Any,
            max_length: int,
            *,
            evaluating: bool,
        ) -> Any:
            trial = trial_of(label, sample, seed, self.outcome(Task.from_json(label), sample))
            response = {"prompt": prompt, "label": label, "reward": 0.0, "truncated": False, "trial": trial}
            future: Future[Any] = Future()
            self.played.append((trial.task.id, sample, seed))
            self.evaluated += self.played[-1:] if evaluating else []
            self.running.append((number, future, response | {"scores": float(trial.won)}))
            self.most[number] = max(self.most[number], sum(engine == number for engine, *_ in self.running))
            return SimpleNamespace(future=lambda: future)

        def prepare(tokenizer: Any, *, seeded: bool) -> None:
            self.tokenizers += 1

        methods = {"play_trial": play_trial, "prepare": prepare, "prefix_cache": lambda: (100, 40)}
        return SimpleNamespace(**{name: SimpleNamespace(remote=method) for name, method in methods.items()})

    # What stands in for the queue of trials that have ended:
    def put(self, item: Any) -> None:
        self.results.append(item)

    def get(self) -> Any:
        while not self.results:
            _, future, response = self.running.pop(self.rng.randrange(len(self.running)))
            future.set_result(response)
        return self.results.popleft()


Make = Callable[..., tuple[Any, Simulated]]
"""Makes a generator of trials on simulated engines."""


def generator_on_simulated(
    monkeypatch: pytest.MonkeyPatch,
    *,
    outcome: Callable[[Task, int], str] = lambda task, sample: "1",
    seed: int = 0,
    limit: int | None = None,
    partial: bool = False,
    filtering: bool = False,
    generated: int = SIZE,
    state: Any = None,
    shares: tuple[float, float] = (-1, 2),
    estimator: str = "lamer_rloo",
    sampling: TaskSampling = "uniform",
    episodes: int = 3,
) -> tuple[Any, Simulated]:
    """A generator of trials on two simulated engines.

    Args:
        monkeypatch: Puts the engines in their place.
        outcome: How each trial of a task ends.
        seed: Seed of the order in which trials end.
        limit: Most trials that an engine plays at once.
        partial: Whether the next batch's trials start as this batch's trials end.
        filtering: Whether there is dynamic filtering.
        shares: Bounds of the share of wins for it.
        generated: Groups that are generated at once.
        state: State of a checkpoint.
        estimator: The estimator.
        sampling: Order of tasks.
        episodes: Most episodes of a trial.
    """
    import ray

    from openrlhf_lamer.integration.rollout import engines as module
    from openrlhf_lamer.integration.rollout.generator import LamerSamplesGenerator

    monkeypatch.setattr(ray, "get", lambda answers: answers)
    simulated = Simulated(2, seed, outcome)
    monkeypatch.setattr(module.queue, "SimpleQueue", lambda: simulated)
    settings: Any = {"partial": partial, "filtering": filtering, "shares": shares}
    strategy = generator_strategy(SIZE, SAMPLES, generated, seed=42, **settings)
    config = LamerConfig(max_concurrent_trials=limit, task_sampling=sampling, num_episodes=episodes)
    nothing: Any = None
    generator = LamerSamplesGenerator(
        strategy, loader(), loader(shuffle=False), nothing, simulated.actors, config, estimator
    )
    if state is not None:
        generator.prompts_dataloader.load_state_dict(state)
    return generator, simulated


def epoch(generator: Any) -> list[tuple[list[Trial], int, Any]]:
    """All batches of an epoch, each with the prompts it used up and the checkpoint after it."""
    batches = []
    while True:
        samples, _, used, exhausted = generator.generate_samples(temperature=1.0, max_len=100)
        if samples:
            batches.append(([s.trial for s in samples], used, generator.prompts_dataloader.state_dict()))
        if exhausted:
            return batches


def tasks(batch: Sequence[Trial]) -> list[str]:
    return [trial.task.id for trial in batch]


def some_alike(task: Task, sample: int) -> str:
    """A third of the groups is all won, one group has a failure, the others are mixed."""
    assert task.seed is not None
    if task.seed % 3 == 0:
        return "1"
    return "f" if task.seed == 7 and sample == 1 else "01"[sample % 2]
