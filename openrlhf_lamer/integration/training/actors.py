"""The host's model actors: micro-batches as planned, forests, and counts of the rows and tokens that they train.

What was trained is known only where the optimiser runs. The counts travel back with the host's own training status, and
the trainer compares them with those of the rollout.
"""

from __future__ import annotations

import math
from typing import Any

import openrlhf.models.model as host_model
import torch
from openrlhf.trainer.ray.launcher import ReferenceModelActor
from openrlhf.trainer.ray.ppo_actor import PolicyModelActor
from openrlhf.trainer.ray.ppo_critic import CriticModelActor

from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.integration.remote import plain_class
from openrlhf_lamer.integration.training.buffer import PlannedBuffer
from openrlhf_lamer.integration.training.forests import run_critic, run_policy, why_padded
from openrlhf_lamer.integration.training.lora import adapted_critic, merged_sender

ROWS_TRAINED = "lamer/rows_trained"
TOKENS_TRAINED = "lamer/tokens_trained"
OPTIMIZER_STEPS = "lamer/optimizer_steps"

SUMMED = ("policy_loss", "entropy_loss", "kl")
"""Figures that the host divides by the tokens of the optimizer step, unless they are means over rows."""


class LamerPolicyActor(plain_class(PolicyModelActor)):
    """The policy's actor, which adds the rows, tokens and optimizer steps of each `fit` to its status."""

    def init_model_from_pretrained(self, strategy: Any, *args: Any, **kwargs: Any) -> Any:
        """Initialise as the host does, then train as planned and wrap the training step in a counter."""
        _plan(strategy)
        result = super().init_model_from_pretrained(strategy, *args, **kwargs)
        self.trainer.replay_buffer = PlannedBuffer(strategy.args.train.micro_batch_size)
        if not why_padded(LamerConfig.load(), strategy.args):
            run_policy(self.actor)
        step = self.trainer.training_step
        self._rows = self._tokens = 0

        def counted_step(experience: Any, kl_ctl: float, number: int, info: Any = None) -> dict[str, Any]:
            self.trainer.replay_buffer.mark(self.actor.model, number)
            status = step(experience, kl_ctl, number, info)
            # A filler has no token: it counts nowhere, and weighs nothing in what is logged.
            status["num_samples"] = float((experience.action_mask.sum(1) > 0).sum())
            self._rows += int(status["num_samples"])
            self._tokens += int(status["num_action_tokens"])
            scale = _own_share(self.trainer.replay_buffer, self.strategy, number, status["num_action_tokens"])
            status["metrics"] = {
                key: _finite(value * scale if key in SUMMED and status["weights"][key] == "token" else value)
                for key, value in status["metrics"].items()
            }
            return status

        self.trainer.training_step = counted_step
        if self.strategy.args.ds.lora.rank:
            self.trainer.broadcast_to_vllm = merged_sender(self.trainer).broadcast_to_vllm
        return result

    def reference_forward(self, **batch: Any) -> torch.Tensor:
        """Score rows as `forward` does, by the policy with its adapter switched off, which is the reference."""
        with self.actor.model.module.disable_adapter():
            return self.forward(**batch)

    def fit(self, kl_ctl: float = 0) -> dict[str, float]:
        """Train on the replay buffer; the counts are sums over all data-parallel ranks."""
        self._rows = self._tokens = 0
        steps_before = self.actor.model.global_steps
        status = super().fit(kl_ctl)
        copies = self.strategy.ring_attn_size * self.strategy.ds_tensor_parallel_size
        # The host would sum plain numbers in float32, which loses count beyond 2^24.
        summed = self.strategy.all_reduce(torch.tensor([self._rows, self._tokens], dtype=torch.int64), op="sum")
        rows, tokens = (float(count) / copies for count in summed.tolist())
        counts = {ROWS_TRAINED: rows, TOKENS_TRAINED: tokens}
        return status | counts | {OPTIMIZER_STEPS: float(self.actor.model.global_steps - steps_before)}

    def discard(self) -> None:
        """Clear the replay buffer."""
        self.trainer.replay_buffer.clear()


class LamerCriticActor(plain_class(CriticModelActor)):
    """The critic's actor. It logs means over tokens, however these are split into micro-batches."""

    def init_model_from_pretrained(self, strategy: Any, *args: Any, **kwargs: Any) -> Any:
        """Initialise as the host does, with a head that is trained under LoRA too, then train as planned."""
        _plan(strategy)
        host_model.get_peft_model = adapted_critic
        result = super().init_model_from_pretrained(strategy, *args, **kwargs)
        self.trainer.replay_buffer = buffer = PlannedBuffer(strategy.args.train.micro_batch_size)
        if not why_padded(LamerConfig.load(), strategy.args):
            run_critic(self.critic)
        step = self.trainer.training_step

        def even_step(experience: Any, number: int, info: Any = None) -> dict[str, float]:
            buffer.mark(self.critic, number)
            status = step(experience, number, info)
            # The host averages these over micro-batches and ranks, which hold tokens in different numbers.
            share = 1 / _own_share(buffer, self.strategy, number, tokens) if (tokens := _tokens(experience)) else 0.0
            status["values"] = _finite(status["values"]) * share * buffer.per_step
            status["critic_loss"] *= buffer.per_step
            status["critic_grad_norm"] *= buffer.per_step * buffer.dynamic_optimizer_step[number]
            return status

        self.trainer.training_step = even_step
        return result


class LamerReferenceActor(plain_class(ReferenceModelActor)):
    """The reference model's actor."""

    def init_model_from_pretrained(self, strategy: Any, *args: Any, **kwargs: Any) -> Any:
        """Initialise as the host does."""
        result = super().init_model_from_pretrained(strategy, *args, **kwargs)
        if not why_padded(LamerConfig.load(), strategy.args):
            run_policy(self.model)
        return result


def _plan(strategy: Any) -> None:
    """Have the host take micro-batches of any size, and an optimizer step where the plan says so."""
    strategy.args.train.dynamic_batch_enable = strategy.use_dynamic_batch = True


def _tokens(experience: Any) -> int:
    return int(experience.action_mask.sum())


def _own_share(buffer: PlannedBuffer, strategy: Any, number: int, tokens: float) -> float:
    """Factor from a sum over a micro-batch, divided as the host does, to the mean over its own tokens."""
    ranks = strategy.ds_device_mesh["dp"].size()
    return buffer.dynamic_batch_num_tokens[number] / (ranks * tokens) if tokens else 0.0


def _finite(value: Any) -> Any:
    if hasattr(value, "nan_to_num"):
        return value.float().nan_to_num(0.0)
    return value if math.isfinite(value) else 0.0
