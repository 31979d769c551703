"""Rows as forests: the same numbers as the padded pass, from each distinct token once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openrlhf_lamer.chat import Chat
from openrlhf_lamer.policies.scripted import RandomPolicy
from openrlhf_lamer.records import Trial
from openrlhf_lamer.rows import trial_rows
from openrlhf_lamer.update.forest import Forest, common, distinct_tokens

pytest.importorskip("transformers")

import torch
from torch.nn.attention.flex_attention import create_block_mask

from openrlhf_lamer.update import attention
from openrlhf_lamer.update import model as forest_model

Rows = list[list[int]]
# Few tokens, so that rows often begin alike.
ROWS = st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=8), max_size=6)
TWO = st.lists(st.lists(st.integers(1, 3), min_size=2, max_size=9), min_size=1, max_size=6)
SHAPES: dict[str, Rows] = {
    "one row": [[1, 2, 3, 4]],
    "no common beginning": [[1, 2, 3], [2, 2, 3], [3, 2]],
    "one row the beginning of another": [[1, 2, 3], [1, 2, 3, 4, 5], [1, 2]],
    "equal rows": [[1, 2, 3], [1, 2, 3]],
}


def arrays(rows: Rows) -> list[np.ndarray]:
    return [np.array(row, dtype=np.int64) for row in rows]


@given(ROWS)
def test_a_forest_holds_each_beginning_once(rows: Rows) -> None:
    forest = Forest.of(arrays(rows))
    beginnings = {tuple(row[:end]) for row in rows for end in range(1, len(row) + 1)}
    assert len(forest) == len(beginnings) == distinct_tokens(arrays(rows))
    for row, start, end in zip(rows, forest.starts, forest.starts[1:], strict=False):
        path = forest.nodes[start:end]
        assert forest.ids[path].tolist() == row
        assert forest.positions[path].tolist() == list(range(len(row)))
        for depth, node in enumerate(path):
            attended = [k for k in range(len(forest)) if k <= node < forest.ends[k]]
            assert attended == path[: depth + 1].tolist()


@given(st.lists(st.integers(0, 1), max_size=6), st.lists(st.integers(0, 1), max_size=6))
def test_the_common_beginning_is_as_long_as_rows_agree(a: list[int], b: list[int]) -> None:
    expected = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    assert common(np.array(a), np.array(b)) == expected


@given(TWO, st.integers(2, 5))
def test_blocks_and_the_dense_mask_say_the_same(rows: Rows, size: int) -> None:
    ends = torch.from_numpy(Forest.of(arrays(rows)).ends)
    ends = torch.cat([ends, torch.arange(len(ends) + 1, len(ends) + 1 + -len(ends) % size)])
    at, dense = torch.arange(len(ends)), attention.dense_mask(ends)
    with patch.object(attention, "BLOCK", size):
        blocks = attention.block_mask(ends)
    by_rule = blocks.mask_mod(torch.tensor(0), torch.tensor(0), at[:, None], at[None])
    assert torch.equal(dense[0, 0], by_rule)
    assert blocks.shape[-2:] == (len(ends), len(ends))
    expected = create_block_mask(blocks.mask_mod, None, None, len(ends), len(ends), device="cpu", BLOCK_SIZE=size)
    assert torch.equal(blocks.to_dense(), expected.to_dense())
    assert blocks.full_kv_num_blocks is not None
    assert expected.full_kv_num_blocks is not None
    assert torch.equal(blocks.full_kv_num_blocks, expected.full_kv_num_blocks)
    assert torch.equal(blocks.kv_num_blocks, expected.kv_num_blocks)


def tiny(vocabulary: int = 17, head: int = 8) -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=head,
        use_cache=False,
    )
    return Qwen3ForCausalLM._from_config(config, attn_implementation="sdpa").train()


def padded(rows: Rows, masked: Sequence[Sequence[int]]) -> tuple[Any, Any, Any]:
    """Sequences, attention mask and action mask."""
    length = max(map(len, rows))
    sequences = torch.zeros(len(rows), length, dtype=torch.long)
    attention, action = torch.zeros_like(sequences), torch.zeros(len(rows), length - 1, dtype=torch.long)
    for i, (row, mask) in enumerate(zip(rows, masked, strict=True)):
        sequences[i, : len(row)], attention[i, : len(row)] = torch.tensor(row), 1
        action[i, : len(row) - 1] = torch.tensor(mask[: len(row) - 1])
    return sequences, attention, action


def padded_pass(model: Any, batch: tuple[Any, Any, Any], temperature: float) -> tuple[Any, Any]:
    """Log-probabilities and entropies of the padded rows, computed plainly."""
    sequences, attention, action = batch
    positions = (attention.cumsum(1) - 1).clamp(min=0)
    logits = model(sequences, attention_mask=attention, position_ids=positions).logits[:, :-1].float() / temperature
    every = logits.log_softmax(-1)
    return every.gather(-1, sequences[:, 1:, None])[..., 0] * action, -(every.exp() * every).sum(-1) * action


def gradient(model: Any) -> Any:
    return torch.cat([p.grad.flatten() if p.grad is not None else torch.zeros(p.numel()) for p in model.parameters()])


def compare(model: Any, rows: Rows, masked: Sequence[Sequence[int]], temperature: float = 1.0) -> None:
    """Log-probabilities to 1e-5, gradients of a weighted loss to 1e-5 relative."""
    batch = padded(rows, masked)
    weights = torch.randn(batch[2].shape, generator=torch.Generator().manual_seed(1))
    gradients, found = [], []
    for forest in (False, True):
        model.zero_grad()
        if forest:
            own, spread = forest_model.log_probs(model, *batch, temperature=temperature, entropy=True)
            assert spread is not None
        else:
            own, spread = padded_pass(model, batch, temperature)
        ((own + 0.3 * spread) * weights).sum().backward()
        gradients.append(gradient(model))
        found.append((own.detach(), spread.detach()))
    for expected, own in zip(*found, strict=True):
        torch.testing.assert_close(own, expected, atol=1e-5, rtol=0)
    assert (gradients[0] - gradients[1]).norm() <= 1e-5 * gradients[0].norm().clamp(min=1e-3)


@settings(max_examples=30, deadline=None)
@given(TWO, st.integers(0, 2**20), st.sampled_from([1.0, 0.7]))
def test_random_rows_score_as_padded_ones(rows: Rows, bits: int, temperature: float) -> None:
    compare(
        tiny(), rows, [[bits >> (i + j) & 1 for j in range(len(row) - 1)] for i, row in enumerate(rows)], temperature
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_rows_of_each_shape_score_as_padded_ones(shape: str) -> None:
    compare(tiny(), SHAPES[shape], [[1] * (len(row) - 1) for row in SHAPES[shape]])


def test_a_micro_batch_without_a_trained_token_has_a_gradient_of_zero() -> None:
    model = tiny()
    own, spread = forest_model.log_probs(model, *padded([[1, 2, 3]], [[0, 0]]), entropy=True)
    assert spread is not None
    assert own.tolist() == [[0.0, 0.0]]
    (own.sum() + spread.sum()).backward()
    assert gradient(model).abs().sum() == 0


@pytest.mark.parametrize("piece", [1, 2, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_pieces_of_attention_change_nothing(shape: str, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "PIECE", piece)
    compare(tiny(), SHAPES[shape], [[1] * (len(row) - 1) for row in SHAPES[shape]])


@settings(max_examples=50, deadline=None)
@given(ROWS.filter(bool), st.integers(1, 4))
def test_pieces_of_random_forests_attend_as_the_dense_mask_says(rows: Rows, piece: int) -> None:
    ends = torch.from_numpy(Forest.of(arrays(rows)).ends)
    query, key, value = torch.randn(3, 1, 2, len(ends), 8, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, attention.dense_mask(ends))
    with patch.object(attention, "PIECE", piece):
        found, _ = attention.piecewise(torch.nn.Module(), query, key, value, ends[None, None, None])
    torch.testing.assert_close(found.transpose(1, 2), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("blocks", [True, False])
def test_the_ways_of_attention_on_cuda_score_as_padded_rows(blocks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without CUDA: flex attention, compiled for the CPU, on a forest padded to its block size; and a dense mask."""
    monkeypatch.setattr(forest_model, "_in_blocks", lambda device, nodes: blocks)
    model, rows = tiny(head=16).eval(), SHAPES["one row the beginning of another"]
    batch = padded(rows, [[1] * 4] * 3)
    asked = forest_model._Asked.of(*batch)
    assert len(asked.ends) == (attention.BLOCK if blocks else 4)  # the last token of a row predicts nothing
    with torch.no_grad():
        expected, _ = padded_pass(model, batch, 1.0)
        if not blocks:
            monkeypatch.setattr(forest_model, "_attend", dense)
        found, _ = forest_model.log_probs(model, *batch)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert model.config._attn_implementation == ("flex_attention" if blocks else "sdpa")


