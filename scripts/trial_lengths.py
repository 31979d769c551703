"""Measure the typical lengths of trials, which `openrlhf-lamer estimate` takes where no trials are recorded.

    python scripts/trial_lengths.py --tokenizer FOLDER [--env sokoban ...] [--tasks 24]

FOLDER holds a tokenizer with a chat template, such as Qwen3's. Each game's agent is played at random, with replies of
200 tokens, three attempts a trial, on tasks with the environment's own options. Writes
`openrlhf_lamer/estimate/lengths.json`; games that are not named keep what the file has.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import get_args

import numpy as np

from openrlhf_lamer import envs
from openrlhf_lamer.agents import load_agent
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.estimate.lengths import FILE, REPLY, Stage, stages
from openrlhf_lamer.evaluation.players import load_chat
from openrlhf_lamer.vocabulary import ContextPolicy, Memory
from openrlhf_lamer.warmstart.demonstrations import Rules, demonstrate

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from common import Talker

GAMES = ("sokoban", "minesweeper", "webshop", "alfworld", "doors", "darkroom")
LONGEST = 1 << 30


def measured(env: str, chat: Chat, context: ContextPolicy, memory: Memory, tasks: int) -> dict[str, list[list[float]]]:
    """Means over trials: for each attempt its turns, and its reflection, as the fields of a `Stage`."""
    agent, _ = load_agent(f"openrlhf_lamer.agents.{env}")
    rules = Rules(agent, LamerConfig(context=context, memory=memory), 2 * REPLY, LONGEST)
    trials = demonstrate(envs.lookup(env).tasks("train", tasks), rules, chat, lambda seed: Talker(chat, seed, REPLY))
    found: dict[str, list[list[Stage]]] = {"play": [], "reflect": []}
    for trial in trials:
        for phase, own in stages(trial).items():
            for number, stage in enumerate(own):
                if number == len(found[phase]):
                    found[phase].append([])
                found[phase][number].append(stage)
    return {phase: [np.mean(each, axis=0).round(1).tolist() for each in own] for phase, own in found.items()}


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", nargs="+", default=GAMES, choices=GAMES)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of a tokenizer with a chat template")
    parser.add_argument("--tasks", type=int, default=24, help="tasks of each game, a trial of three attempts for each")
    given = parser.parse_args()
    chat = load_chat(given.tokenizer, LamerConfig())
    content = json.loads(FILE.read_text()) if FILE.is_file() else {}
    for env in given.env:
        agent, _ = load_agent(f"openrlhf_lamer.agents.{env}")
        content[env] = {
            "turns": agent.max_turns,
            **{
                f"{context} {memory}": measured(env, chat, context, memory, given.tasks)
                for context in get_args(ContextPolicy)
                for memory in get_args(Memory)
            },
        }
        print(env, flush=True)
    lines = [
        f" {json.dumps(env)}: {{\n"
        + ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in own.items())
        + "\n }"
        for env, own in content.items()
    ]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")


if __name__ == "__main__":
    main()
