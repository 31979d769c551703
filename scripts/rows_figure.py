"""Draw the token rows of one trial of MineSweeper in each context, for docs/how-it-works.md.

    python scripts/rows_figure.py [--out docs/img/rows.svg]

The player thinks, plays at random in its first two attempts and wins the third by the oracle: the same actions in all
contexts, on the first training task on which that takes ten turns at most. Tokens are those of a BPE trained on the
pages of prompts. The picture carries its figures as JSON in its description.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

from forest_figure import COLOURS, Thinker

from openrlhf_lamer import envs
from openrlhf_lamer.advantage import CreditConfig, TurnTable, with_returns
from openrlhf_lamer.agents import load_agent
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.policies import Generation, Request
from openrlhf_lamer.policies.scripted import oracle_action
from openrlhf_lamer.records import Trial
from openrlhf_lamer.rows import Row, trial_rows
from openrlhf_lamer.vocabulary import ContextPolicy
from openrlhf_lamer.warmstart.demonstrations import Rules, demonstrate
from openrlhf_lamer.warmstart.model import build_tokenizer

ROOT = Path(__file__).parent.parent
TURNS = 10
PROMPT = "#d9e2ec"


class Finder(Thinker):
    """Plays at random in two attempts, and as the oracle does in the third."""

    episode = 0

    async def generate(self, request: Request) -> Generation:
        """The script's reply."""
        self.episode = request.episode
        return await super().generate(request)

    def act(self, env: envs.TextEnv) -> str:
        """A thought and an action."""
        thought, _, _ = super().act(env).partition("<action>")
        return super().act(env) if self.episode < 2 else f"{thought}<action>{oracle_action(env)}</action>"


@dataclass(frozen=True)
class Bar:
    """A row as it is drawn.

    Attributes:
        tokens: Length of the row.
        spans: Phase, start and end of each turn's sampled tokens, which are trained; all others are not.
        returns: Return of each of these turns.
    """

    tokens: int
    spans: tuple[tuple[str, int, int], ...]
    returns: tuple[float, ...]


def trials() -> dict[str, Trial]:
    """The trial in each context."""
    pages = [page.read_text("utf-8") for page in sorted((ROOT / "docs" / "prompts").glob("*.md"))]
    chat = Chat(build_tokenizer(pages, 4096, 1 << 20))
    agent, _ = load_agent("openrlhf_lamer.agents.minesweeper")

    def play(tasks: Sequence[envs.Task], context: ContextPolicy) -> list[Trial]:
        rules = Rules(agent, LamerConfig(context=context), 1024, 1 << 20)
        return demonstrate(tasks, rules, chat, lambda _: Finder(chat, 0))

    chosen = next(
        trial.task
        for task in envs.lookup("minesweeper").tasks("train", 64)
        for trial in play([task], "turn")
        if trial.wins == (3,) and len([turn for turn in trial.turns if turn.phase == "play"]) <= TURNS
    )
    return {context: play([chosen], context)[0] for context in get_args(ContextPolicy)}


def bars(trial: Trial) -> list[Bar]:
    """The rows of a trial, with returns at the default discounts."""
    returns = with_returns(TurnTable.from_trials([trial], [0]), CreditConfig()).returns

    def bar(row: Row) -> Bar:
        spans = tuple((str(trial.turns[span.turn].phase), span.start, span.end) for span in row.spans)
        return Bar(len(row.ids), spans, tuple(round(float(returns[span.turn]), 2) for span in row.spans))

    return [bar(row) for row in trial_rows(trial)]


def figures() -> dict[str, list[dict[str, Any]]]:
    """All that is drawn: the rows in each context."""
    return json.loads(json.dumps({context: list(map(asdict, bars(trial))) for context, trial in trials().items()}))


def draw(contexts: Mapping[str, Sequence[Mapping[str, Any]]], file: Path) -> None:
    """A panel for each context, a bar for each row."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "rows"}
    import matplotlib.pyplot as plt

    heights = [len(rows) + 1.5 for rows in contexts.values()]
    figure, panels = plt.subplots(
        len(heights), figsize=(9, 0.24 * sum(heights) + 1), layout="constrained", height_ratios=heights, sharex=True
    )
    for axes, (context, rows) in zip(panels, contexts.items(), strict=True):
        for at, row in enumerate(rows):
            block = partial(axes.broken_barh, yrange=(at - 0.35, 0.7))
            block([(0, row["tokens"])], color=PROMPT)
            for (phase, start, end), value in zip(row["spans"], row["returns"], strict=True):
                block([(start, end - start)], color=COLOURS[phase])
                said = partial(axes.text, y=at, s=f"{value:g}", va="center", fontsize=7)
                if phase == "play":
                    said((start + end) / 2, color="white", ha="center")
                else:  # a remark is too short for a number
                    said(end + 8)
        sampled = sum(end - start for row in rows for _, start, end in row["spans"])
        total = sum(row["tokens"] for row in rows)
        axes.set_title(
            f"context {context}: {len(rows)} row{'s' * (len(rows) > 1)}, {total:,} tokens, {sampled:,} trained",
            fontsize=9,
            loc="left",
        )
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_yticks([])
        axes.spines[["top", "right", "left"]].set_visible(False)
    panels[-1].set_xlabel("position in the row, tokens", fontsize=8)
    keys = {"prompt, not trained": PROMPT, "sampled action": COLOURS["play"], "sampled remark": COLOURS["reflect"]}
    for label, colour in keys.items():
        panels[0].barh([0], [0], color=colour, label=label)
    panels[0].legend(fontsize=8, loc="lower right", frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None, "Description": json.dumps(contexts)})
    plt.close(figure)


def main() -> None:
    """Play and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "img" / "rows.svg")
    draw(figures(), parser.parse_args().out)


if __name__ == "__main__":
    main()
