"""Scoring and training of recorded rows: padded, packed, and as forests."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeAlias
from unittest.mock import patch

import numpy as np
import psutil
import torch
from common import peak_memory
from transformers import Qwen3Config, Qwen3ForCausalLM

from openrlhf_lamer.update import forest
from openrlhf_lamer.update.model import log_probs
from openrlhf_lamer.update.plan import by_rows, by_tokens, steps_of_rows

from .recorded import VOCABULARY, Batch

Variant: TypeAlias = Literal["padded", "packed", "forest"]
ROWS, STEP = 8, 64
"""Rows of a padded micro-batch and of an optimizer step."""


@dataclass(frozen=True)
class Shape:
    """Size of a Qwen3."""

    layers: int
    width: int
    heads: int
    shared_heads: int
    head: int
    inner: int
    vocabulary: int = VOCABULARY
    dtype: Literal["float32", "bfloat16"] = "float32"
    checkpointing: bool = False

    def build(self, device: str) -> Any:
        """A model with random weights."""
        torch.manual_seed(0)
        config = Qwen3Config(
            vocab_size=self.vocabulary,
            hidden_size=self.width,
            intermediate_size=self.inner,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.shared_heads,
            head_dim=self.head,
            tie_word_embeddings=True,
            use_cache=False,
        )
        with torch.device(device):
            dtype = getattr(torch, self.dtype)
            model = Qwen3ForCausalLM._from_config(config, attn_implementation="sdpa", dtype=dtype)
        if self.checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        return model.train()


SHAPES = {
    "tiny": Shape(2, 64, 2, 2, 32, 192),
    "small": Shape(6, 320, 5, 5, 64, 960),
    "4b": Shape(36, 2560, 32, 8, 128, 9728, 151_936, "bfloat16", checkpointing=True),
}


@dataclass(frozen=True)
class Cost:
    """Cost of a batch.

    Attributes:
        tokens: Tokens that the model runs in training.
        planning: Seconds of planning micro-batches.
        scoring: Seconds of the forward pass over all rows.
        training: Seconds of forward and backward passes.
        megabytes: Peak growth of memory.
        loss: Policy gradient's loss, summed over the optimizer steps.
        gradient: Norm of that loss's gradient.
    """

    tokens: int
    planning: float
    scoring: float
    training: float
    megabytes: float
    loss: float
    gradient: float

    @property
    def seconds(self) -> float:
        """All seconds."""
        return self.planning + self.scoring + self.training


def plan(variant: Variant, batch: Batch, limit: int) -> tuple[list[list[int]], list[list[list[int]]]]:
    """Micro-batches that are scored, and those that are trained in each optimizer step."""
    rng, ids = np.random.default_rng(0), batch.ids
    if variant == "padded":
        by_length = np.argsort([len(row) for row in ids], kind="stable").tolist()
        shuffled = np.array_split(rng.permutation(len(ids)), -(-len(ids) // STEP))
        return by_rows(by_length, ROWS, 1, rng)[0], [by_rows(step.tolist(), ROWS, 1, rng)[0] for step in shuffled]
    steps = steps_of_rows(batch.owner, STEP, rng)
    every = list(range(len(ids)))
    scored, *trained = (by_tokens(ids, batch.owner, step, limit, 1, rng)[0] for step in (every, *steps))
    return scored, trained


def measure(variant: Variant, batch: Batch, limit: int, shape: Shape, device: str) -> Cost:
    """Run all passes over a batch. On the CPU, call this in a separate process, whose memory is measured."""
    model = _built(shape, device)
    model.set_attn_implementation("sdpa")  # an earlier forest may have changed it
    # Without common beginnings, a forest is its rows side by side.
    with patch.object(forest, "common", lambda a, b: 0) if variant == "packed" else nullcontext():
        if device == "cuda":
            _measured(model, variant, batch, limit, device)  # attention is compiled
        return _measured(model, variant, batch, limit, device)


@cache
def _built(shape: Shape, device: str) -> Any:
    return shape.build(device)


def _measured(model: Any, variant: Variant, batch: Batch, limit: int, device: str) -> Cost:
    model.zero_grad()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    before, times, loss = _memory(device), [_clock(device)], 0.0
    to_score, to_train = plan(variant, batch, limit)
    times.append(_clock(device))
    with torch.no_grad():
        for own in to_score:
            _scored(model, variant, batch, own, device)
    times.append(_clock(device))
    for step in to_train:
        trained = sum(batch.rows[row].sampled for own in step for row in own)
        for own in step:
            weights = torch.tensor(batch.weights[own], dtype=torch.float32, device=device)
            part = -(_scored(model, variant, batch, own, device).sum(1) * weights).sum() / trained
            part.backward()
            loss += part.item()
    times.append(_clock(device))
    peak = torch.cuda.max_memory_allocated() / (1 << 20) if device == "cuda" else peak_memory()
    norms = [each.grad.float().norm() for each in model.parameters() if each.grad is not None]
    planning, scoring, training = np.diff(times).tolist()
    return Cost(
        tokens=sum(_tokens(variant, [batch.ids[row] for row in own]) for step in to_train for own in step),
        planning=planning,
        scoring=scoring,
        training=training,
        megabytes=peak - before,
        loss=loss,
        gradient=float(torch.stack(norms).norm()),
    )


def _tokens(variant: Variant, rows: list[Any]) -> int:
    return len(rows) * max(map(len, rows)) if variant == "padded" else forest.distinct_tokens(rows)


def _scored(model: Any, variant: Variant, batch: Batch, own: list[int], device: str) -> Any:
    """Log-probabilities of a micro-batch, 0 where none is wanted; [rows, length - 1]."""
    rows = [batch.rows[row] for row in own]
    sequences, attention, action = torch.zeros(3, len(rows), max(len(row.ids) for row in rows), dtype=torch.long)
    for line, row in enumerate(rows):
        sequences[line, : len(row.ids)] = torch.tensor(row.ids)
        attention[line, : len(row.ids)] = 1
        for span in row.spans:
            action[line, span.start - 1 : span.end - 1] = 1
    sequences, attention, action = sequences.to(device), attention.to(device), action[:, :-1].to(device)
    if variant != "padded":
        return log_probs(model, sequences, attention, action)[0]
    positions = (attention.cumsum(1) - 1).clamp(min=0)
    logits = model(sequences, attention_mask=attention, position_ids=positions).logits.float()
    following = logits.gather(-1, sequences.roll(-1, 1)[..., None])[..., 0]
    # In parts, as in the host: one sum over all of them takes as much memory again.
    totals = torch.stack([line.logsumexp(-1) for line in logits])
    return (following - totals)[:, :-1] * action


def _memory(device: str) -> float:
    """Megabytes in use."""
    used = torch.cuda.memory_allocated() if device == "cuda" else psutil.Process().memory_info().rss
    return used / (1 << 20)


def _clock(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
