"""The host as this package knows it: which versions, which seams, which flags.

Everything here reads the host's source without importing it, so that a wrong version or
flag is reported at once and not after a quarter of a minute of imports.
"""

from __future__ import annotations

import argparse
import ast
import importlib.metadata
import importlib.util
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Literal, TypeAlias

from openrlhf_lamer import LamerError

CLI = "openrlhf.cli.train_ppo_ray"

KNOWN_VERSIONS = ("0.11.2",)
"""Versions of OpenRLHF that the tests run against."""


class HostError(LamerError, RuntimeError):
    """The host is missing or does not have the seams that this package builds on."""


@dataclass(frozen=True, slots=True)
class Seam:
    """A name in the host that this package replaces, subclasses or calls."""

    file: str
    name: str
    why: str


SEAMS = (
    Seam("utils/agent.py", "AgentExecutorBase.execute", "an agent is called through it"),
    Seam("trainer/ray/vllm_engine.py", "create_vllm_engines", "engines are watched"),
    Seam("trainer/ray/vllm_engine.py", "RolloutRayActor.generate", "token ids in, token ids out"),
    Seam("trainer/ppo_utils/samples_generator.py", "SamplesGenerator.generate_samples", "a batch of trials"),
    Seam("trainer/ppo_utils/samples_generator.py", "SamplesGenerator.generate_eval_samples", "evaluation"),
    Seam("trainer/ppo_utils/experience.py", "Experience.concat_experiences", "micro-batches of rows"),
    Seam("trainer/ppo_utils/experience_maker.py", "RemoteExperienceMaker.make_experience", "scoring of rows"),
    Seam("trainer/ppo_utils/experience_maker.py", "RemoteExperienceMaker.make_experience_batch", "trials to rows"),
    Seam("trainer/ppo_utils/experience_maker.py", "RemoteExperienceMaker.get_cumulative_returns", "stock credit"),
    Seam("trainer/ppo_utils/experience_maker.py", "RemoteExperienceMaker.get_advantages_and_returns", "stock credit"),
    Seam("trainer/ppo_utils/length_penalty.py", "apply_length_penalties", "stock credit"),
    Seam("models/utils.py", "compute_reward", "stock credit"),
    Seam("trainer/ppo_trainer.py", "PPOTrainer.fit", "the training loop"),
    Seam("trainer/ppo_trainer.py", "PPOTrainer.evaluate", "evaluation"),
    Seam("trainer/ppo_trainer.py", "BasePPOTrainer.train_step", "one training step"),
    Seam("trainer/ppo_trainer.py", "BasePPOTrainer.ppo_train", "the actor may be frozen at first"),
    Seam("trainer/ppo_trainer_async.py", "TrainingActor.fit", "the asynchronous training loop"),
    Seam("trainer/ppo_trainer_async.py", "GenerateSamplesActor._run_eval", "evaluation in it"),
    Seam("trainer/ppo_trainer.py", "BasePPOTrainer._compute_rollout_stats", "rollout statistics"),
    Seam("trainer/ray/ppo_actor.py", "PolicyModelActor.fit", "what was trained is counted there"),
    Seam("trainer/ray/ppo_actor.py", "ActorPPOTrainer.training_step", "what was trained is counted there"),
    Seam("trainer/ray/ppo_critic.py", "CriticPPOTrainer.training_step", "fillers have no value"),
    Seam("cli/train_ppo_ray.py", "train", "the host's entry"),
)


CLIP_RANGE = (-10, 10)
"""Default of the host's `--reward.clip_range`."""

Baseline: TypeAlias = Literal["none", "mean", "others", "spread", "batch"]
"""The host's baseline of a sample's reward: nothing, the mean of its group, the mean of the others in its group,
the mean and spread of its group, or the mean of the whole batch."""


