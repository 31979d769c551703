"""Statistics by group, which the estimators share.

Every row i has a key k_i = 0 … K-1 (its group) and a weight w_i. With W_k = Σ_{k_i=k} w_i:

    mean_k = Σ_{k_i=k} w_i x_i / W_k
    std_k² = Σ_{k_i=k} w_i (x_i - mean_k)² / (W_k - 1),   std_k = 1 where W_k ≤ 1

The weights of a *unit* sum to 1, so W_k is the number of units in a group: its trials by default (w = 1 / number of the
trial's turns), its turns under `reference` (w = 1). The trial is the unit because its turns share their future rewards,
so they are not independent draws. Where each trial has one turn, both are the plain sample statistics (ddof 1). Columns
and results are [rows]; a statistic is repeated on every row of its group.
"""

from __future__ import annotations

import numpy as np

from openrlhf_lamer.advantage.table import BoolArray, FloatArray, IntArray, TurnTable
from openrlhf_lamer.vocabulary import Norm

EPS = 1e-6
"""Constant that is added to a standard deviation before it divides."""


def codes(*columns: IntArray) -> IntArray:
    """Dense codes 0 … K-1 of the rows of integer columns: equal codes exactly for equal rows."""
    order = np.lexsort(columns[::-1])
    new = np.zeros(len(order), dtype=bool)
    for column in columns:
        ordered = column[order]
        new[1:] |= ordered[1:] != ordered[:-1]
    out = np.empty(len(order), dtype=np.int64)
    out[order] = np.cumsum(new)
    return out


def anchor_groups(table: TurnTable, reference: bool) -> IntArray:
    """Codes of the anchor groups: the play turns of a group in one environment state.

    Reflections have anchor groups of their own: those of a group on episodes with the same index; under `reference`,
    all reflections of a group.
    """
    reflection = np.zeros_like(table.episode) if reference else table.episode
    return codes(table.group, table.phase, np.where(table.plays, table.anchor, reflection))


def totals(x: FloatArray, key: IntArray) -> FloatArray:
    """Sum of x over the rows with the same key."""
    return np.bincount(key, weights=x).astype(np.float64, copy=False)[key]


def share(weight: FloatArray | BoolArray, key: IntArray) -> FloatArray:
    """Scale the weights of each key to sum to 1; a key whose weights are all 0 keeps them."""
    total = totals(weight.astype(np.float64), key)
    return np.divide(weight, total, out=np.zeros_like(total), where=total > 0)


def units(key: IntArray, weight: FloatArray) -> FloatArray:
    """W_k, the number of units in the row's group."""
    # Weights such as 3 · ⅓ don't add up exactly, but the sum is a whole number.
    return np.rint(totals(weight, key))


def mean(x: FloatArray, key: IntArray, weight: FloatArray) -> FloatArray:
    """Weighted mean of the row's group."""
    return totals(x * share(weight, key), key)


def std(x: FloatArray, key: IntArray, weight: FloatArray) -> FloatArray:
    """Weighted sample standard deviation of the row's group; 1 for a group of one unit."""
    centred = x - mean(x, key, weight)
    count = units(key, weight)
    variance = totals(weight * centred**2, key) / np.maximum(count - 1, 1)
    return np.where(count > 1, np.sqrt(variance), 1.0)


def normalise(x: FloatArray, key: IntArray, weight: FloatArray, norm: Norm | None) -> FloatArray:
    """x - mean, and with "mean_std" (x - mean) / (std + ε)."""
    centred = x - mean(x, key, weight)
    return centred / (std(x, key, weight) + EPS) if norm == "mean_std" else centred
