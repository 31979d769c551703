"""Imitation of demonstrations by maximum likelihood, each distinct token of a batch run once."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from openrlhf_lamer.records import Trial
from openrlhf_lamer.rows import Row, trial_rows


@dataclass(frozen=True)
class Imitation:
    """Settings of imitation.

    Attributes:
        passes: Passes over the demonstrations; at least one of them is read.
        batch_tokens: Tokens of a batch's rows, not counting the beginning that all rows share.
        learning_rate: Peak of a one-cycle schedule.
        prompt_weight: Weight of the mean loss on prompts beside that on replies. Predicting its prompts teaches a tiny
            model from scratch to read them; a pretrained one needs none.
        seed: Order of trials.
    """

    passes: float = 1.0
    batch_tokens: int = 4096
    learning_rate: float = 1e-3
    prompt_weight: float = 0.1
    seed: int = 0


def imitate(
    model: Any,
    trials: Sequence[Trial],
    settings: Imitation,
    report: Callable[[float, float], None] = lambda done, loss: None,
) -> float:
    """Train `model` on the replies of demonstrations; returns the last smoothed loss on their tokens.

    Args:
        model: A causal language model in float32.
        trials: Demonstrations; those that failed are left out.
        settings: Settings.
        report: Called after each step with the share of steps done (0 to 1) and the smoothed loss.
    """
    import torch

    batches = _batches(trials, settings)
    rate = settings.learning_rate
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    warmup = 0.1 + 1e-9  # with a tenth, torch divides by zero where there are ten batches
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=len(batches), pct_start=warmup)
    smoothed = float("nan")
    model.train()
    for step, batch in enumerate(batches):
        found, sampled, prompts = scored(model, batch, prompts=settings.prompt_weight > 0)
        loss = -found[sampled].mean()
        total = loss - settings.prompt_weight * found[prompts].mean() if settings.prompt_weight else loss
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        smoothed = loss.item() if step == 0 else 0.95 * smoothed + 0.05 * loss.item()
        report((step + 1) / len(batches), smoothed)
    return smoothed


def scored(model: Any, rows: Sequence[Row], *, prompts: bool = False) -> tuple[Any, Any, Any]:
    """Log-probabilities of tokens given those before, and which tokens were sampled and which stand in prompts.

    Args:
        model: A causal language model.
        rows: Rows of trials.
        prompts: Whether the tokens of prompts are wanted too; the first token of a row never is.

    Returns:
        Log-probabilities, and two masks; each [rows, length - 1].
    """
    import torch

    from openrlhf_lamer.update.model import log_probs, unable

    longest = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    sampled = torch.zeros_like(ids, dtype=torch.bool)
    attention = torch.zeros_like(ids)
    for line, row in enumerate(rows):
        ids[line, : len(row.ids)] = torch.tensor(row.ids)
        attention[line, : len(row.ids)] = 1
        for span in row.spans:
            sampled[line, span.start : span.end] = True
    device = model.device
    ids, attention, sampled = ids.to(device), attention.to(device), sampled.to(device)[:, 1:]
    others = attention[:, 1:].bool() & ~sampled
    with torch.autocast(device.type, dtype=torch.bfloat16):
        if unable(model.config):
            logits = model(input_ids=ids, attention_mask=attention).logits[:, :-1].float()
            found = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        else:
            wanted = sampled | others if prompts else sampled
            found, _ = log_probs(model, ids, attention, wanted.long())
    return found, sampled, others


def _batches(trials: Sequence[Trial], settings: Imitation) -> list[list[Row]]:
    """Batches of whole trials in random order, over all passes."""
    own = [rows for trial in trials if trial.failure is None and (rows := trial_rows(trial))]
    head = _common_head([row for rows in own for row in rows])
    rng = random.Random(settings.seed)
    batches: list[list[Row]] = []
    room = 0
    left = max(1, round(settings.passes * len(own)))
    while left > 0:
        order = rng.sample(own, min(left, len(own)))
        left -= len(order)
        for rows in order:
            size = sum(len(row.ids) - head for row in rows)
            if not batches or size > room:
                batches.append([])
                room = settings.batch_tokens
            batches[-1] += rows
            room -= size
    return batches


def _common_head(rows: Sequence[Row]) -> int:
    """Number of tokens that all rows begin with."""
    ids = [tuple(row.ids) for row in rows]
    first, last = min(ids), max(ids)  # what these two have in common, all have
    return next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
