"""Shapes of decoder models: parameters, bytes of the key-value cache, and activations of a layer.

A model is a folder with a `config.json`, or one of `SHAPES`, which are the figures of the models' own configurations.
Qwen3, Qwen2, Llama and Mistral are known; other architectures have other layers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from openrlhf_lamer.doctor.model import context_length, find
from openrlhf_lamer.estimate import EstimateError

BYTES = 2
"""Bytes of a weight, an activation and a cached number: the host runs models in bfloat16."""


@dataclass(frozen=True)
class Shape:
    """A decoder of gated feed-forward layers and grouped-query attention.

    Attributes:
        layers: Number of layers.
        hidden: Width of the hidden states.
        intermediate: Width inside a feed-forward layer.
        heads: Query heads.
        kv_heads: Key-value heads.
        head_dim: Width of a head.
        vocabulary: Rows of the embedding.
        tied: Whether the output layer is the embedding.
        qk_norm: Whether queries and keys are normalised (Qwen3).
        qkv_bias: Whether their projections have a bias (Qwen2).
        length: Most tokens that the model takes; None if unknown.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool = False
    qk_norm: bool = False
    qkv_bias: bool = False
    length: int | None = None

    @property
    def queries(self) -> int:
        """Width of all query heads."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Width of all key heads, and of all value heads."""
        return self.kv_heads * self.head_dim

    @property
    def linear(self) -> Mapping[str, tuple[int, int]]:
        """Input and output width of a layer's linear modules."""
        return {
            "q_proj": (self.hidden, self.queries),
            "k_proj": (self.hidden, self.keys),
            "v_proj": (self.hidden, self.keys),
            "o_proj": (self.queries, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }

    @property
    def in_linear(self) -> int:
        """Weights of all layers' linear modules, which tensor parallelism splits."""
        return self.layers * sum(before * after for before, after in self.linear.values())

    @property
    def backbone(self) -> int:
        """Parameters without the output layer."""
        norms = 2 * self.hidden + (2 * self.head_dim if self.qk_norm else 0)
        biases = self.queries + 2 * self.keys if self.qkv_bias else 0
        return self.vocabulary * self.hidden + self.in_linear + self.layers * (norms + biases) + self.hidden

    @property
    def parameters(self) -> int:
        """All parameters; a shared weight counts once."""
        return self.backbone + (0 if self.tied else self.vocabulary * self.hidden)

    def adapter(self, rank: int, modules: tuple[str, ...] | None = None) -> int:
        """Parameters of a LoRA adapter.

        Args:
            rank: Its rank.
            modules: Linear modules that have one; None for all in the layers.

        Raises:
            EstimateError: A module is none of a layer's linear modules.
        """
        return self.layers * rank * sum(before + after for before, after in self._adapted(modules))

    def cache(self, tensor_parallel: int = 1) -> int:
        """Bytes of the key-value cache of a token on one of an engine's GPUs, in bfloat16."""
        return 2 * self.layers * max(1, self.kv_heads // tensor_parallel) * self.head_dim * BYTES

    def saved(self, tokens: float, rank: int = 0, modules: tuple[str, ...] | None = None) -> float:
        """Bytes that one layer keeps for its backward pass, with attention that keeps no matrix of scores.

        They are what `transformers` layers keep in bfloat16, with norms in float32. An adapter keeps its inner states.
        """
        attention = 4 * self.queries + 4 * self.keys + 4 * self.heads
        if self.qk_norm:
            attention += 6 * self.queries + 6 * self.keys + 4 * self.heads + 4 * self.kv_heads
        inner = BYTES * rank * len(self._adapted(modules)) if rank else 0
        return tokens * (16 * self.hidden + 8 + attention + 8 * self.intermediate + inner)

    def _adapted(self, modules: tuple[str, ...] | None) -> list[tuple[int, int]]:
        linear = self.linear
        unknown = set(modules or ()) - set(linear)
        if unknown:
            raise EstimateError(
                f"--ds.lora.target_modules {' '.join(sorted(unknown))}: only the sizes of {', '.join(linear)} are known"
            )
        return [linear[name] for name in modules or linear]


def _qwen3(layers: int, hidden: int, intermediate: int, heads: int, *, tied: bool = False) -> Shape:
    return Shape(layers, hidden, intermediate, heads, 8, 128, 151936, tied=tied, qk_norm=True, length=40960)


SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        "Qwen/Qwen3-0.6B": _qwen3(28, 1024, 3072, 16, tied=True),
        "Qwen/Qwen3-1.7B": _qwen3(28, 2048, 6144, 16, tied=True),
        "Qwen/Qwen3-4B": _qwen3(36, 2560, 9728, 32, tied=True),
        "Qwen/Qwen3-8B": _qwen3(36, 4096, 12288, 32),
        "Qwen/Qwen3-14B": _qwen3(40, 5120, 17408, 40),
        "meta-llama/Llama-3.1-8B-Instruct": Shape(32, 4096, 14336, 32, 8, 128, 128256, length=131072),
    }
)
"""Models by their names on the Hugging Face hub, for which no network is needed."""

_FAMILIES = {"qwen3": {"qk_norm": True}, "qwen2": {"qkv_bias": True}, "llama": {}, "mistral": {}}


def shape_of(model: str) -> Shape:
    """The shape of a model, from its folder, the hub's cache, or `SHAPES`; the network is not used.

    Args:
        model: Its folder, or its name on the hub.

    Raises:
        EstimateError: The model is not here, or of another architecture.
    """
    _, folder = find(model, offline=True)
    if folder is not None and (folder / "config.json").is_file():
        return _read(folder)
    same = [shape for name, shape in SHAPES.items() if name.split("/")[-1] == model.rstrip("/").split("/")[-1]]
    if not same:
        raise EstimateError(
            f"{model}: no config.json there, and none of {', '.join(SHAPES)}; give the model's folder (its config.json "
            "is enough), or `--model` one of these"
        )
    return same[0]


def _read(folder: Path) -> Shape:
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        family = _FAMILIES.get(str(config.get("model_type")))
        if family is None:
            raise EstimateError(
                f"{folder}: layers of {config.get('model_type')} are not known, only those of {', '.join(_FAMILIES)}; "
                "give `--model` one of like size"
            )
        hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        return Shape(
            int(config["num_hidden_layers"]),
            hidden,
            int(config["intermediate_size"]),
            heads,
            int(config.get("num_key_value_heads") or heads),
            int(config.get("head_dim") or hidden // heads),
            int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", False)),
            length=context_length(folder),
            **family,
        )
    except (OSError, ValueError, LookupError, TypeError) as error:
        if isinstance(error, EstimateError):
            raise
        raise EstimateError(f"{folder / 'config.json'} is no configuration of a model ({error!r})") from error
