"""A model's folder and its tokenizer, read without the network and without loading the weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from openrlhf_lamer.chat import Chat, TemplateError, ThinkingError
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.doctor import Check, Verdict, error, ok, told, warning

FILES, TOKENIZER, TEMPLATE = "model files", "tokenizer", "chat template"
THINKING, STOPPING, PADDING, VOCABULARY = "thinking switch", "end of a reply", "padding", "vocabulary"

INSTALL = "install the host: pip install 'openrlhf-lamer[gpu]'"
INDEX = "model.safetensors.index.json"

HUB_SECONDS = 10.0
"""Seconds that the hub may take to say whether it has a model."""


def files(folder: Path) -> Check:
    """Whether a folder holds a configuration and all of the weights."""
    if (folder / "adapter_config.json").is_file():
        return error(FILES, f"{folder} is an adapter", f"make it a model: openrlhf-lamer merge {folder} --out FOLDER")
    if not (folder / "config.json").is_file():
        return error(FILES, f"{folder}: no config.json there", "give a folder in Hugging Face form")
    again = f"download the model again, or copy it again to {folder}"
    try:
        if not isinstance(json.loads((folder / "config.json").read_text()), dict):
            return error(FILES, f"{folder / 'config.json'} is no JSON object", again)
        shards = _shards(folder)
    except (OSError, ValueError, KeyError, AttributeError) as problem:
        return error(FILES, f"{folder}: a file can't be read ({problem})", again)
    if not shards:
        if list(folder.glob("pytorch_model*.bin")):
            return ok(FILES, f"{folder}, weights in PyTorch's own form")
        return error(FILES, f"{folder}: no weights (*.safetensors)", again)
    for shard in shards:
        if problem := _damage(shard):
            return error(FILES, f"{shard}: {problem}", again)
    return ok(FILES, f"{folder}: {len(shards)} files, {weights(folder) / (1 << 30):.2f} GiB of weights")


def find(model: str, *, offline: bool) -> tuple[Check | None, Path | None]:
    """The folder of a model that is named by its path or by its name on the Hugging Face hub.

    Returns:
        The problem, if any, and the folder, if there is one: that of the path, or the hub's cache.
    """
    if model.startswith((".", "/", "~")) or Path(model).is_dir():
        return None, Path(model).expanduser()
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        return error(FILES, "huggingface_hub is not installed", INSTALL), None
    try:
        return None, Path(snapshot_download(model, local_files_only=True))
    except Exception as problem:
        remedy = f"hf download {model}"
        if offline:
            return error(FILES, f"{model} is not in the cache, and it is offline ({_first(problem)})", remedy), None
        return warning(FILES, f"{model} is not in the cache: every node downloads it at the start", remedy), None


def reach(model: str, *, offline: bool) -> Check:
    """Whether a run can load a model: it is a folder, or in the hub's cache, or on the hub, which is asked.

    Args:
        model: Its path, or its name on the hub.
        offline: Whether the run's processes will not ask the hub.
    """
    problem, folder = find(model, offline=offline)
    if folder is not None:
        return ok(FILES, str(folder))
    if problem is not None and (offline or problem.verdict is Verdict.ERROR):
        return problem
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(model, timeout=HUB_SECONDS)
    except Exception as failure:  # no such model, no permission, no network
        found = f"{model} is no folder, not in the cache, and could not be found on the hub ({_first(failure)})"
        remedy = "check its name, log in for a gated model (hf auth login), or give a folder"
        return error(FILES, found, remedy)
    return ok(FILES, f"{model} is on the hub")


def weights(folder: Path) -> int:
    """Bytes of the weights in a folder."""
    return sum(file.stat().st_size for file in (*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")))


def context_length(folder: Path) -> int | None:
    """Most tokens that a model takes, as vLLM reads it from its `config.json`; None if the file does not say."""
    config = _json(folder / "config.json")
    config = config.get("text_config", config)
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = scaling.get("rope_type", scaling.get("type"))
    length = config.get("max_position_embeddings")
    if kind == "yarn":
        length = scaling.get("original_max_position_embeddings", length)
    if not isinstance(length, int):
        return None
    return length if kind in ("su", "longrope", "llama3") else int(length * (scaling.get("factor") or 1))


def load_tokenizer(folder: Path) -> tuple[Check, Any]:
    """The tokenizer of a folder, without the network; None where it can't be loaded."""
    try:
        from transformers import AutoTokenizer
    except ImportError:
        return error(TOKENIZER, "transformers is not installed", INSTALL), None
    remedy = f"put the model's tokenizer files into {folder} (tokenizer.json, tokenizer_config.json)"
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as problem:
        return error(TOKENIZER, f"can't be loaded: {_first(problem)}", remedy), None
    if len(tokenizer) <= len(tokenizer.added_tokens_decoder) + 1:
        # Where the files are missing, transformers makes up an empty tokenizer of the model's kind.
        return error(TOKENIZER, f"can't be loaded: no vocabulary in {folder}", remedy), None
    return ok(TOKENIZER, f"{type(tokenizer).__name__} of {len(tokenizer)} tokens"), tokenizer


