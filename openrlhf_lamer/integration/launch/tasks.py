"""Checks that refuse tasks and games that can't be played or paid as the command line says, before an actor starts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from openrlhf_lamer import advantage, envs, room
from openrlhf_lamer.agents.base import Agent
from openrlhf_lamer.config import ConfigError, LamerConfig
from openrlhf_lamer.doctor.model import context_length, find
from openrlhf_lamer.envs import registry
from openrlhf_lamer.games import Game
from openrlhf_lamer.integration.host import CLIP_RANGE, ESTIMATORS
from openrlhf_lamer.integration.launch.dataset import REMEDY, Dataset, check_dataset, check_shares, try_first
from openrlhf_lamer.integration.launch.flags import CommandLine


@dataclass(frozen=True)
class Tasks:
    """Tasks of a run; without `--eval.dataset`, none are evaluated."""

    trained: Dataset
    evaluated: Dataset

    @property
    def environments(self) -> frozenset[str]:
        """Environments among them."""
        return frozenset({*self.trained.options, *self.evaluated.options})


def check_tasks(line: CommandLine, played: Mapping[str, Game]) -> Tasks:
    """Tasks of a command line; raises `ConfigError` for the first problem with them or their games.

    Args:
        line: The command line.
        played: The game of each agent, by environment.
    """
    _check_options(played)
    tasks = _check_data(line, played)
    _check_episodes(played, tasks)
    _check_environments(played, tasks)
    return tasks


def max_len(line: CommandLine, played: Mapping[str, Game], tasks: Tasks) -> tuple[int, str]:
    """The value of `--data.max_len`, and a warning where trials don't fit; the warning is empty where they do.

    Args:
        line: The command line, checked.
        played: The game of each agent, by environment.
        tasks: The tasks.

    Raises:
        ConfigError: See `room.settle`.
    """
    _, folder = find(line["actor.model_name_or_path"], offline=True)
    lengths: list[int] = []
    short: list[str] = []
    for env in sorted(tasks.environments):
        agent, config = _longest(played[env], env, tasks)
        try:
            length, warning = room.settle(
                agent,
                config,
                line["rollout.max_new_tokens"],
                (*tasks.trained.options.get(env, ()), *tasks.evaluated.options.get(env, ())),
                flag="--data.max_len",
                given=line["data.max_len"],
                model=None if folder is None else context_length(folder),
            )
        except room.RoomError as error:
            raise ConfigError(str(error)) from error
        lengths.append(length)
        if warning:
            short.append(warning if len(tasks.environments) == 1 else f"{env}: {warning}")
    return max(lengths), "\n".join(short)


def _longest(game: Game, env: str, tasks: Tasks) -> tuple[Agent, LamerConfig]:
    """Agent and configuration of the longest trials of a game: evaluations may have more turns or episodes."""
    evaluated = game.evaluated()
    if env not in tasks.trained.options:
        return evaluated.agent, evaluated.config
    if env not in tasks.evaluated.options:
        return game.agent, game.config
    return (
        max(game.agent, evaluated.agent, key=lambda each: each.max_turns),
        max(game.config, evaluated.config, key=lambda each: each.num_episodes),
    )


def unplayed(line: CommandLine, played: Mapping[str, Game], tasks: Tasks) -> str | None:
    """A warning about agents whose environment has no tasks; None if each has some."""
    names = zip(line.agents, played, strict=True)
    idle = [f"{name} ({env})" for name, env in names if env not in tasks.environments]
    if not idle:
        return None
    return (
        f"--agent_func: no task is played by {', '.join(idle)}; add its tasks to --data.prompt_dataset or "
        "--eval.dataset, or leave the agent out"
    )


def clip_range(line: CommandLine, trained: Sequence[Game]) -> tuple[int, int] | None:
    """The host's default `--reward.clip_range`, widened until it clips nothing that can be earned in training.

    None with an estimator of ours, for which the host clips nothing, and where the user's own range holds everything.

    Raises:
        ConfigError: The user's range cuts off a part of what can be earned.
    """
    name, group = line["algo.advantage.estimator"], line["rollout.n_samples_per_prompt"]
    if name in advantage.names():
        return None
    bounds = [_earned(line, game) for game in trained]
    earned = min(least for least, _ in bounds), max(most for _, most in bounds)
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


def _check_options(played: Mapping[str, Game]) -> None:
    """Refuse options that an environment does not have, of agents without tasks too."""
    for env, game in played.items():
        try:
            registry.factory(env, **{**game.config.env_options, "reward": game.config.reward})
        except envs.TaskError as error:
            raise ConfigError(f"--lamer.env_options: {error}") from error


def _check_data(line: CommandLine, played: Mapping[str, Game]) -> Tasks:
    label, paths = line["data.label_key"], line["data.prompt_dataset"]
    agents = dict(zip(played, line.agents, strict=True))
    if not paths:
        raise ConfigError(f"--data.prompt_dataset is missing. {REMEDY.format(env=next(iter(played)))}")
    check_shares(paths, line["data.prompt_probs"])
    trained = check_dataset("data.prompt_dataset", paths, line["data.prompt_split"], label, agents)
    if trained.rows < (batch := line["rollout.batch_size"]):
        raise ConfigError(f"--data.prompt_dataset has {trained.rows} tasks, fewer than --rollout.batch_size {batch}")
    if not line["eval.dataset"]:
        return Tasks(trained, Dataset())
    return Tasks(trained, check_dataset("eval.dataset", line["eval.dataset"], line["eval.split"], label, agents))


def _check_episodes(played: Mapping[str, Game], tasks: Tasks) -> None:
    # A budget of turns may be of use in one game only.
    longest = [_longest(played[env], env, tasks) for env in sorted(tasks.environments)]
    config = max((config for _, config in longest), key=lambda each: each.num_episodes)
    if refused := config.refusal(max(config.max_turns or agent.max_turns for agent, config in longest)):
        raise ConfigError(refused)


def _check_environments(played: Mapping[str, Game], tasks: Tasks) -> None:
    """Build each environment of the tasks, and set up the first tasks, with this machine's options and data."""
    for env in sorted(tasks.environments):
        config = played[env].config
        try:
            envs.make(env, **{**config.env_options, "reward": config.reward}).close()
        except envs.TaskError as error:
            raise ConfigError(f"--lamer.env_options: {error}") from error
    try_first(tasks.trained, played)
    try_first(tasks.evaluated, played)


def _earned(line: CommandLine, game: Game) -> tuple[float, float]:
    """Bounds of a trial's return, our penalties and the host's own included."""
    agent, config = game.agent, game.config
    turns, penalty = config.max_turns or agent.max_turns, config.invalid_penalty
    env = envs.make(agent.env, **{**config.env_options, "reward": config.reward})
    _, most = env.reward_bounds(turns)
    if env.penalises_invalid:
        # The environment charges for actions that it refuses; the penalty is for replies without an action.
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
    # A factor for trials that were cut off or, if negative, the reward that they get instead.
    return min(least, line["reward.stop_properly_penalty_coef"] or 0.0), most
