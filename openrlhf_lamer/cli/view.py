"""`openrlhf-lamer view`: trials as one page of HTML."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from openrlhf_lamer.cli.errors import fail
from openrlhf_lamer.cli.inputs import entries_of

if TYPE_CHECKING:
    from openrlhf_lamer.evaluation.viewer import Entry
    from openrlhf_lamer.evaluation.viewer.pieces import Decode


def view(
    file: Annotated[
        Path,
        typer.Argument(
            help="JSON lines, as --lamer.trials writes them, or a folder of `eval --out`.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("trials.html"),
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="Folder of the model that played, to show prompts and special tokens. Prompts of scripts and of "
            "servers that are asked by chat messages are text, and shown without it.",
            show_default=False,
        ),
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Make one HTML page to browse trials in: boards, replies, reflections, returns, advantages, log-probabilities.

    Trials can be sorted, and those of one task shown side by side. The page needs no network and no other file. Its
    address holds the selection, such as `trials.html#trial=3&won=2&sort=-return`.
    """
    from openrlhf_lamer.evaluation import viewer

    entries = entries_of(file)
    text = viewer.page(entries, file.name, None if tokenizer is None else _decoder(tokenizer), _about(file, entries))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, "utf-8")
    except OSError as error:
        fail(f"--out {out}: {error}")
    typer.echo(f"{len(entries)} trials in {out}")
    if open_page:
        typer.launch(str(out))


def _about(file: Path, entries: Sequence[Entry]) -> str:
    """Method, player and tasks of the run, as far as its files say."""
    from openrlhf_lamer.evaluation.measured import measured_on
    from openrlhf_lamer.evaluation.run import RunError, read_settings

    try:
        settings, _ = read_settings(file if file.is_dir() else file.parent)
    except RunError:  # a training's file
        settings = {}
    who = [str(settings[key]) for key in ("method", "player", "model") if settings.get(key)]
    return " · ".join([*who, f"tasks: {measured_on(settings, (entry.trial.task for entry in entries))}"])


def _decoder(folder: str) -> Decode:
    try:
        from transformers import AutoTokenizer
    except ImportError:
        fail("--tokenizer needs transformers: pip install transformers")
    from openrlhf_lamer.evaluation.viewer.pieces import tokens

    try:
        return tokens(AutoTokenizer.from_pretrained(folder, local_files_only=True))
    except (OSError, ValueError) as error:
        fail(f"--tokenizer {folder}: {error}")
