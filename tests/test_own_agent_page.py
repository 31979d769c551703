"""Your own agent, estimator and method: the page's files play as written."""

from __future__ import annotations

import asyncio
import shlex
from pathlib import Path

import pytest
from page_blocks import blocks
from typer.testing import CliRunner

from openrlhf_lamer.agents import load_agent
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.cli.main import app
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.policies.scripted import RandomPolicy
from openrlhf_lamer.records import Phase, Task, Trial
from openrlhf_lamer.trial import run_trial
from openrlhf_lamer.warmstart.players import players

PAGE = "your-own-agent.md"


@pytest.fixture(autouse=True)
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's files in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts").mkdir()
    agent, player = blocks(PAGE, "python")
    play, rules = blocks(PAGE, "jinja")
    for name, text in {
        "careful.py": agent,
        "sometimes.py": player,
        "prompts/play.j2": play,
        "prompts/rules.j2": rules,
    }.items():
        (tmp_path / name).write_text(text)


def play(chat: Chat, player: str | None = None) -> tuple[Trial, list[bool]]:
    """A trial of the page's agent, and on which turns its player knew the right action."""
    agent, _ = load_agent("careful.py")
    config = LamerConfig(num_episodes=2)
    policy = RandomPolicy(chat, 0) if player is None else players(player, chat, agent, config, {"share": 1.0})(0)
    run = run_trial(Task("minesweeper", seed=1), agent, policy, chat, config, max_new_tokens=200, max_length=9000)
    return asyncio.run(run), getattr(policy, "certain", [])


def test_the_agent_s_prompts_are_its_own(chat: Chat) -> None:
    trial, _ = play(chat)
    assert trial.failure is None
    prompts = {turn.phase: chat.decode(turn.prompt_ids) for turn in trial.turns}
    assert "Name a cell that cannot be a mine." in prompts[Phase.PLAY]
    assert "hides 3 mines. Open all other cells." in prompts[Phase.PLAY]
    assert "think first" not in prompts[Phase.PLAY]
    assert "10 turns left" in chat.decode(trial.turns[0].prompt_ids)


def test_the_player_asks_the_oracle_on_its_share_of_turns(chat: Chat) -> None:
    trial, certain = play(chat, "sometimes.py:Sometimes")
    assert trial.wins == (1,)
    assert certain == [True] * len(trial.turns)


def test_its_evaluation() -> None:
    (line,) = (line for line in blocks(PAGE, "bash")[0].splitlines() if " eval " in line)
    result = CliRunner().invoke(app, shlex.split(line)[1:])
    assert result.exit_code == 0, result.output
    assert "8 tasks, 8 trials" in result.output


@pytest.mark.parametrize("number", [0, 2])
def test_its_training_commands_pass_the_launchers_checks(number: int, tmp_path: Path) -> None:
    pytest.importorskip("openrlhf")
    from openrlhf_lamer.integration.launch import launcher
    from openrlhf_lamer.tasks import seeded_tasks, write_dataset

    write_dataset(tmp_path / "data" / "minesweeper" / "train.jsonl", seeded_tasks("minesweeper", "train", 32))
    *_, train = blocks(PAGE, "bash")[number].replace("\\\n", "").splitlines()
    plan = launcher.prepare(shlex.split(train)[3:])
    assert plan.agent_file.stem in ("careful", "minesweeper")
    assert plan.line.config.num_episodes == (3 if number == 0 else 4)
