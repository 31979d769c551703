"""Contents of generated ALFWorld games beside those of the official training games.

    python benchmarks/alfworld_games.py [--games N]

Prints a line per task type, with three numbers for each figure: generated, official and their ratio. The figures are
copies of the target, the share of these that begin in closed receptacles, the share of receptacles that open, things in
receptacles, and commands to win. Exits with code 1 if a figure is off by more than a third.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict

from common import grid, show

from openrlhf_lamer.envs.alfworld import catalogue, census, counts

FIGURES = {"copies": "{:.2f}", "hidden": "{:.1%}", "opens": "{:.0%}", "things": "{:.1f}", "commands": "{:.1f}"}
"""The compared figures and their print formats."""


def main() -> int:
    """Draw, count and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--games", type=int, default=2000, help="generated games of each task type")
    num, off = parser.parse_args().games, 0
    official = counts.load()
    table = grid(f"{num} generated games a type / {official.source}", "task type", *FIGURES, "most commands")
    for task_type in catalogue.TASK_TYPES:
        games = census.drawn(task_type, num)
        ours, theirs = asdict(census.figures(games, games)), asdict(official.figures[task_type])
        cells = []
        for name, form in FIGURES.items():
            ratio = ours[name] / theirs[name]
            off += not 2 / 3 <= ratio <= 4 / 3
            cells.append(f"{form.format(ours[name])} / {form.format(theirs[name])} = {ratio:.2f}")
        table.add_row(task_type, *cells, f"{ours['most_commands']} / {theirs['most_commands']}")
    show(table, width=160)
    print(f"figures off by more than a third: {off}")
    return int(off > 0)


if __name__ == "__main__":
    sys.exit(main())
