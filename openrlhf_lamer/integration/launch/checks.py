"""Refusals, before an actor starts, of a command line that cannot work; each names the flag."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openrlhf_lamer import advantage, envs, room
from openrlhf_lamer.agents.base import Agent
from openrlhf_lamer.config import ConfigError, LamerConfig
from openrlhf_lamer.doctor import Verdict
from openrlhf_lamer.doctor.model import context_length, files, find
from openrlhf_lamer.integration.host import (
    CLIP_RANGE,
    ESTIMATORS,
    REFUSED,
    REFUSED_WITH_LORA,
    REFUSED_WITH_OURS,
)
from openrlhf_lamer.integration.launch.dataset import REMEDY, check_dataset
from openrlhf_lamer.integration.launch.flags import CommandLine
from openrlhf_lamer.integration.rollout.task_stream import generation_window
from openrlhf_lamer.integration.training.credit import credit_config


def needs_critic(estimator: str) -> bool:
    """Whether an estimator, ours or the host's, works with a critic."""
    return advantage.get(estimator).needs_critic if estimator in advantage.names() else ESTIMATORS[estimator].critic


def needs_reference(line: CommandLine) -> bool:
    """Whether a reference model is loaded; with LoRA, the policy with its adapter switched off is the reference."""
    return line["algo.kl.init_coef"] > 0 and not line["ds.lora.rank"]


def check(line: CommandLine, agent: Agent) -> tuple[Mapping[str, Any], ...]:
    """Refuse what cannot work; raises `ConfigError` for the first problem.

    Returns:
        The options that tasks give their environment, each once.
    """
    _check_model(line)
    _check_estimator(line)
    _check_modes(line)
    _check_lora(line)
    _check_lengths(line)
    _check_episodes(line, agent)
    _check_sizes(line)
    _check_environment(line, agent)
    return _check_data(line, agent)


def max_len(line: CommandLine, agent: Agent, options: Sequence[Mapping[str, Any]]) -> tuple[int, str]:
    """The value of `--data.max_len`, and a warning where trials don't fit; the warning is empty where they do.

    Args:
        line: The command line, checked.
        agent: The agent.
        options: What tasks say of their environment.

    Raises:
        ConfigError: See `room.settle`.
    """
    agent, config = _longest(line, agent)
    _, folder = find(line["actor.model_name_or_path"], offline=True)
    try:
        return room.settle(
            agent,
            config,
            line["rollout.max_new_tokens"],
            options,
            flag="--data.max_len",
            given=line["data.max_len"],
            model=None if folder is None else context_length(folder),
        )
    except room.RoomError as error:
        raise ConfigError(str(error)) from error


def _longest(line: CommandLine, agent: Agent) -> tuple[Agent, LamerConfig]:
    """Agent and configuration of the longest trials: those of evaluations, where they have more turns or episodes."""
    if not line["eval.dataset"]:
        return agent, line.config
    return (
        max(agent, agent.evaluated(), key=lambda each: each.max_turns),
        max(line.config, line.config.evaluated(), key=lambda each: each.num_episodes),
    )