def conversation(tokenizer: Any, config: LamerConfig) -> list[Check]:
    """Whether the chat template carries a trial in the configured context, and thinks or not as configured."""
    try:
        chat = Chat(tokenizer, thinking=config.thinking, context=config.context)
    except ThinkingError as problem:
        return [told(THINKING, Verdict.ERROR, problem)]
    except TemplateError as problem:
        return [error(TEMPLATE, str(problem), "use an instruction-tuned model, or fix chat_template.jinja")]
    except Exception as problem:  # a template is a program
        return [error(TEMPLATE, f"it fails: {_first(problem)}", "fix chat_template.jinja")]
    if config.thinking:
        begun = "prompts end inside a thought" if chat.opened else "the model opens its thoughts itself"
        return [ok(TEMPLATE, "carries several turns"), ok(THINKING, f"switched on: {begun}")]
    switch = "enable_thinking" in str(tokenizer.chat_template)
    off = "switched off in the rendered prompt" if switch else "the template has none, and opens no thinking"
    return [ok(TEMPLATE, "carries several turns"), ok(THINKING, off)]


def special_tokens(
    tokenizer: Any, config: dict[str, Any], generation: dict[str, Any], thinking: bool = False
) -> list[Check]:
    """Whether replies can end and rows be padded.

    Args:
        tokenizer: The tokenizer.
        config: The model's `config.json`.
        generation: Its `generation_config.json`, or nothing.
        thinking: Whether the model is to think.
    """
    return [_stopping(tokenizer, generation, thinking), _padding(tokenizer), _vocabulary(tokenizer, config)]


def checks(model: str, config: LamerConfig, *, offline: bool) -> tuple[list[Check], int]:
    """All checks of a model for a configuration, and the bytes of its weights (0 if unknown)."""
    problem, folder = find(model, offline=offline)
    if problem or folder is None:
        return [problem] if problem else [], 0
    found = [files(folder)]
    if not (folder / "config.json").is_file():
        return found, 0
    told, tokenizer = load_tokenizer(folder)
    found.append(told)
    if tokenizer is not None:
        own, generation = (_json(folder / name) for name in ("config.json", "generation_config.json"))
        found += [*conversation(tokenizer, config), *special_tokens(tokenizer, own, generation, config.thinking)]
    return found, weights(folder)


def _stopping(tokenizer: Any, generation: dict[str, Any], thinking: bool) -> Check:
    if tokenizer.eos_token_id is None:
        return error(STOPPING, "no eos token: no reply would ever end", "set eos_token in tokenizer_config.json")
    stops = generation.get("eos_token_id") or []
    stops = {tokenizer.eos_token_id, *(stops if isinstance(stops, list) else [stops])}
    try:
        closing = Chat(tokenizer, thinking=thinking).end_of_reply
    except Exception:  # said by `conversation`
        closing = ()
    if closing and closing[0] not in stops:
        token = tokenizer.convert_ids_to_tokens(closing[0])
        return warning(
            STOPPING,
            f"the template ends a reply with {token}, but generation stops at {tokenizer.eos_token}: replies run on",
            f"set eos_token to {token} in tokenizer_config.json, or use the instruction-tuned model",
        )
    return ok(STOPPING, f"eos {tokenizer.eos_token}")


def _padding(tokenizer: Any) -> Check:
    if tokenizer.pad_token_id is None:
        return warning(PADDING, "no pad token; the host takes eos", "set pad_token in tokenizer_config.json")
    return ok(PADDING, f"pad {tokenizer.pad_token}")


def _vocabulary(tokenizer: Any, config: dict[str, Any]) -> Check:
    rows = config.get("vocab_size") or config.get("text_config", {}).get("vocab_size")
    if rows is None:
        return warning(VOCABULARY, "config.json has no vocab_size", "use a complete config.json")
    found = f"{len(tokenizer)} tokens, {rows} rows of embeddings"
    if len(tokenizer) > rows:
        return error(VOCABULARY, found, "the tokenizer is of another model: use the one that the model came with")
    return ok(VOCABULARY, found)


def _shards(folder: Path) -> list[Path]:
    if (folder / INDEX).is_file():
        return [folder / name for name in sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))]
    return sorted(folder.glob("*.safetensors"))


def _damage(shard: Path) -> str:
    """Damage of a safetensors file, from its header and length; empty if there is none."""
    if not shard.is_file():
        return "it is missing"
    size = shard.stat().st_size
    with shard.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
        if not 2 <= header <= size - 8:
            return "half downloaded, or only a pointer of Git LFS" if size < 1 << 20 else "half downloaded or corrupt"
        try:
            tensors = json.loads(file.read(header))
            ends = [spec["data_offsets"][1] for name, spec in tensors.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError):
            return "corrupt header"
    expected = 8 + header + max(ends, default=0)
    return "" if size == expected else f"{size} bytes, of {expected}: half downloaded or corrupt"


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _first(problem: Exception) -> str:
    """The first line of a message, which may be a page long."""
    return next(iter(str(problem).strip().splitlines()), type(problem).__name__)
