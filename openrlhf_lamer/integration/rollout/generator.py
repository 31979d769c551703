"""The host's samples generator on trials: it draws prompts, and collects groups into batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator
from openrlhf.trainer.ray.vllm_engine import batch_vllm_engine_call
from openrlhf.utils.logging_utils import init_logger
from tqdm import tqdm
from vllm import SamplingParams

from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.integration.rollout.engines import Engines, Group
from openrlhf_lamer.integration.rollout.learnable_stream import LearnableStream
from openrlhf_lamer.integration.rollout.task_stream import Draw, TaskStream, generation_window, trial_seed
from openrlhf_lamer.learnability import filters_by_wins, learnability, trial_returns
from openrlhf_lamer.metrics import mean

logger = init_logger(__name__)

EVALUATION = -1
"""Batch number of an evaluation: before all batches of training."""


class Rollout(list[Experience]):
    """A batch of trials in whole groups, in the order of their prompts, with metrics of its rollout.

    The host's loops hand it from generation to training, in asynchronous training through a queue.

    Attributes:
        metrics: Flat scalars.
    """

    def __init__(self, groups: Iterable[Group], metrics: dict[str, float]) -> None:
        super().__init__(sample for group in groups for sample in group.samples if sample is not None)
        self.metrics = metrics


class LamerSamplesGenerator(SamplesGenerator):
    """Generates batches of trials, with one call of an engine per trial.

    A batch is the first `--rollout.batch_size` groups, in the order of their prompts, that dynamic filtering lets pass.
    So the tasks that a step trains depend only on the trials' outcomes, and not on which trial was fastest.

    Weights must not change while a trial runs, unless `--train.partial_rollout_enable` allows it: the host locks the
    engines through a whole batch, and this generator leaves nothing running when it returns. With partial rollouts
    there is no such lock, and the trials of the next batch start as those of this one end. They run on while this one
    is trained, so a trial may begin up to one batch earlier than in the host without this package, never more.

    Attributes:
        prompts_dataloader: The host's dataloader as a stream that is read ahead.
    """

    def __init__(
        self,
        strategy: Any,
        prompts_dataloader: Any,
        eval_dataloader: Any,
        tokenizer: Any,
        vllm_engines: Any,
        config: LamerConfig,
        estimator: str,
    ) -> None:
        streams = {"uniform": TaskStream, "learnable": LearnableStream}
        stream = streams[config.task_sampling](prompts_dataloader, strategy.args.train.seed)
        super().__init__(strategy, stream, eval_dataloader, tokenizer, vllm_engines)
        self._stream: TaskStream | LearnableStream = stream
        self._config, self._estimator = config, estimator
        self._engines = Engines(self.vllm_engines, tokenizer, config, seeded=self.args.train.full_determinism_enable)
        self._groups: deque[tuple[Draw, Group]] = deque()

    @classmethod
    def instead_of(cls, host: SamplesGenerator, config: LamerConfig, estimator: str) -> LamerSamplesGenerator:
        """A generator with the prompts and engines of `host`."""
        return cls(
            host.strategy,
            host.prompts_dataloader,
            host.eval_dataloader,
            host.tokenizer,
            host.vllm_engines,
            config,
            estimator,
        )

    def generate_samples(self, **generate_kwargs: Any) -> tuple[Rollout, float | None, int, bool]:
        """One batch to train.

        Returns:
            The batch, smaller or empty at the end of the prompts; the percentage of groups that passed dynamic
            filtering, None where that is off; the number of prompts used up; whether the epoch's prompts are used up.
        """
        args = self.args
        size = args.rollout.batch_size
        partial = args.train.partial_rollout_enable
        window = generation_window(args.rollout.vllm_generate_batch_size, size, partial=partial)
        if not self._groups and not self._stream.open:
            self._stream.begin()
        self._wake()
        while self._stream.held and self._draw(size, generate_kwargs):
            pass
        while not partial and not all(group.complete for _, group in self._groups):
            self._wait()  # trials held in a checkpoint had ended when it was written
        bar = tqdm(total=size, desc="Generate samples")
        if partial or self._ready() < size:
            while True:
                self._fill(window, size, generate_kwargs)
                bar.set_postfix({"groups": len(self._groups)}, refresh=False)
                bar.update(min(self._ready(), size) - bar.n)
                if all(group.complete for _, group in self._groups) or (partial and self._ready() >= size):
                    break
                self._wait()
        bar.close()
        metrics = self._engines.metrics()
        self._sleep()
        return self._deliver(size, metrics)

    def generate_eval_samples(self, **generate_kwargs: Any) -> Rollout:
        """Play the evaluation set once; its trials go before waiting trials of training."""
        self._wake()
        try:
            groups = [
                self._group(prompt, label, "eval", number, generate_kwargs)
                for number, (_, (prompt,), (label,), _) in enumerate(self.eval_dataloader)
            ]
            for group in groups:
                self._engines.submit(group, EVALUATION)
            with tqdm(total=len(groups), desc="Evaluate") as bar:
                while not all(group.complete for group in groups):
                    self._wait()
                    bar.update(sum(group.complete for group in groups) - bar.n)
            return Rollout(groups, self._engines.metrics())
        finally:
            self._sleep()

    def _ready(self) -> int:
        """Number of groups to train that have ended and that no group before them can delay."""
        count = 0
        for _, group in self._groups:
            if not group.complete:
                break
            count += bool(group.passed)
        return count

    def _fill(self, window: int, size: int, generate_kwargs: dict[str, Any]) -> None:
        """Draw prompts until `window` groups are being played or are ready to be trained."""
        while sum(group.passed is not False for _, group in self._groups) < window:
            if not self._draw(size, generate_kwargs):
                break

    def _draw(self, size: int, generate_kwargs: dict[str, Any]) -> bool:
        """Draw a prompt and have its trials played; returns whether there was one."""
        draw = self._stream.draw()
        if draw is not None:
            group = self._group(draw.prompt, draw.label, "train", draw.number, generate_kwargs)
            self._groups.append((draw, group))
            self._engines.submit(group, draw.number // size)
        return draw is not None

    def _wait(self) -> None:
        """Wait for a trial. If it is the last of a group to train, see what the group teaches and whether it passes."""
        group = self._engines.wait()
        if group.complete and not group.evaluating:
            group.learnability = learnability(trial_returns(self._estimator, group.live_trials, self._config))
            group.passed = not self.args.algo.dynamic_filtering_enable or self._passes(group)

    def _passes(self, group: Group) -> bool:
        """Whether a group's trials earned different returns, and its mean score lies within the host's bounds.

        Only the bounds count where an estimator of the host's compares single episodes, as in the host. A group with a
        failed trial passes.
        """
        scores = [sample.scores for sample in group.samples if sample is not None]
        if any(score is None for score in scores):
            return True
        average = sum(float(score) for score in scores if score is not None) / len(scores)
        low, high = self.args.algo.dynamic_filtering_range
        if not low < average < high:
            why = f"a mean score of {average:.2f} is not within ({low:g}, {high:g})"
        elif not group.learnability and not filters_by_wins(self._estimator, self._config):
            why = "all trials earned the same"
        else:
            return True
        logger.info(f"Filtered out {group.prompt}: {why}")
        return False

    def _deliver(self, size: int, metrics: dict[str, float]) -> tuple[Rollout, float | None, int, bool]:
        chosen: list[Group] = []
        taught: list[float] = []
        used = 0
        while self._groups and self._groups[0][1].complete and len(chosen) < size:
            draw, group = self._groups.popleft()
            self._stream.deliver(draw, group.learnability)
            used += 1
            taught += [] if group.learnability is None else [float(group.learnability > 0)]
            if group.passed:
                chosen.append(group)
        rate = 100 * len(chosen) / used if used and self.args.algo.dynamic_filtering_enable else None
        share = mean(taught)
        metrics |= {} if share is None else {"groups_that_teach": share}
        return Rollout(chosen, metrics), rate, used, not self._groups and not self._stream.open

    def _group(self, prompt: str, label: str, split: str, number: int, generate_kwargs: dict[str, Any]) -> Group:
        args, given = self.args, generate_kwargs
        size = given.get("n_samples_per_prompt", args.rollout.n_samples_per_prompt)
        sampling_params = SamplingParams(
            temperature=given.get("temperature", 1.0),
            top_p=given.get("top_p", 1.0),
            top_k=given.get("top_k", -1),
            max_tokens=given.get("max_new_tokens"),
            min_tokens=given.get("min_new_tokens", 1),
            skip_special_tokens=given.get("skip_special_tokens", False),
            logprobs=1 if args.algo.advantage.is_correction_level != "off" else None,
        )
        seeds = tuple(trial_seed(args.train.seed, split, number, sample) for sample in range(size))
        return Group(prompt, label, seeds, sampling_params, given.get("max_len", 2048), evaluating=split == "eval")

    def _wake(self) -> None:
        if self.args.vllm.enable_sleep:
            batch_vllm_engine_call(self.vllm_engines, "wake_up")

    def _sleep(self) -> None:
        if self.args.vllm.enable_sleep:
            batch_vllm_engine_call(self.vllm_engines, "sleep")
