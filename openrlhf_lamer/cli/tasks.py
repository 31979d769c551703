"""`openrlhf-lamer tasks`: the frozen evaluation panels."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from openrlhf_lamer.progress import counting

if TYPE_CHECKING:
    from openrlhf_lamer.panels import Panel


@dataclass(frozen=True)
class Verdict:
    """Result of `--verify`: `ok`, `differs` or `missing`, the tasks that differ, or why it cannot be told."""

    status: str
    differing: tuple[str, ...] = ()
    reason: str = ""

    def __str__(self) -> str:
        if self.status == "differs":
            return f"differs in {len(self.differing)}: {self.differing[0]}" + ", ..." * (len(self.differing) > 1)
        return f"not checked: {self.reason}" if self.status == "missing" else "ok"


def tasks(
    names: Annotated[list[str] | None, typer.Argument(metavar="PANEL", help="Panels; by default all.")] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Build the first state of each task, and compare it with the panel's hash.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON per panel.")] = False,
) -> None:
    """List the frozen evaluation panels, and verify that this machine builds the same tasks.

    `eval --tasks`, `play --panel` and `prepare tasks --panel` take a panel's name. `--verify` ends with exit code 1 if
    a task begins differently; a panel whose environment or data is not installed is reported as not checked.

    With `turns` turns an attempt, `at most` is the share of tasks won by a player who sees everything, and `by odds`
    the share won by a player who knows each cell's exact probability of a mine.
    """
    from openrlhf_lamer import manifest, panels

    chosen = [panels.load(name) for name in names or manifest.names()]
    verdicts: dict[str, Verdict] = {}
    if verify:
        with counting("tasks", sum(panel.size for panel in chosen)) as advance:
            verdicts = {panel.name: _verdict(panel, advance) for panel in chosen}
    if as_json:
        for panel in chosen:
            row = {"panel": panel.name, "version": panel.version, "env": panel.env, "options": panel.options}
            row |= {"tasks": panel.size, "max_turns": panel.max_turns}
            row |= {"ceilings": None if panel.ceilings is None else asdict(panel.ceilings)}
            typer.echo(json.dumps(row | (asdict(verdicts[panel.name]) if verify else {"about": panel.about})))
    else:
        _print(chosen, verdicts)
    if any(verdict.status == "differs" for verdict in verdicts.values()):
        raise typer.Exit(1)


def _verdict(panel: Panel, advance) -> Verdict:
    from openrlhf_lamer import manifest, panels
    from openrlhf_lamer.envs import TaskError

    try:
        wrong = panels.verify(panel, advance)
    except (TaskError, manifest.PanelError, ImportError) as error:
        return Verdict("missing", reason=str(error))
    return Verdict("differs" if wrong else "ok", tuple(wrong))


def _print(chosen: list[Panel], verdicts: dict[str, Verdict]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title="Frozen evaluation panels")
    numbers = ("version", "tasks", "turns", "at most", "by odds")
    for heading in ("panel", *numbers, "here" if verdicts else "about"):
        # Users type the name, so other columns give way.
        table.add_column(heading, justify="right" if heading in numbers else "left", no_wrap=heading == "panel")
    for panel in chosen:
        shown = str(verdicts[panel.name]) if verdicts else panel.about
        known = panel.ceilings
        turns, shares = (
            (str(known.turns), (known.clairvoyant, known.exact_probability)) if known else ("", (None, None))
        )
        won = ("" if share is None else f"{share:.1%}" for share in shares)
        # As a text, since a remedy such as `pip install 'openrlhf-lamer[alfworld]'` is not markup.
        table.add_row(panel.name, str(panel.version), str(panel.size), turns, *won, Text(shown))
    Console().print(table)
