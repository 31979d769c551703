"""Draw the rows of one trial of MineSweeper as a forest, for docs/update.md.

    python scripts/forest_figure.py [--out docs/img/forest.png]

The trial is random play with a thought before each action, on the first training task that takes a dozen turns. Its
tokens are those of a BPE trained on the pages of prompts. Tokens that are trained are drawn thick.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from openrlhf_lamer import envs
from openrlhf_lamer.agents import load_agent
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.policies.scripted import RandomPolicy
from openrlhf_lamer.records import Phase, Trial
from openrlhf_lamer.rows import trial_rows
from openrlhf_lamer.update.forest import Forest
from openrlhf_lamer.warmstart.demonstrations import Rules, demonstrate
from openrlhf_lamer.warmstart.model import build_tokenizer

THOUGHT = "The state shows what is known so far, and what the last turn changed. I compare what could be done next. "
COLOURS: dict[str, str] = {"shared": "#2a6f97", "prompt": "#8fb8cf", Phase.PLAY: "#c8553d", Phase.REFLECT: "#d99a2b"}


class Thinker(RandomPolicy):
    """Plays at random, after a thought."""

    def act(self, env: envs.TextEnv) -> str:
        """A thought and a random action."""
        return 4 * THOUGHT + super().act(env)


def play(root: Path) -> Trial:
    """The trial: the first with three episodes and at least twelve turns."""
    pages = [page.read_text("utf-8") for page in sorted((root / "docs" / "prompts").glob("*.md"))]
    chat = Chat(build_tokenizer(pages, 4096, 1 << 20))
    agent, _ = load_agent("openrlhf_lamer.agents.minesweeper")
    trials = demonstrate(
        envs.lookup("minesweeper").tasks("train", 8),
        Rules(agent, LamerConfig(), 1024, 1 << 20),
        chat,
        lambda seed: Thinker(chat, seed),
    )
    return next(trial for trial in trials if len(trial.episodes) == 3 and len(trial.turns) >= 12)


def draw(trial: Trial, file: Path) -> None:
    """Draw each row at a separate height, from where it departs from the rows before it."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rows = trial_rows(trial)
    forest = Forest.of([np.asarray(row.ids) for row in rows])
    paths = [forest.nodes[start:end] for start, end in pairwise(forest.starts)]
    through = np.bincount(np.concatenate(paths), minlength=len(forest))
    height = np.full(len(forest), -1)
    figure, axes = plt.subplots(figsize=(9, 0.3 * len(rows) + 1.4), layout="constrained")

    def line(start: int, end: int, at: int, kind: Any, width: float) -> None:
        axes.plot([start, end], [at, at], color=COLOURS[kind], linewidth=width, solid_capstyle="butt")

    for at, (row, path) in enumerate(zip(rows, paths, strict=True)):
        own = int((height[path] >= 0).sum())
        if own:
            axes.plot([own, own], [int(height[path[own - 1]]), at], color=COLOURS["prompt"], linewidth=0.8)
        height[path[own:]] = at
        shared = own + int((through[path[own:]] > 1).sum())  # which come first
        for start, end in ((own, shared), (shared, len(path))):
            line(start, end, at, "shared" if start < shared else "prompt", 2)
        for span in row.spans:
            line(span.start, span.end, at, trial.turns[span.turn].phase, 6)
    labels = [
        f"{'reflection' if trial.turns[row.spans[0].turn].phase is Phase.REFLECT else 'turn'} in episode "
        f"{trial.turns[row.spans[0].turn].episode + 1}"
        for row in rows
    ]
    axes.set_yticks(range(len(rows)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("position in the row, tokens")
    tokens = sum(map(len, paths))
    axes.set_title(
        f"{len(rows)} rows of one trial: {tokens:,} tokens, {len(forest):,} of them distinct", fontsize=10, loc="left"
    )
    names = ("prompt, shared by rows below", "prompt of one row", "sampled action", "sampled reflection")
    for (kind, colour), label in zip(COLOURS.items(), names, strict=True):
        axes.plot([], [], color=colour, linewidth=6 if isinstance(kind, Phase) else 2, label=label)
    axes.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 0))
    axes.margins(x=0.01)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130, metadata={"Software": None})
    plt.close(figure)
    print(f"{len(rows)} rows, {tokens:,} tokens, {len(forest):,} distinct: {file}")


def main() -> None:
    """Play and draw."""
    root = Path(__file__).parent.parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=root / "docs" / "img" / "forest.png")
    draw(play(root), parser.parse_args().out)


if __name__ == "__main__":
    main()
