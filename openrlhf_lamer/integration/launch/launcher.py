"""From a command line to the host's own command, run with our parts in place of its own.

Ray carries what the workers need: the configuration in an environment variable, our
classes by value or by reference (see the classes). No file of the host is touched.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openrlhf_lamer import LamerError, advantage
from openrlhf_lamer.agents.loading import AGENTS_VAR, load_agents
from openrlhf_lamer.config import ENV_VAR, ConfigError
from openrlhf_lamer.doctor import Verdict
from openrlhf_lamer.doctor.model import reach
from openrlhf_lamer.games import games
from openrlhf_lamer.integration import cluster, cpu
from openrlhf_lamer.integration.cluster import Cluster
from openrlhf_lamer.integration.host import CLI, ENVIRONMENT, probe, stand_in
from openrlhf_lamer.integration.launch.checks import check, filtering_range, needs_critic, needs_reference, staleness
from openrlhf_lamer.integration.launch.flags import CommandLine, host_arguments, parse
from openrlhf_lamer.integration.launch.outputs import absolute, check_trials, host_outputs, settings_of, temporary
from openrlhf_lamer.integration.launch.tasks import check_tasks, clip_range, max_len, unplayed
from openrlhf_lamer.integration.launch.watch import GRACE_SECONDS, EngineDiedError, EngineWatch
from openrlhf_lamer.integration.low_memory import WorkerKilledError, killed_for_memory

MEMORY_ENV = {"MALLOC_ARENA_MAX": "2"}
"""Otherwise a process with many threads, as rollout engines are, keeps more and more freed memory: glibc gives each
thread a heap of its own, and their holes add up (`make soak` shows it)."""

SEVERAL = Path(__file__).resolve().parents[1] / "rollout" / "several.py"
"""The file that the host loads where several agents are given."""


WANDB_KEY = "WANDB_API_KEY"
"""Variable from which Weights & Biases takes its key. The host gets the variable's name in place of the key: it prints
its arguments, and stores them in the run's configuration."""


@dataclass(frozen=True)
class Plan:
    """A checked command line and what follows from it."""

    line: CommandLine
    agent_files: tuple[Path, ...]
    cpu: bool
    defaults: Mapping[str, object]

    @property
    def settings(self) -> dict[str, Any]:
        """All that is recorded of the run, ready for JSON."""
        return settings_of(self.line, self.agent_files)

    @property
    def estimator(self) -> str:
        """The estimator that was asked for, ours or the host's."""
        return self.line["algo.advantage.estimator"]

    @property
    def agent_file(self) -> Path:
        """The file that the host loads: the agent's, or ours that loads those of several agents."""
        return self.agent_files[0] if len(self.agent_files) == 1 else SEVERAL

    @property
    def host_argv(self) -> list[str]:
        """The host's arguments: ours gone, and an estimator of ours replaced by one with the same needs."""
        name = self.estimator
        if name in advantage.names():
            ours = advantage.get(name)
            name = stand_in(critic=ours.needs_critic, group=ours.needs_group)
        overrides = {"train.agent_func_path": self.agent_file, "algo.advantage.estimator": name}
        overrides |= host_outputs(self.line)  # absolute, as workers may be in another folder than this process
        if self.line["logger.wandb.key"]:
            overrides["logger.wandb.key"] = WANDB_KEY
        if self.line["ds.lora.rank"]:
            # No reference is loaded, but where models share GPUs the host compares its size.
            overrides |= {f"ref.{size}": self.line[f"actor.{size}"] for size in ("num_nodes", "num_gpus_per_node")}
        return host_arguments(self.line, self.defaults, overrides)

    @property
    def gpus(self) -> int:
        """GPUs, or logical ones, that the host will ask Ray for."""
        line = self.line

        def group(name: str) -> int:
            return line[f"{name}.num_nodes"] * line[f"{name}.num_gpus_per_node"]

        needed = group("actor")
        if not line["train.colocate_all"] or line["train.async_enable"]:
            needed += line["vllm.num_engines"] * line["vllm.tensor_parallel_size"]
        if needs_reference(line) and not (line["train.colocate_all"] or line["train.colocate_actor_ref"]):
            needed += group("ref")
        if needs_critic(self.estimator) and not line["train.colocate_all"]:
            needed += group("critic")
        return needed


