"""Two data-parallel ranks under DeepSpeed on forests, against padded rows in one process. Run by `test_forest.py`.

Prints a line of JSON for ZeRO-2 and for ZeRO-3 with gradient checkpointing: the number of micro-batches of each rank,
and the differences of log-probabilities and (relatively) of the gradient.
"""

from __future__ import annotations

import json
import os
import socket
from typing import Any

import deepspeed
import numpy as np
import torch
import torch.multiprocessing as processes
from test_forest import padded, padded_pass, tiny

from openrlhf_lamer.update.model import log_probs
from openrlhf_lamer.update.plan import by_tokens

RANKS = 2


def rows_of_trials() -> tuple[list[np.ndarray], np.ndarray]:
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(5):
        trunk = rng.integers(1, 17, 40)
        rows += [np.concatenate((trunk[: 8 + 4 * turn], rng.integers(1, 17, 5))) for turn in range(6)]
    return rows, np.repeat(np.arange(5), 6)


def loss(logs: torch.Tensor, own: list[int]) -> torch.Tensor:
    """A loss that gives each prediction of each row a weight of its own."""
    weights = np.stack([np.random.default_rng(row).normal(size=100) for row in own])
    return (logs * torch.from_numpy(weights[:, : logs.shape[1]]).float()).sum()


def batch_of(rows: list[np.ndarray], own: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return padded([rows[row].tolist() for row in own], [[row % 2] * 99 for row in own])


def padded_rows(rows: list[np.ndarray], own: list[list[int]]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Log-probabilities of these micro-batches, and the gradient of all rows, as a mean over ranks."""
    model, every = tiny(), list(range(len(rows)))
    (loss(padded_pass(model, batch_of(rows, every), 1.0)[0], every) / RANKS).backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return [padded_pass(model, batch_of(rows, batch), 1.0)[0].detach() for batch in own], gradient


def forests(stage: int, rows: list[np.ndarray], own: list[list[int]]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The same under DeepSpeed; the gradient is read off a step of plain gradient descent."""
    model = tiny()
    if stage == 3:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    settings = {
        "zero_optimization": {"stage": stage},
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    optimizer: Any = torch.optim.SGD(model.parameters(), lr=1.0)
    engine: Any = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)[0]
    scored = []
    for number, batch in enumerate(own, start=1):
        engine.set_gradient_accumulation_boundary(number == len(own))
        logs, _ = log_probs(engine, *batch_of(rows, batch))
        scored.append(logs.detach())
        engine.backward(loss(logs, batch))
    engine.step()
    parameters = list(engine.module.parameters())
    with deepspeed.zero.GatheredParameters(parameters, enabled=stage == 3):
        return scored, before - torch.cat([p.detach().flatten().clone() for p in parameters])


def work(rank: int, port: int, stage: int) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK="0", WORLD_SIZE="2")
    rows, owner = rows_of_trials()
    shares = by_tokens(rows, owner, range(len(rows)), 90, RANKS, np.random.default_rng(0))
    known, expected = padded_rows(rows, shares[rank])
    deepspeed.init_distributed("gloo")
    scored, gradient = forests(stage, rows, shares[rank])
    if rank == 0:
        found = {
            "micro_batches": [len(share) for share in shares],
            "log_probs": max(float((a - b).abs().max()) for a, b in zip(scored, known, strict=True)),
            "gradient": float((gradient - expected).norm() / expected.norm()),
        }
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    for stage in (2, 3):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            chosen = free.getsockname()[1]
        processes.spawn(work, (chosen, stage), nprocs=RANKS)
