"""`openrlhf-lamer view`: trials as one page of HTML, or as a page that follows a file."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from openrlhf_lamer.cli.errors import fail
from openrlhf_lamer.cli.inputs import TAKES_TRIALS, entries_of, trials_file

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
    out: Annotated[Path | None, typer.Option(help="The page to write.", show_default="trials.html")] = None,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow",
            help="Serve the page to browsers on this machine instead, with trials added as they are written and "
            "curves over the steps; the file may not exist yet. Ctrl-C ends it.",
        ),
    ] = False,
    port: Annotated[
        int | None,
        typer.Option(help="Port of --follow.", min=0, max=65535, show_default="a free one"),
    ] = None,
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

    decode = None if tokenizer is None else _decoder(tokenizer)
    if follow:
        if out is not None:
            fail("--follow writes no page; leave out --out")
        _follow(trials_file(file), decode, port or 0, open_page)
        return
    if port is not None:
        fail("--port is the port of --follow; add it, or leave out --port")
    out = out or Path("trials.html")
    entries = entries_of(file)
    text = viewer.page(entries, file.name, decode, _about(file, entries))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, "utf-8")
    except OSError as error:
        fail(f"--out {out}: {error}")
    typer.echo(f"{len(entries)} trials in {out}")
    if open_page:
        typer.launch(str(out))


def _follow(file: Path, decode: Decode | None, port: int, open_page: bool) -> None:
    """Serve the trials of a file until Ctrl-C."""
    from openrlhf_lamer.evaluation.viewer.live import Following, LiveServer

    following = Following(file, decode)
    try:
        first = following.news("", 0)
    except OSError as error:
        fail(f"{file}: {error.strerror or error}. {TAKES_TRIALS}")
    if following.problem and not first["index"]:
        fail(f"{file}: {following.problem}. {TAKES_TRIALS}")
    try:
        server = LiveServer(following, file.name, str(file), port)
    except OSError as error:
        fail(f"--port {port}: {error.strerror or error}")
    with server:
        typer.echo(f"{server.url} follows {file}; Ctrl-C ends it")
        if first["state"]:
            typer.echo(first["state"])
        if open_page:
            typer.launch(server.url)
        with suppress(KeyboardInterrupt):
            server.serve_forever()


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