def prepare(argv: Sequence[str]) -> Plan:
    """Parse and check a command line; nothing is started.

    Raises:
        ConfigError, AgentError, HostError, CudaPresentError: naming what is wrong and the remedy.
    """
    untested = probe()
    if untested:
        warnings.warn(untested, stacklevel=2)
    names = advantage.names()
    line = parse(argv, names, {})
    cpu_mode = _cpu_mode(line.config.cpu)
    defaults = {"rollout.max_new_tokens": line.config.max_new_tokens, **(cpu.host_defaults() if cpu_mode else {})}
    line = parse(argv, names, defaults)
    check(line)
    loaded = load_agents(line.agents)
    played = games({env: agent for env, (agent, _) in loaded.items()}, line.config)
    tasks = check_tasks(line, played)
    length, short = max_len(line, played, tasks)
    for warning in filter(None, (short, staleness(line), unplayed(line, played, tasks))):
        warnings.warn(warning, stacklevel=2)
    defaults = {**defaults, "data.max_len": length}
    wide = clip_range(line, [played[env] for env in tasks.trained.options])
    if wide is not None:
        defaults["reward.clip_range"] = wide
    shares = filtering_range(line)
    if shares is not None:
        defaults["algo.dynamic_filtering_range"] = shares
    files = tuple(file for _, file in loaded.values())
    plan = Plan(absolute(parse(argv, names, defaults)), files, cpu_mode, defaults)
    check_trials(plan.line, plan.settings)
    lost = temporary(plan.line)
    if lost:
        warnings.warn(lost, stacklevel=2)
    return plan


def launch(plan: Plan) -> None:
    """Start or join Ray, put our classes where the host looks for its own, and run the host's command.

    Raises:
        ConfigError: A model is neither here nor on the hub.
        StartError: Ray did not start.
        EngineDiedError: A rollout engine died meanwhile.
        WorkerKilledError: Another worker was killed for memory.
    """
    env = _worker_env(plan)
    _say_mode(plan, env)
    _find_models(plan, env)
    os.environ.update(env)
    if plan.cpu:
        cpu.enter_driver()
    import ray

    _init_ray(plan, env)
    watch = EngineWatch(_remedy(plan.line))
    _place_classes(plan, watch)
    sys.argv = [CLI, *plan.host_argv]
    try:
        runpy.run_module(CLI, run_name="__main__", alter_sys=True)
    except (Exception, KeyboardInterrupt) as error:
        death = watch.death(0 if isinstance(error, KeyboardInterrupt) else GRACE_SECONDS)
        if death is not None:
            raise EngineDiedError(death) from None
        killed = killed_for_memory(error)
        if killed is not None:
            raise WorkerKilledError(f"{killed}. {_remedy(plan.line)}") from None
        raise
    finally:
        watch.stop()
        ray.shutdown()
        watch.close()


def main(argv: Sequence[str] | None = None) -> None:
    """The command: one message, and exit code 2 for a configuration that cannot work, 1 for a run that broke."""
    try:
        launch(prepare(sys.argv[1:] if argv is None else argv))
    except LamerError as error:
        print(f"openrlhf-lamer: error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _say_mode(plan: Plan, env: Mapping[str, str]) -> None:
    """Say that no GPU is used, and what follows."""
    if not plan.cpu:
        return
    why = "--lamer.cpu is on" if plan.line.config.cpu else "this machine has no CUDA device"
    hub = "" if env["HF_HUB_OFFLINE"] == "0" else " The hub is not asked for models (HF_HUB_OFFLINE=0 changes that)."
    print(f"openrlhf-lamer: CPU mode: {why}, so everything runs on the CPU.{hub}", file=sys.stderr)


def _find_models(plan: Plan, env: Mapping[str, str]) -> None:
    """Refuse a model that workers would look for in vain, minutes later."""
    offline = {**os.environ, **env}.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on")
    flags = ["actor.model_name_or_path"]
    if needs_critic(plan.estimator) and plan.line["critic.model_name_or_path"]:
        flags.append("critic.model_name_or_path")
    for flag in flags:
        found = reach(plan.line[flag], offline=offline)
        if found.verdict is Verdict.ERROR:
            raise ConfigError(f"--{flag} {found.found}; {found.remedy}")


def _remedy(line: CommandLine) -> str:
    """How to resume a run after one of its processes died."""
    if line["ckpt.save_steps"] < 1:
        return (
            "No checkpoint was written: start the same command again with --ckpt.save_steps and --ckpt.load_enable, so "
            "that it can be resumed the next time."
        )
    again = "the same command again" if line["ckpt.load_enable"] else "the same command again with --ckpt.load_enable"
    return f"Start {again}: it goes on from the last checkpoint in {line['ckpt.path']}."


def _cpu_mode(asked: bool | None) -> bool:
    if asked and cpu.cuda_available():
        raise ConfigError("--lamer.cpu on: this machine has a CUDA device; leave the flag out, or hide the device")
    return not cpu.cuda_available() and not _cluster_has_cuda() if asked is None else asked


def _cluster_has_cuda() -> bool:
    """Whether the Ray cluster that this driver is to join has real GPUs, though this machine has none."""
    address = cluster.find()
    return address is not None and cluster.look(address).accelerators


def _worker_env(plan: Plan) -> dict[str, str]:
    env = {key: os.environ.get(key, value) for key, value in (ENVIRONMENT | MEMORY_ENV).items()}
    if plan.cpu:
        env |= cpu.worker_env()
    if plan.line["logger.wandb.key"] not in (None, WANDB_KEY):
        env[WANDB_KEY] = plan.line["logger.wandb.key"]
    if len(plan.agent_files) > 1:
        env[AGENTS_VAR] = json.dumps([str(file) for file in plan.agent_files])
    return env | {ENV_VAR: plan.line.config.to_env()}


def _init_ray(plan: Plan, env: dict[str, str]) -> None:
    # Variables that the job was submitted with cannot be given again, and win.
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}").get("runtime_env", {}).get("env_vars", {})
    address = cluster.find() or "local"
    options: dict[str, Any] = {"runtime_env": {"env_vars": {k: v for k, v in env.items() if k not in job}}}
    if plan.cpu and address == "local":
        options |= cpu.ray_options(plan.gpus)
    cluster.init(address, **options)
    _check_resources(plan, cluster.joined())


