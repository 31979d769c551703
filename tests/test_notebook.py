"""The notebook: it runs from its first cell to its last, and its figures are those of a plain computation."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from openrlhf_lamer.agents.minesweeper import agent
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.policies import Policy
from openrlhf_lamer.policies.scripted import RandomPolicy, TypedPolicy
from openrlhf_lamer.records import Phase, Task, Trial, Turn
from openrlhf_lamer.text_chat import TextChat
from openrlhf_lamer.trial import run_trial

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "one_trial.ipynb"
GAMMA_STEP, GAMMA_TRAJ, REWARD = 0.95, 0.6, 10.0


@pytest.fixture(scope="module")
def executed() -> Any:
    """The notebook with its outputs; raises where a cell does."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    return nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3").execute()


def cell(notebook: Any, word: str) -> Any:
    """The one code cell with this word."""
    (found,) = (each for each in notebook.cells if each.cell_type == "code" and word in each.source)
    return found


def printed(notebook: Any, word: str) -> Sequence[str]:
    """Lines that a cell prints."""
    return "".join(out.text for out in cell(notebook, word).outputs if out.output_type == "stream").splitlines()


def test_it_is_stored_without_outputs_and_opens_in_colab() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [each for each in notebook.cells if each.cell_type == "code"]
    assert [each for each in code if each.outputs or each.execution_count] == []
    assert "colab.research.google.com/github/" in notebook.cells[0].source
    assert f"/blob/main/notebooks/{NOTEBOOK.name})" in notebook.cells[0].source
    assert "%pip install --quiet openrlhf-lamer" in code[0].source


def test_every_cell_runs(executed: Any) -> None:
    outputs = [out for each in executed.cells if each.cell_type == "code" for out in each.outputs]
    assert [out for out in outputs if out.output_type == "error" or out.get("name") == "stderr"] == []
    assert cell(executed, "find_spec").outputs == []  # installed as it is here
    assert [sorted(out.data) for out in cell(executed, "plt.show()").outputs] == [["image/png", "text/plain"]]


def test_the_trial_is_won_at_the_third_attempt_and_remembers_the_others(executed: Any) -> None:
    assert printed(executed, "TypedPolicy(chat, ACTIONS, REMARKS), chat, config,")[-1] == "won attempt 3"
    prompt = "\n".join(printed(executed, "first_of_last"))
    assert "(3, 4) is safe, (4, 4) is a mine." in prompt
    assert "(1, 3) is a mine too, so (1, 4) is safe." in prompt


def test_every_sampled_token_is_trained_once_in_any_context(executed: Any) -> None:
    """A reply is its action or remark in its tag, and the id that ends it."""
    _, *rows = (line.split() for line in printed(executed, "rows_of = {}"))
    actions, remarks = 6 * len("<action>(3, 4)</action>"), 2 * len("<remark></remark>")
    said = len("(3, 4) is safe, (4, 4) is a mine.") + len("(1, 3) is a mine too, so (1, 4) is safe.")
    assert [row[0] for row in rows] == ["turn", "episode", "trial"]
    assert [int(row[1]) for row in rows] == [8, 3, 1]
    assert {int(row[3]) for row in rows} == {actions + remarks + said + 8}
    (shown,) = cell(executed, "def marked").outputs
    assert shown.data["text/html"].count("<mark>&lt;action&gt;") == 2


def worth(trial: Trial, turn: Turn) -> float:
    """Return of a turn: of 10 for the win, discounted by the turns up to it and by the attempts between."""
    if not trial.wins:
        return 0.0
    won = trial.episodes[trial.wins[0] - 1]
    if turn.phase is Phase.PLAY and turn.episode == trial.wins[0] - 1:
        return REWARD * GAMMA_STEP ** (len(won.turns) - 1 - turn.index)
    attempts = trial.wins[0] - 1 - turn.episode - (turn.phase is Phase.REFLECT)
    return GAMMA_TRAJ**attempts * REWARD * GAMMA_STEP ** (len(won.turns) - 1)


def test_returns_and_advantages_are_those_of_a_plain_computation(executed: Any) -> None:
    """RLOO takes off the mean of the other trials, GRPO that of all, over their spread; each trial counts once."""
    _, heading, *lines = printed(executed, "ESTIMATORS = [")
    assert heading.split()[-4:] == ["return", "lamer_gigpo", "lamer_grpo", "lamer_rloo"]
    figures = [[float(each) for each in line.split()[-4:]] for line in lines]
    assert len(figures) == 8

    chat = TextChat()
    task = Task("minesweeper", seed=9, options={"size": 4, "mines": 3})
    names: dict[str, Any] = {}
    exec(
        "\n".join(re.findall(r"^(?:ACTIONS|REMARKS) = .*$", cell(executed, "ACTIONS = [").source, re.MULTILINE)), names
    )

    def played(policy: Policy, seed: int | None = None) -> Trial:
        limits: dict[str, Any] = {"max_new_tokens": 500, "max_length": 100_000}
        return asyncio.run(run_trial(task, agent, policy, chat, LamerConfig(num_episodes=3), seed=seed, **limits))

    group = [played(TypedPolicy(chat, names["ACTIONS"], names["REMARKS"]))]
    group += [played(RandomPolicy(chat), seed) for seed in range(7)]
    returns = [[worth(trial, turn) for turn in trial.turns] for trial in group]
    assert [row[0] for row in figures] == pytest.approx(returns[0], abs=0.0051)
    others = fmean(map(fmean, returns[1:]))
    assert [row[3] for row in figures] == pytest.approx([g - others for g in returns[0]], abs=0.0051)
    centre = fmean(map(fmean, returns))
    spread = sqrt(sum(fmean((g - centre) ** 2 for g in own) for own in returns) / (len(group) - 1))
    assert [row[2] for row in figures] == pytest.approx([(g - centre) / spread for g in returns[0]], abs=0.0051)
