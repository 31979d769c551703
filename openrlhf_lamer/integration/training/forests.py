"""The host's models on forests of rows, in place of their padded pass."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from torch import Tensor
from transformers import AutoConfig

from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.update.model import log_probs, unable, values


def why_padded(config: LamerConfig, args: Any) -> str:
    """The reason why rows are padded; empty where they run as forests.

    All processes of a run come to the same answer, from the flags and the models' configurations.
    """
    if config.forward == "padded":
        return "--lamer.forward padded"
    for model in filter(None, (args.actor.model_name_or_path, args.critic.model_name_or_path)):
        if reason := unable(AutoConfig.from_pretrained(model, trust_remote_code=True)):
            return reason
    return ""


def run_policy(actor: Any) -> None:
    """Have an `Actor` of the host, policy or reference, score forests."""

    def forward(
        sequences: Tensor,
        action_mask: Tensor,
        attention_mask: Tensor,
        return_output: bool = False,
        return_entropy: bool = False,
        **_: Any,
    ) -> Any:
        scored, entropy = log_probs(
            actor.model,
            sequences,
            attention_mask,
            action_mask,
            temperature=actor.temperature,
            entropy=return_entropy,
        )
        return (scored, SimpleNamespace(entropy=entropy)) if return_output else scored

    actor.forward = forward


def run_critic(engine: Any) -> None:
    """Have the host's critic, in its training engine, value forests."""
    inner = engine.module
    critic = inner.get_base_model() if hasattr(inner, "get_base_model") else inner  # below an adapter

    def forward(
        input_ids: Tensor, action_mask: Tensor, attention_mask: Tensor, return_output: bool = False, **_: Any
    ) -> Any:
        backbone, head = (getattr(critic, name) for name in (critic.base_model_prefix, critic.value_head_prefix))
        found = values(backbone, head, input_ids, attention_mask, action_mask)
        if critic.normalize_reward:
            found = (found - critic.mean) / critic.std * action_mask
        return (found, SimpleNamespace()) if return_output else found

    critic.forward = forward
