"""Thoughts in replies: where they end, what follows them, and how many tokens they take.

A model that thinks writes `<think>…</think>` before its answer. Some templates write the opening mark into the
prompt (Qwen3's thinking models, DeepSeek-R1 and its distillations); then a reply has only the closing one. Actions and
remarks are read from the answer only: the text after the last closing mark. A thought that never ends, because the
token limit cut it or the model stopped in it, leaves no answer.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

OPEN, CLOSE = "<think>", "</think>"

BEGINNINGS = ("<think", "</think")
"""Beginnings of the marks, which text from outside must not form."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A reply as it was read.

    Attributes:
        text: All of it, with the marks of thoughts and without control tokens.
        answer: What follows the thoughts; None where a thought never ends.
        thought_tokens: Tokens up to the last closing mark, that mark included, and all of the reply where a thought
            never ends; None where thinking is off.
    """

    text: str
    answer: str | None
    thought_tokens: int | None = None

    @property
    def unclosed(self) -> bool:
        """Whether a thought never ends."""
        return self.answer is None


class Reader:
    """Splits sampled ids into thoughts and answer.

    Where both marks are tokens of their own, these tokens count, and no text that spells a mark; so it does not matter
    whether a tokenizer declares them as control tokens, which decoding drops. Otherwise the decoded text counts.

    Args:
        decode: Text of ids.
        marks: Ids of the marks that are tokens of their own, with their texts.
        opened: Whether prompts end inside a thought.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], marks: Mapping[int, str], *, opened: bool) -> None:
        self._decode, self._marks, self._opened = decode, marks, opened
        self._by_ids = {*marks.values()} == {OPEN, CLOSE}

    def __call__(self, ids: Sequence[int]) -> Reading:
        """The reply, read."""
        text = self._text(ids)
        if self._by_ids:
            places = [place for place, each in enumerate(ids) if each in self._marks]
            closings = [place for place in places if self._marks[ids[place]] == CLOSE]
            inside = places[-1:] != closings[-1:] if places else self._opened
            end = closings[-1] + 1 if closings else 0
            answer = self._text(ids[end:])
        else:
            found = ends_inside(text)
            inside = self._opened if found is None else found
            answer = text.rpartition(CLOSE)[2]
            end = self._closed_by(ids, text.count(CLOSE))
        return Reading(text, None, len(ids)) if inside else Reading(text, answer, end)

    def _text(self, ids: Sequence[int]) -> str:
        """Text of ids with the marks in it, also where decoding would drop them."""
        parts: list[str] = []
        begin = 0
        for place, each in enumerate(ids):
            if each in self._marks:
                parts += [self._decode(ids[begin:place]), self._marks[each]]
                begin = place + 1
        return "".join([*parts, self._decode(ids[begin:])])

    def _closed_by(self, ids: Sequence[int], closings: int) -> int:
        """Least number of first ids whose text has this many closing marks."""
        return bisect_left(range(len(ids)), closings, key=lambda number: self._text(ids[:number]).count(CLOSE))


def ends_inside(text: str) -> bool | None:
    """Whether `text` ends inside a thought; None where it has no mark, so that this follows from what is before it."""
    opened, closed = text.rfind(OPEN), text.rfind(CLOSE)
    return None if opened == closed else opened > closed


def mark_ids(tokenizer: Any) -> dict[int, str]:
    """Ids of the marks that are added tokens of `tokenizer`, with their texts."""
    added = tokenizer.added_tokens_decoder.items()
    return {number: str(token) for number, token in added if str(token) in (OPEN, CLOSE)}


def written(thought: str, answer: str, *, cut: bool) -> str:
    """A server's reply as one text; the server may give thoughts separately, or leave out their opening mark.

    Args:
        thought: The thoughts that the server gives separately; empty if none.
        answer: The rest of the reply.
        cut: Whether the token limit cut it. Without separate thoughts and without a mark, the limit may have cut a
            thought whose opening mark the server's template wrote into the prompt. It counts as such.
    """
    if not thought:
        return f"{OPEN}\n{answer}" if cut and ends_inside(answer) is None else answer
    return f"{OPEN}\n{thought}" if cut and not answer else f"{OPEN}\n{thought}\n{CLOSE}\n\n{answer}"