@dataclass(frozen=True, slots=True)
class HostEstimator:
    """One of the host's advantage estimators.

    Attributes:
        baseline: What a reward is compared with. The host does this before it clips rewards.
        critic: Whether it works with a critic.
        discounts: Whether it discounts by `--algo.advantage.gamma`; otherwise the discount is 1.
        whitens: Whether advantages are centred and scaled over the tokens of the batch.
    """

    baseline: Baseline = "none"
    critic: bool = False
    discounts: bool = False
    whitens: bool = False

    @property
    def needs_group(self) -> bool:
        """Whether it compares the samples of one prompt."""
        return self.baseline not in ("none", "batch")

    def compared(self, least: float, most: float, group: int, batch: int) -> tuple[float, float]:
        """Bounds of a reward after the baseline, which is what the host clips.

        Args:
            least: Least that a sample can earn.
            most: Most that it can earn.
            group: Samples of a prompt.
            batch: Samples of a batch.
        """
        if self.baseline == "none":
            return least, most
        if self.baseline == "spread":
            # One sample that differs from all others, whatever it earns.
            return -(group - 1) / math.sqrt(group), (group - 1) / math.sqrt(group)
        size = {"others": math.inf, "mean": group, "batch": batch}[self.baseline]
        span = (most - least) * (1 - 1 / size)
        return -span, span


ESTIMATORS: Mapping[str, HostEstimator] = {
    "gae": HostEstimator(critic=True, discounts=True, whitens=True),
    "reinforce": HostEstimator(discounts=True, whitens=True),
    "reinforce_baseline": HostEstimator("mean", whitens=True),
    "dr_grpo": HostEstimator("mean"),
    "rloo": HostEstimator("others"),
    "group_norm": HostEstimator("spread"),
    "flash_reinforce": HostEstimator("batch"),
}
"""The host's estimators by name."""


def host_version() -> str:
    """The installed version of OpenRLHF."""
    try:
        return importlib.metadata.version("openrlhf")
    except importlib.metadata.PackageNotFoundError as error:
        raise HostError(
            "OpenRLHF is not installed. With CUDA: pip install 'openrlhf-lamer[gpu]'; without: `make venv`"
        ) from error


def probe() -> str | None:
    """Check the installed host against the seams; returns a warning for an untested version that has them all.

    Raises:
        HostError: naming what is missing and the versions known to work.
    """
    version = host_version()
    missing = [seam for seam in SEAMS if seam.name not in _names(seam.file)]
    known = ", ".join(KNOWN_VERSIONS)
    if missing:
        listed = "; ".join(f"{seam.name} in openrlhf/{seam.file} ({seam.why})" for seam in missing)
        raise HostError(f"OpenRLHF {version} does not fit: it lacks {listed}. Known to work: openrlhf=={known}")
    if version not in KNOWN_VERSIONS:
        return f"OpenRLHF {version} is untested with this package; known to work: openrlhf=={known}"
    return None


def host_parser() -> argparse.ArgumentParser:
    """The host's own argument parser, built by running the lines of its source that build it.

    Raises:
        HostError: if these lines are not where they are expected.
    """
    body = _main_block(_source("cli/train_ppo_ray.py"))
    lines = []
    for statement in body:
        if "parse_args" in ast.unparse(statement):
            break
        lines.append(statement)
    else:
        raise HostError(
            f"openrlhf/cli/train_ppo_ray.py parses no arguments. Known to work: openrlhf=={KNOWN_VERSIONS[0]}"
        )
    names = {"argparse": argparse, "os": os, "datetime": datetime}
    exec(compile(ast.Module(lines, []), "openrlhf/cli/train_ppo_ray.py", "exec"), names)
    return names["parser"]  # pyright: ignore[reportReturnType]


def _main_block(tree: ast.Module) -> list[ast.stmt]:
    for statement in tree.body:
        if isinstance(statement, ast.If) and "__main__" in ast.unparse(statement.test):
            return statement.body
    raise HostError("openrlhf/cli/train_ppo_ray.py has no __main__ block")


def _source(file: str) -> ast.Module:
    spec = importlib.util.find_spec("openrlhf")
    if spec is None or not spec.submodule_search_locations:
        raise HostError("OpenRLHF is not installed")
    path = Path(next(iter(spec.submodule_search_locations))) / file
    if not path.is_file():
        raise HostError(f"OpenRLHF {host_version()} has no {file}. Known to work: openrlhf=={KNOWN_VERSIONS[0]}")
    return ast.parse(path.read_text())


@cache
def _names(file: str) -> frozenset[str]:
    """Top-level functions and classes of a host file, and the classes' methods, inherited ones not."""
    names: set[str] = set()
    for node in _source(file).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {
                f"{node.name}.{method.name}"
                for method in node.body
                if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef)
            }
    return frozenset(names)
