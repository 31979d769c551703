"""All rollout engines behind one interface: groups of trials go in, and come out when their last trial has ended."""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.integration.rollout.dispatch import Dispatcher, Expectation, Occupancy
from openrlhf_lamer.records import Task, Trial

if TYPE_CHECKING:
    from openrlhf_lamer.integration.rollout.sample import TrialExperience


@dataclass(frozen=True, slots=True)
class EngineReport:
    """Report of an engine: where it runs, and what it plays.

    Attributes:
        host: Name of its machine.
        pid: Its process id there.
        tasks: Task id of each trial that it plays.
    """

    host: str
    pid: int
    tasks: tuple[str, ...]


@dataclass(eq=False)
class Group:
    """The trials of one prompt, ended or not.

    Attributes:
        prompt: The host's prompt.
        label: The task as JSON.
        seeds: A seed for each trial.
        sampling_params: vLLM's, for every reply.
        max_length: Most tokens of a prompt and its reply together.
        evaluating: Whether the trials belong to the host's evaluation set and are not trained.
        samples: The host's sample of each trial; None until the trial has ended.
        learnability: Variance of its live trials' returns; None until the last has ended, and for fewer than two.
        passed: Whether the group may be trained; None until its last trial has ended.
    """

    prompt: str
    label: str
    seeds: tuple[int, ...]
    sampling_params: Any
    max_length: int
    evaluating: bool = False
    samples: list[TrialExperience | None] = field(init=False)
    learnability: float | None = field(default=None, init=False)
    passed: bool | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.samples = [None] * len(self.seeds)

    @property
    def complete(self) -> bool:
        """Whether all trials have ended."""
        return None not in self.samples

    @property
    def live_trials(self) -> list[Trial]:
        """Its trials that have ended and did not fail."""
        trials = [sample.trial for sample in self.samples if sample is not None]
        return [trial for trial in trials if trial is not None and trial.failure is None]


class Engines:
    """Plays trials on the rollout actors. The dispatcher chooses when and where each one starts.

    Args:
        actors: Handles of `LamerRolloutActor`.
        tokenizer: The model's tokenizer.
        config: Holds the number of trials that an engine plays at once.
        seeded: Whether replies are sampled by their trial's seed.
    """

    def __init__(self, actors: Sequence[Any], tokenizer: Any, config: LamerConfig, *, seeded: bool) -> None:
        self._actors = actors
        self._tokenizer, self._seeded = tokenizer, seeded
        self._prepared = False
        self._dispatcher: Dispatcher[tuple[Group, int]] = Dispatcher(len(actors), config.max_concurrent_trials)
        self._expectation = Expectation()
        self._ended: queue.SimpleQueue[tuple[float, tuple[Group, int], Future[Any]]] = queue.SimpleQueue()
        self._occupancy = Occupancy()
        self._cache = (0, 0)

    def submit(self, group: Group, batch: int) -> None:
        """Queue a group's trials; those of earlier batches start first."""
        work = self._expectation.tokens(Task.from_json(group.label))
        for sample in range(len(group.seeds)):
            self._dispatcher.add((group, sample), work, batch)
        self._start()

    def wait(self) -> Group:
        """Wait until a trial ends, start those that may start then, and return the ended trial's group.

        Raises:
            ray.exceptions.RayActorError: The trial's engine died.
        """
        when, (group, sample), future = self._ended.get()
        from openrlhf_lamer.integration.rollout.sample import TrialExperience  # it imports the host

        experience = TrialExperience.from_response(future.result())
        group.samples[sample] = experience
        trial = experience.trial
        assert trial is not None
        tokens = 0 if trial.failure else sum(len(turn.sampled_ids) for turn in trial.turns)
        if tokens:
            self._expectation.learn(trial.task, tokens)
        self._dispatcher.end((group, sample), tokens, when)
        self._occupancy.set(self._dispatcher.running, when)
        self._start()
        return group

    def metrics(self) -> dict[str, float]:
        """Metrics of the time since the last call.

        Keys: `concurrent_trials` (mean over the time in which any ran, all engines together), `idle_slots` (share of
        the slots that played no trial in that time; without a limit, the most trials that ran at once count as slots),
        and `prefix_cache_hit_rate` (share of the prompts' tokens that were in an engine's prefix cache).
        """
        import ray

        mean, most = self._occupancy.read(time.monotonic())
        limit = self._dispatcher.limit
        slots = len(self._actors) * limit if limit else most
        found = {"concurrent_trials": mean, "idle_slots": 1 - mean / slots if slots else 0.0}
        counters = ray.get([actor.prefix_cache.remote() for actor in self._actors])
        queries, hits = (sum(column) for column in zip(*counters, strict=True))
        if queries > self._cache[0]:
            found["prefix_cache_hit_rate"] = (hits - self._cache[1]) / (queries - self._cache[0])
        self._cache = queries, hits
        return found

    def _start(self) -> None:
        if not self._prepared:
            import ray

            ray.get([actor.prepare.remote(self._tokenizer, seeded=self._seeded) for actor in self._actors])
            self._prepared = True
        now = time.monotonic()
        for key, engine in self._dispatcher.start(now):
            group, sample = key
            answer = self._actors[engine].play_trial.remote(
                group.prompt,
                group.label,
                sample,
                group.seeds[sample],
                group.sampling_params,
                group.max_length,
                evaluating=group.evaluating,
            )
            answer.future().add_done_callback(lambda future, key=key: self._ended.put((time.monotonic(), key, future)))
        self._occupancy.set(self._dispatcher.running, now)