def _check_resources(plan: Plan, found: Cluster) -> None:
    """Refuse a cluster that is too small: the host waits for what is missing, and says nothing."""
    if found.gpus < plan.gpus:
        hint = (
            f"start Ray with `ray start --head --num-gpus {plan.gpus}` (logical ones do in CPU mode)"
            if plan.cpu
            else "lower --actor.num_gpus_per_node and --vllm.num_engines, or use --train.colocate_all"
        )
        raise ConfigError(
            f"--actor.num_gpus_per_node, --vllm.num_engines and the other models ask for {plan.gpus} GPUs, "
            f"but Ray has {found.gpus} with a CPU on the same node ({found}): {hint}"
        )
    if found.cpus <= plan.gpus:
        raise ConfigError(
            f"the host takes {plan.gpus} CPUs along with its GPUs, and its queues and slow environments want more, "
            f"but Ray has {found.cpus} ({found}): start its nodes with more `--num-cpus`"
        )


def _place_classes(plan: Plan, watch: EngineWatch) -> None:
    """Replace the host's actor classes, which travel by value from this process, and watch its engines."""
    import openrlhf.trainer.ppo_trainer as host_trainer
    import openrlhf.trainer.ppo_trainer_async as host_async
    import openrlhf.trainer.ray as host_ray
    import openrlhf.trainer.ray.launcher as host_launcher
    import openrlhf.trainer.ray.ppo_actor as host_actor
    import openrlhf.trainer.ray.ppo_critic as host_critic
    import openrlhf.trainer.ray.vllm_engine as host_engine
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from openrlhf_lamer.integration.rollout.actor import CALLS, LamerRolloutActor
    from openrlhf_lamer.integration.training.actors import LamerCriticActor, LamerPolicyActor, LamerReferenceActor
    from openrlhf_lamer.integration.training.trainer import LamerGenerateSamplesActor, LamerTrainer, LamerTrainingActor

    def create_watched(*args: Any, **kwargs: Any) -> list[Any]:
        engines = host_engine.create_vllm_engines(*args, **kwargs)
        watch.begin(engines)
        return engines

    # Ray would put the trainers on any node that has a free CPU, and the loss of that node would end the run. Here they
    # run on a node whose loss ends the run anyway.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    with_driver: dict[str, Any] = {"num_cpus": 0, "scheduling_strategy": here}

    given = {"config": plan.line.config, "estimator": plan.estimator, "settings": plan.settings}

    def placed(base: type) -> Any:
        cls = type(base.__name__, (base,), given)
        return ray.remote(**with_driver)(cls)

    engine_options: dict[str, Any] = {"max_concurrency": CALLS}
    host_trainer.PPOTrainer = placed(LamerTrainer)
    host_async.TrainingActor = placed(LamerTrainingActor)
    host_async.GenerateSamplesActor = placed(LamerGenerateSamplesActor)
    host_async.PPOTrainerAsync = host_async.PPOTrainerAsync.options(**with_driver)
    host_actor.PolicyModelActor = ray.remote(num_gpus=1)(LamerPolicyActor)
    host_engine.RolloutRayActor = ray.remote(**engine_options)(LamerRolloutActor)
    host_ray.create_vllm_engines = create_watched
    host_launcher.ReferenceModelActor = ray.remote(num_gpus=1)(LamerReferenceActor)
    host_critic.CriticModelActor = ray.remote(num_gpus=1)(LamerCriticActor)
    if plan.line["ds.lora.rank"]:
        host_launcher.RayActorGroup = _without_reference(host_launcher.RayActorGroup, host_launcher.ReferenceModelActor)


def _without_reference(group: Any, reference: Any) -> Any:
    """The host's class of groups, for its command with LoRA: the policy's group stands in for the reference's.

    Args:
        group: The host's class.
        reference: The host's reference actor, which is never started.
    """
    from openrlhf_lamer.integration.training.lora import AdapterOff

    made: list[Any] = []

    def create(num_nodes: int, num_gpus_per_node: int, ray_actor_type: Any, **options: Any) -> Any:
        if ray_actor_type is reference:
            return AdapterOff(made[0])  # the host makes the policy's first
        made.append(group(num_nodes, num_gpus_per_node, ray_actor_type, **options))
        return made[-1]

    return create
