"""Methods that the paper compares (prompting and RL baselines, and LaMer), as settings of one and the same trial.

A baseline that is trained differs from one that is not only by the model, so `rl` is `react` with another
checkpoint, and `lamer` is `rl+memory`. Our prompts differ from those of the methods' own papers: `react` has
no worked examples, and `zero-shot` is the agent's prompt without its request to think first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

from openrlhf_lamer.vocabulary import Memory

MethodName: TypeAlias = Literal["zero-shot", "react", "reflexion", "rl", "rl+memory", "lamer"]


@dataclass(frozen=True, slots=True)
class Method:
    """Way to make k attempts at a task.

    Attributes:
        name: What `--method` takes.
        memory: Memory of earlier attempts; None where attempts are independent. Then each is a trial of one episode,
            and the samples of a task stand for attempts.
        reasons: Whether the model is asked to think before it acts.
    """

    name: MethodName
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
            Method("zero-shot", None, reasons=False),
            Method("react", None),
            Method("reflexion", "reflection"),
            Method("rl", None),
            Method("rl+memory", "both"),
            Method("lamer", "both"),
        )
    }
)
