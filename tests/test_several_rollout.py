"""Several games on one rollout engine: who plays what, who waits for whom, and what is logged of each."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from host_stand_ins import failed, samples_of
from stand_ins import Idle

from openrlhf_lamer.agents import Agent, load_agent
from openrlhf_lamer.agents.loading import AGENTS_VAR
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.config import ENV_VAR, LamerConfig
from openrlhf_lamer.envs import registry
from openrlhf_lamer.envs.sokoban.env import Sokoban
from openrlhf_lamer.integration.launch.launcher import SEVERAL
from openrlhf_lamer.integration.rollout.executor import LamerExecutor
from openrlhf_lamer.integration.rollout.pool import Environments, Worker
from openrlhf_lamer.integration.training.logs import batch_metrics, evaluation_metrics
from openrlhf_lamer.policies.scripted import RandomPolicy
from openrlhf_lamer.records import Phase, Stop, Task, Trial

OWN = """
from openrlhf_lamer.agents import Agent, host_seam
agent = Agent("sokoban", max_turns={turns}, eval_turns=5)
__getattr__ = host_seam(agent)
"""


@pytest.fixture
def executor(tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., LamerExecutor]:
    """The executor as OpenRLHF makes it: from the class in the file that the launcher names."""

    def made(**config: Any) -> LamerExecutor:
        (tmp_path / "own.py").write_text(OWN.format(turns=2))
        files = [str(tmp_path / "own.py"), str(load_agent("openrlhf_lamer.agents.minesweeper")[1])]
        monkeypatch.setenv(AGENTS_VAR, json.dumps(files))
        monkeypatch.setenv(ENV_VAR, LamerConfig(**config).to_env())
        spec = importlib.util.spec_from_file_location("agent_module", SEVERAL)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found = module.AgentExecutor()
        found.take(tokenizer)
        return found

    return made


async def trial_of(executor: LamerExecutor, task: Task, chat: Chat, *, evaluating: bool = False) -> Trial:
    response = await executor.play(
        "p", task, Idle(chat), sample=0, seed=None, max_new_tokens=64, max_length=9000, evaluating=evaluating
    )
    return response["trial"]


def test_each_task_is_played_by_its_environments_agent_and_options(
    executor: Callable[..., LamerExecutor], chat: Chat
) -> None:
    options = {"minesweeper": {"size": 4, "mines": 2}}
    made = executor(num_episodes=1, eval_episodes=2, env_options=options)

    def turns(env: str, **given: bool) -> list[int]:
        trial = asyncio.run(trial_of(made, Task(env, seed=1), chat, **given))
        assert trial.failure is None
        assert {episode.stop for episode in trial.episodes} == {Stop.MAX_TURNS}
        return [len(episode.turns) for episode in trial.episodes]

    assert (turns("sokoban"), turns("sokoban", evaluating=True)) == ([2], [5, 5])
    assert (turns("minesweeper"), turns("minesweeper", evaluating=True)) == ([7], [7, 7])
    board = asyncio.run(trial_of(made, Task("minesweeper", seed=1), chat)).episodes[0].turns[0].observation
    rows = registry.make("minesweeper", **options["minesweeper"]).reset(Task("minesweeper", seed=1)).text
    assert board == chat.clean(rows)
    own = executor(num_episodes=1, max_turns=3)
    trials = [asyncio.run(trial_of(own, Task(env, seed=1), chat)) for env in ("sokoban", "minesweeper")]
    assert [len(trial.episodes[0].turns) for trial in trials] == [3, 3]


def test_cheap_games_play_on_while_all_workers_of_a_slow_one_are_blocked(
    executor: Callable[..., LamerExecutor], chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool is the real one; its workers' processes are replaced by environments that wait until they are let go."""

    class Slow(Sokoban):
        slow = True

    asked: list[str] = []

    async def check() -> tuple[list[Trial], list[Trial]]:
        free, blocked = asyncio.Event(), asyncio.Event()

        async def call(worker: Worker, method: str, *arguments: Any) -> Any:
            asked.append(method)
            if len(asked) == 6:
                blocked.set()
            await free.wait()
            return getattr(environments, method)(*arguments)

        monkeypatch.setattr(Worker, "call", call)
        environments = Environments()
        made = executor(num_episodes=1, env_workers=2)
        slow = [asyncio.ensure_future(trial_of(made, Task("sokoban", seed=seed), chat)) for seed in range(6)]
        await asyncio.wait_for(blocked.wait(), 60)
        cheap = [trial_of(made, Task("minesweeper", seed=seed), chat) for seed in range(6)]
        played = await asyncio.wait_for(asyncio.gather(*cheap), 60)
        assert not any(each.done() for each in slow)
        free.set()
        return played, list(await asyncio.gather(*slow))

    with registry.scoped(sokoban=Slow):
        cheap, slow = asyncio.run(check())
    assert [trial.failure for trial in (*cheap, *slow)] == [None] * 12
    assert [len(trial.episodes[0].turns) for trial in slow] == [2] * 6
    assert asked.count("open") == asked.count("reset") == asked.count("close") == 6


