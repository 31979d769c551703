"""Prompts begin with what is constant, so that an engine's prefix cache finds it: measured on real trials."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import pytest

from openrlhf_lamer.agents import load_agent
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.policies.scripted import RandomPolicy
from openrlhf_lamer.records import Phase, Trial, Turn

GROUP = 4


def common(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the common prefix."""
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def cached(turns: Sequence[Turn]) -> list[int]:
    """For each prompt, how many of its tokens begin an earlier prompt, or one with the reply to it."""
    return [
        max((common(turn.prompt_ids, earlier.ids) for earlier in turns[:i]), default=0) for i, turn in enumerate(turns)
    ]


Group = Callable[..., list[Turn]]


@pytest.fixture
def group(play: Callable[..., Trial], chat: Chat, need: Callable[[str], None]) -> Group:
    """The turns of a group of trials of one task, as random players make them, one trial after the other."""

    def played(env: str, *, seed: int = 0, context: str = "turn", **more: object) -> list[Turn]:
        need(env)
        agent = load_agent(f"openrlhf_lamer.agents.{env}")[0]
        trials = [
            play(RandomPolicy(chat, player), agent=agent, seed=seed, context=context, max_length=60_000, **more)
            for player in range(GROUP)
        ]
        assert all(trial.failure is None for trial in trials)
        return [turn for trial in trials for turn in trial.turns]

    return played


@pytest.mark.parametrize("env", ["minesweeper", "sokoban"])
def test_every_prompt_begins_as_earlier_ones(group: Group, chat: Chat, env: str) -> None:
    """Prompts of a kind share the rules and the instruction; from turn two on, a game's prompts share its task too."""
    turns = group(env)
    other = group(env, seed=1)
    kinds = {phase: [turn for turn in turns if turn.phase is phase] for phase in Phase}
    found = dict(zip(map(id, turns), cached(turns), strict=True))
    rules = common(kinds[Phase.PLAY][0].prompt_ids, kinds[Phase.REFLECT][0].prompt_ids)
    asked = min(common(turns[0].prompt_ids, turn.prompt_ids) for turn in other if turn.phase is Phase.PLAY)
    assert 50 < rules < asked
    assert all(found[id(turn)] >= asked for turn in kinds[Phase.PLAY][1:])
    assert all(found[id(turn)] > rules for turn in kinds[Phase.REFLECT][1:])
    task = asked + len(chat.encode(turns[0].observation))
    assert all(found[id(turn)] >= task for turn in kinds[Phase.PLAY] if turn.index > 1)
    share = sum(found.values()) / sum(len(turn.prompt_ids) for turn in turns)
    print(f"{env}: {share:.0%} of the tokens of prompts begin an earlier one")
    assert share > 0.6


@pytest.mark.parametrize("env", ["minesweeper", "sokoban"])
def test_in_a_chat_that_goes_on_all_but_the_news_is_an_earlier_prompt_and_its_reply(group: Group, env: str) -> None:
    turns = group(env, context="trial")
    for before, turn in itertools.pairwise(turns):
        if turn.prompt_ids != turns[0].prompt_ids:
            known = list(before.ids)
            assert list(turn.prompt_ids[: len(known)]) == known


@pytest.mark.parametrize("env", ["webshop", "alfworld"])
def test_prompts_of_text_games_begin_with_their_rules(group: Group, env: str) -> None:
    turns = group(env, max_turns=4)
    found = cached(turns)
    rules = common(turns[0].prompt_ids, next(turn for turn in turns if turn.phase is Phase.REFLECT).prompt_ids)
    assert rules > 50
    assert all(tokens >= rules for tokens in found[1:])
    print(
        f"{env}: {sum(found) / sum(len(turn.prompt_ids) for turn in turns):.0%} of the tokens begin an earlier prompt"
    )
