"""Length of prompts: random play of every game in every context, against the default of `--data.max_len`.

    python benchmarks/prompts.py [--env sokoban ...] [--tasks 24] [--tokenizer FOLDER]

Without `--tokenizer` tokens are counted by Qwen's own merges, which the package `dashscope` ships
(`pip install --no-deps dashscope`; nothing of it is run). Every reply is `--reply` tokens long, and no prompt
is refused: one counts as fitting if it leaves room for a reply of `--max-new-tokens` in the default length.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from importlib.util import find_spec
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
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n\n</think>\n\n{% endif %}"
)
"""Qwen3's template with thinking switched off, as far as trials use it."""

PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Where Qwen's tokenizers cut a text before they merge: a digit is a token."""


def qwen() -> Any:
    """Qwen's tokenizer, made of the merges that the package `dashscope` ships."""
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import TikTokenConverter

    package = find_spec("dashscope")
    merges = Path(next(iter((package and package.submodule_search_locations) or [""]))) / "resources" / "qwen.tiktoken"
    if not merges.is_file():
        sys.exit("Qwen's merges are missing: pip install --no-deps dashscope, or name a tokenizer with --tokenizer")
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    converted = TikTokenConverter(str(merges), pattern=PIECES, extra_special_tokens=specials).converted()
    converted.add_tokens(["<think>", "</think>"])
    return PreTrainedTokenizerFast(tokenizer_object=converted, eos_token="<|im_end|>", chat_template=CHATML)


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
    parser.add_argument("--tokenizer", help="folder of a Hugging Face tokenizer with a chat template")
    parser.add_argument("--tasks", type=int, default=24, help="tasks of each game, a trial of three attempts for each")
    parser.add_argument("--reply", type=int, default=200, help="tokens of a reply")
    parser.add_argument("--max-new-tokens", type=int, default=MAX_NEW_TOKENS, help="the limit of a reply")
    given = parser.parse_args()
    chat = Chat(qwen()) if given.tokenizer is None else load_chat(Path(given.tokenizer))
    print("| game | context | prompts | median | 95% | longest | default length | fit | fit into 4,096 |")
    print("|---|---|---|---|---|---|---|---|---|")
    for env in given.env:
        tasks = envs.lookup(env).tasks("train", given.tasks)
        for context in get_args(ContextPolicy):
            print(row(env, chat, context, tasks, given.reply, given.max_new_tokens), flush=True)


if __name__ == "__main__":
    main()
