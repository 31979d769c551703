"""Length of prompts: random play of every game in every context, against the default of `--data.max_len`.

    python benchmarks/prompts.py --tokenizer FOLDER [--env sokoban ...] [--tasks 24]

FOLDER holds a Hugging Face tokenizer with a chat template, such as Qwen3's. Every reply is `--reply` tokens long, and
no prompt is refused: one fits if it leaves room for a reply of `--max-new-tokens` in the default length.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
from common import Talker

from openrlhf_lamer import envs, room
from openrlhf_lamer.agents import load_agent
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.config import MAX_NEW_TOKENS, LamerConfig
from openrlhf_lamer.evaluation.players import load_chat
from openrlhf_lamer.records import Task
from openrlhf_lamer.trial import run_trial
from openrlhf_lamer.vocabulary import ContextPolicy

LONGEST = 1 << 30


def row(env: str, chat: Chat, context: ContextPolicy, tasks: list[Task], reply: int, limit: int) -> str:
    """A row of the table: tokens of every prompt in a random trial of each task, and how many prompts fit."""
    agent, _ = load_agent(f"openrlhf_lamer.agents.{env}")
    config = LamerConfig(context=context)
    # Options that tasks bring would count as well; these bring none.
    length, _ = room.settle(agent, config, limit, flag="--data.max_len")
    lengths: list[int] = []
    for seed, task in enumerate(tasks):
        limits: dict[str, Any] = {"max_new_tokens": 2 * reply, "max_length": LONGEST}
        trial = asyncio.run(run_trial(task, agent, Talker(chat, seed, reply), chat, config, **limits))
        if trial.failure is not None:
            sys.exit(f"{task.id}: {trial.failure.stage}: {trial.failure.message}")
        lengths += [len(turn.prompt_ids) for turn in trial.turns]
    found = np.array(lengths)
    median, most, longest = (f"{tokens:,.0f}" for tokens in np.quantile(found, [0.5, 0.95, 1]))
    fits, before = (f"{100 * np.mean(found <= end - limit):.1f}%" for end in (length, room.LEAST))
    return f"| {env} | {context} | {len(found):,} | {median} | {most} | {longest} | {length:,} | {fits} | {before} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", nargs="+", default=["sokoban", "minesweeper", "webshop", "alfworld"])
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of a tokenizer with a chat template")
    parser.add_argument("--tasks", type=int, default=24, help="tasks of each game, a trial of three attempts for each")
    parser.add_argument("--reply", type=int, default=200, help="tokens of a reply")
    parser.add_argument("--max-new-tokens", type=int, default=MAX_NEW_TOKENS, help="the limit of a reply")
    given = parser.parse_args()
    chat = load_chat(given.tokenizer, LamerConfig())
    print("| game | context | prompts | median | 95% | longest | default length | fit | fit into 4,096 |")
    print("|---|---|---|---|---|---|---|---|---|")
    for env in given.env:
        tasks = envs.lookup(env).tasks("train", given.tasks)
        for context in get_args(ContextPolicy):
            print(row(env, chat, context, tasks, given.reply, given.max_new_tokens), flush=True)


if __name__ == "__main__":
    main()
