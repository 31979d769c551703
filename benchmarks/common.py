"""Parts that several benchmarks share: tables, memory, a player, an engine's answer, and the trainer without models."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rich.console import Console
from rich.table import Table

from openrlhf_lamer.chat import Chat
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.envs.base import TextEnv
from openrlhf_lamer.policies.scripted import RandomPolicy

THOUGHT = "The state shows what is known so far, and what the last turn changed. I compare what could be done next. "
REMARK = "What was tried here did not work, so begin elsewhere next time and look at everything before acting. "


def grid(title: str, *headings: str, left: tuple[str, ...] = ()) -> Table:
    """A table without rows; columns are aligned right, the first one and those of `left` left."""
    table = Table(title=title)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number == 0 or heading in left else "right")
    return table


def show(table: Table, width: int = 100) -> None:
    """Print a table at its full width, also where the output is no terminal."""
    Console(width=max(Console().width, width)).print(table)


def peak_memory() -> float:
    """Peak memory of this process in megabytes. Not `ru_maxrss`, which a process inherits from its parent."""
    return int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0]) / 1024


class Talker(RandomPolicy):
    """Plays at random, with thoughts that make each reply `tokens` tokens long."""

    def __init__(self, chat: Chat, seed: int, tokens: int) -> None:
        super().__init__(chat, seed)
        self._tokens = tokens

    def act(self, env: TextEnv) -> str:
        """A thought and a random action."""
        return self._filled(THOUGHT, "{}", f"<action>{env.random_action(self._rng)}</action>")

    def reflect(self, env: TextEnv) -> str:
        """A reply that is nothing but a remark."""
        return self._filled(REMARK, "<remark>{}</remark>")

    def _filled(self, filler: str, form: str, ending: str = "") -> str:
        room = self._tokens - len(self._chat.encode(form.format("") + ending)) - len(self._chat.end_of_reply)
        words = self._chat.encode(filler * (1 + room // 8))[: max(0, room)]
        return form.format(self._chat.decode(words)) + ending


def answer(ids: list[int], logprobs: list[Any] | None, reason: str = "stop") -> Any:
    """An engine's answer in vLLM's form."""
    return SimpleNamespace(outputs=[SimpleNamespace(token_ids=ids, logprobs=logprobs, finish_reason=reason)])


def experience_maker(config: LamerConfig, tokenizer: Any, group: int, ranks: int) -> Any:
    """The trainer's experience maker for groups of `group` trials; the scores of its models are made up."""
    from openrlhf_lamer.integration import cpu

    if not cpu.cuda_available():
        cpu.install()
    from openrlhf_lamer.integration.training.experience_maker import LamerExperienceMaker

    class Maker(LamerExperienceMaker):
        def make_experience(self, samples_list: list[Any]) -> list[Any]:
            for sample in samples_list:
                sample.kl, sample.action_log_probs = sample.action_mask * 0.0, sample.action_mask * -0.1
            return samples_list

    args = SimpleNamespace(
        algo=SimpleNamespace(advantage=SimpleNamespace(estimator="lamer_gigpo", lambd=1.0, gamma=1.0)),
        rollout=SimpleNamespace(n_samples_per_prompt=group, max_tokens_per_gpu=None),
        train=SimpleNamespace(batch_size=64, seed=0, max_tokens_per_gpu=16192),
        actor=SimpleNamespace(num_nodes=1, num_gpus_per_node=ranks),
        ds=SimpleNamespace(ring_attn_size=1, tensor_parallel_size=1),
    )
    given: list[Any] = [*[None] * 4, SimpleNamespace(value=0.0), SimpleNamespace(args=args), tokenizer]
    return Maker(*given, config=config, estimator="lamer_gigpo", forest=True)