def dense(model: Any, asked: Any) -> Any:
    forest_model._set_attention(model, "sdpa")
    return attention.dense_mask(asked.ends)


def test_gradient_checkpointing_changes_nothing() -> None:
    model = tiny()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    compare(model, SHAPES["one row the beginning of another"], [[1] * 4] * 3)


def check_values(model: Any, batch: tuple[Any, Any, Any]) -> None:
    """Values of a critic, to 1e-5."""
    head = torch.nn.Linear(16, 1, bias=False)
    sequences, attention, action = batch
    positions = (attention.cumsum(1) - 1).clamp(min=0)
    hidden = model(sequences, attention_mask=attention, position_ids=positions).last_hidden_state
    expected = head(hidden)[:, :-1, 0] * action
    torch.testing.assert_close(forest_model.values(model, head, *batch), expected, atol=1e-5, rtol=0)


@settings(max_examples=20, deadline=None)
@given(TWO)
def test_values_are_those_of_padded_rows(rows: Rows) -> None:
    check_values(tiny().model, padded(rows, [[1] * (len(row) - 1) for row in rows]))


@pytest.mark.parametrize("context", ["turn", "episode", "trial"])
def test_rows_of_real_trials_score_as_padded_ones(chat: Chat, play: Callable[..., Trial], context: str) -> None:
    """Policy, reference (the same without gradients) and critic, on what the engine saw and sampled."""
    trials = [play(RandomPolicy(chat, seed), context=context, seed=7, max_turns=3) for seed in range(2)]
    found = [row for trial in trials for row in trial_rows(trial)]
    rows = [list(row.ids) for row in found]
    assert sum(map(len, rows)) > distinct_tokens(arrays(rows)) > 500
    masked = [[any(span.start <= i + 1 < span.end for span in row.spans) for i in range(len(row.ids))] for row in found]
    vocabulary = len(chat.tokenizer)
    compare(tiny(vocabulary), rows, masked)
    with torch.no_grad():
        model = tiny(vocabulary).eval()
        expected, _ = padded_pass(model, padded(rows, masked), 1.0)
        torch.testing.assert_close(forest_model.log_probs(model, *padded(rows, masked))[0], expected, atol=1e-5, rtol=0)
    check_values(tiny(vocabulary).model, padded(rows, masked))


