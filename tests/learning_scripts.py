"""The modules of `scripts/learning`, and trials of doors, for several test files."""

from __future__ import annotations

import importlib
import json
import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from script_folder import importable

from openrlhf_lamer.records import Episode, Phase, Stop, Task, Trial, Turn

with importable("learning") as SCRIPTS:
    arms: Any = importlib.import_module("arms")
    behaviours: Any = importlib.import_module("behaviours")
    games: Any = importlib.import_module("games")
    reporting: Any = importlib.import_module("reporting")
    results: Any = importlib.import_module("results")
    stages: Any = importlib.import_module("stages")
    commands: Any = runpy.run_path(str(SCRIPTS / "__main__.py"))["app"]

LAMP = {"doors": 8, "lamp": True}


def doors_turn(phase: Phase, episode: int, action: str | None, valid: bool = True) -> Turn:
    return Turn(phase, episode, 0, (1,), (2,), None, "", action, valid, 0.0, "s", "")


def doors_trial(
    seed: int,
    prize: str,
    actions: Sequence[str],
    remarks: Sequence[str | None] = (),
    options: dict[str, Any] | None = None,
    sample: int = 0,
) -> Trial:
    """A trial of doors with these actions, where `?` is refused, and with remarks on the first attempts."""
    episodes = []
    for n, action in enumerate(actions):
        turn = doors_turn(Phase.PLAY, n, action, action != "?")
        stop = Stop.WON if action == prize else Stop.MAX_TURNS if action == "?" else Stop.LOST
        shown = {"lamp": f"Prize behind {prize}.", prize: f"Prize behind {prize}.", "?": "All closed."}
        remark = doors_turn(Phase.REFLECT, n, remarks[n], remarks[n] is not None) if n < len(remarks) else None
        episodes.append(Episode((turn,), stop, shown.get(action, f"Nothing behind {action}."), remark))
    return Trial(Task("doors", seed=seed, options=LAMP if options is None else options), tuple(episodes), sample=sample)


PLANS = {"first": ["lamp", "d3"], "late": ["d1", "lamp", "d3"], "never": ["d1", "d2", "d1"]}


def line(trial: Trial, **beside: int) -> str:
    return f"{trial.to_json()[:-1]},{json.dumps(beside)[1:]}\n"


def evaluation(step: int, shares: Sequence[str], shift: int = 0) -> list[str]:
    """Lines of an evaluation on 8 tasks, which are played by these plans in turn."""
    return [line(doors_trial(i, "d3", PLANS[shares[(i + shift) % len(shares)]]), step=step) for i in range(8)]


def finish(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stage.json").write_text(json.dumps({"command": "", "finished": True}))
