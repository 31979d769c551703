"""The rollout actor's executor: the agent sets the turns of training and of the host's evaluation set."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from stand_ins import Idle, engine_output

from openrlhf_lamer.agents import Agent, load_agent
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.config import ENV_VAR, LamerConfig
from openrlhf_lamer.records import Stop, Task, Trial

pytest.importorskip("openrlhf")

from openrlhf_lamer.integration.rollout.executor import executor_class


@pytest.fixture
def turns(chat: Chat, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Plays a trial on an executor; returns the turns of each episode. Keyword arguments become the configuration."""

    def played(agent: Agent, *, evaluating: bool, **config: Any) -> list[int]:
        monkeypatch.setenv(ENV_VAR, LamerConfig(**{"num_episodes": 2, **config}).to_env())
        executor = executor_class(agent)()
        executor.take(tokenizer)
        response = asyncio.run(
            executor.play(
                "p",
                Task("minesweeper", seed=1),
                Idle(chat),
                sample=0,
                seed=None,
                max_new_tokens=64,
                max_length=9000,
                evaluating=evaluating,
            )
        )
        trial: Trial = response["trial"]
        assert trial.failure is None
        assert {episode.stop for episode in trial.episodes} == {Stop.MAX_TURNS}
        return [len(episode.turns) for episode in trial.episodes]

    return played


def test_an_evaluation_has_the_turns_that_the_agent_has_there(turns: Callable[..., list[int]]) -> None:
    patient = Agent("minesweeper", max_turns=2, eval_turns=5)
    assert turns(patient, evaluating=False) == [2, 2]
    assert turns(patient, evaluating=True) == [5, 5]
    assert turns(Agent("minesweeper", max_turns=3), evaluating=True) == [3, 3]


def test_turns_that_the_user_gives_are_those_of_both(turns: Callable[..., list[int]]) -> None:
    patient = Agent("minesweeper", max_turns=2, eval_turns=5)
    assert turns(patient, evaluating=False, max_turns=4) == turns(patient, evaluating=True, max_turns=4) == [4, 4]


@pytest.mark.parametrize(("trained", "evaluated"), [(1, 3), (3, 2)])
def test_an_evaluation_has_the_episodes_that_the_user_gives(
    turns: Callable[..., list[int]], trained: int, evaluated: int
) -> None:
    agent = Agent("minesweeper", max_turns=2)
    given = {"num_episodes": trained, "eval_episodes": evaluated}
    assert turns(agent, evaluating=False, **given) == [2] * trained
    assert turns(agent, evaluating=True, **given) == [2] * evaluated


@pytest.mark.parametrize("fails", [False, True])
def test_a_stock_host_gets_one_row_whatever_the_context_or_an_error(
    chat: Chat, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    monkeypatch.setenv(ENV_VAR, LamerConfig(num_episodes=2, context="turn", retries=0).to_env())

    async def generate(prompt_token_ids: list[int], sampling_params: Any) -> Any:
        return SimpleNamespace(outputs=[]) if fails else engine_output(chat.encode("nothing"))

    executor = executor_class(Agent("minesweeper", max_turns=2))()
    params, engine = SimpleNamespace(max_tokens=64, min_tokens=0, logprobs=None), SimpleNamespace(generate=generate)
    label = Task("minesweeper", seed=1).to_json()
    playing = executor.execute("p", label, params, 9000, tokenizer, engine)
    if fails:
        with pytest.raises(RuntimeError, match=r"minesweeper:seed=1: generate: .*no reply"):
            asyncio.run(playing)
        return
    response = asyncio.run(playing)
    ids, said = response["observation_tokens"], list(chat.encode("nothing"))
    assert len(response["action_ranges"]) == len(response["trial"].turns) == 5
    assert all(ids[start:end] == said for start, end in response["action_ranges"])
    assert response["rollout_log_probs"] is None


@pytest.mark.parametrize("evaluating", [False, True])
def test_the_rollout_actor_says_which_it_is(evaluating: bool) -> None:
    pytest.importorskip("vllm")
    from openrlhf_lamer.integration.rollout.actor import LamerRolloutActor

    told: list[Any] = []

    async def play(*args: Any, **given: Any) -> dict[str, Any]:
        told.append(given["evaluating"])
        return {}

    actor = LamerRolloutActor.__new__(LamerRolloutActor)
    actor.executor, actor._seeded = SimpleNamespace(play=play), False
    params = SimpleNamespace(max_tokens=8)
    label = Task("minesweeper", seed=1).to_json()
    asyncio.run(actor.play_trial("p", label, 0, 1, params, 100, evaluating=evaluating))
    assert told == [evaluating]


def test_agents_have_as_many_turns_in_evaluations_but_alfworlds() -> None:
    turns = {"darkroom": (4, 4), "doors": (1, 1), "minesweeper": (7, 7), "sokoban": (7, 7), "webshop": (12, 12)}
    turns["alfworld"] = (10, 30)
    agents = {env: load_agent(f"openrlhf_lamer.agents.{env}")[0] for env in turns}
    assert {env: (agent.max_turns, agent.evaluated().max_turns) for env, agent in agents.items()} == turns