def test_an_adapter_is_trained_on_a_forest_as_on_padded_rows() -> None:
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(tiny(), peft.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    rows = SHAPES["one row the beginning of another"]
    compare(adapted, rows, [[1] * (len(row) - 1) for row in rows])
    assert all(p.grad is None for name, p in adapted.named_parameters() if "lora_" not in name)


def test_models_that_cannot_run_a_forest_are_told_with_the_reason() -> None:
    from transformers import AutoConfig, BloomConfig, Gemma3TextConfig, MistralConfig, Qwen3Config

    assert forest_model.unable(Qwen3Config()) == ""
    assert forest_model.unable(AutoConfig.for_model("llama")) == ""
    assert forest_model.unable(MistralConfig(sliding_window=None)) == ""
    assert "sliding window" in forest_model.unable(MistralConfig(sliding_window=4096))
    assert "sliding_attention" in forest_model.unable(Gemma3TextConfig())
    assert "position_ids" in forest_model.unable(BloomConfig())


@pytest.mark.timeout(400)
def test_two_ranks_train_on_forests_as_one_process_does_on_padded_rows() -> None:
    """DeepSpeed adds up the micro-batches of a step, under ZeRO-2 and, with gradient checkpointing, ZeRO-3."""
    pytest.importorskip("deepspeed")
    from openrlhf_lamer.integration import cpu

    script, env = Path(__file__).parent / "two_ranks.py", {**os.environ, **cpu.worker_env()}
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, env=env, timeout=380, check=False)
    assert result.returncode == 0, result.stderr[-4000:]
    lines = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    assert len(lines) == 2
    for found in lines:
        assert found["micro_batches"] == [3, 3]
        assert found["log_probs"] < 1e-5
        assert found["gradient"] < 1e-5
