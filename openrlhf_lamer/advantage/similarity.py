"""Anchors by similarity: play turns of one task whose observations look alike share an anchor.

Texts of web pages and rooms hardly ever repeat to the letter, so anchor groups of one turn are common there, and
GiGPO's step term is then 0. For 0 < τ < 1 the states of a group are merged. The text of a state (an anchor) is the
first in alphabetical order of the observations that its turns saw. The similarity of two texts is the share of
neighbouring words that they have in common (Dice's coefficient):

    s(a, b) = 2 · |P_a ∩ P_b| / (|P_a| + |P_b|)            s = 1 for equal texts, 0 without a common pair

P is the multiset of all pairs of neighbouring words of a text, which begins and ends with a mark of its own: k words
have k + 1 pairs. Words are separated by white space. One changed word among k costs 2 / (k + 1); and since a number
stands beside its noun, "mug 1 on shelf 2" is not "mug 2 on shelf 1".

States are clustered around leaders. They are visited by their number of turns (most first, then alphabetically). A
state becomes a leader if its similarity to every leader so far is below τ; any other joins the leader most similar to
it, the first of equals. So every member has a similarity of at least τ to its leader, and a chain of small steps does
not connect unlike texts, as it would in single-link clusters. The result depends on texts and counts, not on the order
of trials. Equal anchors stay together, reflections are left as they are, and groups never mix. At τ = 1 anchors are
those of the environment.

verl-agent's GiGPO has such an option too (`enable_similarity`). It compares characters (difflib's ratio, by default
0.95) of each turn with those of the first turn of one cluster after the other: its clusters depend on the order of
turns, a turn joins the first cluster that is like enough and not the most similar one, and the time is the product of
turns, clusters and squared lengths. Ours is linear in the length of all distinct texts, and quadratic in the distinct
states of a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from openrlhf_lamer.advantage.groups import codes
from openrlhf_lamer.advantage.table import BoolArray, FloatArray, IntArray, TextArray, TurnTable

SIMILARITY = {
    "gt": 0,
    "le": 1,
    "description": "Least similarity (τ) of observations at which states of a task count as one: the share of pairs of "
    "neighbouring words in common. The lower, the more are merged; at 1, states are one if the environment says so.",
}
"""The option of estimators that compare states."""

HashArray = NDArray[np.uint64]

_ODD = 0x9E3779B97F4A7C15
"""Base of the hashes: odd, so that it has an inverse modulo 2⁶⁴."""
_MIX = 0xD6E8FEB86659FD93
"""Another odd number, which spreads the bits of a hash."""
_BLOCK = 4096
"""Pairs of words that are counted at once, which bounds the memory."""


def merged(table: TurnTable, similarity: float) -> TurnTable:
    """The same table, in which states of a group with at least this `similarity` share an anchor.

    Raises:
        ValueError: where the table has no observations; at a similarity of 1 they are not needed.
    """
    if similarity == 1:
        return table
    if table.observation is None:
        raise ValueError("a similarity below 1 compares observations: give the table the column observation")
    play = np.flatnonzero(table.plays)
    state = codes(table.group[play], table.anchor[play])
    turns, text = np.bincount(state), _texts(state, table.observation[play])
    group_of_state = np.empty(len(turns), dtype=np.int64)
    group_of_state[state] = table.group[play]
    leader = np.arange(len(turns))
    # Codes of states are in the order of their groups.
    for own in np.split(leader, np.flatnonzero(np.diff(group_of_state)) + 1):
        if len(own) > 1:
            own = np.array(sorted(own.tolist(), key=lambda code: (-turns[code], text[code])))
            leader[own] = own[leaders(likeness([text[code] for code in own]), similarity)]
    anchor = table.anchor.copy()
    anchor[play] = leader[state]
    return replace(table, anchor=anchor)


def leaders(ratio: FloatArray, similarity: float) -> IntArray:
    """Index of each text's leader; texts come in the order in which they may lead. `ratio` is [texts, texts]."""
    near = ratio >= similarity
    # A text unlike all others leads itself.
    leader, open_ = np.arange(len(ratio)), near.sum(axis=1) > 1
    several, chosen = open_.copy(), []
    while open_.any():
        chosen.append(int(open_.argmax()))
        open_ &= ~near[chosen[-1]]
    if chosen:
        leader[several] = np.array(chosen)[ratio[np.ix_(several, chosen)].argmax(axis=1)]
    return leader


