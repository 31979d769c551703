"""`openrlhf-lamer merge`: a checkpoint of LoRA as a whole model."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from openrlhf_lamer.cli.errors import fail
from openrlhf_lamer.progress import counting


def merge(
    adapter: Annotated[
        Path, typer.Argument(help="Folder of an adapter in PEFT form, as training with --ds.lora.rank writes it.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the whole model.")],
    base: Annotated[
        Path | None,
        typer.Option(help="Folder of the base model; by default the one that the adapter names.", show_default=False),
    ] = None,
) -> None:
    """Merge an adapter into its base model, and save model and tokenizer for `eval`, vLLM and further training.

    Each weight is merged in float32 and kept in the base model's type, as the rollout engines got it in training. Uses
    no network: if the base model is given by its name on the Hugging Face hub, it must be in the cache.
    """
    from openrlhf_lamer.doctor.model import find

    if not (adapter / "adapter_config.json").is_file():
        fail(f"{adapter}: no adapter_config.json there; give the folder that --ckpt.output_dir named in training")
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        fail(f"--out {out} is there already; give a new folder")
    for package in ("torch", "transformers", "peft"):
        if not find_spec(package):
            fail(f"merging needs {package}: pip install {package}")
    try:
        config = json.loads((adapter / "adapter_config.json").read_text())
    except (OSError, ValueError) as error:
        fail(f"{adapter / 'adapter_config.json'} can't be read ({error}); copy the adapter again")
    named = str(base or config.get("base_model_name_or_path") or "")
    if not named:
        fail(f"{adapter / 'adapter_config.json'} names no base model; name its folder with --base")
    problem, folder = find(named, offline=True)
    if problem is not None or folder is None or not (folder / "config.json").is_file():
        fail(f"the base model {named} is not here; name its folder with --base")
    _merge(adapter, folder, out)
    typer.echo(f"Model: {out}")


def _merge(adapter: Path, base: Path, out: Path) -> None:
    import torch
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        model = AutoModelForCausalLM.from_pretrained(base, dtype="auto", local_files_only=True)
        adapted = PeftModel.from_pretrained(model, str(adapter))
        # Training saves the tokenizer with the adapter; adapters from elsewhere may come without.
        own = adapter if (adapter / "tokenizer_config.json").is_file() else base
        tokenizer = AutoTokenizer.from_pretrained(own, local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        fail(f"{adapter} on {base}: {error}; if another base model was trained, name its folder with --base")
    layers = [module for module in adapted.modules() if isinstance(module, BaseTunerLayer)]
    with torch.no_grad(), counting("layers merged", len(layers)) as advance:
        for layer in layers:
            kept = next(layer.get_base_layer().parameters()).dtype
            layer.float().merge()
            layer.to(kept)
            advance()
    merged = adapted.unload()
    try:
        merged.save_pretrained(out)
        tokenizer.save_pretrained(out)
    except OSError as error:
        fail(f"--out {out}: {error.strerror or error}")
