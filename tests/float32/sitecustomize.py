"""On PYTHONPATH: CPU mode in float32 (the host has no flag for it), since bfloat16 is too coarse for exact checks."""

from __future__ import annotations

import os
from typing import Any

if os.environ.get("OPENRLHF_LAMER_CPU"):
    from openrlhf_lamer.integration.cpu.hooks import after_import, replace

    @after_import("openrlhf.utils.utils")
    def models(module: Any) -> None:
        import torch

        replace(module, "convert_to_torch_dtype", lambda param_dtype: torch.float32)

    @after_import("openrlhf.utils.deepspeed.deepspeed")
    def training_engines(module: Any) -> None:
        def configured(of_host: Any) -> Any:
            return lambda **settings: of_host(**(settings | {"param_dtype": "fp32"}))

        for name in ("get_train_ds_config", "get_eval_ds_config"):
            replace(module, name, configured(getattr(module, name)))

    @after_import("vllm.engine.arg_utils")
    def rollout_engines(module: Any) -> None:
        prepared = module.EngineArgs.__post_init__

        def in_float32(self: Any) -> None:
            self.dtype = "float32"
            prepared(self)

        replace(module.EngineArgs, "__post_init__", in_float32)