def likeness(texts: Sequence[str]) -> FloatArray:
    """Similarity s of every pair of texts; [texts, texts]."""
    pair, text, count = _pairs(texts)
    size = np.bincount(text, weights=count, minlength=len(texts))
    # A pair that occurs c times counts as c different ones, the first, the second, …
    number = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    pair, text = np.repeat(pair, count), np.repeat(text, count)
    again = number > 0
    pair[again] = codes(pair[again], number[again]) + pair.max(initial=0) + 1
    shared = np.bincount(pair) > 1
    several = shared[pair]
    text, column, columns = text[several], (np.cumsum(shared) - 1)[pair[several]], int(shared.sum())
    common = np.zeros((len(texts), len(texts)), dtype=np.float32)
    for begin in range(0, columns, _BLOCK):
        end = min(begin + _BLOCK, columns)
        has = np.zeros((len(texts), end - begin), dtype=np.float32)
        inside = (column >= begin) & (column < end)
        has[text[inside], column[inside] - begin] = 1
        common += has @ has.T
    np.fill_diagonal(common, size)
    return 2.0 * common / (size[:, None] + size)


def _texts(state: IntArray, observation: TextArray) -> list[str]:
    """The first observation of each state in alphabetical order."""
    first: dict[int, str] = {}
    for code, text in zip(state.tolist(), observation.tolist(), strict=True):
        known = first.get(code)
        if known is None or text < known:
            first[code] = text
    return [first[code] for code in range(len(first))]


def _pairs(texts: Sequence[str]) -> tuple[IntArray, IntArray, IntArray]:
    """Pairs of neighbouring words: a code of each pair, the text that it is in, and how often it is there."""
    word, words_of_text = _words(texts)
    text_of_word = np.repeat(np.arange(len(texts)), words_of_text)
    # The mark 0 stands before, between and after texts.
    marked = np.zeros(len(word) + len(texts) + 1, dtype=np.uint64)
    marked[np.arange(len(word)) + text_of_word + 1] = word
    pair = marked[:-1] * np.uint64(_ODD) + marked[1:]
    pair ^= pair >> np.uint64(29)
    # Pair and text in one number: sorting it is much faster than sorting by two columns.
    bits = np.uint64(len(texts).bit_length())
    text = np.repeat(np.arange(len(texts), dtype=np.uint64), words_of_text + 1)
    both = np.sort((pair << bits) | text)
    first = np.flatnonzero(np.append(True, both[1:] != both[:-1]))
    count = np.diff(first, append=len(both))
    pair, text = both[first] >> bits, (both[first] & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64)
    return np.cumsum(np.append(False, pair[1:] != pair[:-1])), text, count


def _words(texts: Sequence[str]) -> tuple[HashArray, IntArray]:
    """A hash of every word of the texts, one after the other, and the number of words of each text.

    A word of bytes b_0 … b_m at place p has the hash Σ b_i · B^(i+1) modulo 2⁶⁴: a difference of the prefix sums
    Σ b · B^(place+1), times B^-p.
    """
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    data = np.frombuffer(b" " + b" ".join(encoded) + b" ", dtype=np.uint8)
    letter: BoolArray = data > ord(" ")
    edges = np.flatnonzero(letter[1:] != letter[:-1]) + 1
    begin, end = edges[::2], edges[1::2]
    power, inverse = _powers(len(data).bit_length())
    sums = np.cumsum(data * power[: len(data)])
    word = (sums[end - 1] - sums[begin - 1]) * inverse[begin]
    # No longer a polynomial in B: otherwise the pair of "a" and "a" would be the word "aa".
    word = (word ^ (word >> np.uint64(32))) * np.uint64(_MIX)
    place_of_text = np.cumsum([1, *(len(text) + 1 for text in encoded)])
    return word, np.diff(np.searchsorted(begin, place_of_text))


@cache
def _powers(bits: int) -> tuple[HashArray, HashArray]:
    """B^(i+1) and B^-i modulo 2⁶⁴ for i = 0 … 2^bits - 1."""
    power = np.cumprod(np.full(1 << bits, _ODD, dtype=np.uint64))
    inverse = np.full(1 << bits, pow(_ODD, -1, 1 << 64), dtype=np.uint64)
    inverse[0] = 1
    return power, np.cumprod(inverse)
