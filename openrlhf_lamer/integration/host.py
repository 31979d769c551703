"""Facts about the host: versions, seams, estimators, defaults, and flags that don't go with trials.

Everything here reads the host's source without importing it, so that a wrong version or flag is reported at once and
not after a quarter of a minute of imports.

To support another version of OpenRLHF:

1. Install it and start any training: `probe` names each seam that is missing or has other parameters.
2. Compare the host's methods with our subclasses of their classes: `rollout/{executor,actor,generator}.py` and
   `training/{experience_maker,trainer,actors,lora}.py`. Correct `SEAMS` with them.
3. Compare `ESTIMATORS`, `CLIP_RANGE` and `ENVIRONMENT` with the host, and look for new flags that belong to `REFUSED`
   or `REFUSED_WITH_LORA`.
4. Compare `cpu/patches.py` with what the host and vLLM now take from CUDA.
5. Run `make test`, then add the version to `KNOWN_VERSIONS`, `VLLM_VERSION` and pyproject.toml.
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
from openrlhf_lamer.config import MAX_NEW_TOKENS

CLI = "openrlhf.cli.train_ppo_ray"

KNOWN_VERSIONS = ("0.11.2",)
"""Versions of OpenRLHF that the tests run against."""

VLLM_VERSION = "0.29"
"""Version of vLLM that CPU mode patches."""

ENVIRONMENT = {"TOKENIZERS_PARALLELISM": "true", "NCCL_DEBUG": "WARN", "RAY_ENABLE_ZERO_COPY_TORCH_TENSORS": "1"}
"""Variables that the host sets for its workers in `ray.init`, but not if Ray is already running."""


class HostError(LamerError, RuntimeError):
    """The host is missing or does not have the seams that this package builds on."""


@dataclass(frozen=True, slots=True)
class Seam:
    """A name in the host that this package replaces, subclasses or calls.

    Attributes:
        file: File of the host, below its package.
        name: Function, class or method there.
        why: Its part in this package.
        uses: Parameters (fields of a dataclass) that this package passes, in the host's order.
    """

    file: str
    name: str
    why: str
    uses: tuple[str, ...] = ()


_GENERATOR, _MAKER = "trainer/ppo_utils/samples_generator.py", "trainer/ppo_utils/experience_maker.py"
_TRAINER, _ASYNC = "trainer/ppo_trainer.py", "trainer/ppo_trainer_async.py"
_ENGINE, _EXPERIENCE = "trainer/ray/vllm_engine.py", "trainer/ppo_utils/experience.py"
_ACTOR, _LAUNCHER = "trainer/ray/ppo_actor.py", "trainer/ray/launcher.py"
_LOGGING = "utils/logging_utils.py"
_GROUP = ("num_nodes", "num_gpus_per_node", "ray_actor_type")
_EXECUTE = ("prompt", "label", "sampling_params", "max_length", "hf_tokenizer", "llm_engine", "images")
_FIELDS = (
    *("sequences", "attention_mask", "action_mask", "rollout_log_probs", "values", "returns", "advantages", "kl"),
    *("rewards", "scores", "response_length", "truncated", "total_length", "index", "prompts", "labels", "info"),
)
_GENERATES = ("strategy", "prompts_dataloader", "eval_dataloader", "tokenizer", "vllm_engines")
_MAKES = (
    *("actor_model_group", "critic_model_group", "reward_model_group", "initial_model_group"),
    *("kl_controller", "strategy", "tokenizer"),
)
_BUFFER, _CRITIC = "trainer/ppo_utils/replay_buffer.py", ("experience", "step", "loss_batch_info")
_STEP = ("experience", "kl_ctl", "step", "loss_batch_info")
_ACTS = ("sequences", "action_mask", "attention_mask", "return_output", "return_entropy")
_BEST = ("eval_metrics", "global_step", "client_states")
_REWARD = ("r", "kl_coef", "kl", "action_mask", "reward_clip_range")

SEAMS = (
    Seam("utils/agent.py", "AgentExecutorBase.execute", "an agent is called through it", _EXECUTE),
    Seam(_ENGINE, "create_vllm_engines", "engines are watched"),
    Seam(_ENGINE, "RolloutRayActor.generate", "token ids in and out", ("prompt_token_ids", "sampling_params")),
    Seam(_ENGINE, "batch_vllm_engine_call", "engines sleep and wake", ("engines", "method_name")),
    Seam(_GENERATOR, "SamplesGenerator.__init__", "a batch of trials", _GENERATES),
    Seam(_GENERATOR, "SamplesGenerator.generate_samples", "a batch of trials", ("generate_kwargs",)),
    Seam(_GENERATOR, "SamplesGenerator.generate_eval_samples", "evaluation", ("generate_kwargs",)),
    Seam("datasets/prompts_dataset.py", "PromptDataset.__getitem__", "tasks are drawn by what they taught", ("idx",)),
    Seam("datasets/prompts_dataset.py", "PromptDataset.collate_fn", "the same", ("item_list",)),
    Seam(_EXPERIENCE, "Experience", "a sample that is a trial, and rows", _FIELDS),
    Seam(_EXPERIENCE, "Experience.concat_experiences", "micro-batches of rows", ("experiences_list", "pad_token_id")),
    Seam(_MAKER, "RemoteExperienceMaker.__init__", "trials to rows", _MAKES),
    Seam(_MAKER, "RemoteExperienceMaker.make_experience", "scoring of rows", ("samples_list",)),
    Seam(_MAKER, "RemoteExperienceMaker.make_experience_batch", "trials to rows", ("rollout_samples",)),
    Seam(_MAKER, "RemoteExperienceMaker.get_cumulative_returns", "stock credit", ("rewards", "action_mask", "gamma")),
    Seam(
        _MAKER,
        "RemoteExperienceMaker.get_advantages_and_returns",
        "stock credit",
        ("values", "rewards", "action_mask", "gamma", "lambd"),
    ),
    Seam("trainer/ppo_utils/length_penalty.py", "apply_length_penalties", "stock credit", ("experiences", "args")),
    Seam("models/utils.py", "compute_reward", "stock credit", _REWARD),
    Seam(_TRAINER, "PPOTrainer.fit", "the training loop"),
    Seam(_TRAINER, "PPOTrainer.evaluate", "evaluation", ("global_step", "generate_kwargs")),
    Seam(_TRAINER, "BasePPOTrainer.train_step", "one training step", ("rollout_samples", "global_step")),
    Seam(_TRAINER, "BasePPOTrainer.ppo_train", "the actor may be frozen at first", ("global_steps",)),
    Seam(_TRAINER, "BasePPOTrainer._compute_rollout_stats", "rollout statistics", ("experiences",)),
    Seam(_ASYNC, "TrainingActor.fit", "the asynchronous training loop"),
    Seam(_ASYNC, "GenerateSamplesActor.fit", "whether training goes on", ("episode", "total_consumed_prompts")),
    Seam(_ASYNC, "GenerateSamplesActor._run_eval", "evaluation in it"),
    Seam(_ASYNC, "GenerateSamplesActor._should_eval", "evaluation before the first step", ("global_step",)),
    Seam(_TRAINER, "BasePPOTrainer.save_best_checkpoint", "none before the first step", _BEST),
    Seam(_TRAINER, "BasePPOTrainer.init_checkpoint_states", "none where training goes on from a checkpoint"),
    Seam(_LOGGING, "TensorboardLogger.__init__", "settings are logged through its `writer`", ("args",)),
    Seam(_LOGGING, "WandbLogger.__init__", "settings are logged through its `handle`", ("args",)),
    Seam(_ACTOR, "PolicyModelActor.fit", "what was trained is counted there", ("kl_ctl",)),
    Seam(_ACTOR, "ActorPPOTrainer.training_step", "what was trained is counted there", _STEP),
    Seam(
        _ACTOR, "PolicyModelActor.forward", "with LoRA, the reference", ("sequences", "action_mask", "attention_mask")
    ),
    Seam(_ACTOR, "ActorPPOTrainer.broadcast_to_vllm", "with LoRA, engines get merged weights"),
    Seam("trainer/ray/ppo_critic.py", "CriticPPOTrainer.training_step", "its figures are means of tokens", _CRITIC),
    Seam("models/model.py", "get_llm_for_sequence_regression", "with LoRA, the critic's head is trained"),
    Seam("models/actor.py", "Actor.forward", "forests", _ACTS),
    Seam(_BUFFER, "NaiveReplayBuffer.append", "micro-batches as planned", ("experience",)),
    Seam(_BUFFER, "NaiveReplayBuffer.setup_dynamic_batch", "micro-batches as planned", ("strategy",)),
    Seam(_LAUNCHER, "RayActorGroup.__init__", "with LoRA, no reference is loaded", _GROUP),
    Seam(_LAUNCHER, "RayActorGroup.async_run_method_batch", "with LoRA, the reference", ("method_name",)),
    Seam(_LAUNCHER, "ReferenceModelActor.init_model_from_pretrained", "forests", ("strategy",)),
    Seam("cli/train_ppo_ray.py", "train", "the host's entry", ("args",)),
)

DEFAULTS: Mapping[str, object] = {
    "algo.advantage.estimator": "lamer_gigpo",
    "algo.kl.init_coef": 0.0,
    "actor.lr_scheduler": "constant",
    "ckpt.best_metric_key": "none",
    "data.input_key": "input",
    "data.label_key": "label",
    "data.max_len": None,
    "eval.n_samples_per_prompt": 1,
    "eval.temperature": 0.7,
    "rollout.batch_size": 16,
    "rollout.max_new_tokens": MAX_NEW_TOKENS,
    "rollout.n_samples_per_prompt": 8,
    "train.batch_size": 64,
    "vllm.enable_prefix_caching": True,
    "vllm.num_engines": 1,
}
"""Our defaults of the host's flags where they differ: the setting of the paper's text (else of its scripts), and the
needs of trials. `data.max_len` follows from the agent and the configuration (`room`)."""

REFUSED: Mapping[str, str] = {
    "ds.packing_samples": "not needed: forests of rows pad nothing (--lamer.forward), and it takes flash attention",
    "reward.remote_url": "rewards come from the environment",
    "reward.overlong_buffer_len": "the host measures a sample, and a trial is many replies",
    "data.max_images_per_prompt": "environments are text",
    "actor.aux_loss_coef": "the router's loss is one of padded rows, which forests replace",
    "ds.load_in_4bit": "the rollout engines need the weights that are trained, and these would be quantised",
}
"""Flags that do not go with trials, and why."""

IMPLIED = ("train.dynamic_batch_enable",)
"""Switches whose work is always done here. They are not passed to the host: with this one it would pack samples too."""

REFUSED_WITH_LORA: Mapping[str, str] = {
    "ds.tensor_parallel_size": "DeepSpeed would split linear layers that PEFT has wrapped",
    "train.enable_ema": "the host averages all parameters pair by pair, and its averaged model has no adapter",
    "vllm.sync_with_ray": "Ray would still be sending a merged weight when its memory is free again",
    "ref.offload": "no reference is loaded: the policy with its adapter switched off is the reference",
}
"""Flags that do not go with an adapter (`--ds.lora.rank`), and why; a size is refused above 1."""

REFUSED_WITH_OURS: Mapping[str, str] = {
    "reward.clip_range": "takes rewards as they are",
    "reward.stop_properly_penalty_coef": "takes rewards as they are; a reply that is cut off before its action costs "
    "--lamer.invalid_penalty",
    "algo.advantage.gamma": "discounts by --lamer.gamma_step and --lamer.gamma_traj",
    "algo.advantage.no_std_norm": "normalises as --lamer.norm says",
}
"""Flags of the host's reward and advantage code, which a `lamer_*` estimator replaces, and what it does instead."""

