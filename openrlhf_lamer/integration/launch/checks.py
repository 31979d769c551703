"""Checks that refuse a command line that cannot work, before an actor starts; each names the flag."""

from __future__ import annotations

import math
from pathlib import Path

from openrlhf_lamer import advantage
from openrlhf_lamer.config import ConfigError
from openrlhf_lamer.doctor import Verdict
from openrlhf_lamer.doctor.model import conversation, files, find, load_tokenizer
from openrlhf_lamer.integration.host import (
    ANY_SHARE,
    ESTIMATORS,
    REFUSED,
    REFUSED_WITH_LORA,
    REFUSED_WITH_OURS,
)
from openrlhf_lamer.integration.launch.flags import CommandLine
from openrlhf_lamer.integration.rollout.task_stream import generation_window
from openrlhf_lamer.learnability import filters_by_wins

_CREDITS_TURNS = frozenset({"gamma_step", "cross_episode", "norm", "reference"})
"""Options of credit by turns."""


def needs_critic(estimator: str) -> bool:
    """Whether an estimator, ours or the host's, works with a critic."""
    return advantage.get(estimator).needs_critic if estimator in advantage.names() else ESTIMATORS[estimator].critic


def needs_reference(line: CommandLine) -> bool:
    """Whether a reference model is loaded; with LoRA, the policy with its adapter switched off is the reference."""
    return line["algo.kl.init_coef"] > 0 and not line["ds.lora.rank"]


def check(line: CommandLine) -> None:
    """Refuse options that cannot work, whatever is played; raises `ConfigError` for the first problem."""
    _check_model(line)
    _check_template(line)
    _check_estimator(line)
    _check_modes(line)
    _check_lora(line)
    _check_lengths(line)
    _check_sizes(line)


def staleness(line: CommandLine) -> str | None:
    """A warning if trials sampled by older weights are trained and nothing corrects for it; else None.

    A batch may wait for as many training steps as the queue holds. Groups that are generated ahead of their batch, and
    trials that partial rollouts begin before it, wait for the batches between as well.
    """
    if not line["train.async_enable"] or line["algo.advantage.is_correction_level"] != "off":
        return None
    size, partial = line["rollout.batch_size"], line["train.partial_rollout_enable"]
    ahead = math.ceil(generation_window(line["rollout.vllm_generate_batch_size"], size, partial=partial) / size) - 1
    steps = line["train.async_queue_size"] + ahead
    within = ", and weights may change in the middle of a trial (--train.partial_rollout_enable)" if partial else ""
    return (
        f"--train.async_enable: trials may be sampled by weights that are up to {steps} training "
        f"{'step' if steps == 1 else 'steps'} old{within}, and nothing corrects for it; give "
        "--algo.advantage.is_correction_level token"
    )


def _check_model(line: CommandLine) -> None:
    model = line["actor.model_name_or_path"]
    if not model:
        raise ConfigError(
            "--actor.model_name_or_path is missing: name a model folder or a model of the Hugging Face hub"
        )
    if model.startswith((".", "/")):
        found = files(Path(model))
        if found.verdict is Verdict.ERROR:
            raise ConfigError(f"--actor.model_name_or_path {found.found}; {found.remedy}")


def _check_template(line: CommandLine) -> None:
    """Refuse a chat template that won't do, if the tokenizer is on this machine."""
    model = line["actor.model_name_or_path"]
    _, folder = find(model, offline=True)
    if folder is None or not (folder / "tokenizer_config.json").is_file():
        return
    _, tokenizer = load_tokenizer(folder)
    for found in [] if tokenizer is None else conversation(tokenizer, line.config):
        if found.verdict is Verdict.ERROR:
            raise ConfigError(f"--actor.model_name_or_path {model}: {found.found}; {found.remedy}")


def _check_estimator(line: CommandLine) -> None:
    name, size = line["algo.advantage.estimator"], line["rollout.n_samples_per_prompt"]
    ours = name in advantage.names()
    grouped = advantage.get(name).needs_group if ours else ESTIMATORS[name].needs_group
    if grouped and size < 2:
        raise ConfigError(
            f"--rollout.n_samples_per_prompt {size}: {name} compares the trials of a task, so a group needs 2 or more; "
            "the paper uses 8 for LaMer and 24 for RL"
        )
    if line.config.task_sampling == "learnable" and size < 2:
        raise ConfigError(
            "--lamer.task_sampling learnable: it compares the trials of a task, so a group needs 2 or more; give "
            "--rollout.n_samples_per_prompt 2 or more, or leave the flag out"
        )
    takes = {advantage.get(name).flag(option) for option in advantage.get(name).fields} if ours else set()
    for flag in line.config.model_extra or {}:
        if flag not in takes:
            raise ConfigError(f"--lamer.{flag}: {name} has no such option; leave it out, or choose another estimator")
    if not ours:
        gamma = line["algo.advantage.gamma"]
        if gamma != 1 and not ESTIMATORS[name].discounts:
            raise ConfigError(f"--algo.advantage.gamma {gamma:g}: {name} does not discount; leave the flag out")
        if ignored := line.config.model_fields_set & _CREDITS_TURNS:
            raise ConfigError(
                f"--lamer.{min(ignored)}: the host's {name} gets one return of the whole trial, which this does not "
                "change; leave the flag out, or choose a lamer_* estimator"
            )
        return
    if ignored := line.config.model_fields_set & advantage.get(name).unused:
        raise ConfigError(
            f"--lamer.{min(ignored)}: it changes nothing in {name}; leave the flag out, or choose another estimator"
        )
    if line["algo.kl.init_coef"] > 0 and not line["algo.kl.use_loss"]:
        raise ConfigError(
            f"--algo.kl.init_coef {line['algo.kl.init_coef']}: {name} credits turns by what the environment pays, and "
            "has no place for a KL penalty on each token; add --algo.kl.use_loss, or set the coefficient to 0 as the "
            "paper does"
        )
    for flag, does in REFUSED_WITH_OURS.items():
        if flag in line.given:
            raise ConfigError(f"--{flag}: {name} {does}; leave the flag out")
    lambd = line["algo.advantage.lambd"]
    if not 0 <= lambd <= 1:
        raise ConfigError(f"--algo.advantage.lambd {lambd}: λ lies in [0, 1]")
    try:
        advantage.get(name).settle(line.config.credit(advantage.get(name), lambd))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    own = advantage.get(name).read(line.config.options(advantage.get(name)))
    if isinstance(own, advantage.pkpo.PkpoOptions) and own.k > size:
        raise ConfigError(
            f"--lamer.pkpo.k {own.k}: the best of {own.k} trials needs as many in a group, and "
            f"--rollout.n_samples_per_prompt is {size}; give fewer, or more samples"
        )


