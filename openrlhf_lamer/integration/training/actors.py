"""The host's model actors, with counts of the rows and tokens that they train.

These are known only where the optimiser runs. The counts travel back with the host's own training status, and the
trainer compares them with those of the rollout.
"""

from __future__ import annotations

import math
from typing import Any

import openrlhf.models.model as host_model
import torch
from openrlhf.trainer.ray.ppo_actor import PolicyModelActor
from openrlhf.trainer.ray.ppo_critic import CriticModelActor

from openrlhf_lamer.integration.remote import plain_class
from openrlhf_lamer.integration.training.lora import adapted_critic, merged_sender

ROWS_TRAINED = "lamer/rows_trained"
TOKENS_TRAINED = "lamer/tokens_trained"
OPTIMIZER_STEPS = "lamer/optimizer_steps"


class LamerPolicyActor(plain_class(PolicyModelActor)):
    """The policy's actor, which adds the rows, tokens and optimizer steps of each `fit` to its status."""

    def init_model_from_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        """Initialise as the host does, then wrap the training step in a counter."""
        result = super().init_model_from_pretrained(*args, **kwargs)
        step = self.trainer.training_step
        self._rows = self._tokens = 0

        def counted_step(*step_args: Any, **step_kwargs: Any) -> dict[str, Any]:
            status = step(*step_args, **step_kwargs)
            self._rows += int(status["num_samples"])
            self._tokens += int(status["num_action_tokens"])
            if status["num_action_tokens"] == 0:
                # A micro-batch of fillers has no token to average over. Its metrics have weight 0, but 0 · NaN is NaN.
                status["metrics"] = {key: _finite(value) for key, value in status["metrics"].items()}
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
    """The critic's actor, which logs no NaN for a micro-batch without sampled tokens, and trains its head."""

    def init_model_from_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        """Initialise as the host does, then let the last finite figure stand in for those that fillers lack."""
        host_model.get_peft_model = adapted_critic
        result = super().init_model_from_pretrained(*args, **kwargs)
        step = self.trainer.training_step
        last: dict[str, float] = {}

        def finite_step(*step_args: Any, **step_kwargs: Any) -> dict[str, float]:
            status = step(*step_args, **step_kwargs)
            last.update({key: value for key, value in status.items() if value is not None and math.isfinite(value)})
            return {key: last.get(key, 0.0) for key in status}

        self.trainer.training_step = finite_step
        return result


def _finite(value: Any) -> Any:
    if hasattr(value, "nan_to_num"):
        return value.float().nan_to_num(0.0)
    return value if math.isfinite(value) else 0.0
