"""What can be known to be wrong before an actor starts is refused here, with the flag's name."""

from __future__ import annotations

from pathlib import Path

from openrlhf_lamer import advantage, envs
from openrlhf_lamer.agents.base import Agent
from openrlhf_lamer.config import ConfigError
from openrlhf_lamer.doctor import Verdict
from openrlhf_lamer.doctor.model import files
from openrlhf_lamer.integration.dataset import REMEDY, check_dataset
from openrlhf_lamer.integration.flags import CommandLine

STOCK_GROUPED = frozenset({"rloo", "reinforce_baseline", "group_norm", "dr_grpo"})
"""Estimators of the host that need more than one trial of a task."""

UNSUPPORTED = {
    "train.async_enable": "asynchronous training",
    "train.dynamic_batch_enable": "dynamic batches, which count samples where trials have several rows",
    "ds.packing_samples": "packed samples",
}


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
    if ours and line["algo.kl.init_coef"] > 0 and not line["algo.kl.use_loss"]:
        raise ConfigError(
            f"--algo.kl.init_coef {line['algo.kl.init_coef']}: {name} has no KL term in the reward; "
            "add --algo.kl.use_loss, or set the coefficient to 0 as the paper does"
        )


def _check_modes(line: CommandLine) -> None:
    for flag, what in UNSUPPORTED.items():
        if line[flag]:
            raise ConfigError(f"--{flag}: {what} are not supported with trials of several rows; leave the flag out")
    if line["reward.remote_url"]:
        raise ConfigError("--reward.remote_url: rewards come from the environment; leave the flag out")
    if line["data.max_images_per_prompt"]:
        raise ConfigError("--data.max_images_per_prompt: environments are text; leave the flag out")


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


def _check_environment(line: CommandLine, agent: Agent) -> None:
    try:
        envs.make(agent.env, **{**line.config.env_options, "reward": line.config.reward}).close()
    except envs.TaskError as error:
        raise ConfigError(f"--lamer.env_options: {error}") from error


def _check_rewards(line: CommandLine, agent: Agent) -> None:
    """Stock estimators clip a trial's return, which must not swallow what can be earned."""
    if line["algo.advantage.estimator"] in advantage.names():
        if "reward.clip_range" in line.given:
            raise ConfigError("--reward.clip_range: lamer_* estimators use rewards as they are; leave the flag out")
        return
    if "reward.clip_range" in line.given:
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
        "data.prompt_dataset", line["data.prompt_dataset"], line["data.prompt_split"], label, agent.env
    )
    if rows < line["rollout.batch_size"]:
        raise ConfigError(
            f"--data.prompt_dataset has {rows} tasks, fewer than --rollout.batch_size {line['rollout.batch_size']}"
        )
    if line["eval.dataset"]:
        check_dataset("eval.dataset", line["eval.dataset"], line["eval.split"], label, agent.env)
