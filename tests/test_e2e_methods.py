"""The real host trains across attempts in other ways than the paper's: several games, trials that go on, thoughts."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

import pytest
from e2e_commands import RUNS
from host_runs import Run, arguments, check, finish, start
from thinking_model import make_model

from openrlhf_lamer.agents import load_agent
from openrlhf_lamer.chat import parse_tag
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.records import Phase, Stop
from openrlhf_lamer.tasks import seeded_tasks, write_dataset

for package in ("openrlhf", "vllm", "deepspeed", "ray"):
    pytest.importorskip(package)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

SLOW = Path(__file__).parent / "data" / "slow_minesweeper.py"
GAMES = {
    "doors": ("openrlhf_lamer.agents.doors", {"doors": 3}),
    "slow_minesweeper": (str(SLOW), {"size": 3, "mines": 1}),
}
"""Agent and options of each game: a cheap one, and one that is played in processes of its own, a step a tenth of a
second."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny model that thinks and knows both games, and their tasks mixed."""
    agents = {env: load_agent(name)[0] for env, (name, _) in GAMES.items()}
    config = LamerConfig(thinking=True, num_episodes=2, max_turns=2)
    demonstrated = [
        (agents[env], seeded_tasks(env, "train", 100, first=1000, options=options))
        for env, (_, options) in GAMES.items()
    ]
    make_model(tmp_path / "model", demonstrated, config)
    train = [task for env in GAMES for task in seeded_tasks(env, "train", 8, options=GAMES[env][1])]
    write_dataset(tmp_path / "games" / "train.jsonl", train)
    evaluated = [task for env in GAMES for task in seeded_tasks(env, "eval", 3, options=GAMES[env][1])]
    write_dataset(tmp_path / "games" / "eval.jsonl", evaluated)
    return tmp_path


def test_two_games_in_one_run_whose_trials_go_on_with_a_model_that_thinks(folder: Path) -> None:
    """`lamer_gigpo` with differences as rewards and anchors by similarity; tasks that teach come more often."""
    command = [
        *("openrlhf_lamer.cli.train_ppo_ray", "--agent_func", ",".join(name for name, _ in GAMES.values())),
        *arguments(folder, folder / "run", "games"),
        *RUNS["two games that think and go on"],
        *("--eval.dataset", str(folder / "games" / "eval.jsonl")),
        *("--lamer.eval_trials", str(folder / "run" / "evaluations.jsonl")),
        *("--actor.adam.lr", "1e-4"),  # so that replies keep their form, and some win, in all steps
    ]
    run = finish(start(command, folder / "run"), folder / "run")
    config = LamerConfig(num_episodes=3, turn_budget=5, stop_on_success=False)
    check(run, 4, config=config, env=None)
    goes_on(run)
    thinks(run)
    for number, status in enumerate(run.steps, start=1):
        envs = {trial.task.env for trial in run.trials(number)}
        assert sum(status[f"lamer/{env}/rows"] for env in envs) == status["lamer/rows"]
        assert all(status[f"lamer/{env}/rows"] > 0 for env in envs)
        assert 0 <= status["lamer/groups_that_teach"] <= 1
    played = [trial for number in range(1, 5) for trial in run.trials(number)]
    assert {trial.task.env for trial in played} == set(GAMES)
    for trial in played:
        steps = sum(turn.action is not None for turn in trial.turns if turn.phase is Phase.PLAY)
        if trial.task.env == "slow_minesweeper":
            assert trial.environment_seconds > 0.1 * steps
    evaluations = [json.loads(line) for line in (folder / "run" / "evaluations.jsonl").read_text().splitlines()]
    assert [each["step"] for each in evaluations] == [0] * 6 + [2] * 6 + [4] * 6
    for env in GAMES:
        own = [trial for trial in run.trials(2, "evaluations.jsonl") if trial.task.env == env]
        (said,) = (line for line in run.log.splitlines() if "Evaluation at step 2: " in line)
        assert f"'lamer/{env}/success@1': {fmean(trial.won_by(1) for trial in own)}" in said


def goes_on(run: Run) -> None:
    """Check that trials end with their budget or number of episodes, and not with a win."""
    trials = [trial for number in range(1, 5) for trial in run.trials(number)]
    assert any(episode.won for trial in trials for episode in trial.episodes[:-1])
    for trial in trials:
        turns = sum(len(episode.turns) for episode in trial.episodes)
        assert turns <= 5
        assert turns == 5 or len(trial.episodes) == 3
        assert all(episode.stop is not Stop.BUDGET for episode in trial.episodes[:-1])
        assert all(episode.reflection is not None for episode in trial.episodes[:-1])
        assert trial.episodes[-1].reflection is None


def thinks(run: Run) -> None:
    """Check that thoughts are counted and trained, and neither played nor remembered."""
    turns = [turn for number in range(1, 5) for trial in run.trials(number) for turn in trial.turns]
    closed = [turn for turn in turns if turn.thought_tokens and not turn.unclosed]
    assert len(closed) > len(turns) / 4
    for turn in turns:
        answer = "" if turn.unclosed else turn.text.rpartition("</think>")[2]
        read = parse_tag(answer, "action" if turn.phase is Phase.PLAY else "remark")
        # Kept texts are clean: a tag in one is broken by a space.
        assert "".join((turn.action or "").split()) == "".join((read or "").split())
    assert any("<action>" in turn.text.rpartition("</think>")[0] and turn.action for turn in closed)
    assert all(turn.thought_tokens is not None and turn.thought_tokens <= len(turn.sampled_ids) for turn in turns)
    assert all(status["lamer/doors/thought_tokens"] > 0 for status in run.steps if "lamer/doors/rows" in status)
