"""What the paper compares: prompting and RL baselines, and LaMer, as settings of one and the same trial.

A baseline that is trained differs from one that is not by the model alone, so `rl` is `react` with another
checkpoint, and `lamer` is `rl+memory`. Our prompts differ from those of the methods' own papers: `react` has
no worked examples, and `zero-shot` is the agent's prompt without its request to think first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from openrlhf_lamer.vocabulary import Memory


@dataclass(frozen=True, slots=True)
class Method:
    """How k attempts at a task are made.

    Attributes:
        name: What `--method` takes.
        about: What it is, in a few words.
        memory: What an attempt sees of the earlier ones; None where attempts know nothing of each other. Then each
            is a trial of one episode, and its task's samples stand for attempts.
        reasons: Whether the model is asked to think before it acts.
    """

    name: str
    about: str
    memory: Memory | None
    reasons: bool = True

    @property
    def measure(self) -> str:
        """`success`: won within k attempts, one after the other. `pass`: at least one of k independent attempts won."""
        return "pass" if self.memory is None else "success"


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        method.name: method
        for method in (
            Method("zero-shot", "a prompted model that answers with the action alone", None, reasons=False),
            Method("react", "a prompted model that thinks, then acts", None),
            Method("reflexion", "a prompted model with its reflections on earlier attempts", "reflection"),
            Method("rl", "a model trained on single attempts (PPO, RLOO, GRPO, GiGPO)", None),
            Method("rl+memory", "that model, given earlier attempts and its reflections on them", "both"),
            Method("lamer", "a model trained on trials of several attempts", "both"),
        )
    }
)
