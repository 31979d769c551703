"""Rows that begin alike as a forest: each distinct token once.

Two tokens of two rows are one node where the rows agree up to and including them. A causal model computes the same
there, so it needs to be asked once. Nodes are numbered in depth-first order: the descendants of node k are the nodes
from k + 1 to `ends[k]`, and so one number per node says which nodes attend to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

IntArray: TypeAlias = npt.NDArray[np.integer]


@dataclass(frozen=True)
class Forest:
    """The distinct tokens of rows, in depth-first order.

    Attributes:
        ids: Token of each node; [nodes].
        positions: Position of each node in its rows, from 0; [nodes].
        ends: Node after the last descendant of each node; [nodes]. Node q attends to node k where k ≤ q < ends[k].
        nodes: Node of each token of each row, one row after the other; [tokens].
        starts: Where each row begins in `nodes`, and last the length of `nodes`; [rows + 1].
    """

    ids: IntArray
    positions: IntArray
    ends: IntArray
    nodes: IntArray
    starts: IntArray

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, rows: Sequence[IntArray]) -> Forest:
        """The forest of `rows`, each an array of token ids; a row may be empty, and rows may be equal."""
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        starts = np.concatenate(([0], np.cumsum(lengths)))
        where = np.empty(starts[-1], dtype=np.int64)
        ids, positions, closed = [], [], np.full(starts[-1], -1, dtype=np.int64)
        count, last, path = 0, np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        # In lexical order, rows that share a beginning stand together.
        for index in sorted(range(len(rows)), key=lambda index: lexical(rows[index])):
            row = np.asarray(rows[index], dtype=np.int64)
            same = common(last, row)
            closed[path[same:]] = count
            path = np.concatenate((path[:same], np.arange(count, count + len(row) - same)))
            ids.append(row[same:])
            positions.append(np.arange(same, len(row)))
            where[starts[index] : starts[index + 1]] = path
            count, last = count + len(row) - same, row
        closed[path] = count
        nothing = [np.empty(0, dtype=np.int64)]
        return cls(np.concatenate(ids or nothing), np.concatenate(positions or nothing), closed[:count], where, starts)


def distinct_tokens(rows: Sequence[IntArray]) -> int:
    """Number of distinct tokens of rows: the nodes of their forest."""
    ordered = sorted(rows, key=lexical)
    return sum(map(len, rows)) - sum(common(a, b) for a, b in pairwise(ordered))


def common(a: IntArray, b: IntArray) -> int:
    """Length of the common beginning of two rows."""
    shorter = min(len(a), len(b))
    differ = a[:shorter] != b[:shorter]
    first = int(differ.argmax()) if shorter else 0
    return first if shorter and differ[first] else shorter


def lexical(row: IntArray) -> bytes:
    """Sort key of a row, by its tokens: rows that begin alike stand together."""
    return np.asarray(row).astype(">u4").tobytes()
