"""Imitation of the scripted player, so that the tiny model speaks the format and wins sometimes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from openrlhf_lamer.agents.base import Agent
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.policies.scripted import ScriptedPolicy
from openrlhf_lamer.records import Task, Trial
from openrlhf_lamer.rows import Row, trial_rows
from openrlhf_lamer.trial import run_trial


def demonstrate(
    tasks: Sequence[Task],
    agent: Agent,
    chat: Chat,
    config: LamerConfig,
    *,
    max_new_tokens: int,
    max_length: int,
    player: Callable[[int], ScriptedPolicy],
    progress: Callable[[Iterable[Task]], Iterable[Task]] = iter,
) -> list[Trial]:
    """One trial of a scripted player on each task, by the very loop that training uses.

    `player` makes the player of a trial from the trial's number.
    """

    async def play() -> list[Trial]:
        return [
            await run_trial(
                task,
                agent,
                player(seed),
                chat,
                config,
                max_new_tokens=max_new_tokens,
                max_length=max_length,
            )
            for seed, task in enumerate(progress(tasks))
        ]

    return asyncio.run(play())


def imitate(
    model: Any,
    trials: Sequence[Trial],
    *,
    epochs: int,
    batch_tokens: int,
    learning_rate: float,
    seed: int,
    report: Callable[[float, float], None] = lambda done, loss: None,
) -> float:
    """Train `model` on the demonstrations; returns the last smoothed loss on the sampled tokens.

    Args:
        model: A causal language model in float32.
        trials: Demonstrations.
        epochs: Passes over all rows.
        batch_tokens: Tokens of a batch, padding included.
        learning_rate: Peak of a one-cycle schedule.
        seed: Order of the batches.
        report: Called after each step with the share that is done (0 to 1) and the smoothed loss.
    """
    import torch

    rows = [row for trial in trials if trial.failure is None for row in trial_rows(trial)]
    batches = _batches(rows, batch_tokens)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    steps = epochs * len(batches)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    rng = random.Random(seed)
    smoothed = float("nan")
    model.train()
    for step in range(steps):
        if step % len(batches) == 0:
            rng.shuffle(batches)
        ids, sampled, attention = _tensors(batches[step % len(batches)])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(input_ids=ids, attention_mask=attention).logits[:, :-1]
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        loss, prompts = (losses[where[:, 1:].flatten()].mean() for where in (sampled, attention.bool() & ~sampled))
        # Predicting the prompts too, boards above all, is what teaches so small a model to read them.
        (loss + prompts).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        smoothed = loss.item() if step == 0 else 0.95 * smoothed + 0.05 * loss.item()
        report((step + 1) / steps, smoothed)
    return smoothed


def _batches(rows: Sequence[Row], batch_tokens: int) -> list[list[Row]]:
    """Rows of like length together, as many as fill `batch_tokens` with their padding."""
    batches: list[list[Row]] = [[]]
    for row in sorted(rows, key=lambda row: len(row.ids)):
        if (len(batches[-1]) + 1) * len(row.ids) > batch_tokens and batches[-1]:
            batches.append([])
        batches[-1].append(row)
    return batches


def _tensors(batch: Sequence[Row]) -> tuple[Any, Any, Any]:
    import torch

    longest = max(len(row.ids) for row in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    sampled = torch.zeros_like(ids, dtype=torch.bool)
    attention = torch.zeros_like(ids)
    for line, row in enumerate(batch):
        ids[line, : len(row.ids)] = torch.tensor(row.ids)
        attention[line, : len(row.ids)] = 1
        for span in row.spans:
            sampled[line, span.start : span.end] = True
    return ids, sampled, attention
