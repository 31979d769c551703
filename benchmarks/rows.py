"""What a growing chat saves: the same trials as a row a turn (`turn`) and as a row an episode (`episode`).

    python benchmarks/rows.py [--env minesweeper ...] [--tokenizer FOLDER]

A scripted player plays the same tasks in both contexts with replies of one length, so that what is sampled is equal
and the prompts alone differ. It avoids to end an episode, and only trials whose episodes all have as many turns as they
may are counted. Printed by that number: the tokens that training processes, reflections included, their ratio, and the
same of the best time of some forward and backward passes over them with one layer of a model (rows sorted by length in
micro-batches, as the trainer has them).
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from openrlhf_lamer.agents import load_agent
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.envs.base import TextEnv
from openrlhf_lamer.policies.scripted import RandomPolicy, ScriptedPolicy
from openrlhf_lamer.quickstart.model import build_model, build_tokenizer
from openrlhf_lamer.quickstart.warmstart import demonstrate
from openrlhf_lamer.records import Trial
from openrlhf_lamer.rows import Row, trial_rows
from openrlhf_lamer.tasks import seeded_tasks

LONGEST = 1 << 20
THOUGHT = "The state shows what is known so far, and what the last turn changed. I compare what could be done next. "
CONTEXTS = ("turn", "episode")


class Talker(RandomPolicy):
    """Makes random moves that don't end the episode, after thinking for as long as makes every reply `tokens` long."""

    def __init__(self, chat: Chat, seed: int, tokens: int) -> None:
        super().__init__(chat, seed)
        self._tokens = tokens

    def act(self, env: TextEnv) -> str:
        """A thought and an action; one that ends the episode if others were not found."""
        action = ""
        for _ in range(20):
            action = env.random_action(self._rng)
            step = copy.deepcopy(env).step(action)
            if not (step.terminated or step.truncated):
                break
        return self._thinking(f"<action>{action}</action>")

    def reflect(self, env: TextEnv) -> str:
        """A thought and a remark."""
        return self._thinking("<remark>What was tried here did not work; begin elsewhere next time.</remark>")

    def _thinking(self, ending: str) -> str:
        room = self._tokens - len(self._chat.encode(ending)) - len(self._chat.end_of_reply)
        thought = self._chat.encode(THOUGHT * (1 + room // 8))[: max(0, room)]
        return self._chat.decode(thought) + ending


@dataclass(frozen=True)
class Passed:
    """What training passes through the model for some episodes."""

    rows: tuple[Row, ...]

    @property
    def tokens(self) -> int:
        """Prompt and sampled tokens."""
        return sum(len(row.ids) for row in self.rows)

    @property
    def sampled(self) -> int:
        """Sampled tokens."""
        return sum(row.sampled for row in self.rows)


def play(env: str, chat: Chat, context: str, trials: int, tokens: int, turns: int) -> list[Trial]:
    """Random trials of up to `turns` turns an episode, of the same tasks and alike in every context but for prompts."""
    agent, _ = load_agent(f"openrlhf_lamer.agents.{env}")

    def player(seed: int) -> ScriptedPolicy:
        return Talker(chat, seed, tokens)

    config = LamerConfig.model_validate({"context": context, "max_turns": turns})
    tasks = seeded_tasks(env, "train", trials)
    return demonstrate(tasks, agent, chat, config, max_new_tokens=2 * tokens, max_length=LONGEST, player=player)


def full(trials: Sequence[Trial], turns: int) -> Passed:
    """Rows of the trials whose episodes all have this many turns."""
    kept = [trial for trial in trials if all(len(episode.turns) == turns for episode in trial.episodes)]
    return Passed(tuple(row for trial in kept for row in trial_rows(trial)))


def seconds(model: Any, rows: Sequence[Row], micro_batch: int) -> float:
    """Time of one forward and backward pass over all rows."""
    import torch

    torch.set_num_threads(1)  # more of them measure the machine's other work
    ordered = sorted(rows, key=lambda row: len(row.ids))
    began = time.perf_counter()
    for start in range(0, len(ordered), micro_batch):
        batch = ordered[start : start + micro_batch]
        ids = torch.zeros(len(batch), len(batch[-1].ids), dtype=torch.long)
        for line, row in enumerate(batch):
            ids[line, : len(row.ids)] = torch.tensor(row.ids)
        logits = model(input_ids=ids).logits  # what is padded stands behind, where no token looks
        torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
        model.zero_grad()
    return time.perf_counter() - began


def tokenizer_for(env: str) -> Any:
    """A small tokenizer made of what is said in the game."""
    crude = Chat(build_tokenizer(["x"], 300, LONGEST))
    corpus = [crude.decode(turn.ids) for trial in play(env, crude, "turn", 8, 600, 7) for turn in trial.turns]
    return build_tokenizer(corpus, 2048, LONGEST)


def compare(
    env: str,
    tokenizer: Any,
    *,
    trials: int,
    tokens: int,
    lengths: Sequence[int],
    micro_batch: int,
    runs: int,
    hidden: int,
) -> dict[int, float]:
    """Play, time and print one environment; gives the ratio of tokens by the length of episodes."""
    chat = Chat(tokenizer)
    model = build_model(tokenizer, hidden=hidden, layers=1, heads=8, max_length=32768, seed=0)
    print(f"\n{env}: {trials} trials of up to 3 episodes, replies of about {tokens} tokens")
    print(f"{'':>12} {'':>9} {'tokens':>29} {'seconds':>22}")
    print(f"{'turns trials':>12} {'sampled':>9}" + f" {'turn':>10} {'episode':>8} {'ratio':>6}" * 2)
    ratios: dict[int, float] = {}
    for length in lengths:
        by_turn, by_episode = (full(play(env, chat, c, trials, tokens, length), length) for c in CONTEXTS)
        assert by_turn.sampled == by_episode.sampled, "the contexts were not played alike"
        if not by_turn.rows:
            print(f"{length:>5} {0:>6}")
            continue
        slow, fast = (
            min(seconds(model, passed.rows, micro_batch) for _ in range(runs)) if runs else math.nan
            for passed in (by_turn, by_episode)
        )
        ratios[length] = by_episode.tokens / by_turn.tokens
        print(
            f"{length:>5} {len(by_episode.rows) // 3:>6} {by_turn.sampled:>9,} {by_turn.tokens:>10,} "
            f"{by_episode.tokens:>8,} {ratios[length]:>6.2f} {slow:>10.2f} {fast:>8.2f} {fast / slow:>6.2f}"
        )
    return ratios


def main() -> None:
    """Compare the contexts on each environment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", nargs="+", default=["minesweeper", "sokoban"], help="environments with an agent")
    parser.add_argument("--tokenizer", help="folder of a Hugging Face tokenizer; by default a small one is made")
    parser.add_argument("--trials", type=int, default=8, help="trials to play")
    parser.add_argument("--turns", type=int, nargs="+", default=range(1, 8), help="turns of an episode")
    parser.add_argument("--reply", type=int, default=150, help="tokens of a reply")
    parser.add_argument("--micro-batch", type=int, default=4, help="rows of a micro-batch")
    parser.add_argument("--runs", type=int, default=2, help="passes that are timed; 0 for none")
    parser.add_argument(
        "--hidden", type=int, default=1024, help="width of the model's layer; the wider, the less attention weighs"
    )
    arguments = parser.parse_args()
    for env in arguments.env:
        if arguments.tokenizer:
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer)
        else:
            tokenizer = tokenizer_for(env)
        compare(
            env,
            tokenizer,
            trials=arguments.trials,
            tokens=arguments.reply,
            lengths=arguments.turns,
            micro_batch=arguments.micro_batch,
            runs=arguments.runs,
            hidden=arguments.hidden,
        )


if __name__ == "__main__":
    main()