CLIP_RANGE = (-10, 10)
"""Default of the host's `--reward.clip_range`."""

ANY_SHARE = (-1, 2)
"""A `--algo.dynamic_filtering_range` within which every share of wins lies; the host's default (0, 1) excludes both."""

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
            # The extreme case: one sample differs from all others, whatever it earns.
            return -(group - 1) / math.sqrt(group), (group - 1) / math.sqrt(group)
        size = {"others": math.inf, "mean": group, "batch": batch}[self.baseline]
        span = (most - least) * (1 - 1 / size)
        return -span, span


ESTIMATORS: Mapping[str, HostEstimator] = {
    "gae": HostEstimator(critic=True, discounts=True, whitens=True),
    "reinforce": HostEstimator(discounts=True, whitens=True),
    "group_norm": HostEstimator("spread"),
    "reinforce_baseline": HostEstimator("mean", whitens=True),
    "dr_grpo": HostEstimator("mean"),
    "rloo": HostEstimator("others"),
    "flash_reinforce": HostEstimator("batch"),
}
"""The host's estimators by name; of those with the same needs, the first stands in for ours."""


def stand_in(*, critic: bool, group: bool) -> str:
    """The host's estimator with these needs, whose name the host is given in place of one of ours.

    Args:
        critic: Whether ours works with a critic.
        group: Whether it compares the samples of a prompt.
    """
    fitting = (
        name for name, own in ESTIMATORS.items() if own.critic == critic and (critic or own.needs_group == group)
    )
    return next(fitting)


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
    known = ", ".join(KNOWN_VERSIONS)
    problems = [problem for seam in SEAMS if (problem := _problem(seam))]
    if problems:
        raise HostError(f"OpenRLHF {version} does not fit: {'; '.join(problems)}. Known to work: openrlhf=={known}")
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


