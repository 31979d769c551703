"""Text of token ids in pieces, so that control tokens can be shown or left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any, Literal

from openrlhf_lamer.cleaning import special_tokens
from openrlhf_lamer.text_chat import ASSISTANT, END, USER


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of text.

    Attributes:
        text: The text.
        kind: `text` is read by everybody; `special` is a control token; `role` says who speaks in a chat of messages,
            which has no control token for that.
    """

    text: str
    kind: Literal["text", "special", "role"] = "text"


Decode = Callable[[Sequence[int]], list[Piece]]

_MARKS = {USER: Piece("user", "role"), ASSISTANT: Piece("assistant", "role"), END: Piece("end of reply", "special")}


def characters(ids: Sequence[int]) -> list[Piece]:
    """Messages of a `TextChat`, whose ids are characters."""
    found: list[Piece] = []
    for mark, own in groupby(ids, _MARKS.get):
        if mark is None:
            found.append(Piece("".join(map(chr, own))))
        else:
            found.extend(mark for _ in own)
    return found


def tokens(tokenizer: Any) -> Decode:
    """A function that reads ids of a Hugging Face tokenizer."""
    special = {tokenizer.convert_tokens_to_ids(each) for each in special_tokens(tokenizer)}

    @cache
    def control(token: int) -> Piece:
        return Piece(tokenizer.decode([token]), "special")

    def read(ids: Sequence[int]) -> list[Piece]:
        found: list[Piece] = []
        for controls, own in groupby(ids, special.__contains__):
            if controls:
                found.extend(map(control, own))
            else:
                found.append(Piece(tokenizer.decode(list(own))))
        return found

    return read


def by_line(pieces: Sequence[Piece]) -> Iterator[Piece]:
    """The pieces, with each line of text as a separate one: prompts of a trial repeat most of their lines."""
    for piece in pieces:
        if piece.kind == "text":
            yield from map(Piece, piece.text.splitlines(keepends=True))
        else:
            yield piece
