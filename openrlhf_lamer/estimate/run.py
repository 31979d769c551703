"""The estimate of a whole run: which models share a GPU, what they need there, and what a step comes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from openrlhf_lamer.estimate import EstimateError, memory
from openrlhf_lamer.estimate.lengths import Lengths
from openrlhf_lamer.estimate.memory import GIB, Engines, Part, Trainer
from openrlhf_lamer.estimate.shapes import Shape
from openrlhf_lamer.estimate.work import Batch, Seconds, Work, seconds, work


@dataclass(frozen=True)
class Run:
    """Figures that an estimate takes from a command line and its models.

    Attributes:
        shape: The policy; engines and reference are of its shape.
        critic: The critic; None without.
        reference: Whether a reference model is loaded.
        reference_scores: Whether a reference scores rows; with LoRA it is the policy, and none is loaded.
        reference_offload: Whether it is kept in the machine's memory where ZeRO can do that.
        batch: Sizes of a rollout and of its update.
        trainer: How models are trained.
        engines: The rollout engines.
        gpus: GPUs of `policy`, `reference` and `critic`.
        colocate_all: Whether all models share GPUs; engines do only where training is not asynchronous.
        colocate_reference: Whether policy and reference share GPUs.
        asynchronous: Whether the next batch is played while this one is trained.
        length: Most tokens of a prompt and its reply.
        concurrent: Most trials at once on an engine; None for all.
    """

    shape: Shape
    batch: Batch
    trainer: Trainer
    engines: Engines
    gpus: Mapping[str, int]
    length: int
    critic: Shape | None = None
    reference: bool = False
    reference_scores: bool = False
    reference_offload: bool = False
    colocate_all: bool = False
    colocate_reference: bool = False
    asynchronous: bool = False
    concurrent: int | None = None


@dataclass(frozen=True)
class Group:
    """GPUs that hold the same models.

    Attributes:
        roles: The models.
        gpus: How many GPUs.
        parts: What each of them holds.
        on_cpu: Bytes of the machine's memory for each of them.
    """

    roles: tuple[str, ...]
    gpus: int
    parts: tuple[Part, ...]
    on_cpu: float


@dataclass(frozen=True)
class Cache:
    """An engine's key-value cache.

    Attributes:
        token: Bytes of a token on one GPU.
        tokens: Tokens that it holds.
        longest: Trials that fit at once where each has the longest sequence.
        typical: The same where each has the longest row of a typical trial.
        concurrent: Trials that run at once on an engine.
    """

    token: int
    tokens: int
    longest: int
    typical: int
    concurrent: int


@dataclass(frozen=True)
class Estimate:
    """All that is computed of a run.

    Attributes:
        parameters: Parameters of the policy.
        learnt: Parameters that are trained: all of these, or those of its adapter.
        work: Work of a training step.
        groups: GPUs and what they hold.
        cache: An engine's key-value cache.
        gpu: Bytes of a GPU.
        seconds: Seconds of a training step; None without rates.
    """

    parameters: int
    learnt: int
    work: Work
    groups: tuple[Group, ...]
    cache: Cache
    gpu: float
    seconds: Seconds | None = None

    def as_dict(self) -> dict[str, Any]:
        """All figures, ready for JSON, with each group's bytes by part and by phase."""
        found = asdict(self)
        for shown, group in zip(found["groups"], self.groups, strict=True):
            shown["parts"] = [{**asdict(part), "phases": sorted(part.phases)} for part in group.parts]
            shown["peak_phase"], shown["peak"] = memory.peak(group.parts)
        return {"computed": True, **found}


