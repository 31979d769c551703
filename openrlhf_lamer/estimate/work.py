"""Work of a training step: trials, rows, tokens, optimizer steps, micro-batches, and seconds at given rates."""

from __future__ import annotations

import math
from dataclasses import dataclass

from openrlhf_lamer.estimate.lengths import Lengths


@dataclass(frozen=True)
class Batch:
    """Sizes of a rollout and of its update.

    Attributes:
        groups: Tasks (`--rollout.batch_size`).
        group_size: Trials of a task (`--rollout.n_samples_per_prompt`).
        step_rows: Rows of an optimizer step (`--train.batch_size`).
        updates: Optimizer steps of a batch, of whole groups (`--lamer.updates`); None for steps of `step_rows` rows.
        epochs: Passes over a batch (`--train.max_epochs`).
        ranks: Data-parallel ranks.
        limit: Most distinct tokens of a micro-batch, or most rows of a padded one.
        forest: Whether micro-batches are forests.
    """

    groups: int
    group_size: int
    step_rows: int
    updates: int | None = None
    epochs: int = 1
    ranks: int = 1
    limit: int = 16192
    forest: bool = True


@dataclass(frozen=True)
class Work:
    """Work of a rollout and its update, over all ranks and engines.

    Attributes:
        trials: Trials.
        replies: Replies of the model.
        sampled: Tokens of the replies.
        prompts: Tokens of the prompts; a prefix cache spares most of them.
        rows: Rows that are trained.
        trained: Tokens that are trained.
        in_rows: Tokens in rows; repetitions count.
        processed: Tokens that a model runs in a pass over the batch.
        optimizer_steps: Optimizer steps, over all epochs.
        micro_batches: Micro-batches of a rank in one optimizer step.
    """

    trials: int
    replies: float
    sampled: float
    prompts: float
    rows: float
    trained: float
    in_rows: float
    processed: float
    optimizer_steps: int
    micro_batches: int


@dataclass(frozen=True)
class Seconds:
    """Seconds of a training step.

    Attributes:
        generation: Time of the rollout.
        scoring: Forward passes of the policy, and of reference and critic where there are any.
        training: Forward and backward passes of the policy, and of a critic.
        step: All of these; where training is asynchronous, the longer of generation and the rest.
    """

    generation: float
    scoring: float
    training: float
    step: float


def work(lengths: Lengths, batch: Batch) -> Work:
    """Work of a training step with trials of these lengths."""
    trials = batch.groups * batch.group_size
    rows = trials * lengths.rows
    steps = optimizer_steps(rows, batch)
    if batch.forest:
        processed = trials * lengths.distinct
        micro = max(1, math.ceil(processed / steps / (batch.limit * batch.ranks)))
    else:
        processed = rows * lengths.longest
        micro = max(1, math.ceil(rows / steps / (batch.limit * batch.ranks)))
    return Work(
        trials=trials,
        replies=trials * lengths.turns,
        sampled=trials * lengths.sampled,
        prompts=trials * lengths.prompts,
        rows=rows,
        trained=trials * lengths.trained,
        in_rows=trials * lengths.in_rows,
        processed=processed,
        optimizer_steps=batch.epochs * steps,
        micro_batches=micro,
    )


def optimizer_steps(rows: float, batch: Batch) -> int:
    """Optimizer steps of one pass over a batch of `rows` rows, as `update.plan` cuts them."""
    if batch.updates is not None:
        return min(batch.updates, batch.groups)
    return max(1, math.ceil(rows / batch.step_rows))


def seconds(
    own: Work,
    batch: Batch,
    *,
    engines: int,
    generated: float,
    trained: float,
    scorers: int = 1,
    learners: int = 1,
    checkpointing: bool = False,
    asynchronous: bool = False,
) -> Seconds:
    """Seconds of a training step at given rates.

    A backward pass counts as two forward passes, and as three with gradient checkpointing.

    Args:
        own: The step's work.
        batch: Its sizes.
        engines: Rollout engines.
        generated: Sampled tokens that one engine makes in a second, with all its trials running.
        trained: Tokens that one data-parallel rank trains in a second, forward and backward.
        scorers: Models that score the batch.
        learners: Models that are trained on it.
        checkpointing: Whether activations are computed again.
        asynchronous: Whether the next batch is played meanwhile.
    """
    generation = own.sampled / (generated * engines)
    a_pass = own.processed / (trained * batch.ranks)
    scoring = scorers * a_pass / (4 if checkpointing else 3)
    training = learners * batch.epochs * a_pass
    update = scoring + training
    return Seconds(generation, scoring, training, max(generation, update) if asynchronous else generation + update)
