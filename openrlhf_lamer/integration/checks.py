"""What can be known to be wrong before an actor starts is refused here, with the flag's name."""

from __future__ import annotations

from pathlib import Path

from openrlhf_lamer import advantage, envs
from openrlhf_lamer.agents.base import Agent
from openrlhf_lamer.config import ConfigError
from openrlhf_lamer.doctor import Verdict
from openrlhf_lamer.doctor.model import files
from openrlhf_lamer.integration.credit import credit_config
from openrlhf_lamer.integration.dataset import REMEDY, check_dataset
from openrlhf_lamer.integration.flags import CommandLine

STOCK_GROUPED = frozenset({"rloo", "reinforce_baseline", "group_norm", "dr_grpo"})
"""Estimators of the host that need more than one trial of a task."""

REFUSED = {
    "train.dynamic_batch_enable": "the host sizes dynamic batches by samples, of which a trial is one and its rows are "
    "many, and drops the rest",
    "ds.packing_samples": "packing needs flash attention, and has not been tested with trials of several rows",
    "reward.remote_url": "rewards come from the environment",
    "reward.overlong_buffer_len": "the host measures a sample, and a trial is many replies",
    "data.max_images_per_prompt": "environments are text",
}
"""Flags of the host that do not go with trials, and why."""

REFUSED_BY_OURS = {
    "reward.clip_range": "takes rewards as they are",
    "reward.stop_properly_penalty_coef": "takes rewards as they are; a reply that is cut off before its action costs "
    "--lamer.invalid_penalty",
    "algo.advantage.gamma": "discounts by --lamer.gamma_step and --lamer.gamma_traj",
    "algo.advantage.no_std_norm": "normalises as --lamer.norm says",
}
"""Flags of the host's reward and advantage code, which `lamer_*` estimators stand in for."""


def needs_critic(estimator: str) -> bool:
    """Whether an estimator, ours or the host's, works with a critic."""
    return advantage.get(estimator).needs_critic if estimator in advantage.names() else estimator == "gae"


def check(line: CommandLine, agent: Agent) -> None:
    """Refuse what cannot work; raises `ConfigError` for the first problem."""
    _check_model(line)
    _check_estimator(line)
    _check_modes(line)
    _check_lengths(line)
    _check_sizes(line)
    _check_environment(line, agent)
    _check_rewards(line, agent)
    _check_data(line, agent)


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
    grouped = advantage.get(name).needs_group if ours else name in STOCK_GROUPED
    if grouped and size < 2:
        raise ConfigError(
            f"--rollout.n_samples_per_prompt {size}: {name} compares the trials of a task, so a group needs 2 or more; "
            "the paper uses 8 for LaMer and 24 for RL"
        )
    if not ours:
        return
    if line["algo.kl.init_coef"] > 0 and not line["algo.kl.use_loss"]:
        raise ConfigError(
            f"--algo.kl.init_coef {line['algo.kl.init_coef']}: {name} credits turns by what the environment pays, and "
            "has no place for a KL penalty on each token; add --algo.kl.use_loss, or set the coefficient to 0 as the "
            "paper does"
        )
    for flag, does in REFUSED_BY_OURS.items():
        if flag in line.given:
            raise ConfigError(f"--{flag}: {name} {does}; leave the flag out")
    lambd = line["algo.advantage.lambd"]
    if not 0 <= lambd <= 1:
        raise ConfigError(f"--algo.advantage.lambd {lambd}: λ lies in [0, 1]")
    try:
        advantage.get(name).settle(credit_config(line.config, lambd))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _check_modes(line: CommandLine) -> None:
    for flag, reason in REFUSED.items():
        if line[flag]:
            raise ConfigError(f"--{flag}: {reason}; leave the flag out")
    if line["ds.ring_attn_size"] > 1:
        raise ConfigError(f"--ds.ring_attn_size {line['ds.ring_attn_size']}: {REFUSED['ds.packing_samples']}; give 1")
    if line["train.partial_rollout_enable"] and not line["train.async_enable"]:
        raise ConfigError("--train.partial_rollout_enable: a way to train asynchronously; add --train.async_enable")


def _check_lengths(line: CommandLine) -> None:
    room, reply = line["data.max_len"], line["rollout.max_new_tokens"]
    if reply >= room:
        raise ConfigError(
            f"--data.max_len {room} holds a prompt and its reply together, so it must exceed "
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
        "ref": line["algo.kl.init_coef"] > 0 and line["ds.zero_stage"] == 3,
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


def _check_rewards(line: CommandLine, agent: Agent) -> None:
    """Stock estimators clip a trial's return, which must not swallow what can be earned."""
    if line["algo.advantage.estimator"] in advantage.names() or "reward.clip_range" in line.given:
        return
    config = line.config
    env = envs.make(agent.env, **{**config.env_options, "reward": config.reward})
    _, most = env.reward_bounds(config.max_turns or agent.max_turns)
    env.close()
    # A trial ends with its first success, so only one episode can pay for winning; others pay at most as much.
    most = max(
        most * sum(config.gamma_traj**n for n in range(config.num_episodes)) if config.reward == "shaped" else most, 0
    )
    low, high = line["reward.clip_range"]
    if most > high:
        raise ConfigError(
            f"--reward.clip_range {low:g} {high:g}: a trial can earn up to {most:.1f}, which the host would clip; "
            f"give --reward.clip_range {-most:.0f} {most + 1:.0f}, or the range you want"
        )


def _check_data(line: CommandLine, agent: Agent) -> None:
    label = line["data.label_key"]
    if not line["data.prompt_dataset"]:
        raise ConfigError(f"--data.prompt_dataset is missing. {REMEDY.format(env=agent.env)}")
    rows = check_dataset(
        "data.prompt_dataset", line["data.prompt_dataset"], line["data.prompt_split"], label, agent, line.config
    )
    if rows < line["rollout.batch_size"]:
        raise ConfigError(
            f"--data.prompt_dataset has {rows} tasks, fewer than --rollout.batch_size {line['rollout.batch_size']}"
        )
    if line["eval.dataset"]:
        check_dataset("eval.dataset", line["eval.dataset"], line["eval.split"], label, agent, line.config)
