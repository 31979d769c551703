"""A training's sizes from its command line: what `openrlhf-lamer estimate` computes from. Nothing is started.

Flags are read by the host's own parser and with its defaults. That needs the host's source, and none of its
dependencies: `pip install --no-deps openrlhf` is enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from openrlhf_lamer import advantage, room
from openrlhf_lamer.agents.loading import load_agents
from openrlhf_lamer.config import ConfigError
from openrlhf_lamer.estimate.memory import Engines, Trainer
from openrlhf_lamer.estimate.run import Run
from openrlhf_lamer.estimate.shapes import Shape, shape_of
from openrlhf_lamer.estimate.work import Batch
from openrlhf_lamer.games import Game, games
from openrlhf_lamer.integration.launch.checks import needs_critic, needs_reference
from openrlhf_lamer.integration.launch.flags import CommandLine, parse


@dataclass(frozen=True)
class Sized:
    """A command line, read for an estimate.

    Attributes:
        run: Its sizes.
        games: The game of each agent, by environment.
        line: The command line.
    """

    run: Run
    games: Mapping[str, Game]
    line: CommandLine


def sized(argv: Sequence[str], model: str | None = None) -> Sized:
    """Read a command line, and look at its models.

    Args:
        argv: Arguments of the training command.
        model: Model whose shape the policy and the critic are to have, in place of their own.

    Raises:
        ConfigError, AgentError, HostError, EstimateError: naming what is wrong and the remedy.
    """
    names = advantage.names()
    line = parse(argv, names, {})
    line = parse(argv, names, {"rollout.max_new_tokens": line.config.max_new_tokens})
    loaded = load_agents(line.agents)
    played = games({env: agent for env, (agent, _) in loaded.items()}, line.config)
    policy = line["actor.model_name_or_path"]
    if model is None and policy is None:
        raise ConfigError("--actor.model_name_or_path is missing: name the model, or its shape with `--model`")
    shape = shape_of(model or policy)
    critic = None
    if needs_critic(line["algo.advantage.estimator"]):
        critic = shape_of(model or line["critic.model_name_or_path"] or policy)
    return Sized(_run(line, played, shape, critic), played, line)


def _run(line: CommandLine, played: Mapping[str, Game], shape: Shape, critic: Shape | None) -> Run:
    forest = line.config.forward == "forest"
    actors = _gpus(line, "actor")
    copies = line["ds.ring_attn_size"] * line["ds.tensor_parallel_size"]
    ranks = actors // copies
    if ranks < 1:
        raise ConfigError(f"--ds.tensor_parallel_size {copies}: --actor.num_gpus_per_node gives {actors} GPUs only")
    limit = line["train.max_tokens_per_gpu"] if forest else line["train.micro_batch_size"]
    scored = (line["rollout.max_tokens_per_gpu"] or limit) if forest else line["rollout.micro_batch_size"]
    modules = line["ds.lora.target_modules"]
    return Run(
        shape=shape,
        critic=critic,
        reference=needs_reference(line),
        reference_scores=line["algo.kl.init_coef"] > 0,
        reference_offload=line["ref.offload"],
        batch=Batch(
            groups=line["rollout.batch_size"],
            group_size=line["rollout.n_samples_per_prompt"],
            step_rows=line["train.batch_size"],
            updates=line.config.updates,
            epochs=line["train.max_epochs"],
            ranks=ranks,
            limit=limit,
            forest=forest,
        ),
        trainer=Trainer(
            zero_stage=line["ds.zero_stage"],
            ranks=ranks,
            tensor_parallel=line["ds.tensor_parallel_size"],
            checkpointing=line["actor.gradient_checkpointing_enable"],
            offload=line["ds.adam_offload"],
            sleep=line["ds.enable_sleep"],
            overlap=line["ds.overlap_comm"],
            forest=forest,
            entropy=line["actor.entropy_coef"] is not None,
            train_tokens=limit,
            score_tokens=scored,
            lora_rank=line["ds.lora.rank"],
            lora_modules=None if modules == "all-linear" else tuple(modules),
        ),
        engines=Engines(
            line["vllm.num_engines"],
            line["vllm.tensor_parallel_size"],
            line["vllm.gpu_memory_utilization"],
            line["vllm.enable_sleep"],
        ),
        gpus={"policy": actors, "reference": _gpus(line, "ref"), "critic": _gpus(line, "critic")},
        colocate_all=line["train.colocate_all"],
        colocate_reference=line["train.colocate_actor_ref"],
        asynchronous=line["train.async_enable"],
        length=_length(line, played, shape),
        concurrent=line.config.max_concurrent_trials,
    )


def _gpus(line: CommandLine, model: str) -> int:
    return line[f"{model}.num_nodes"] * line[f"{model}.num_gpus_per_node"]


def _length(line: CommandLine, played: Mapping[str, Game], shape: Shape) -> int:
    """`--data.max_len`, or its default for the games with their own options: tasks are not read."""
    found = []
    for game in played.values():
        try:
            length, _ = room.settle(
                game.agent,
                game.config,
                line["rollout.max_new_tokens"],
                flag="--data.max_len",
                given=line["data.max_len"],
                model=shape.length,
            )
        except room.RoomError as error:
            raise ConfigError(str(error)) from error
        found.append(length)
    return max(found)
