"""Order of training: the optimizer step and the data-parallel rank of each row.

The host trains rows in the order in which it is given them, in steps of `--train.batch_size`. It shuffles each rank's
rows beforehand only without tensor parallelism, so the order must be right already when rows are handed over.
"""

from __future__ import annotations

import numpy as np


def deal(real: int, fillers: int, *, step: int, ranks: int, rng: np.random.Generator) -> list[list[int]]:
    """Positions of rows for each rank, in the order in which they are trained.

    Rows fall into steps and ranks at random. Fillers, which have no token, are spread evenly over the steps. A step
    weighs its tokens by their number, so a step that held most of the fillers would give each token too much weight.

    Args:
        real: Number of real rows, at positions 0 … real - 1.
        fillers: Number of fillers, at the positions after them.
        step: Rows of an optimizer step, over all ranks; it divides `real + fillers`, and `ranks` divides it.
        ranks: Number of data-parallel ranks.
        rng: Source of the order.
    """
    steps = (real + fillers) // step
    # Fillers of each step: ⌊fillers / steps⌋ or one more.
    share = np.full(steps, fillers // steps)
    share[rng.permutation(steps)[: fillers % steps]] += 1
    drawn, filling = rng.permutation(real), real + rng.permutation(fillers)
    shares: list[list[int]] = [[] for _ in range(ranks)]
    taken = filled = 0
    for own in share.tolist():
        rows = np.concatenate((drawn[taken : taken + step - own], filling[filled : filled + own]))
        taken, filled = taken + step - own, filled + own
        for rank, part in enumerate(np.split(rng.permutation(rows), ranks)):
            shares[rank] += part.tolist()
    return shares
