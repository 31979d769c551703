"""Make the frozen evaluation panels that are bundled in `openrlhf_lamer/manifests`.

    python scripts/make_manifests.py [PANEL ...]

An existing panel is replaced. If it gets other tasks, every published figure on it is void, and its version in
`PANELS` must rise. If its data is missing, the tasks of the file are kept. `openrlhf-lamer tasks --verify` checks
the panels.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from dataclasses import replace

from ceilings import ceilings

from openrlhf_lamer import envs, manifest, panels
from openrlhf_lamer.panels import Panel
from openrlhf_lamer.records import Task
from openrlhf_lamer.tasks import PANEL_SIZE, SEEDS, seeded_tasks

LONG = {3: 20, 4: 20, 5: 25, 6: 30}
"""Turns of the long panels by number of mines: a player who knows the odds never runs out of them."""

PANELS = (
    *(
        Panel(
            f"sokoban/{boxes}-boxes",
            f"Rooms of 6x6 with {boxes} boxes{' (the default difficulty)' * (boxes == 2)}.",
            "sokoban",
            {"size": 6, "boxes": boxes},
            "eval",
            PANEL_SIZE,
            version=1 if boxes == 2 else 2,
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
        for mines in LONG
    ),
    *(
        Panel(
            f"minesweeper/{mines}-mines-long",
            f"The fields of {mines}-mines, with turns that suffice.",
            "minesweeper",
            {"size": 6, "mines": mines},
            "eval",
            PANEL_SIZE,
            max_turns=turns,
        )
        for mines, turns in LONG.items()
    ),
    *(
        Panel(
            f"alfworld/generated/{family}",
            f"Generated games of the {long} types.",
            "alfworld",
            {"task_types": family},
            "eval",
            PANEL_SIZE,
            version=2,
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
    *(
        Panel(
            f"doors/{doors}{'-lamp' * lamp}",
            f"{doors} doors{' and a lamp' * lamp}.",
            "doors",
            {"doors": doors, "lamp": lamp},
            "eval",
            2 * PANEL_SIZE,
        )
        for doors, lamp in ((4, False), (8, False), (8, True))
    ),
    Panel(
        "darkroom/5",
        "Dark rooms of 5x5.",
        "darkroom",
        {"size": 5},
        "eval",
        2 * PANEL_SIZE,
    ),
    Panel(
        "webshop/eval",
        "Test goals of the synthetic catalogue, generated ones.",
        "webshop",
        {"data": "synthetic", "products": 1000, "goals": "generated"},
        "eval",
        PANEL_SIZE,
        version=2,
    ),
)
"""Panels without their states. A panel whose split is not a range of seeds is the whole split. If its data is missing,
it is written without tasks; these are then listed from the data, and counted."""


def made(panel: Panel) -> Panel:
    """`panel` with its tasks and their states, as this machine builds them."""
    found: dict[str, tuple[Task, str]] = {}
    with closing(envs.make(panel.env, **panel.options)) as env:
        for task in _candidates(panel):
            state = manifest.state_hash(env.reset(task), env.anchor())
            # Two seeds may have the same initial state; a panel holds each state once, unless all begin alike.
            found.setdefault(state if env.holds_out else task.id, (task, state))
            if len(found) == panel.size:
                break
        else:
            raise envs.TaskError(f"there are {len(found)} tasks that differ, not {panel.size}")
    panel = replace(panel, states={task.id: (task, state) for task, state in found.values()})
    return replace(panel, ceilings=ceilings(panel))


def kept(panel: Panel) -> Panel | None:
    """`panel` with the tasks of its file; None if there is no file, or one of another version or size."""
    try:
        there = panels.load(panel.name)
    except manifest.PanelError:
        return None
    same = (there.version, there.size) == (panel.version, panel.size)
    return replace(panel, states=there.states, ceilings=there.ceilings) if same else None


def _candidates(panel: Panel) -> list[Task]:
    cls = envs.lookup(panel.env)
    if panel.split in SEEDS and cls.holds_out:
        return seeded_tasks(panel.env, panel.split, 2 * panel.size, options=panel.options)
    return cls.tasks(panel.split, panel.size, options=panel.options)


def main() -> int:
    """Write the chosen panels; returns 1 if one could not be made."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("panels", nargs="*", metavar="PANEL", help="names; by default all")
    chosen = parser.parse_args().panels
    missing = 0
    for panel in PANELS:
        if chosen and panel.name not in chosen:
            continue
        path, there, note = manifest.MANIFESTS / f"{panel.name}.json", kept(panel), ""
        try:
            panel = made(panel)
            if there is not None and there.states != panel.states:
                note = f" (others than version {panel.version} had; raise it if results on that were published)"
        except (envs.TaskError, ImportError) as error:
            if there is not None:
                panel, note = there, f" (kept: {error})"
            elif panel.split in SEEDS or panel.env not in envs.names() or path.exists():
                print(f"{panel.name}: not made: {error}", file=sys.stderr)
                missing = 1
                continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(panels.dump(panel), "utf-8")
        where = "" if panel.states else ", to be listed from the data,"
        print(f"{panel.name}, version {panel.version}: {panel.size} tasks{where} in {path}{note}", flush=True)
    return missing


if __name__ == "__main__":
    sys.exit(main())