def _check_modes(line: CommandLine) -> None:
    for flag, reason in REFUSED.items():
        if line[flag]:
            raise ConfigError(f"--{flag}: {reason}; leave the flag out")
    if line["ds.ring_attn_size"] > 1:
        raise ConfigError(
            f"--ds.ring_attn_size {line['ds.ring_attn_size']}: it needs packing by flash attention, which has not been "
            "tested with trials of several rows; give 1"
        )
    updates, groups = line.config.updates, line["rollout.batch_size"]
    if updates is not None and updates > groups:
        raise ConfigError(f"--lamer.updates {updates}: a batch has {groups} groups (--rollout.batch_size); give fewer")
    if line.config.loss_weight != "token" and line["actor.loss_agg_mode"] != "token-mean":
        raise ConfigError(
            f"--lamer.loss_weight {line.config.loss_weight} weighs tokens, and --actor.loss_agg_mode "
            f"{line['actor.loss_agg_mode']} weighs rows: leave one of them out"
        )
    if line["train.partial_rollout_enable"] and not line["train.async_enable"]:
        raise ConfigError("--train.partial_rollout_enable: a way to train asynchronously; add --train.async_enable")


def _check_lora(line: CommandLine) -> None:
    rank, alpha, modules = line["ds.lora.rank"], line["ds.lora.alpha"], line["ds.lora.target_modules"]
    if not rank:
        for flag in sorted(name for name in line.given if name.startswith("ds.lora.") and name != "ds.lora.rank"):
            raise ConfigError(f"--{flag}: nothing has an adapter without --ds.lora.rank; add it")
        return
    if rank < 0 or alpha <= 0:
        raise ConfigError(f"--ds.lora.rank {rank}, --ds.lora.alpha {alpha}: both must be positive")
    if not 0 <= (dropout := line["ds.lora.dropout"]) < 1:
        raise ConfigError(f"--ds.lora.dropout {dropout}: a share in [0, 1)")
    if modules != "all-linear" and (not modules or "all-linear" in modules):
        raise ConfigError(
            "--ds.lora.target_modules: name layers, such as q_proj v_proj; for all linear ones leave it out"
        )
    for flag, reason in REFUSED_WITH_LORA.items():
        if line[flag] is True or line[flag] > 1:
            raise ConfigError(f"--{flag}: {reason}; leave the flag out, or train without --ds.lora.rank")


def _check_lengths(line: CommandLine) -> None:
    length, reply = line["data.max_len"], line["rollout.max_new_tokens"]
    if length is not None and reply >= length:
        raise ConfigError(
            f"--data.max_len {length} holds a prompt and its reply together, so it must exceed "
            f"--rollout.max_new_tokens {reply}"
        )


def _check_sizes(line: CommandLine) -> None:
    ranks = line["actor.num_nodes"] * line["actor.num_gpus_per_node"]
    ranks //= line["ds.ring_attn_size"] * line["ds.tensor_parallel_size"]
    micro, batch = line["train.micro_batch_size"], line["train.batch_size"]
    if ranks < 1 or batch % (micro * ranks):
        raise ConfigError(
            f"--train.batch_size {batch} must be a multiple of --train.micro_batch_size {micro} times "
            f"the {ranks} data-parallel actors"
        )
    # Rows are dealt out evenly to the actors; a model that runs in step with others deadlocks on uneven shares.
    in_step = {
        "critic": needs_critic(line["algo.advantage.estimator"]),
        "ref": needs_reference(line) and line["ds.zero_stage"] == 3,
    }
    for model in (model for model, used in in_step.items() if used):
        own, actors = (line[f"{m}.num_nodes"] * line[f"{m}.num_gpus_per_node"] for m in (model, "actor"))
        if own != actors:
            raise ConfigError(
                f"--{model}.num_gpus_per_node: rows are dealt out to {actors} actors, so this model needs as many GPUs "
                f"and not {own}"
            )


def filtering_range(line: CommandLine) -> tuple[int, int] | None:
    """Bounds for `--algo.dynamic_filtering_range` that every share of wins is within.

    For filtering by returns, if the user gives no bounds; else None, and the host's bounds stay.
    """
    by_wins = filters_by_wins(line["algo.advantage.estimator"], line.config)
    if not line["algo.dynamic_filtering_enable"] or by_wins or "algo.dynamic_filtering_range" in line.given:
        return None
    return ANY_SHARE
