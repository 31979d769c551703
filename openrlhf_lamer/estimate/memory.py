"""Memory of a GPU by part and phase: weights, gradients, optimizer, activations, logits, and an engine's cache.

Parts are those of DeepSpeed's ZeRO with a bfloat16 model and Adam in float32, of a pass over one micro-batch, and of
vLLM. `docs/estimate.md` has the formulas, where they come from, and what is not counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from openrlhf_lamer.estimate.shapes import BYTES, Shape

GIB = 1 << 30

ADAM = 12
"""Bytes of optimizer state per trained parameter: the parameter and Adam's two moments in float32."""

STEP = 6
"""Bytes that an optimizer step adds per trained parameter: its gradient in float32, and before that a flat copy."""

BUCKET = 500_000_000
"""Numbers in DeepSpeed's buffer of gradients (`reduce_bucket_size`); the host leaves it at the default."""

LIVE = 1_000_000_000
"""Most parameters of a ZeRO-3 model that are gathered at once (`stage3_max_live_parameters`, the default)."""

SUBGROUP = 1_000_000_000
"""Most parameters that ZeRO-3 steps at once (`sub_group_size`, the default)."""

LOGIT = {"train": 20, "train entropy": 24, "score": 6, "score entropy": 14, "train padded": 16, "score padded": 6}
"""Bytes of a logit at the peak of a pass over a micro-batch, its gradient included: copies in bfloat16 and float32."""

ROLLOUT, SCORING, TRAINING, STEPPING = "rollout", "scoring", "training", "step"
CRITIC_PHASES = CRITIC_TRAINING, CRITIC_STEPPING = "critic training", "critic step"
PHASES = (ROLLOUT, SCORING, *CRITIC_PHASES, TRAINING, STEPPING)
"""Phases of a training step; with sleep, a critic is trained before the policy."""


@dataclass(frozen=True)
class Trainer:
    """How models are trained.

    Attributes:
        zero_stage: Stage of ZeRO.
        ranks: Data-parallel ranks.
        tensor_parallel: GPUs that share each layer.
        checkpointing: Whether only the input of each layer is kept for the backward pass.
        offload: Whether the optimizer is in the machine's memory (`--ds.adam_offload`).
        sleep: Whether the optimizer leaves the GPU while it is not needed (`--ds.enable_sleep`).
        overlap: Whether gradients have a second buffer (`--ds.overlap_comm`).
        forest: Whether micro-batches are forests; otherwise they are padded, with logits at every position.
        entropy: Whether entropies are computed (`--actor.entropy_coef`).
        train_tokens: Tokens of a micro-batch in training.
        score_tokens: Tokens of a micro-batch in scoring.
        predicted: Share of a micro-batch's tokens at which logits are made.
        lora_rank: Rank of an adapter; 0 without.
        lora_modules: Linear modules that have one; None for all.
    """

    zero_stage: int = 2
    ranks: int = 1
    tensor_parallel: int = 1
    checkpointing: bool = False
    offload: bool = False
    sleep: bool = False
    overlap: bool = False
    forest: bool = True
    entropy: bool = False
    train_tokens: float = 16192
    score_tokens: float = 16192
    predicted: float = 1.0
    lora_rank: int = 0
    lora_modules: tuple[str, ...] | None = None

    def local(self, shape: Shape, parameters: int) -> float:
        """Parameters of a model on one GPU: tensor parallelism splits the layers' linear modules."""
        return parameters - shape.in_linear * (1 - 1 / self.tensor_parallel)

    def split(self, numbers: float, stage: int) -> float:
        """Numbers on one rank if ZeRO splits them from this stage on."""
        return numbers / self.ranks if self.zero_stage >= stage else numbers


@dataclass(frozen=True)
class Engines:
    """Rollout engines.

    Attributes:
        number: How many there are.
        tensor_parallel: GPUs of one.
        share: Share of a GPU that an engine takes (`--vllm.gpu_memory_utilization`).
        sleep: Whether they leave the GPU while models train (`--vllm.enable_sleep`).
    """

    number: int = 1
    tensor_parallel: int = 1
    share: float = 0.95
    sleep: bool = False


@dataclass(frozen=True)
class Part:
    """A part of a GPU's memory.

    Attributes:
        role: The model: policy, reference, critic or engine.
        name: Its part.
        size: Bytes on one GPU.
        phases: Phases of a training step in which it is on the GPU; in others it does not exist or is in the machine's
            memory.
    """

    role: str
    name: str
    size: float
    phases: frozenset[str]


def peak(parts: Iterable[Part]) -> tuple[str, float]:
    """The phase that needs the most, and its bytes."""
    own = list(parts)
    totals = {phase: sum(part.size for part in own if phase in part.phases) for phase in PHASES}
    return max(totals.items(), key=lambda each: each[1])


