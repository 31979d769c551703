"""Packed numbers: they behave like tuples, except for what they accept and how much memory they take."""

from __future__ import annotations

import pickle
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openrlhf_lamer.packed import Logprobs, Tokens
from openrlhf_lamer.records import Episode, Phase, Stop, Task, Trial, Turn

ids = st.lists(st.integers(0, 2**31 - 1), max_size=12).map(tuple)
bounds = st.none() | st.integers(-15, 15)


@given(ids, ids, st.slices(12), bounds, bounds)
def test_they_do_what_tuples_do(one: tuple[int, ...], other: tuple[int, ...], part: slice, start, end) -> None:
    packed = Tokens(one)
    assert packed == one
    assert one == packed
    assert (packed == Tokens(other)) == (one == other) == (packed == other)
    assert hash(packed) == hash(one)
    assert (len(packed), list(packed), repr(packed)) == (len(one), list(one), repr(one))
    assert packed[part] == one[part]
    assert packed[start:end] == one[start:end]
    assert isinstance(packed[start:end], Tokens)
    assert packed + Tokens(other) == packed + other == one + other
    assert Tokens(packed) == pickle.loads(pickle.dumps(packed)) == packed
    assert np.asarray(packed).tolist() == np.array(packed, dtype=np.int64).tolist() == list(one)


def test_log_probabilities_keep_every_digit() -> None:
    values = (-0.1, -1e-300, 0.0, -7.25)
    assert pickle.loads(pickle.dumps(Logprobs(values))) == values
    assert np.asarray(Logprobs(values)).dtype == np.float64


def test_they_cannot_be_changed() -> None:
    packed = Tokens((1, 2))
    with pytest.raises(TypeError):
        packed[0] = 5  # pyright: ignore[reportIndexIssue]
    with pytest.raises(ValueError, match="read-only"):
        np.asarray(packed)[0] = 5
    own = np.array(packed)
    own[0] = 5
    assert packed == (1, 2)


@pytest.mark.parametrize(("wrong", "error"), [((0.5,), TypeError), (("a",), TypeError), ((2**31,), OverflowError)])
def test_what_is_no_token_is_refused(wrong: tuple, error: type[Exception]) -> None:
    with pytest.raises(error):
        Tokens(wrong)


def long_trial(seed: int, turns: int, prompt: int, reply: int) -> Trial:
    def ids(index: int, length: int) -> range:
        return range(1000 * (seed + index), 1000 * (seed + index) + length)

    played = tuple(
        Turn(Phase.PLAY, 0, i, ids(i, prompt), ids(i, reply), [-0.5] * reply, "", None, True, 0.0, "", "")
        for i in range(turns)
    )
    return Trial(Task("sokoban", seed=seed), (Episode(played, Stop.LOST, ""),))


def test_a_batch_takes_a_few_bytes_a_token_after_it_has_travelled() -> None:
    turns, prompt, reply = 24, 700, 60
    pickled = [pickle.dumps(long_trial(seed, turns, prompt, reply)) for seed in range(32)]
    tracemalloc.start()
    try:
        trials = [pickle.loads(each) for each in pickled]
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 6 * len(trials) * turns * (prompt + reply)


def test_turns_pack_what_they_are_given_and_survive_json() -> None:
    trial = long_trial(3, 2, 5, 4)
    (episode,) = trial.episodes
    turn = episode.turns[0]
    assert isinstance(turn.prompt_ids, Tokens)
    assert turn.ids == (*range(3000, 3005), *range(3000, 3004))
    again = Trial.from_json(trial.to_json())
    assert again == trial
    assert isinstance(again.turns[0].logprobs, Logprobs)
    assert replace(turn, logprobs=None).logprobs is None
