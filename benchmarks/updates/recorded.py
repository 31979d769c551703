"""Trials of random play as rows, and the tokenizer that they are recorded with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import Talker

from openrlhf_lamer import envs
from openrlhf_lamer.agents import load_agent
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.policies.scripted import RandomPolicy, ScriptedPolicy
from openrlhf_lamer.records import Trial
from openrlhf_lamer.rows import Row, trial_rows
from openrlhf_lamer.text_chat import TextChat
from openrlhf_lamer.update.forest import IntArray, distinct_tokens
from openrlhf_lamer.vocabulary import ContextPolicy
from openrlhf_lamer.warmstart.demonstrations import Rules, demonstrate
from openrlhf_lamer.warmstart.model import build_tokenizer

ENVIRONMENTS = ("sokoban", "minesweeper", "webshop", "alfworld")
VOCABULARY, REPLY, LENGTH = 4096, 140, 1 << 30
"""Vocabulary: the tokenizer's limit and the model's size; tokens of a reply; limit of a prompt, which none reaches."""


@dataclass(frozen=True)
class Batch:
    """Rows of trials.

    Attributes:
        rows: The rows.
        owner: For each row, its trial.
        weights: For each row, the weight of its tokens in the loss.
    """

    rows: list[Row]
    owner: IntArray
    weights: np.ndarray

    @property
    def ids(self) -> list[IntArray]:
        """Token ids of each row."""
        return [np.asarray(row.ids) for row in self.rows]

    @property
    def within_trials(self) -> int:
        """Distinct tokens of each trial, summed: the minimum if trials share none."""
        of_trials = (np.flatnonzero(self.owner == trial) for trial in np.unique(self.owner))
        return sum(distinct_tokens([self.ids[row] for row in rows]) for rows in of_trials)


def build_chat() -> Chat:
    """A chat whose tokenizer is trained on the pages of prompts and on texts of random play of all environments."""
    text = TextChat()
    corpus = [page.read_text("utf-8") for page in sorted((Path(__file__).parents[2] / "docs/prompts").glob("*.md"))]
    for env in ENVIRONMENTS:
        played = record(env, "turn", 4, text, lambda seed: RandomPolicy(text, seed))
        corpus += [text.decode(episode.turns[-1].prompt_ids) for trial in played for episode in trial.episodes]
    return Chat(build_tokenizer(corpus, VOCABULARY, LENGTH))


def record(
    env: str, context: ContextPolicy, trials: int, chat: Chat, player: Callable[[int], ScriptedPolicy]
) -> list[Trial]:
    """A trial on each of the first training tasks; `player` makes its player from the trial's number."""
    agent, _ = load_agent(f"openrlhf_lamer.agents.{env}")
    tasks = envs.lookup(env).tasks("train", trials)
    played = demonstrate(tasks, Rules(agent, LamerConfig(context=context), LENGTH // 2, LENGTH), chat, player)
    assert all(trial.failure is None for trial in played), [trial.failure for trial in played]
    return played


def recorded(env: str, context: ContextPolicy, trials: int, chat: Chat) -> Batch:
    """Trials of a random player that thinks before each action."""
    played = record(env, context, trials, chat, lambda seed: Talker(chat, seed, REPLY))
    found = [trial_rows(trial) for trial in played]
    rows = [row for own in found for row in own]
    owner = np.repeat(np.arange(len(found)), [len(own) for own in found])
    return Batch(rows, owner, np.random.default_rng(0).normal(size=len(rows)))
