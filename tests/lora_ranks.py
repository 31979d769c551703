"""One data-parallel rank of the host's policy and critic with LoRA, for `test_lora.py`: no Ray, no engine, two stages.

Run as `python lora_ranks.py MODEL OUT RANK WORLD PORT`; rank 0 writes `OUT/stage-N.pt`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from openrlhf_lamer.integration import cpu

if not cpu.cuda_available():
    cpu.enter_driver()

import openrlhf.trainer.ray.ppo_actor as host_actor
import torch
from openrlhf.utils.config import hierarchize
from openrlhf.utils.utils import get_strategy

from openrlhf_lamer.integration.host import host_parser
from openrlhf_lamer.integration.training.actors import LamerCriticActor, LamerPolicyActor
from openrlhf_lamer.integration.training.buffer import MicroBatch

PROMPT, REPLY, ROWS = 6, 5, 2


class Engine:
    """Receives weights as a rollout engine would, and keeps them by name."""

    def __init__(self) -> None:
        self.weights: dict[str, torch.Tensor] = {}
        self._expected: list[tuple[str, torch.dtype, torch.Size]] = []
        self.reset_prefix_cache = SimpleNamespace(remote=lambda: None)
        self.update_weight = SimpleNamespace(remote=self._announce)

    def _announce(self, name: str, dtype: torch.dtype, shape: torch.Size, empty_cache: bool) -> None:
        self._expected.append((name, dtype, shape))

    def broadcast(self, tensor: torch.Tensor, src: int, stream: Any) -> None:
        name, dtype, shape = self._expected.pop()
        assert not self._expected
        assert (tensor.dtype, tensor.shape, src) == (dtype, shape, 0), name
        self.weights[name] = tensor.clone()


def arguments(model: str, out: Path, stage: int, world: int, *more: str) -> Any:
    given = [
        *("--actor.model_name_or_path", model, "--critic.model_name_or_path", model, "--ckpt.path", str(out / "ckpt")),
        *("--ckpt.output_dir", str(out / "out"), "--critic.save_value_network", "--ds.zero_stage", str(stage)),
        *("--ds.lora.rank", "4", "--ds.lora.alpha", "12", "--ds.lora.dropout", "0.3", "--vllm.enable_prefix_caching"),
        *("--train.batch_size", str(2 * world), "--train.micro_batch_size", "1", "--ds.attn_implementation", "sdpa"),
        *(
            "--actor.adam.lr",
            "1e-2",
            "--critic.adam.lr",
            "1e-2",
            "--actor.lr_warmup_ratio",
            "0",
            "--critic.lr_warmup_ratio",
            "0",
        ),
        *("--algo.kl.use_loss", "--algo.kl.init_coef", "0.1", "--train.agent_func_path", "x.py", "--train.seed", "3"),
        *more,
    ]
    args = hierarchize(host_parser().parse_args(given))
    args.actor.eps_clip_low_high = (0.2, 0.2)
    return args


def rows(rank: int) -> dict[str, torch.Tensor]:
    """One row of each rank."""
    drawn = torch.Generator().manual_seed(rank)
    sequences = torch.randint(3, 60, (ROWS, PROMPT + REPLY), generator=drawn)
    mask = torch.ones_like(sequences)
    action_mask = mask[:, 1:].clone()
    action_mask[:, :-REPLY] = 0
    return {"sequences": sequences, "attention_mask": mask, "action_mask": action_mask}


def micro_batch(own: dict[str, torch.Tensor], world: int, **scores: torch.Tensor) -> MicroBatch:
    """A step of one micro-batch a rank."""
    signs = torch.tensor([[1.0], [-1.0]]) * own["action_mask"]
    given: Any = own | scores | {"advantages": signs, "returns": 3 * signs, "index": [0, 1], "info": {}}
    given["total_length"] = own["attention_mask"].sum(1).float()
    return MicroBatch(**given, step_tokens=world * ROWS * REPLY, step_rows=world * ROWS, ends_step=True)


def trained(policy: Any, own: dict[str, torch.Tensor], steps: int, world: int) -> list[dict[str, torch.Tensor]]:
    """Score rows and train on them, over and over; the scores before each step."""
    scored = []
    for _ in range(steps):
        now, reference = policy.forward(**own), policy.reference_forward(**own)
        scored.append({"policy": now, "reference": reference})
        policy.append(micro_batch(own, world, action_log_probs=now, base_action_log_probs=reference))
        status = policy.fit(0.1)
        assert status["actor_grad_norm"] > 0
    scored.append({"policy": policy.forward(**own), "reference": policy.reference_forward(**own)})
    return scored


def run(model: str, out: Path, stage: int, rank: int, world: int, port: int) -> dict[str, Any]:
    engine = Engine()
    host_actor.ray = SimpleNamespace(get=lambda answers: answers)  # pyright: ignore[reportAttributeAccessIssue]

    def connect(self: Any, backend: str) -> None:
        self._model_update_group = engine

    host_actor.ActorPPOTrainer._init_vllm_sync_group = connect

    def policy(*more: str) -> Any:
        strategy = get_strategy(arguments(model, out, stage, world, *more))
        made = LamerPolicyActor(world, rank, "127.0.0.1", port)
        made.init_model_from_pretrained(strategy, model, 10, vllm_engines=[engine])
        return made

    own = rows(rank)
    first = policy()
    first.broadcast_to_vllm()
    found: dict[str, Any] = {"rows": own, "sent": [dict(engine.weights)]}
    found["scored"] = trained(first, own, 3, world)
    first.broadcast_to_vllm()
    found["sent"].append(dict(engine.weights))
    found["scored"] += trained(first, own, 1, world)
    first.broadcast_to_vllm()
    found["sent"].append(dict(engine.weights))
    first.save_checkpoint("global_step4", {"global_step": 4})
    first.save_model()
    del first

    engine.weights.clear()
    second = policy("--ckpt.load_enable")
    second.broadcast_to_vllm()
    found["resumed"] = dict(engine.weights)
    found["scored again"] = trained(second, own, 1, world)
    found["states"] = second.get_checkpoint_states()
    del second

    critic = LamerCriticActor(world, rank, "127.0.0.1", port)
    explicit = ("--ds.lora.target_modules", "q_proj", "v_proj")
    critic.init_model_from_pretrained(get_strategy(arguments(model, out, stage, world, *explicit)), model, 10)
    critic.save_model()
    if rank == 0:
        (out / "out_critic").rename(out / "out_critic_before")
    found["values"] = [critic.forward(**own)]
    for _ in range(3):
        critic.append(micro_batch(own, world, values=found["values"][-1]))
        critic.fit()
        found["values"].append(critic.forward(**own))
    critic.save_model()
    return found


if __name__ == "__main__":
    model, folder, rank, world, port = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:])
    for stage in (2, 3):
        found = run(model, folder / f"stage-{stage}", stage, rank, world, port)
        torch.save(found, folder / f"stage-{stage}-rank-{rank}.pt")
