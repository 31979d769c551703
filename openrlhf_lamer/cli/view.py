"""`openrlhf-lamer view`: trials as one page of HTML."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from openrlhf_lamer.cli.errors import fail
from openrlhf_lamer.cli.inputs import entries_of

if TYPE_CHECKING:
    from openrlhf_lamer.evaluation.viewer import Decode


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
        typer.Option(help="Folder of the model that played, to show prompts as text.", show_default=False),
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Make one HTML page to browse trials in: boards, replies, reflections, returns and advantages.

    The page needs no network and no other file. Its address holds the selection, such as
    `trials.html#trial=3&won=2`.
    """
    from openrlhf_lamer.evaluation import viewer

    entries = entries_of(file)
    text = viewer.page(entries, file.name, None if tokenizer is None else _decoder(tokenizer))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, "utf-8")
    except OSError as error:
        fail(f"--out {out}: {error}")
    typer.echo(f"{len(entries)} trials in {out}")
    if open_page:
        typer.launch(str(out))


def _decoder(folder: str) -> Decode:
    try:
        from transformers import AutoTokenizer
    except ImportError:
        fail("--tokenizer needs transformers: pip install transformers")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return lambda ids: tokenizer.decode(list(ids), skip_special_tokens=True)
    except (OSError, ValueError) as error:
        fail(f"--tokenizer {folder}: {error}")
