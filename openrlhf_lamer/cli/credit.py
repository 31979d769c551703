"""`openrlhf-lamer credit`: returns and advantages of some trials, turn by turn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from openrlhf_lamer.cli.errors import fail
from openrlhf_lamer.vocabulary import CROSS_EPISODE_HELP, NORM_HELP, CrossEpisode, Norm

if TYPE_CHECKING:
    from openrlhf_lamer.advantage import Estimator
    from openrlhf_lamer.advantage.table import FloatArray
    from openrlhf_lamer.cli.credit_file import Case


def credit(
    file: Annotated[Path, typer.Argument(help="JSON file with one case or a list of them.", show_default=False)],
    estimator: Annotated[
        str,
        typer.Option(
            help="Estimator by name: lamer_gigpo, lamer_grpo, lamer_hgpo, lamer_pkpo, lamer_ppo, lamer_reinforce, "
            "lamer_rloo or a plugin's."
        ),
    ] = "lamer_gigpo",
    cross_episode: Annotated[CrossEpisode | None, typer.Option(help=CROSS_EPISODE_HELP, show_default=False)] = None,
    norm: Annotated[Norm | None, typer.Option(help=NORM_HELP, show_default=False)] = None,
    reference: Annotated[
        bool, typer.Option("--reference", help="Reproduce the quirks of the paper's reference code.")
    ] = False,
    option: Annotated[
        list[str] | None,
        typer.Option(
            help="Option of the estimator, such as depth=1 for lamer_hgpo. May be given several times; a wrong name "
            "lists the names.",
            metavar="NAME=VALUE",
            show_default=False,
        ),
    ] = None,
    lambd: Annotated[float, typer.Option(min=0, max=1, help="λ of lamer_ppo, at turn boundaries.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of tables.")] = False,
) -> None:
    """Show the return and the advantage of every turn of some trials.

    FILE gives the rewards and anchors of each trial, episode by episode, and the discounts: `gamma_step`
    between turns, `gamma_traj` between episodes. A reflection stands between two consecutive episodes. An
    episode may also give `actions` and a `remark`, for lamer_hgpo, and the critic's `values` where turns begin (the
    reflection's last), for lamer_ppo, which takes 0 where they are left out; `valid`, false for a refused action whose
    reward is a penalty, for differences; and `observations`, for anchors by similarity.

    For instance `openrlhf-lamer credit trials.json --estimator lamer_grpo --norm mean`. With `--json`,
    each case becomes `{"returns": ..., "advantages": ...}`: a list per trial, a figure per turn, reflections in
    their place.
    """
    from openrlhf_lamer.advantage import CreditConfig, get
    from openrlhf_lamer.cli.credit_file import read_cases

    given = {name: value for name, _, value in (item.partition("=") for item in option or ())}
    try:
        chosen = get(estimator)
        common = {"norm": norm, "reference": reference, "options": given, "lambd": lambd}
        form = chosen.settle(CreditConfig(cross_episode=cross_episode, options=given)).cross_episode
        cases = read_cases(file, cross_episode=form, **common)
        advantages = [chosen.estimate(case.table, case.config) for case in cases]
    except ValueError as error:
        fail(" ".join(str(error).split()))
    if as_json:
        _print_json(cases, advantages)
    else:
        _print_tables(cases, advantages, chosen)


_OTHER_COLUMNS = 70
"""Width of the printed table without its anchors, which get the rest of the terminal."""


def _print_json(cases: list[Case], advantages: list[FloatArray]) -> None:
    import json

    import numpy as np

    results = []
    for case, advantage in zip(cases, advantages, strict=True):
        ends = np.searchsorted(case.table.trial, np.arange(1, case.num_trials))
        columns = {"returns": case.table.returns, "advantages": advantage}
        results.append(
            {
                name: [part.tolist() for part in np.split(column, ends)] if case.num_trials else []
                for name, column in columns.items()
            }
        )
    typer.echo(json.dumps(results))


def _printable(anchor: str, room: int) -> str:
    """An anchor on one line of at most `room` characters; control characters are escaped."""
    line = anchor if anchor.isprintable() else ascii(anchor)
    return line if len(line) <= room else line[: room - 1] + "…"


def _print_tables(cases: list[Case], advantages: list[FloatArray], estimator: Estimator) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    room = max(8, console.width - _OTHER_COLUMNS)
    for number, (case, advantage) in enumerate(zip(cases, advantages, strict=True)):
        config, table = estimator.settle(case.config), case.table
        form = f"{config.cross_episode}, {config.norm}" + (", reference" if config.reference else "")
        title = f"case {number}: {estimator.name} ({form}), γ_step {config.gamma_step:g}, γ_traj {config.gamma_traj:g}"
        grid = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        for name in ("group", "trial", "episode", "turn"):
            grid.add_column(name, justify="right", no_wrap=True)
        grid.add_column("phase", no_wrap=True)
        grid.add_column("reward", justify="right", no_wrap=True)
        grid.add_column("anchor", no_wrap=True)
        grid.add_column("return", justify="right", no_wrap=True)
        grid.add_column("advantage", justify="right", no_wrap=True)
        shown: tuple[str, ...] = ("", "", "")
        for row in range(len(table)):
            plays = bool(table.plays[row])
            place = tuple(str(column[row]) for column in (table.group, table.trial, table.episode))
            # Group, trial and episode are named where they begin; a new group or trial shows all that follow.
            same = [place[: k + 1] == shown[: k + 1] for k in range(3)]
            cells = ["" if known else name for name, known in zip(place, same, strict=True)]
            shown = place
            anchor = _printable(case.anchors[table.anchor[row]], room) if plays else ""
            grid.add_row(
                *cells,
                str(table.turn[row]) if plays else "",
                "play" if plays else "reflect",
                f"{table.reward[row]:.4g}",
                Text(anchor),
                f"{table.returns[row]:.4f}",
                Text(f"{advantage[row]:+.4f}", style="green" if advantage[row] > 0 else "red"),
                style=None if plays else "italic dim",
                end_section=row + 1 == len(table) or table.trial[row + 1] != table.trial[row],
            )
        console.print(grid)
