"""Plays games with ALFWorld as it comes, in another process: importing it touches the user's home and environment.

    python alfworld_stock.py STEPS GAME ...

prints a JSON list: for each game its transcript, as `transcript` in `alfworld_games.py` makes it of ours.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any


def transcript(path: str, steps: int) -> list[list[Any]]:
    import textworld
    from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
    from textworld.envs import PddlEnv

    env = AlfredDemangler(PddlEnv(textworld.EnvInfos(won=True, admissible_commands=True)))
    env.load(path)
    state = env.reset()
    rows = [["", state.feedback, state["admissible_commands"], state["won"]]]
    walkthrough = list(json.loads(Path(path).read_text())["walkthrough"])
    rng = random.Random(0)
    for _ in range(steps):
        wanders = rng.random() < 0.5 or not walkthrough
        command = rng.choice(state["admissible_commands"]) if wanders else walkthrough.pop(0)
        state, _, won = env.step(command)
        rows.append([command, state.feedback, state["admissible_commands"], won])
        if won:
            break
    return rows


if __name__ == "__main__":
    steps, *paths = sys.argv[1:]  # read before the engine writes its own arguments there
    print(json.dumps([transcript(path, int(steps)) for path in paths]))
