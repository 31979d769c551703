"""Removing and restoring padding in plain torch, with the signatures of flash_attn 2.8."""

from __future__ import annotations

import torch
from einops import rearrange

__all__ = ["index_first_axis", "pad_input", "rearrange", "unpad_input"]


def index_first_axis(values: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """The rows of `values` that `indices` name."""
    return values.index_select(0, indices)


def unpad_input(
    hidden_states: torch.Tensor, attention_mask: torch.Tensor, unused_mask: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int, torch.Tensor]:
    """Pack the tokens of a padded batch into one row.

    Returns the packed tokens, their places in the flattened batch, the cumulated lengths of the sequences, the longest
    length, and how many tokens of each sequence `attention_mask` itself counts.
    """
    kept = attention_mask if unused_mask is None else attention_mask + unused_mask
    indices = kept.reshape(-1).nonzero().squeeze(-1)
    lengths = kept.sum(dim=1, dtype=torch.int32)
    bounds = torch.zeros(len(lengths) + 1, dtype=torch.int32, device=lengths.device)
    bounds[1:] = lengths.cumsum(0)
    packed = index_first_axis(hidden_states.flatten(0, 1), indices)
    return packed, indices, bounds, int(lengths.max()), attention_mask.sum(dim=1, dtype=torch.int32)


def pad_input(hidden_states: torch.Tensor, indices: torch.Tensor, batch: int, seqlen: int) -> torch.Tensor:
    """Put packed tokens back to their places in a batch of zeros."""
    shape = hidden_states.shape[1:]
    padded = hidden_states.new_zeros((batch * seqlen, *shape))
    padded[indices] = hidden_states
    return padded.view(batch, seqlen, *shape)