def _problem(seam: Seam) -> str | None:
    """The difference between a seam and the installed host."""
    found = _signatures(seam.file).get(seam.name)
    place = f"{seam.name} in openrlhf/{seam.file} ({seam.why})"
    if found is None:
        return f"it lacks {place}"
    lost = [name for name in seam.uses if name not in found]
    if lost:
        return f"{place} has no {', '.join(map(repr, lost))} but {', '.join(found) or 'no parameter'}"
    if [name for name in found if name in seam.uses] != list(seam.uses):
        return f"{place} has its parameters in another order: {', '.join(found)}"
    return None


@cache
def _signatures(file: str) -> Mapping[str, tuple[str, ...]]:
    """Functions, methods and classes of a host file with their parameters; a class's are its annotated fields."""
    found: dict[str, tuple[str, ...]] = {}
    for node in _source(file).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found[node.name] = _parameters(node)
        elif isinstance(node, ast.ClassDef):
            fields = (each.target for each in node.body if isinstance(each, ast.AnnAssign))
            found[node.name] = tuple(target.id for target in fields if isinstance(target, ast.Name))
            for method in node.body:
                if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef):
                    found[f"{node.name}.{method.name}"] = _parameters(method)
    return found


def _parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> tuple[str, ...]:
    own = function.args
    each = [*own.posonlyargs, *own.args, own.vararg, *own.kwonlyargs, own.kwarg]
    return tuple(argument.arg for argument in each if argument is not None and argument.arg not in ("self", "cls"))
