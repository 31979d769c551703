"""Make the frozen evaluation panels that come along in `openrlhf_lamer/manifests`.

    python scripts/make_manifests.py [PANEL ...]

A panel that exists is replaced: every published figure on it is void then. So this is run to add
one, and `openrlhf-lamer tasks --verify` to see that the others stand.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

from openrlhf_lamer import envs, panels
from openrlhf_lamer.panels import Panel
from openrlhf_lamer.tasks import PANEL_SIZE

PANELS = (
    *(
        Panel(
            f"sokoban/{boxes}-boxes",
            f"Rooms of 6x6 with {boxes} boxes{' (the default difficulty)' * (boxes == 2)}.",
            "sokoban",
            {"size": 6, "boxes": boxes},
            "eval",
            PANEL_SIZE,
        )
        for boxes in (2, 3, 4, 5)
    ),
    *(
        Panel(
            f"minesweeper/{mines}-mines",
            f"Fields of 6x6 with {mines} mines{' (the default difficulty)' * (mines == 3)}.",
            "minesweeper",
            {"size": 6, "mines": mines},
            "eval",
            PANEL_SIZE,
        )
        for mines in (3, 4, 5, 6)
    ),
    Panel("webshop/eval", "Goals of the synthetic catalogue, none trained on.", "webshop", {}, "eval", PANEL_SIZE),
)
"""Panels without their states."""


def made(panel: Panel) -> Panel:
    """The panel with its tasks and their states, as this machine builds them."""
    tasks = envs.lookup(panel.env).tasks(panel.split, panel.size, options=panel.options)
    unknown = replace(panel, states={task.id: (task, "") for task in tasks})
    return replace(panel, states={task.id: (task, state) for task, state in unknown.beginnings()})


def main() -> int:
    """Write the chosen panels; 1 where one could not be made."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("panels", nargs="*", metavar="PANEL", help="names; by default all")
    chosen = parser.parse_args().panels
    missing = 0
    for panel in PANELS:
        if chosen and panel.name not in chosen:
            continue
        path = panels.MANIFESTS / f"{panel.name}.json"
        try:
            text = panels.dump(made(panel))
        except (envs.TaskError, ImportError) as error:
            print(f"{panel.name}: not made: {error}", file=sys.stderr)
            missing = 1
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        print(f"{panel.name}: {panel.size} tasks in {path}")
    return missing


if __name__ == "__main__":
    sys.exit(main())
