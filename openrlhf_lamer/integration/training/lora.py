"""LoRA: merged weights for the rollout engines, the reference without a second model, and a critic whose head learns.

The engines hold no adapter. They get the weights of the base model's linear layers with the scaled adapter added, under
the names by which they loaded the base model.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import deepspeed
import torch
from peft import get_peft_model
from peft.tuners.lora import Linear
from peft.tuners.tuners_utils import BaseTunerLayer

from openrlhf_lamer import LamerError


class AdapterError(LamerError, RuntimeError):
    """An adapter sits on a layer whose merged weight the engines cannot be given."""


class MergedWeight(torch.Tensor):
    """A linear layer's weight with its adapter merged in, which the host sends like any parameter.

    It has the base weight's shape (output features, input features) and type, and no memory: `data` merges at each
    access, so that one merged weight exists at a time. Under ZeRO-3 it takes part in the host's `GatheredParameters` as
    a partitioned parameter does, and gathers the base weight and the adapter on all ranks.

    Args:
        layer: PEFT's layer, with one active adapter.
    """

    def __new__(cls, layer: Linear) -> MergedWeight:
        """Make a tensor without memory that has what the host reads from a parameter."""
        weight: Any = layer.get_base_layer().weight
        shape = getattr(weight, "ds_shape", weight.shape)
        # The host leaves out frozen parameters of a model that sees images.
        return torch.Tensor._make_subclass(cls, torch.empty(shape, dtype=weight.dtype, device="meta"), True)

    def __init__(self, layer: Linear) -> None:
        super().__init__()
        (adapter,) = layer.active_adapters
        self._weight: Any = layer.get_base_layer().weight
        self._down: Any = layer.lora_A[adapter].weight
        self._up: Any = layer.lora_B[adapter].weight
        self._scaling = layer.scaling[adapter]
        if hasattr(self._weight, "ds_id"):
            self.ds_id, self.ds_shape = self._weight.ds_id, self._weight.ds_shape

    @property
    def data(self) -> torch.Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The merged weight, computed in float32; the base weight stays as it is."""
        update = self._up.data.float() @ self._down.data.float()
        return (self._weight.data.float() + update * self._scaling).to(self._weight.dtype)

    def all_gather(self, param_list: list[MergedWeight]) -> None:
        """Gather what is merged; DeepSpeed calls it on all ranks when the host gathers this parameter."""
        assert param_list == [self]
        self._gathered = ExitStack()
        for part in (self._weight, self._down, self._up):
            # One by one: of several at once DeepSpeed awaits only the last, which gloo may finish before the others.
            self._gathered.enter_context(deepspeed.zero.GatheredParameters([part]))

    def partition(self, param_list: list[MergedWeight], has_been_updated: bool) -> None:
        """Release what was gathered."""
        assert param_list == [self]
        assert not has_been_updated
        self._gathered.close()


class MergedModel:
    """A PEFT model with its base model's names and with merged weights.

    Args:
        model: The PEFT model.

    Raises:
        AdapterError: It has an adapter on another layer than a linear one, or on one that shares its weight.
    """

    def __init__(self, model: Any) -> None:
        self._adapter_prefix = model.base_model.prefix
        self._base = model.get_base_model()
        modules = self._base.named_modules()
        self._layers = {name: module for name, module in modules if isinstance(module, BaseTunerLayer)}
        uses = Counter(id(weight) for _, weight in self._base.named_parameters(remove_duplicate=False))
        for name, layer in self._layers.items():
            own = layer.get_base_layer()
            if not isinstance(layer, Linear) or not isinstance(own, torch.nn.Linear):
                raise AdapterError(f"--ds.lora.target_modules: {name} is no linear layer but {type(own).__name__}")
            if uses[id(own.weight)] > 1:
                raise AdapterError(
                    f"--ds.lora.target_modules: {name} shares its weight with another layer, which has no adapter, and "
                    "the rollout engines hold one weight for both; leave it out"
                )

    def named_parameters(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Parameters of the base model; those with an adapter as `MergedWeight`."""
        for name, parameter in self._base.named_parameters():
            layer, _, own = name.partition(".base_layer.")
            if own == "weight":
                yield f"{layer}.weight", MergedWeight(self._layers[layer])  # pyright: ignore[reportArgumentType]
            elif own:
                yield f"{layer}.{own}", parameter
            elif self._adapter_prefix not in name:
                yield name, parameter


def merged_sender(trainer: Any) -> Any:
    """A copy of the host's trainer of the policy whose `broadcast_to_vllm` sends merged weights.

    Raises:
        AdapterError: See `MergedModel`.
    """
    sender = copy.copy(trainer)
    model = MergedModel(trainer.actor.model.module)
    sender.actor = SimpleNamespace(is_vlm=trainer.actor.is_vlm, model=SimpleNamespace(module=model))
    return sender


class AdapterOff:
    """The policy's group of actors in the place of the reference's: without its adapter, the policy is the reference.

    Args:
        policy: The host's group, of `LamerPolicyActor`s.
    """

    def __init__(self, policy: Any) -> None:
        self._policy = policy

    def async_init_model_from_pretrained(self, *args: Any) -> list[Any]:
        """Load nothing."""
        return []

    def async_run_method(self, method_name: str) -> list[Any]:
        """Call a method of the policy's actors."""
        return self._policy.async_run_method(method_name)

    def async_run_method_batch(self, method_name: str, **batch: Any) -> list[Any]:
        """Have the policy's actors score a batch of rows with the adapter switched off."""
        assert method_name == "forward"
        return self._policy.async_run_method_batch("reference_forward", **batch)


def adapted_critic(model: Any, config: Any) -> Any:
    """Add an adapter to a critic, as PEFT's `get_peft_model` does; its value head is trained whole, and saved with it.

    The host would freeze the head wherever it is not one of `--ds.lora.target_modules`.

    Args:
        model: The host's critic.
        config: The host's configuration of the adapter, which is completed.
    """
    config.modules_to_save = config.exclude_modules = [model.value_head_prefix]
    # One type for all that is trained, which ZeRO-3 asks for: PEFT would make the adapter float32, and not the head.
    return get_peft_model(model, config, autocast_adapter_dtype=False)
