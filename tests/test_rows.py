"""Rows: which turns share one, and that no sampled token is lost or doubled."""

from __future__ import annotations

import copy
import random
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openrlhf_lamer.agents import load_agent
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.envs.base import TextEnv
from openrlhf_lamer.policies.scripted import RandomPolicy
from openrlhf_lamer.records import Episode, Phase, Stop, Task, Trial, Turn
from openrlhf_lamer.rows import Row, Span, sampled_tokens, token_weights, trial_rows
from openrlhf_lamer.tasks import seeded_tasks

CONTEXTS = ("turn", "episode")


def turn(
    prompt: tuple[int, ...], sampled: tuple[int, ...], phase: Phase = Phase.PLAY, episode: int = 0, index: int = 0
) -> Turn:
    logprobs = tuple(-float(token) for token in sampled)
    return Turn(phase, episode, index, prompt, sampled, logprobs, "", None, False, 0.0, "", "")


def trial_of(*turns: Turn, reflection: Turn | None = None) -> Trial:
    return Trial(Task("minesweeper", seed=0), (Episode(turns, Stop.LOST, "", reflection),))


class TestLayout:
    """Prompt tokens are single digits, sampled ones begin with 9; [] marks what is trained.

    fresh prompts:      1 2 [91]        |  1 3 [92]
    a growing chat:     1 2 [91] 3 [92]
    """

    def test_fresh_prompts_are_a_row_each(self) -> None:
        rows = trial_rows(trial_of(turn((1, 2), (91,)), turn((1, 3), (92, 93))))
        assert [row.ids for row in rows] == [(1, 2, 91), (1, 3, 92, 93)]
        assert [(span.turn, span.start, span.end) for row in rows for span in row.spans] == [(0, 2, 3), (1, 2, 4)]

    def test_a_prompt_that_begins_with_the_row_extends_it(self) -> None:
        (row,) = trial_rows(trial_of(turn((1, 2), (91,)), turn((1, 2, 91, 3), (92,))))
        assert row.ids == (1, 2, 91, 3, 92)
        assert [(span.turn, span.start, span.end) for span in row.spans] == [(0, 2, 3), (1, 4, 5)]
        assert [span.logprobs for span in row.spans] == [(-91.0,), (-92.0,)]

    def test_a_prompt_that_changes_one_sampled_token_begins_a_row(self) -> None:
        rows = trial_rows(trial_of(turn((1, 2), (91,)), turn((1, 2, 90, 3), (92,))))
        assert [row.ids for row in rows] == [(1, 2, 91), (1, 2, 90, 3, 92)]

    def test_an_untrained_reflection_leaves_nothing_behind(self) -> None:
        chat = trial_of(turn((1,), (91,)), reflection=turn((1, 91, 2), (92,), Phase.REFLECT))
        fresh = trial_of(turn((1,), (91,)), reflection=turn((3,), (92,), Phase.REFLECT))
        for trial in (chat, fresh):
            (row,) = trial_rows(trial, train_reflection=False)
            assert row.ids == (1, 91)
            assert row.sampled == 1

    def test_an_empty_reply_leaves_no_row(self) -> None:
        assert trial_rows(trial_of(turn((1, 2), ()))) == []


@pytest.mark.parametrize(("context", "rows"), [("turn", None), ("episode", 3), ("trial", 1)])
def test_rows_by_context(chat: Chat, play, context: str, rows: int | None) -> None:
    trial = play(RandomPolicy(chat, 0), context=context, seed=2)
    assert len(trial.episodes) == 3
    assert len(trial_rows(trial)) == (rows or len(trial.turns))


@given(st.integers(0, 2**32), st.integers(1, 12))
def test_every_sampled_token_stands_in_one_span(seed: int, length: int) -> None:
    rng = random.Random(seed)
    turns: list[Turn] = []
    for index in range(length):
        prompt = tuple(rng.choices(range(3), k=rng.randint(1, 4)))
        if turns and rng.random() < 0.6:
            prompt = (*turns[-1].ids, *prompt)
        turns.append(turn(prompt, tuple(rng.choices(range(90, 99), k=rng.randint(0, 4))), index=index))
    rows = trial_rows(trial_of(*turns))
    assert sampled_tokens(rows) == sum(len(item.sampled_ids) for item in turns)
    spans = [(span, row) for row in rows for span in row.spans]
    assert len({span.turn for span, _ in spans}) == len(spans)
    for span, row in spans:
        assert row.ids[span.start : span.end] == turns[span.turn].sampled_ids
        assert row.ids[: span.start] == turns[span.turn].prompt_ids


