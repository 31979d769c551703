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
from openrlhf_lamer.tasks import PANEL_SIZE, SEEDS

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
    *(
        Panel(
            f"alfworld/generated/{family}",
            f"Generated games of the {long} types.",
            "alfworld",
            {"task_types": family},
            "eval",
            PANEL_SIZE,
        )
        for family, long in (("id", "in-distribution"), ("ood", "out-of-distribution"))
    ),
    *(
        Panel(
            f"alfworld/official/{split}-{family}",
            f"All official {split} games of the {'in' if family == 'id' else 'out-of'}-distribution types.",
            "alfworld",
            {"task_types": family},
            split,
            size,
        )
        for split, family, size in (
            ("valid_seen", "id", 91),
            ("valid_seen", "ood", 49),
            ("valid_unseen", "id", 96),
            ("valid_unseen", "ood", 38),
        )
    ),
    Panel(
        "webshop/eval",
        "Test goals of the synthetic catalogue, generated ones.",
        "webshop",
        {"data": "synthetic", "products": 1000, "goals": "generated"},
        "eval",
        PANEL_SIZE,
    ),
)
"""Panels without their states. One whose split is not a range of seeds is all of it, and is written without its
tasks where the data is missing: it is listed from the data then, and counted."""


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
            panel = made(panel)
        except (envs.TaskError, ImportError) as error:
            if panel.split in SEEDS or panel.env not in envs.names() or path.exists():
                print(f"{panel.name}: not made: {error}", file=sys.stderr)
                missing = 1
                continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(panels.dump(panel), "utf-8")
        print(f"{panel.name}: {panel.size} tasks{'' if panel.states else ', to be listed from the data,'} in {path}")
    return missing


if __name__ == "__main__":
    sys.exit(main())