def trained(shape: Shape, trainer: Trainer, *, critic: bool = False) -> list[Part]:
    """Parts of a model that is trained, on one GPU of its ranks.

    Args:
        shape: The model.
        trainer: How it is trained.
        critic: Whether it is a critic, which has a value in place of logits.
    """
    role = "critic" if critic else "policy"
    apart = critic and trainer.sleep  # with sleep the critic is trained before the policy
    training, stepping = (CRITIC_TRAINING, CRITIC_STEPPING) if apart else (TRAINING, STEPPING)
    every = frozenset(PHASES)
    own, now = frozenset((training, stepping)), frozenset((training,))
    local, learnt = _parameters(shape, trainer, critic=critic)
    weights = local + (learnt if trainer.lora_rank else 0)
    mine = trainer.split(learnt, 1)
    parts = [Part(role, "weights", BYTES * trainer.split(weights, 3), every)]
    if trainer.zero_stage == 3:
        parts.append(Part(role, "gathered weights", BYTES * min(weights, LIVE), now | {SCORING}))
    buffer = BYTES * BUCKET * (2 if trainer.overlap else 1)
    parts.append(Part(role, "gradient buffer", buffer, now))
    if not trainer.offload:
        parts.append(Part(role, "gradients", BYTES * trainer.split(learnt, 2), own))
        parts.append(Part(role, "optimizer", ADAM * mine, own if trainer.sleep else every))
        at_once = min(mine, SUBGROUP) if trainer.zero_stage == 3 else mine
        parts.append(Part(role, "gradients in float32", STEP * at_once, frozenset((stepping,))))
    parts += [Part(role, name, size, now) for name, size in _pass(shape, trainer, critic=critic)]
    return [*parts, *_scoring(role, shape, trainer, critic=critic)]


def on_cpu(parts: Iterable[Part], shapes: Mapping[str, Shape], trainer: Trainer, engines: Engines) -> float:
    """Bytes of the machine's memory that one GPU's models take while they are not on it.

    Args:
        parts: The GPU's parts.
        shapes: The models that are trained there, by role: policy, critic or both.
        trainer: How they are trained.
        engines: The rollout engines.
    """
    away = {(role, "optimizer") for role in shapes} if trainer.sleep else set()
    away |= {("engine", "weights")} if engines.sleep else set()
    total = sum(part.size for part in parts if (part.role, part.name) in away)
    if trainer.offload:
        learnt = (_parameters(shape, trainer, critic=role == "critic")[1] for role, shape in shapes.items())
        total += sum((ADAM + 4) * trainer.split(own, 1) for own in learnt)
    return total


def reference(shape: Shape, trainer: Trainer, *, offload: bool = False) -> list[Part]:
    """Parts of a reference model; only ZeRO-3 splits it, or takes it off the GPU."""
    every = frozenset(PHASES)
    weights = trainer.local(shape, shape.parameters)
    parts = []
    if not (offload and trainer.zero_stage == 3):
        parts.append(Part("reference", "weights", BYTES * trainer.split(weights, 3), every))
    if trainer.zero_stage == 3:
        parts.append(Part("reference", "gathered weights", BYTES * min(weights, LIVE), frozenset((SCORING,))))
    return [*parts, *_scoring("reference", shape, trainer)]


def engine(shape: Shape, engines: Engines, gpu: float) -> list[Part]:
    """Parts of a rollout engine, on one of its GPUs of `gpu` bytes: its weights, and the rest of its share as cache."""
    awake = (ROLLOUT,) if engines.sleep else PHASES
    split = shape.parameters - shape.in_linear * (1 - 1 / engines.tensor_parallel)
    weights = BYTES * split
    cache = max(0.0, engines.share * gpu - weights)
    return [
        Part("engine", "weights", weights, frozenset(awake)),
        Part("engine", "KV cache", cache, frozenset(awake)),
    ]


def _parameters(shape: Shape, trainer: Trainer, *, critic: bool) -> tuple[float, float]:
    """Parameters of a model on one GPU, and the trained ones, of the model or its adapter, before ZeRO splits them."""
    local = trainer.local(shape, shape.backbone + shape.hidden if critic else shape.parameters)
    if not trainer.lora_rank:
        return local, local
    return local, shape.adapter(trainer.lora_rank, trainer.lora_modules) + (shape.hidden if critic else 0)


def _pass(shape: Shape, trainer: Trainer, *, critic: bool) -> list[tuple[str, float]]:
    """Memory that a forward and backward pass over a micro-batch keeps, and the larger of its two peaks."""
    tokens, layers = trainer.train_tokens, shape.layers
    one = shape.saved(tokens, trainer.lora_rank, trainer.lora_modules) / trainer.tensor_parallel
    kept = layers * tokens * shape.hidden * BYTES if trainer.checkpointing else layers * one
    found = [("activations", kept)]
    logits = 0.0 if critic else _logits(shape, trainer, tokens, "train")
    # Logits are gone when the layers' backward passes begin, and one layer at a time is computed again.
    again = one if trainer.checkpointing else 0.0
    return [*found, ("logits", logits) if logits > again else ("activations of a layer", again)]


def _scoring(role: str, shape: Shape, trainer: Trainer, *, critic: bool = False) -> list[Part]:
    """Memory of a pass without a backward pass."""
    tokens = trainer.score_tokens
    logits = 0.0 if critic else _logits(shape, trainer, tokens, "score")
    layer = shape.saved(tokens) / trainer.tensor_parallel
    name, size = ("logits", logits) if logits > layer else ("activations of a layer", layer)
    return [Part(role, name, size, frozenset((SCORING,)))]


def _logits(shape: Shape, trainer: Trainer, tokens: float, use: str) -> float:
    kind = f"{use} entropy" if trainer.entropy else use
    if not trainer.forest:
        return tokens * shape.vocabulary * LOGIT[f"{use} padded"]
    return tokens * trainer.predicted * shape.vocabulary * LOGIT[kind]
