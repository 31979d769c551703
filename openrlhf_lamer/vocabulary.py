"""Choices that several commands, the configuration and the code share: their values, and their help, once."""

from __future__ import annotations

from typing import Literal, TypeAlias

ContextPolicy: TypeAlias = Literal["turn", "episode", "trial"]
CONTEXT_HELP = "Where a new chat begins: at each turn, at each episode, or once for the whole trial."

Memory: TypeAlias = Literal["history", "reflection", "both"]
MEMORY_HELP = "Memory of earlier episodes that an episode is shown: their turns, the remarks on them, or both."

THINKING_HELP = (
    "Let the model think in <think>…</think> before it answers, as its chat template allows (on or off). Actions and "
    "remarks are read from what follows. The limit of a reply's tokens holds thoughts and answer together; it is 4096 "
    "by default with thinking, and 1024 without."
)

CrossEpisode: TypeAlias = Literal["paper", "chained", "difference"]
CROSS_EPISODE_HELP = (
    "How later episodes enter a turn's return: by the paper's Eq. 4; chained, in one backward walk through the whole "
    "trial, as in the paper's reference code; or difference, the same walk where each episode is paid what it earns "
    "above the one before, as in MAGE. By default paper, for lamer_ppo chained."
)

Norm: TypeAlias = Literal["mean", "mean_std"]
NORM_HELP = "Centre advantages in their group, or also divide by its spread. By default per estimator."

RewardScheme: TypeAlias = Literal["sparse", "shaped"]
REWARD_HELP = "Rewards that the environment pays: for success only, or also on the way to it."

Forward: TypeAlias = Literal["forest", "padded"]
FORWARD_HELP = (
    "How models run rows: as a forest, each distinct token once, in micro-batches of --train.max_tokens_per_gpu "
    "tokens; or padded, in micro-batches of --train.micro_batch_size rows, as are models that take no such mask."
)

LossWeight: TypeAlias = Literal["token", "turn", "trial"]
LOSS_WEIGHT_HELP = (
    "Unit of equal weight in the policy's loss: a token, a turn (long replies don't outweigh short ones), or a trial "
    "(trials of many turns don't outweigh short ones)."
)

TaskSampling: TypeAlias = Literal["uniform", "learnable"]
TASK_SAMPLING_HELP = (
    "Order of the tasks: shuffled, each once an epoch; or drawn one by one, those whose last groups of trials earned "
    "different returns up to ten times as often as those whose trials all earned the same."
)
