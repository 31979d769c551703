"""Imitation of the scripted player, after which the tiny model writes the format and wins sometimes."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from openrlhf_lamer.agents.base import Agent
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.policies.scripted import ScriptedPolicy
from openrlhf_lamer.records import Task, Trial
from openrlhf_lamer.rows import Row, trial_rows
from openrlhf_lamer.trial import run_trial

PROMPT_WEIGHT = 3.0
"""Weight of the loss on prompts, which have most of their tokens in common."""

HEADLESS = 0.7
"""Share of the rows whose rules are cut off. All rows begin with the same rules, a third of their length, which
say nothing about the rest; the model gets used to them at the end."""


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
    """One trial of a scripted player on each task, played by the loop that training uses.

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
    batch_tokens: int,
    learning_rate: float,
    seed: int,
    report: Callable[[float, float], None] = lambda done, loss: None,
) -> float:
    """Train `model` once on each demonstration; returns the last smoothed loss on the sampled tokens.

    Args:
        model: A causal language model in float32.
        trials: Demonstrations.
        batch_tokens: Tokens of a batch, padding included.
        learning_rate: Peak of a one-cycle schedule.
        seed: Order of the batches.
        report: Called after each step with the share of steps done (0 to 1) and the smoothed loss.
    """
    import torch

    rng = random.Random(seed)
    batches = _curriculum(trials, batch_tokens, rng)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=len(batches), pct_start=0.1)
    smoothed = float("nan")
    model.train()
    for step, batch in enumerate(batches):
        ids, sampled, attention = _tensors(batch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(input_ids=ids, attention_mask=attention).logits[:, :-1]
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        loss, prompts = (losses[where[:, 1:].flatten()].mean() for where in (sampled, attention.bool() & ~sampled))
        # Predicting the prompts too, above all the boards, teaches so small a model to read them.
        (loss + PROMPT_WEIGHT * prompts).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        smoothed = loss.item() if step == 0 else 0.95 * smoothed + 0.05 * loss.item()
        report((step + 1) / len(batches), smoothed)
    return smoothed


def _curriculum(trials: Sequence[Trial], batch_tokens: int, rng: random.Random) -> list[list[Row]]:
    """All batches in order: first rows without their common head, then whole rows."""
    rows = [row for trial in trials if trial.failure is None for row in trial_rows(trial)]
    head = _common_head(rows)
    rng.shuffle(rows)
    first = round(HEADLESS * len(rows))
    stages = [
        _batches([_without(row, head) for row in rows[:first]], batch_tokens),
        _batches(rows[first:], batch_tokens),
    ]
    for batches in stages:
        rng.shuffle(batches)
    return [batch for batches in stages for batch in batches]


def _common_head(rows: Sequence[Row]) -> int:
    """Number of tokens that all rows begin with."""
    columns = zip(*(row.ids for row in rows), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, columns))


def _without(row: Row, head: int) -> Row:
    """`row` from position `head` on."""
    spans = (replace(span, start=span.start - head, end=span.end - head) for span in row.spans)
    return Row(row.ids[head:], tuple(spans))


def _batches(rows: Sequence[Row], batch_tokens: int) -> list[list[Row]]:
    """Batches of rows of similar length, each filling `batch_tokens` with its padding."""
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
