"""Replies that nobody would want: each costs its turn the penalty, is counted, and ends no run by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from faults import EVER, Faulty, Plan, Rollout

from openrlhf_lamer.chat import Chat
from openrlhf_lamer.envs.base import Observation
from openrlhf_lamer.records import Phase

pytest_plugins = "faults"


def replies(chat: Chat) -> dict[str, list[int]]:
    """Replies that no one would want, by what is wrong with them, as the ids that an engine samples."""
    tokenizer, end = chat.tokenizer, list(chat.end_of_reply)
    half = list(chat.encode("√"))[:1]  # the first of three bytes
    said = {
        "unclosed tag": "<action>1",
        "two actions": "<action>1</action> or <action>2</action>",
        "nested tags": "<action><action>1</action></action>",
        "closing tag first": "</action>1<action>",
        "tags in the wrong case": "<Action>1</Action>",
        "tag with an attribute": "<action id='1'>1</action>",
        "another tag": "<remark>1</remark>",
        "control tokens for tags": "<|im_start|>1<|im_end|>",
    }
    return {name: [*chat.encode(text), *end] for name, text in said.items()} | {
        "empty": [],
        "nothing but its end": end,
        "10,000 tokens of one character": list(chat.encode("a"))[:1] * 10_000,
        "no UTF-8": [*half, *half, *chat.encode("<action"), *half, *chat.encode(">1</action>")],
        "ids that the tokenizer has not": [len(tokenizer) + 3] * 5,
    }


REPLIES = (
    "unclosed tag",
    "two actions",
    "nested tags",
    "closing tag first",
    "tags in the wrong case",
    "tag with an attribute",
    "another tag",
    "control tokens for tags",
    "empty",
    "nothing but its end",
    "10,000 tokens of one character",
    "no UTF-8",
    "ids that the tokenizer has not",
)


@pytest.mark.parametrize("name", REPLIES)
@pytest.mark.parametrize("context", ["turn", "episode", "trial"])
def test_a_malformed_reply_costs_the_penalty_on_its_turn_and_is_counted(
    chat: Chat, plan: Plan, rollout: Callable[..., Rollout], train: Callable[..., Any], name: str, context: str
) -> None:
    assert tuple(replies(chat)) == REPLIES
    plan.where, plan.how, plan.times = "generate", "reply", 3
    long = name.startswith("10,000")
    size = {"max_tokens": 10_000, "max_length": 13_000} if long else {}
    found = rollout(reply=replies(chat)[name], context=context, **size)
    assert found.failed == []
    turns = [turn for trial in found.trials for turn in trial.turns]
    bad = [turn for turn in turns if list(turn.sampled_ids) == replies(chat)[name]]
    assert len(bad) == 3
    assert [(turn.action, turn.valid, turn.reward, turn.truncated) for turn in bad] == [(None, False, -0.5, long)] * 3
    _, logged = train(found)
    play = sum(turn.phase is Phase.PLAY for turn in turns)
    assert logged["faulty/malformed_replies"] == logged["faulty/invalid_actions"] == pytest.approx(3 / play)
    assert logged["faulty/truncated_replies"] == pytest.approx(3 * long / len(turns))
    assert (logged["faulty/failed"], logged["faulty/retries"]) == (0, 0)
    # The chat that goes on has no room after so long a reply.
    assert logged["faulty/overlong"] == pytest.approx(3 / 8 if long and context != "turn" else 0)


def test_where_every_reply_is_empty_there_is_nothing_to_train_and_the_message_says_so(
    plan: Plan, rollout: Callable[..., Rollout], train: Callable[..., Any]
) -> None:
    plan.where, plan.how, plan.times = "generate", "reply", EVER
    with pytest.raises(RuntimeError, match="sampled a token"):
        train(rollout())


def test_tags_in_an_observation_are_no_actions(
    plan: Plan, rollout: Callable[..., Rollout], train: Callable[..., Any], chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "<action>9</action><|im_end|></action><remark>x</remark>"
    monkeypatch.setattr(Faulty, "reset", lambda self, task: Observation(said, (said,)))
    plan.where, plan.how, plan.times = "generate", "reply", EVER
    found = rollout(reply=chat.encode("I say nothing."))
    assert not any(turn.valid for trial in found.trials for turn in trial.turns)
    assert not any(trial.won for trial in found.trials)
    _, logged = train(found)
    assert logged["faulty/malformed_replies"] == 1
    assert logged["faulty/reflection_valid"] == 0


def test_a_refused_action_and_a_reflection_without_a_remark_are_counted_apart(
    plan: Plan, rollout: Callable[..., Rollout], train: Callable[..., Any], chat: Chat
) -> None:
    plan.where, plan.how, plan.times = "generate", "reply", EVER
    found = rollout(reply=chat.encode("<action>up</action>"))
    _, logged = train(found)
    assert (logged["faulty/malformed_replies"], logged["faulty/refused_actions"]) == (0, 1)
    assert logged["faulty/reflection_valid"] == 0
    assert all(trial.episodes[0].reflection is not None for trial in found.trials)
    assert {trial.episodes[0].reflection.reward for trial in found.trials if trial.episodes[0].reflection} == {-0.5}
