"""Patches of the host: what it takes from CUDA, and what it gets on the CPU instead.

Each patch was left out once, to see what breaks without it.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openrlhf_lamer.integration.cpu.environment import refuse_cuda
from openrlhf_lamer.integration.cpu.hooks import activate, active, after_import, during_import, replace

if TYPE_CHECKING:
    import torch

STUBS = Path(__file__).parent / "stubs"


def install() -> None:
    """Switch CPU mode on in this process; a second call changes nothing.

    Raises:
        CudaPresentError: CUDA is here, and the patches would do harm, above all to the exchange of weights.
    """
    if not active():
        refuse_cuda()
        activate()


@during_import("openrlhf.models.ring_attn_utils")
@contextmanager
def flash_attn_stub() -> Iterator[None]:
    """Let the one host module that imports flash_attn unconditionally find a stand-in, if the real one is missing.

    Without it: ModuleNotFoundError as soon as the host is imported. The stand-in is in sight during this import only,
    so that no other library takes flash attention for installed.
    """
    if importlib.util.find_spec("flash_attn") is not None:
        yield
        return
    stubs = str(STUBS)
    sys.path.insert(0, stubs)
    try:
        yield
    finally:
        sys.path.remove(stubs)
        for name in [name for name in sys.modules if name.partition(".")[0] == "flash_attn"]:
            del sys.modules[name]


class CpuDevice(str):
    """Result of `torch.cuda.current_device()`: the device "cpu" to torch, the index 0 in an f-string.

    The host passes the value on as a device nearly everywhere; only its replay buffer formats it into "cuda:{...}",
    the name of a device that is not used when samples stay on the CPU.
    """

    __slots__ = ()

    def __new__(cls) -> CpuDevice:
        """Make the one value there is."""
        return super().__new__(cls, "cpu")

    def __reduce__(self) -> tuple[type[CpuDevice], tuple[()]]:
        """Pickle as the one value, since the constructor takes no text."""
        return CpuDevice, ()

    def __format__(self, spec: str) -> str:
        """Stand for an index in "cuda:{...}"."""
        return "0"


@after_import("torch.cuda")
def no_set_device(cuda: Any) -> None:
    """Make `set_device` do nothing. Without it: an error when DeepSpeed's process group is set up."""

    def set_device(device: object) -> None:
        pass

    replace(cuda, "set_device", set_device)


@after_import("torch.cuda")
def current_device_is_cpu(cuda: Any) -> None:
    """Name the CPU as the current device. Without it: an error when the first model is set up."""

    def current_device() -> CpuDevice:
        return CpuDevice()

    replace(cuda, "current_device", current_device)


@after_import("torch.cuda")
def no_synchronize(cuda: Any) -> None:
    """Make `synchronize` do nothing. Without it: an error at the host's first barrier."""

    def synchronize(device: object = None) -> None:
        pass

    replace(cuda, "synchronize", synchronize)


@after_import("torch.cuda")
def no_current_stream(cuda: Any) -> None:
    """Let `current_stream` return None. Without it: an error at the first broadcast of a weight, as its argument."""

    def current_stream(device: object = None) -> None:
        return None

    replace(cuda, "current_stream", current_stream)


class GlooCommunicator:
    """The part of vLLM's PyNcclCommunicator that the host uses, over gloo."""

    def __init__(self, group: Any) -> None:
        self.group = group

    def broadcast(self, tensor: torch.Tensor, src: int, stream: object = None) -> None:
        """Send the tensor from rank `src`, or receive into it."""
        data = tensor.detach()
        buffer = data.contiguous()  # the same memory unless it was scattered
        self.group.broadcast(buffer, src).wait()
        if buffer.data_ptr() != data.data_ptr():
            data.copy_(buffer)


@after_import("openrlhf.utils.distributed_util")
def weights_over_gloo(module: Any) -> None:
    """Exchange weights between trainer and engine over gloo: the host builds an NCCL communicator whatever its flag.

    Without it: the run ends with exit code 0, with garbage weights in the engine, because vLLM disables a communicator
    that finds no NCCL without saying so.
    """

    def stateless_init_process_group(
        master_address: str, master_port: int, rank: int, world_size: int, device: object
    ) -> GlooCommunicator:
        from vllm.distributed.utils import stateless_init_torch_distributed_process_group

        group = stateless_init_torch_distributed_process_group(
            host=master_address, port=master_port, rank=rank, world_size=world_size, backend="gloo"
        )
        return GlooCommunicator(group)

    replace(module, "stateless_init_process_group", stateless_init_process_group)


@after_import("openrlhf.trainer.ray.vllm_worker_wrap")
def receive_weights_on_cpu(module: Any) -> None:
    """Let the engine receive weights into CPU memory. Without it: this fails, and the trainer waits indefinitely."""

    def update_weight(
        self: Any, name: str, dtype: torch.dtype, shape: tuple[int, ...], empty_cache: bool = False
    ) -> None:
        import torch

        expected = self.model_config.dtype
        if dtype != expected:
            raise TypeError(f"weight {name} arrives as {dtype}, but the engine's model is {expected}")
        weight = torch.empty(shape, dtype=dtype)
        self._model_update_group.broadcast(weight, src=0)
        self.model_runner.model.load_weights(weights=[(name, weight)])

    replace(module.WorkerWrap, "update_weight", update_weight)


@after_import("vllm.model_executor.layers.utils")
def linear_keeps_live_weight(module: Any) -> None:
    """Have vLLM's linear layers multiply by the parameter itself.

    On a CPU vLLM packs each weight into another layout and drops the parameter, so that new weights cannot be loaded;
    of a tied output layer it packs a copy, which would stay at its first value with no error at all.
    """
    from torch.nn.functional import linear

    def dispatch_cpu_unquantized_gemm(layer: Any, remove_weight: bool) -> None:
        layer.cpu_linear = linear

    replace(module, "dispatch_cpu_unquantized_gemm", dispatch_cpu_unquantized_gemm)