def estimate(
    run: Run, lengths: Lengths, gpu: float, *, generated: float | None = None, trained: float | None = None
) -> Estimate:
    """The estimate of a run.

    Args:
        run: The run.
        lengths: Lengths of its trials.
        gpu: Bytes of a GPU.
        generated: Sampled tokens that an engine makes in a second.
        trained: Tokens that a data-parallel rank trains in a second; seconds are estimated where both rates are given.

    Raises:
        EstimateError: An engine's weights don't fit into its share of a GPU.
    """
    own = work(lengths, run.batch)
    sized = replace(run, trainer=_micro_batches(run, lengths, own))
    models = 1 + (run.critic is not None)
    told = None
    if generated is not None and trained is not None:
        told = seconds(
            own,
            run.batch,
            engines=run.engines.number,
            generated=generated,
            trained=trained,
            scorers=models + run.reference_scores,
            learners=models,
            checkpointing=run.trainer.checkpointing,
            asynchronous=run.asynchronous,
        )
    rank = run.trainer.lora_rank
    learnt = run.shape.adapter(rank, run.trainer.lora_modules) if rank else run.shape.parameters
    return Estimate(run.shape.parameters, learnt, own, _groups(sized, gpu), _cache(sized, lengths, gpu), gpu, told)


def _micro_batches(run: Run, lengths: Lengths, own: Work) -> Trainer:
    """The trainer with the tokens of its largest micro-batches: the limit, or all if fewer, but at least a row."""
    trainer, batch = run.trainer, run.batch
    if not batch.forest:
        return replace(
            trainer,
            train_tokens=trainer.train_tokens * lengths.longest,
            score_tokens=trainer.score_tokens * lengths.longest,
        )
    steps = own.optimizer_steps / batch.epochs

    def largest(limit: float, tokens: float) -> float:
        return max(lengths.longest, min(limit, tokens / batch.ranks))

    return replace(
        trainer,
        train_tokens=largest(trainer.train_tokens, own.processed / steps),
        score_tokens=largest(trainer.score_tokens, own.processed),
        predicted=lengths.trained / lengths.distinct,
    )


def _groups(run: Run, gpu: float) -> tuple[Group, ...]:
    """The models of each kind of GPU, in the host's placement."""
    parts = {"policy": memory.trained(run.shape, run.trainer)}
    if run.reference:
        parts["reference"] = memory.reference(run.shape, run.trainer, offload=run.reference_offload)
    if run.critic is not None:
        parts["critic"] = memory.trained(run.critic, run.trainer, critic=True)
    parts["engine"] = memory.engine(run.shape, run.engines, gpu)
    gpus = {**run.gpus, "engine": run.engines.number * run.engines.tensor_parallel}
    with_policy = {"policy"}
    if run.colocate_all:
        with_policy |= {"reference", "critic"} | (set() if run.asynchronous else {"engine"})
    elif run.colocate_reference:
        with_policy.add("reference")
    shared = tuple(role for role in parts if role in with_policy)
    alone = [(role,) for role in parts if role not in with_policy]
    found = []
    for roles in (shared, *alone):
        own = tuple(part for role in roles for part in parts[role] if part.size)
        learning = {"policy": run.shape, "critic": run.critic}
        shapes = {role: shape for role, shape in learning.items() if shape is not None and role in roles}
        on_cpu = memory.on_cpu(own, shapes, run.trainer, run.engines)
        found.append(Group(roles, gpus[roles[0]], own, on_cpu))
    return tuple(found)


def _cache(run: Run, lengths: Lengths, gpu: float) -> Cache:
    token = run.shape.cache(run.engines.tensor_parallel)
    (room,) = (part.size for part in memory.engine(run.shape, run.engines, gpu) if part.name == "KV cache")
    tokens = int(room // token)
    if tokens < run.length:
        raise EstimateError(
            f"--vllm.gpu_memory_utilization {run.engines.share:g} of {gpu / GIB:g} GiB leaves an engine {tokens} "
            f"tokens of cache beside its weights, fewer than one sequence of {run.length} (--data.max_len); give it "
            "more, or --vllm.tensor_parallel_size"
        )
    trials = run.batch.groups * run.batch.group_size
    concurrent = -(-trials // run.engines.number)
    return Cache(
        token=token,
        tokens=tokens,
        longest=tokens // run.length,
        typical=int(tokens // lengths.longest),
        concurrent=min(concurrent, run.concurrent or concurrent),
    )
