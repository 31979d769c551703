"""A Hugging Face model on the forest of padded rows, with outputs for the rows as the padded pass gives them.

A causal model's output at a token depends only on the token and its ancestors in the row. So a model that takes any
attention mask gives the same outputs on a forest, where each distinct token is computed once and nothing is padded.
Logits are computed only where the action mask is 1.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from transformers import AutoModelForCausalLM

from openrlhf_lamer.update.attention import PIECEWISE, block_mask, dense_mask
from openrlhf_lamer.update.forest import Forest, IntArray

Mask: TypeAlias = Tensor | BlockMask

DENSE = 2048
"""Nodes up to which a dense mask is used on CUDA: below, its square costs less than the blocks' bookkeeping."""


def unable(config: Any) -> str:
    """The reason why a model cannot run a forest, from its configuration; empty where it can."""
    kind = config.model_type
    layers = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if layers:
        return f"{kind} has layers of {' and '.join(sorted(layers))}, which take no mask like a forest's"
    if getattr(config, "layer_types", None) is None and getattr(config, "sliding_window", None):
        return f"{kind} attends within a sliding window"
    known = AutoModelForCausalLM._model_mapping
    if type(config) not in known:
        return f"{kind} is no causal language model of transformers"
    cls: Any = known[type(config)]
    lacks = {"position_ids", "logits_to_keep"} - set(inspect.signature(cls.forward).parameters)
    if lacks or not cls._supports_sdpa or not cls._can_set_attn_implementation():
        return f"{kind} takes no {' and no '.join(sorted(lacks)) or 'attention but its own'}"
    return ""


def log_probs(
    model: Any,
    sequences: Tensor,
    attention_mask: Tensor,
    action_mask: Tensor,
    *,
    temperature: float = 1.0,
    entropy: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities of the tokens that a policy predicts, and the entropies there.

    Args:
        model: A causal language model, or what calls one with the same arguments, such as a training engine.
        sequences: Token ids, padded at the end; [rows, length].
        attention_mask: 1 at tokens, 0 at padding; [rows, length].
        action_mask: 1 where the prediction of the next token is wanted; [rows, length - 1].
        temperature: Divisor of the logits.
        entropy: Whether entropies are wanted too.

    Returns:
        Log-probabilities in float32, 0 outside the mask; [rows, length - 1]. Entropies likewise, or None.
    """
    asked = _Asked.of(sequences, attention_mask, action_mask)
    output = model(
        input_ids=asked.ids,
        attention_mask=_attend(model, asked),
        position_ids=asked.positions,
        logits_to_keep=asked.nodes,
        use_cache=False,
    )
    logits = output.logits[0].float()
    if temperature != 1.0:
        logits = logits / temperature
    total = logits.logsumexp(-1)
    spread = total - (logits.softmax(-1) * logits).sum(-1) if entropy else None
    found = logits[asked.node, asked.targets] - total[asked.node]
    return asked.on_rows(found), None if spread is None else asked.on_rows(spread[asked.node])


def values(backbone: Any, head: Any, sequences: Tensor, attention_mask: Tensor, action_mask: Tensor) -> Tensor:
    """Values of a critic where its mask is 1; shapes as for `log_probs`.

    Args:
        backbone: The model without a head.
        head: From hidden states to a value each; [tokens, hidden] to [tokens, 1].
        sequences: Token ids.
        attention_mask: 1 at tokens.
        action_mask: 1 where a value is wanted.
    """
    asked = _Asked.of(sequences, attention_mask, action_mask)
    output = backbone(
        input_ids=asked.ids, attention_mask=_attend(backbone, asked), position_ids=asked.positions, use_cache=False
    )
    found = head(output.last_hidden_state[0, asked.nodes]).squeeze(-1)
    return asked.on_rows(found[asked.node])


@dataclass(frozen=True)
class _Asked:
    """A forest as a model's input, and where the wanted predictions come from and go to.

    Attributes:
        ids: Token ids; [1, nodes].
        positions: Positions; [1, nodes].
        ends: Node after each node's last descendant; [nodes].
        nodes: Nodes that predict; [predicting].
        node: For each wanted prediction, its node's index in `nodes`; [wanted].
        targets: Its token; [wanted].
        rows: Its row; [wanted].
        columns: Its place in the row; [wanted].
        shape: Rows, and their length less one.
    """

    ids: Tensor
    positions: Tensor
    ends: Tensor
    nodes: Tensor
    node: Tensor
    targets: Tensor
    rows: Tensor
    columns: Tensor
    shape: torch.Size

    @classmethod
    def of(cls, sequences: Tensor, attention_mask: Tensor, action_mask: Tensor) -> _Asked:
        device = sequences.device
        lengths = attention_mask.sum(1).tolist()
        # Nothing follows a row's last token, so no prediction is made there.
        rows: list[IntArray] = [row[: length - 1].numpy() for row, length in zip(sequences.cpu(), lengths, strict=True)]
        forest = Forest.of(rows)
        size = _padded(len(forest)) if _in_blocks(device, len(forest)) else len(forest)

        def moved(values: IntArray, filler: IntArray | None = None) -> Tensor:
            padding = torch.zeros(size - len(forest), dtype=torch.long) if filler is None else torch.from_numpy(filler)
            return torch.cat([torch.from_numpy(values), padding]).to(device)

        line, column = action_mask.nonzero(as_tuple=True)
        starts, where = torch.from_numpy(forest.starts).to(device), torch.from_numpy(forest.nodes).to(device)
        nodes, node = where[starts[line] + column].unique(return_inverse=True)
        of_fillers = torch.arange(len(forest) + 1, size + 1).numpy()  # a filler attends to itself
        return cls(
            moved(forest.ids)[None],
            moved(forest.positions)[None],
            moved(forest.ends, of_fillers),
            nodes,
            node,
            sequences[line, column + 1],
            line,
            column,
            action_mask.shape,
        )

    def on_rows(self, found: Tensor) -> Tensor:
        """Place the result of each prediction in its row, 0 elsewhere; [rows, length - 1]."""
        return found.new_zeros(self.shape).index_put((self.rows, self.columns), found)


def _attend(model: Any, asked: _Asked) -> Mask:
    """Set the model's attention for a forest; returns the mask in the form that this attention takes."""
    ends = asked.ends
    if _in_blocks(ends.device, len(ends)):
        _set_attention(model, "flex_attention")
        return block_mask(ends)
    if ends.device.type == "cuda":
        _set_attention(model, "sdpa")
        return dense_mask(ends)
    _set_attention(model, PIECEWISE)
    return ends[None, None, None]


def _in_blocks(device: torch.device, nodes: int) -> bool:
    """Whether attention skips blocks of nodes."""
    return device.type == "cuda" and nodes > DENSE


def _set_attention(model: Any, name: str) -> None:
    inner = getattr(model, "module", model)  # below a training engine
    base = inner.get_base_model() if hasattr(inner, "get_base_model") else inner  # below an adapter
    if base.config._attn_implementation != name:
        base.set_attn_implementation(name)


def _padded(nodes: int) -> int:
    """The size rounded up to one of four per octave, since attention is compiled once for each size."""
    quarter = 1 << max(7, (nodes - 1).bit_length() - 3)
    return -(-nodes // quarter) * quarter
