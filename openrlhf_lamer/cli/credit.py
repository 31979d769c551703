"""`openrlhf-lamer credit`: what returns and advantages some trials get, turn by turn.

The file holds one case or a list of them. A case is a batch of trials and its discounts:

    {"gamma_step": 0.95, "gamma_traj": 0.6, "trials": [
        {"group": 0, "episodes": [{"rewards": [0, -0.5], "anchors": ["start", "s1"]}, ...]}, ...]}

Between two consecutive episodes of a trial stands a reflection, with no reward of its own. An episode may
also have

    "actions": ["up", "left"]     one a play turn, of any type: `lamer_hgpo` tells histories apart by them, where
                                  they are left out by anchors alone
    "remark": "walls are left"    what the reflection on it says, of any type: part of what later episodes remember
    "values": [0.5, 0.2, 0.9]     the critic's value where each turn begins, the reflection's last, for `lamer_ppo`;
                                  0 for every turn of the episode where they are left out

Other keys are left unread.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from openrlhf_lamer.cli.errors import fail

if TYPE_CHECKING:
    from openrlhf_lamer.advantage import CreditConfig, Estimator, TurnTable
    from openrlhf_lamer.advantage.table import FloatArray


@dataclass(frozen=True, slots=True)
class Case:
    """One batch of trials, as the file has it, laid out as a table with returns."""

    config: CreditConfig
    table: TurnTable
    num_trials: int
    anchors: list[str]
    """What the file calls the anchor of each code in the table."""


def credit(
    file: Annotated[Path, typer.Argument(help="JSON file with one case or a list of them.", show_default=False)],
    estimator: Annotated[
        str,
        typer.Option(
            help="Estimator by name: lamer_gigpo, lamer_grpo, lamer_hgpo, lamer_ppo, lamer_reinforce, lamer_rloo or a "
            "plugin's."
        ),
    ] = "lamer_gigpo",
    cross_episode: Annotated[
        Literal["paper", "chained"] | None,
        typer.Option(
            help="How later episodes enter a return: the paper's Eq. 4, or its reference code's one walk; by default "
            "paper, for lamer_ppo chained.",
            show_default=False,
        ),
    ] = None,
    norm: Annotated[
        Literal["mean", "mean_std"] | None,
        typer.Option(
            help="Centre advantages, or also divide by their spread; by default per estimator.", show_default=False
        ),
    ] = None,
    reference: Annotated[
        bool, typer.Option("--reference", help="Reproduce the quirks of the paper's reference code.")
    ] = False,
    depth: Annotated[
        int, typer.Option(min=0, help="How many earlier turns refine the anchor groups of lamer_hgpo.")
    ] = 2,
    lambd: Annotated[float, typer.Option(min=0, max=1, help="λ of lamer_ppo, at turn boundaries.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of tables.")] = False,
) -> None:
    """Show the return and the advantage of every turn of some trials.

    FILE gives the rewards and anchors of each trial, episode by episode, and the discounts: `gamma_step`
    between turns, `gamma_traj` between episodes. A reflection stands between two consecutive episodes. An
    episode may also give `actions` and a `remark`, for lamer_hgpo, and the critic's `values` where turns begin (the
    reflection's last), for lamer_ppo, which takes 0 where they are left out.

    For instance `openrlhf-lamer credit trials.json --estimator lamer_grpo --norm mean`. With `--json`,
    each case becomes `{"returns": ..., "advantages": ...}`: a list per trial, a figure per turn, reflections in
    their place.
    """
    from openrlhf_lamer.advantage import CreditConfig, get

    try:
        chosen = get(estimator)
        options = {"norm": norm, "reference": reference, "depth": depth, "lambd": lambd}
        form = chosen.settle(CreditConfig(cross_episode=cross_episode)).cross_episode
        cases = read_cases(file, cross_episode=form, **options)
        advantages = [chosen.estimate(case.table, case.config) for case in cases]
    except ValueError as error:
        fail(" ".join(str(error).split()))
    if as_json:
        _print_json(cases, advantages)
    else:
        _print_tables(cases, advantages, chosen)


def read_cases(file: Path, **options: Any) -> list[Case]:
    """The cases of a file; `options` are those of `CreditConfig` that the file doesn't give.

    Raises:
        ValueError: naming the file, the place in it, and what is wrong there.
    """
    import json

    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    cases = content if isinstance(content, list) else [content]
    return [read_case(case, f"{file}: case {number}", **options) for number, case in enumerate(cases)]


def read_case(case: Any, where: str = "case", **options: Any) -> Case:
    """Lay out one case as the file holds it; `where` names it in errors."""
    import json

    import numpy as np

    from openrlhf_lamer.advantage import PLAY, REFLECT, CreditConfig, TurnTable, with_returns

    gammas = {name: _item(case, name, _NUMBER, where) for name in ("gamma_step", "gamma_traj")}
    trials = _item(case, "trials", list, where)
    columns: dict[str, list[float]] = {name: [] for name in _COLUMNS}
    anchor_codes: dict[str, int] = {}
    action_codes: dict[str, int] = {}
    memory_codes: dict[str, int] = {}
    labels: list[str] = []

    def add(*row: float) -> None:
        for column, value in zip(columns.values(), row, strict=True):
            column.append(value)

    def code(item: Any, codes: dict[str, int]) -> int:
        return codes.setdefault(json.dumps(item, sort_keys=True), len(codes))

    for i, trial in enumerate(trials):
        place = f"{where}, trial {i}"
        group = _item(trial, "group", int, place)
        episodes = _item(trial, "episodes", list, place)
        memory = code([], memory_codes)
        for n, episode in enumerate(episodes):
            at = f"{place}, episode {n}"
            reflects = n + 1 < len(episodes)
            rewards = _numbers(episode, "rewards", at)
            anchors = _per_turn(episode, "anchors", len(rewards), at)
            actions = _per_turn(episode, "actions", len(rewards), at) if "actions" in episode else [None] * len(rewards)
            values = _numbers(episode, "values", at) if "values" in episode else [0.0] * (len(rewards) + reflects)
            if len(values) != len(rewards) + reflects:
                needed = f"{len(rewards)} rewards" + (" and a reflection" if reflects else "")
                raise ValueError(f"{at}: {needed}, but {len(values)} values")
            for t, (reward, anchor, action) in enumerate(zip(rewards, anchors, actions, strict=True)):
                anchor_code = code(anchor, anchor_codes)
                if anchor_code == len(labels):
                    labels.append(str(anchor))
                add(group, i, n, t, PLAY, reward, anchor_code, code(action, action_codes), memory, values[t])
            if reflects:
                add(group, i, n, len(rewards), REFLECT, 0.0, -1, -1, memory, values[-1])
                memory = code([memory, anchors, actions, episode.get("remark")], memory_codes)
    try:
        config = CreditConfig(**gammas, **options)
        arrays = {name: np.array(values, dtype=_COLUMNS[name]) for name, values in columns.items()}
        table = with_returns(TurnTable(**arrays), config)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{where}: {error}") from error
    return Case(config, table, len(trials), labels)


_OTHER_COLUMNS = 70
"""Width of the printed table without its anchors, which get what the terminal has left."""

_COLUMNS = {
    "group": "int64",
    "trial": "int64",
    "episode": "int64",
    "turn": "int64",
    "phase": "int64",
    "reward": "float64",
    "anchor": "int64",
    "action": "int64",
    "memory": "int64",
    "values": "float64",
}


_NUMBER = (int, float)
_KINDS: dict[type | tuple[type, ...], str] = {list: "a list", int: "an integer", _NUMBER: "a number"}


def _is(value: Any, kind: type | tuple[type, ...]) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _item(mapping: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    if not isinstance(mapping, dict) or key not in mapping:
        raise ValueError(f"{where} has no {key!r}")
    if not _is(mapping[key], kind):
        raise ValueError(f"{where}: {key!r} is not {_KINDS[kind]}")
    return mapping[key]


def _numbers(episode: Any, key: str, where: str) -> list[float]:
    numbers = _item(episode, key, list, where)
    for t, number in enumerate(numbers):
        if not _is(number, _NUMBER):
            raise ValueError(f"{where}: {key.removesuffix('s')} {t} is {number!r}, not a number")
    return numbers


def _per_turn(episode: Any, key: str, turns: int, where: str) -> list[Any]:
    items = _item(episode, key, list, where)
    if len(items) != turns:
        raise ValueError(f"{where}: {turns} rewards, but {len(items)} {key}")
    return items


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
