"""Small models that think: chat templates of the shapes that real ones have, a tokenizer, a player and a model.

The templates are ours, in ChatML. What each does about thinking is what its namesakes' templates do.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from openrlhf_lamer.agents import Agent
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.envs.base import TextEnv
from openrlhf_lamer.policies.scripted import ScriptedPolicy
from openrlhf_lamer.records import Task, Trial
from openrlhf_lamer.thinking import CLOSE, OPEN

_USER = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
_FORGETS = (
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "<|im_start|>assistant\n{{ m.content.split('</think>')[-1].lstrip('\\n') }}<|im_end|>\n"
    "{% else %}" + _USER + "{% endif %}{% endfor %}"
)
_KEEPS = "{% for m in messages %}" + _USER + "{% endfor %}"
_REPLY = "{% if add_generation_prompt %}<|im_start|>assistant\n"
_SWITCH = "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"

SWITCHED = _FORGETS + _REPLY + _SWITCH + "{% endif %}"
"""Qwen3: a switch that is on by default, off by an empty block; thoughts of earlier replies are dropped."""

OPENED = _FORGETS + _REPLY + "<think>\n{% endif %}"
"""Qwen3-Thinking, DeepSeek-R1 and its distillations: no switch, and the prompt opens the thought."""

SILENT = _FORGETS + _REPLY + "{% endif %}"
"""DeepSeek-R1's first template: no switch, no mark in the prompt, and yet thoughts of earlier replies are dropped."""

KEEPING = (
    "<|im_start|>system\nMode: {{ '/think' if enable_thinking is not defined or enable_thinking else '/no_think' }}"
    "<|im_end|>\n" + _KEEPS + _REPLY + _SWITCH + "{% endif %}"
)
"""SmolLM3: a switch, which a system prompt names too; replies with thoughts stay as they were."""

KEEPING_OPENED = _KEEPS + _REPLY + "<think>\n{% endif %}"
"""A template that opens the thought and keeps those of earlier replies."""

PLAIN = _KEEPS + _REPLY + "{% endif %}"
"""An instruction-tuned model that does not think."""

CLOSED = _FORGETS + _REPLY + "</think>{% endif %}"
"""DeepSeek-V3.1 without its own switch: every prompt closes the thought, whatever `enable_thinking` is."""

Marks = Literal["tokens", "control", "text"]


def thinking(tokenizer: Any, template: str, marks: Marks = "tokens") -> Any:
    """A copy of `tokenizer` with a template, and the marks as tokens, as control tokens, or as ordinary text."""
    from tokenizers import AddedToken

    other = copy.deepcopy(tokenizer)
    other.chat_template = template
    if marks != "text":
        control = marks == "control"
        tokens = [AddedToken(mark, special=control, normalized=False) for mark in (OPEN, CLOSE)]
        other.add_tokens(tokens, special_tokens=control)
    return other


def thought(chat: Chat, thoughts: str, answer: str) -> str:
    """A reply that a model gives to a prompt of `chat`."""
    return f"{'' if chat.opened else OPEN + chr(10)}{thoughts}\n{CLOSE}\n\n{answer}"


class Thinker(ScriptedPolicy):
    """Thinks a sentence, then plays at random; its remark follows a thought too.

    It takes the arguments of a player of `openrlhf-lamer warmstart --player tests/thinking_model.py:Thinker`.
    """

    def __init__(self, chat: Chat, number: int, agent: Agent | None = None, config: LamerConfig | None = None) -> None:
        super().__init__(chat)
        self.rng = random.Random(number)
        self.certain: list[bool] = []

    def act(self, env: TextEnv) -> str:
        """A thought with an action in it, which is not to be played, and a random action."""
        self.certain.append(False)
        return thought(
            self._chat, "Perhaps <action>nothing</action>.", f"<action>{env.random_action(self.rng)}</action>"
        )

    def reflect(self, env: TextEnv) -> str:
        """A thought with a remark in it, which is not to be kept, and a remark."""
        return thought(self._chat, "I could say <remark>nothing</remark>.", "<remark>Try something else.</remark>")


def make_model(
    folder: Path,
    games: Iterable[tuple[Agent, Iterable[Task]]],
    config: LamerConfig,
    *,
    template: str = SWITCHED,
    passes: float = 3,
    max_length: int = 2048,
) -> Chat:
    """Write a tiny model that has imitated `Thinker` into `folder`, in Hugging Face form.

    Args:
        folder: Where it goes.
        games: Agents, each with the tasks of its demonstrations, one trial each; the first ten of each also make the
            tokenizer.
        config: Configuration of the demonstrations, with `thinking`.
        template: Chat template of the model.
        passes: Passes over the demonstrations.
        max_length: Most tokens that the model takes.
    """
    from openrlhf_lamer.warmstart.demonstrations import Rules, demonstrate
    from openrlhf_lamer.warmstart.imitation import Imitation, imitate
    from openrlhf_lamer.warmstart.model import build_model, build_tokenizer, save

    def chat_of(corpus: Iterable[str], vocabulary: int) -> Chat:
        tokenizer = thinking(build_tokenizer(corpus, vocabulary, max_length), template)
        return Chat(tokenizer, thinking=config.thinking, context=config.context)

    def shown(chat: Chat, number: int | None = None) -> list[Trial]:
        return [
            trial
            for agent, tasks in played
            for trial in demonstrate(
                tasks[:number], Rules(agent, config, 400, 1 << 20), chat, lambda seed: Thinker(chat, seed)
            )
        ]

    played = [(agent, list(tasks)) for agent, tasks in games]
    crude = chat_of(["x"], 300)
    chat = chat_of([crude.decode(turn.ids) for trial in shown(crude, 10) for turn in trial.turns], 768)
    model = build_model(chat.tokenizer, hidden=64, layers=2, heads=2, max_length=max_length, seed=0)
    imitate(model, shown(chat), Imitation(passes=passes, learning_rate=5e-3, prompt_weight=3))
    save(model, chat.tokenizer, folder)
    return chat
