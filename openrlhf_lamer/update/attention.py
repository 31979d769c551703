"""Attention on a forest: as a dense mask, as blocks for flex attention, and piece by piece on the CPU.

One number per node describes the whole mask: node q attends to node k where k ≤ q < ends[k] (`forest.Forest`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

PIECEWISE = "lamer_piecewise"
"""Name of `piecewise` among the attentions of transformers."""

BLOCK = 128
"""Nodes of a block of flex attention."""

PIECE = 512
"""Nodes of a piece: smaller pieces repeat more keys in memory, larger ones compute more masked entries."""


def dense_mask(ends: Tensor) -> Tensor:
    """Whether each node attends to each; [1, 1, nodes, nodes]."""
    at = torch.arange(len(ends), device=ends.device)
    return _attends(at, at, ends)


def block_mask(ends: Tensor) -> BlockMask:
    """The same as blocks of `BLOCK` nodes, of which flex attention skips the empty ones.

    Blocks follow from the first and last end in each, without a mask of nodes times nodes.

    Args:
        ends: The forest's ends, a multiple of `BLOCK` of them; [nodes].
    """
    of_blocks = ends.view(-1, BLOCK)
    first = torch.arange(len(of_blocks), device=ends.device)[:, None] * BLOCK
    before = torch.ones(len(of_blocks), len(of_blocks), dtype=torch.bool, device=ends.device).tril(-1)
    full = before & (of_blocks.amin(1)[None] >= first + BLOCK)
    own = torch.eye(len(of_blocks), dtype=torch.bool, device=ends.device)
    partial = own | before & ~full & (of_blocks.amax(1)[None] > first)

    def attends(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query < ends[key])

    return BlockMask.from_kv_blocks(*_listed(partial), *_listed(full), BLOCK_SIZE=BLOCK, mask_mod=attends)


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """For each block of queries, the number of its blocks of keys, and all blocks with its own first."""
    count = blocks.sum(1, dtype=torch.int32)
    order = blocks.to(torch.int8).argsort(dim=1, descending=True, stable=True)
    return count[None, None], order.to(torch.int32)[None, None]


def piecewise(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attention piece by piece, `PIECE` nodes at a time, to the piece's own nodes and the ancestors of its first one.

    No other nodes are needed: an ancestor of any node of a piece either lies in the piece or is an ancestor of its
    first node too. So the time grows with nodes times depth, and not with the square of nodes, as under a dense mask.

    Args:
        module: The attention layer.
        query: [1, heads, nodes, size]; likewise `key` and `value`, with as many heads or fewer.
        key: As above.
        value: As above.
        attention_mask: The forest's ends, in the shape of a mask that transformers passes through; [1, 1, 1, nodes].
        kwargs: Other arguments that transformers passes to any attention.
    """
    ends = attention_mask[0, 0, 0]
    pieces = []
    for start in range(0, len(ends), PIECE):
        own = torch.arange(start, min(start + PIECE, len(ends)), device=ends.device)
        nodes = torch.cat([(ends[:start] > start).nonzero()[:, 0], own])
        mask = _attends(own, nodes, ends)
        asked = query[:, :, start : start + PIECE]
        pieces.append(sdpa_attention_forward(module, asked, key[:, :, nodes], value[:, :, nodes], mask, **kwargs)[0])
    return torch.cat(pieces, 1), None


def _attends(queries: Tensor, keys: Tensor, ends: Tensor) -> Tensor:
    return ((keys[None] <= queries[:, None]) & (queries[:, None] < ends[keys][None]))[None, None]


AttentionInterface.register(PIECEWISE, piecewise)
