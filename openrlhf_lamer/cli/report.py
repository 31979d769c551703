"""`openrlhf-lamer report`: figures of runs and their differences, in the terminal and as one page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from openrlhf_lamer.cli.errors import fail


def report(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="[LABEL=]RUN...",
            help="Folders that `eval --out` made, or files of trials, those of --lamer.trials among them.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="HTML page to write, with the tables and curves.", show_default=False)
    ] = None,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown instead of tables.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, a line for each figure.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the results of runs, and how each differs from the first.

    Success over attempts with intervals, differences paired by task, diversity, tokens and failures; of training,
    curves over the steps. Runs with one label are pooled as seeds of one method: those that differ only in their seed,
    and those that you give the same label, such as `lamer=runs/seed-0 lamer=runs/seed-1`. The page needs no network and
    no other file.
    """
    from rich.console import Console
    from rich.text import Text

    from openrlhf_lamer.evaluation.outcomes import read_runs
    from openrlhf_lamer.evaluation.report import build
    from openrlhf_lamer.evaluation.tables import long_csv

    if as_markdown + as_csv + as_json > 1:
        fail("--markdown, --csv and --json are one form each; give one of them")
    messages = Console(stderr=True)
    with messages.status("reading trials"):
        read = read_runs(runs)
    panels = dict.fromkeys(run.measured_on for run in read if not run.trains)
    on = f" on {' and '.join(panels)}" if panels else ""
    found = build(read, ", ".join(dict.fromkeys(run.label for run in read)) + on)
    if out is not None:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(found.to_html(), "utf-8")
        except OSError as error:
            fail(f"--out {out}: {error.strerror or error}")
    if as_json:
        typer.echo(json.dumps({"flags": found.flags, "tables": [table.to_json() for table in found.tables]}, indent=2))
    elif as_csv:
        typer.echo(long_csv(found.tables), nl=False)
    elif as_markdown:
        typer.echo(found.to_markdown(), nl=False)
    else:
        console = Console()
        for table in found.tables:
            console.print(table.to_rich(console.width))
            console.print()
    if not (as_json or as_markdown):
        for flag in found.flags:
            messages.print(Text(flag, style="yellow"))
    if out is not None:
        messages.print(f"Page: {out}", markup=False, highlight=False, soft_wrap=True)
