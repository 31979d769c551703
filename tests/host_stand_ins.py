"""Stand-ins for tests that use the host's classes: to import them skips the test file where the host is missing."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from openrlhf_lamer.integration import cpu
from openrlhf_lamer.records import Failure, FailureKind, Task, Trial

pytest.importorskip("openrlhf")
pytest.importorskip("vllm")

import torch  # noqa: F401  (tests take it from here, behind the check)

if not cpu.cuda_available():
    cpu.install()  # the host imports CUDA's packages otherwise

from openrlhf_lamer.integration.rollout.sample import TrialExperience


def failed(seed: int) -> Trial:
    """A trial that failed because of its engine."""
    return Trial(Task("minesweeper", seed=seed), (), Failure(FailureKind.ENGINE, "generate", "boom"))


def samples_of(trials: Sequence[Trial], gamma: float) -> list[TrialExperience]:
    """The host's samples of `trials`, as the generator makes them; rewards are returns discounted by `gamma`."""
    given = {"prompt": "p", "label": "l", "truncated": False}
    return [
        TrialExperience.from_response(
            given | {"reward": trial.scalar_return(gamma), "scores": float(trial.won), "trial": trial}
        )
        for trial in trials
    ]