@pytest.mark.parametrize("by", ["token", "turn", "trial"])
@given(st.lists(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=3), min_size=1))
def test_weights_make_tokens_turns_or_trials_weigh_the_same(
    by: Literal["token", "turn", "trial"], trials: list[list[list[int]]]
) -> None:
    """Trials of rows of turns, each with a number of tokens."""
    rows, owner = [], []
    for number, own in enumerate(trials):
        turns = 0
        for lengths in own:
            ends = np.cumsum([1 + length for length in lengths]).tolist()
            spans = [Span(turns + i, end - n, end, None) for i, (end, n) in enumerate(zip(ends, lengths, strict=True))]
            rows.append(Row((0,) * ends[-1], tuple(spans)))
            owner.append(number)
            turns += len(lengths)
    weights = token_weights(rows, owner, by)
    assert [len(each) for each in weights] == [row.sampled for row in rows]
    assert np.concatenate(weights).mean() == pytest.approx(1)
    units: dict[object, float] = {}
    for row, trial, own in zip(rows, owner, weights, strict=True):
        at = 0
        for span in row.spans:
            for weight in own[at : at + span.end - span.start]:
                unit = {"token": (trial, span, at), "turn": (trial, span.turn), "trial": trial}[by]
                units[unit] = units.get(unit, 0.0) + weight
                at += 1
    assert min(units.values()) == pytest.approx(max(units.values()))


def test_failed_trials_are_told_apart() -> None:
    assert trial_of().failure is None
    assert replace(trial_of(), episodes=()).turns == ()


def test_a_chat_an_episode_processes_less_than_half_of_the_tokens_of_a_prompt_a_turn() -> None:
    """The same replies of 150 tokens in both contexts; only the prompts differ, and a longer chat saves more."""
    pytest.importorskip("tokenizers")
    from openrlhf_lamer.warmstart.demonstrations import Rules, demonstrate
    from openrlhf_lamer.warmstart.model import build_tokenizer

    class Talker(RandomPolicy):
        """Random moves that don't end the episode, in replies of 150 tokens."""

        def act(self, env: TextEnv) -> str:
            action = ""
            for _ in range(20):
                action = env.random_action(self._rng)
                step = copy.deepcopy(env).step(action)
                if not (step.terminated or step.truncated):
                    break
            return self._filled(f"<action>{action}</action>")

        def reflect(self, env: TextEnv) -> str:
            return self._filled("<remark>What was tried here did not work; begin elsewhere next time.</remark>")

        def _filled(self, ending: str) -> str:
            room = 150 - len(self._chat.encode(ending)) - len(self._chat.end_of_reply)
            return self._chat.decode(self._chat.encode("I look at what changed, and compare. " * 40)[:room]) + ending

    def played(chat: Chat, context: str, turns: int, tokens: int = 300) -> list[Trial]:
        config = LamerConfig.model_validate({"context": context, "max_turns": turns})
        return demonstrate(
            seeded_tasks("sokoban", "train", 1),
            Rules(load_agent("openrlhf_lamer.agents.sokoban")[0], config, tokens, 1 << 20),
            chat,
            lambda seed: Talker(chat, seed),
        )

    crude = Chat(build_tokenizer(["x"], 300, 1 << 20))
    corpus = [crude.decode(turn.ids) for trial in played(crude, "turn", 7, 1200) for turn in trial.turns]
    chat = Chat(build_tokenizer(corpus, 2048, 1 << 20))
    ratios = []
    for turns in (1, 7):
        found = [[row for trial in played(chat, context, turns) for row in trial_rows(trial)] for context in CONTEXTS]
        by_turn, by_episode = (sum(len(row.ids) for row in rows) for rows in found)
        sampled, same = (sum(row.sampled for row in rows) for rows in found)
        assert sampled == same
        ratios.append(by_episode / by_turn)
    assert 0.97 < sampled / (23 * 150) < 1.03
    assert sampled < by_episode <= 0.45 * by_turn
    assert ratios[0] > ratios[1]
