"""From a command line to the host's own command, run with our parts in its places.

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

from openrlhf_lamer import advantage
from openrlhf_lamer.agents.base import AgentError, load_agent
from openrlhf_lamer.config import ENV_VAR, ConfigError
from openrlhf_lamer.integration import cluster, cpu
from openrlhf_lamer.integration.checks import check, needs_critic
from openrlhf_lamer.integration.flags import CommandLine, host_arguments, parse
from openrlhf_lamer.integration.host import CLI, HostError, probe

HOST_ENV = {"TOKENIZERS_PARALLELISM": "true", "NCCL_DEBUG": "WARN", "RAY_ENABLE_ZERO_COPY_TORCH_TENSORS": "1"}
"""What the host sets in `ray.init`; it does so no longer once Ray is up, so we do."""

MEMORY_ENV = {"MALLOC_ARENA_MAX": "2"}
"""Otherwise a process with many threads, as rollout engines are, keeps more and more freed memory: glibc gives each
thread a heap of its own, and their holes add up (`make soak` shows it)."""


@dataclass(frozen=True)
class Plan:
    """A checked command line and what follows from it."""

    line: CommandLine
    agent_file: Path
    cpu: bool
    defaults: Mapping[str, object]

    @property
    def estimator(self) -> str:
        """The estimator that was asked for, ours or the host's."""
        return self.line["algo.advantage.estimator"]

    @property
    def host_argv(self) -> list[str]:
        """The host's arguments: ours gone, and an estimator of ours replaced by one with the same needs."""
        stand_in = self.estimator
        if self.estimator in advantage.names():
            needs = advantage.get(self.estimator)
            stand_in = "gae" if needs.needs_critic else "group_norm" if needs.needs_group else "reinforce"
        overrides = {"train.agent_func_path": self.agent_file, "algo.advantage.estimator": stand_in}
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
        if line["algo.kl.init_coef"] > 0 and not (line["train.colocate_all"] or line["train.colocate_actor_ref"]):
            needed += group("ref")
        if needs_critic(self.estimator) and not line["train.colocate_all"]:
            needed += group("critic")
        return needed


def prepare(argv: Sequence[str]) -> Plan:
    """Parse and check a command line; nothing is started.

    Raises:
        ConfigError, AgentError, HostError, CudaPresentError: naming what is wrong and the remedy.
    """
    warning = probe()
    if warning:
        warnings.warn(warning, stacklevel=2)
    names = advantage.names()
    line = parse(argv, names, {})
    cpu_mode = _cpu_mode(line.config.cpu)
    defaults = cpu.host_defaults() if cpu_mode else {}
    if cpu_mode:
        line = parse(argv, names, defaults)
    agent, file = load_agent(line.agent)
    check(line, agent)
    return Plan(line, file, cpu_mode, defaults)


def launch(plan: Plan) -> None:
    """Start or join Ray, put our classes where the host looks for its own, and run the host's command."""
    env = _worker_env(plan)
    os.environ.update(env)
    if plan.cpu:
        cpu.enter_driver()
    import ray

    _init_ray(plan, env)
    _place_classes(plan)
    sys.argv = [CLI, *plan.host_argv]
    try:
        runpy.run_module(CLI, run_name="__main__", alter_sys=True)
    finally:
        ray.shutdown()


def main(argv: Sequence[str] | None = None) -> None:
    """The command: exit code 2 and one message for a configuration that cannot work."""
    try:
        plan = prepare(sys.argv[1:] if argv is None else argv)
        launch(plan)
    except (ConfigError, AgentError, HostError, cpu.CudaPresentError) as error:
        print(f"openrlhf-lamer: error: {error}", file=sys.stderr)
        sys.exit(2)


def _cpu_mode(asked: bool | None) -> bool:
    if asked and cpu.cuda_available():
        raise ConfigError("--lamer.cpu on: this machine has a CUDA device; leave the flag out, or hide the device")
    return not cpu.cuda_available() and not _cluster_has_cuda() if asked is None else asked


def _cluster_has_cuda() -> bool:
    """Whether the Ray cluster that this driver is to join has real GPUs, though this machine has none."""
    address = os.environ.get("RAY_ADDRESS", "")
    return bool(address) and cluster.look(address).accelerators


def _worker_env(plan: Plan) -> dict[str, str]:
    env = {key: os.environ.get(key, value) for key, value in (HOST_ENV | MEMORY_ENV).items()}
    if plan.cpu:
        env |= cpu.worker_env()
    return env | {ENV_VAR: plan.line.config.to_env()}


def _init_ray(plan: Plan, env: dict[str, str]) -> None:
    import ray

    # What the job was submitted with cannot be given again, and wins.
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}").get("runtime_env", {}).get("env_vars", {})
    address = os.environ.get("RAY_ADDRESS", "")
    cluster.check_address(address)
    options: dict[str, Any] = {"runtime_env": {"env_vars": {k: v for k, v in env.items() if k not in job}}}
    if plan.cpu and not address:
        options |= cpu.ray_options(plan.gpus)
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"Ray could not be started or joined (RAY_ADDRESS={address!r}): {error}") from error
    available = int(ray.cluster_resources().get("GPU", 0))
    if available < plan.gpus:
        ray.shutdown()
        hint = (
            f"start Ray with `ray start --head --num-gpus {plan.gpus}` (logical ones do in CPU mode)"
            if plan.cpu
            else "lower --actor.num_gpus_per_node and --vllm.num_engines, or use --train.colocate_all"
        )
        raise ConfigError(
            f"--actor.num_gpus_per_node, --vllm.num_engines and the other models ask for {plan.gpus} GPUs, "
            f"but Ray has {available}: {hint}"
        )


def _place_classes(plan: Plan) -> None:
    """Replace the host's actor classes, which travel by value from this process."""
    import openrlhf.trainer.ppo_trainer as host_trainer
    import openrlhf.trainer.ppo_trainer_async as host_async
    import openrlhf.trainer.ray.ppo_actor as host_actor
    import openrlhf.trainer.ray.ppo_critic as host_critic
    import ray

    from openrlhf_lamer.integration.actors import LamerCriticActor, LamerPolicyActor
    from openrlhf_lamer.integration.trainer import LamerGenerateSamplesActor, LamerTrainer, LamerTrainingActor

    def placed(base: type) -> Any:
        return ray.remote(type(base.__name__, (base,), {"config": plan.line.config, "estimator": plan.estimator}))

    host_trainer.PPOTrainer = placed(LamerTrainer)
    host_async.TrainingActor = placed(LamerTrainingActor)
    host_async.GenerateSamplesActor = placed(LamerGenerateSamplesActor)
    host_actor.PolicyModelActor = ray.remote(num_gpus=1)(LamerPolicyActor)
    host_critic.CriticModelActor = ray.remote(num_gpus=1)(LamerCriticActor)