@pytest.fixture
def batch(play: Callable[..., Trial], chat: Chat, maker: Callable[..., Any]) -> Any:
    """Three groups of four: two of one game, of which one earns nothing, and one of another, with a failed trial."""
    config = LamerConfig(num_episodes=2)
    sokoban = Agent("sokoban", max_turns=2)

    def group(seed: int, agent: Agent | None = None) -> list[Trial]:
        policies = [RandomPolicy(chat, 10 * seed + n) for n in range(4)]
        return [play(policy, seed=seed, agent=agent, num_episodes=2, max_turns=2) for policy in policies]

    def paid(trial: Trial, reward: float) -> Trial:
        episodes = tuple(
            replace(e, turns=tuple(replace(turn, reward=reward) for turn in e.turns), reflection=None)
            for e in trial.episodes
        )
        return replace(trial, episodes=episodes)

    silent = [paid(trial, 0.0) for trial in group(1)]
    loud = [paid(trial, float(n)) for n, trial in enumerate(group(2))]
    other = [paid(trial, float(n)) for n, trial in enumerate(group(3, sokoban))]
    other[1] = replace(failed(3), task=other[0].task)
    made = maker("lamer_grpo", config=config)
    made.make_experience_batch(samples_of([*silent, *loud, *other], config.gamma_traj))
    return made.batch


def test_rows_tokens_and_silent_groups_are_counted_by_environment(batch: Any) -> None:
    logged = batch_metrics(batch, LamerConfig(num_episodes=2))
    for env in ("minesweeper", "sokoban"):
        trials = [trial for trial in batch.trials if trial.task.env == env and trial.failure is None]
        turns = [turn for trial in trials for turn in trial.turns]
        assert all(turn.phase is Phase.PLAY for turn in turns)
        assert logged[f"{env}/rows"] == len(turns)  # a turn is a row in this context
        assert logged[f"{env}/tokens"] == sum(len(turn.sampled_ids) for turn in turns)
    assert logged["minesweeper/rows"] + logged["sokoban/rows"] == logged["rows"]
    assert logged["minesweeper/zero_advantage_groups"] == 0.5
    assert logged["sokoban/zero_advantage_groups"] == 0
    assert logged["zero_advantage_groups"] == pytest.approx(1 / 3)
    assert (logged["minesweeper/failed"], logged["sokoban/failed"]) == (0, 1 / 4)
    # Rounding, divided by a spread of 0, is no advantage either.
    rounded = replace(batch, advantages=[np.full_like(own, 5e-8) for own in batch.advantages])
    assert batch_metrics(rounded, LamerConfig(num_episodes=2))["zero_advantage_groups"] == 1


def test_the_best_checkpoint_is_that_of_the_mean_over_games(batch: Any) -> None:
    trials = [trial for trial in batch.trials if trial.failure is None]
    won = [replace(t, episodes=(replace(t.episodes[0], stop=Stop.WON),)) if n < 3 else t for n, t in enumerate(trials)]
    config = LamerConfig(num_episodes=2)
    found = evaluation_metrics(samples_of(won, 0.6), config)
    # The host takes the first in alphabetical order, and names of environments may come before "all".
    (first,) = (key for key in found if key.endswith("_pass1"))
    assert first == "eval_all_pass1"
    shares = [np.mean([t.won for t in won if t.task.env == env]) for env in ("minesweeper", "sokoban")]
    assert found[first] == pytest.approx(np.mean(shares))
    assert found[first] != pytest.approx(np.mean([t.won for t in won]))
    assert [found[f"lamer/{env}/success@1"] for env in ("minesweeper", "sokoban")] == pytest.approx(shares)
    one = evaluation_metrics(samples_of([t for t in won if t.task.env == "minesweeper"], 0.6), config)
    assert [key for key in one if key.endswith("_pass1")] == ["eval_minesweeper_pass1"]