def staleness(line: CommandLine) -> str | None:
    """A warning, where trials are trained that older weights have sampled and nothing corrects for it; else None.

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


def _check_estimator(line: CommandLine) -> None:
    name, size = line["algo.advantage.estimator"], line["rollout.n_samples_per_prompt"]
    ours = name in advantage.names()
    grouped = advantage.get(name).needs_group if ours else ESTIMATORS[name].needs_group
    if grouped and size < 2:
        raise ConfigError(
            f"--rollout.n_samples_per_prompt {size}: {name} compares the trials of a task, so a group needs 2 or more; "
            "the paper uses 8 for LaMer and 24 for RL"
        )
    takes = {advantage.get(name).flag(option) for option in advantage.get(name).fields} if ours else set()
    for flag in line.config.model_extra or {}:
        if flag not in takes:
            raise ConfigError(f"--lamer.{flag}: {name} has no such option; leave it out, or choose another estimator")
    if not ours:
        gamma = line["algo.advantage.gamma"]
        if gamma != 1 and not ESTIMATORS[name].discounts:
            raise ConfigError(f"--algo.advantage.gamma {gamma:g}: {name} does not discount; leave the flag out")
        return
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
        advantage.get(name).settle(credit_config(line.config, advantage.get(name), lambd))
    except ValueError as error:
        raise ConfigError(str(error)) from error


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


def _check_episodes(line: CommandLine, agent: Agent) -> None:
    agent, config = _longest(line, agent)
    if refused := config.refusal(config.max_turns or agent.max_turns):
        raise ConfigError(refused)


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


def _check_environment(line: CommandLine, agent: Agent) -> None:
    try:
        envs.make(agent.env, **{**line.config.env_options, "reward": line.config.reward}).close()
    except envs.TaskError as error:
        raise ConfigError(f"--lamer.env_options: {error}") from error


def clip_range(line: CommandLine, agent: Agent) -> tuple[int, int] | None:
    """The host's default `--reward.clip_range`, widened until it clips nothing that can be earned.

    None with an estimator of ours, for which the host clips nothing, and where the user's own range holds everything.

    Raises:
        ConfigError: The user's range cuts off a part of what can be earned.
    """
    name, group = line["algo.advantage.estimator"], line["rollout.n_samples_per_prompt"]
    if name in advantage.names():
        return None
    earned = _earned(line, agent)
    # The host clips after its baseline.
    least, most = ESTIMATORS[name].compared(*earned, group, group * line["rollout.batch_size"])
    wide = min(CLIP_RANGE[0], math.floor(least)), max(CLIP_RANGE[1], math.ceil(most))
    if "reward.clip_range" not in line.given:
        return wide
    low, high = line["reward.clip_range"]
    if low <= least and most <= high:
        return None
    said = f"a trial can earn {earned[0]:.4g} to {earned[1]:.4g}"
    if ESTIMATORS[name].baseline != "none":
        said += f", and the host clips what {name} makes of it, {least:.4g} to {most:.4g}"
    raise ConfigError(
        f"--reward.clip_range {low:g} {high:g}: {said}; leave the flag out, or give --reward.clip_range "
        f"{wide[0]:g} {wide[1]:g}"
    )


def _earned(line: CommandLine, agent: Agent) -> tuple[float, float]:
    """Bounds of a trial's return, our penalties and the host's own included."""
    config = line.config
    turns, penalty = config.max_turns or agent.max_turns, config.invalid_penalty
    env = envs.make(agent.env, **{**config.env_options, "reward": config.reward})
    _, most = env.reward_bounds(turns)
    if env.penalises_invalid:
        # The environment charges for actions that it refuses, the penalty is for replies without one.
        least = min(env.reward_bounds(played)[0] - penalty * (turns - played) for played in range(1, turns + 1))
        least = min(least, -penalty * turns)
    else:
        least = env.reward_bounds(turns)[0] - penalty * turns
    env.close()
    if not math.isfinite(most - least):
        raise ConfigError(
            f"--agent_func: {agent.env}.reward_bounds({turns}) has no finite bounds, but the host clips rewards: say "
            "what an episode can pay"
        )
    episodes = sum(config.gamma_traj**n for n in range(config.num_episodes))
    # A trial that ends with its first success has only one episode that pays for winning; others pay at most as much.
    pays = episodes if config.reward == "shaped" or not config.stop_on_success else 1.0
    least, most = min(least * episodes, 0.0), max(most * pays, 0.0)
    # A factor for trials that were cut off, or what they are given instead if it is negative.
    return min(least, line["reward.stop_properly_penalty_coef"] or 0.0), most


def _check_data(line: CommandLine, agent: Agent) -> tuple[Mapping[str, Any], ...]:
    label = line["data.label_key"]
    if not line["data.prompt_dataset"]:
        raise ConfigError(f"--data.prompt_dataset is missing. {REMEDY.format(env=agent.env)}")
    found = check_dataset(
        "data.prompt_dataset", line["data.prompt_dataset"], line["data.prompt_split"], label, agent, line.config
    )
    if found.rows < (batch := line["rollout.batch_size"]):
        raise ConfigError(f"--data.prompt_dataset has {found.rows} tasks, fewer than --rollout.batch_size {batch}")
    if not line["eval.dataset"]:
        return found.options
    evaluated = check_dataset("eval.dataset", line["eval.dataset"], line["eval.split"], label, agent, line.config)
    return (*found.options, *evaluated.options)
