"""A chat without a tokenizer, for players that take and give text: servers behind a chat API, and scripts.

The trial loop works on ids. Here an id is a character's code point, and what stands between messages are
ids beyond Unicode, so that no text can make one. Counts of "tokens" are therefore counts of characters.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from openrlhf_lamer.chat import Chat, break_tags

USER, ASSISTANT, END = range(sys.maxunicode + 1, sys.maxunicode + 4)
"""What begins a user's message, what begins a reply, and what ends it."""


class TextChat(Chat):
    """Messages as characters, with the methods of `Chat` that a trial needs."""

    end_of_reply = (END,)

    def __init__(self) -> None:
        """There is no tokenizer to be checked."""

    def opening(self, text: str) -> tuple[int, ...]:
        return (USER, *self.encode(text), ASSISTANT)

    def continuation(self, text: str, reply: Sequence[int]) -> tuple[int, ...]:
        opening = self.opening(text)
        return opening if tuple(reply[-1:]) == self.end_of_reply else self.end_of_reply + opening

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(map(ord, text))

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(each) for each in ids if each <= sys.maxunicode)

    def clean(self, text: str) -> str:
        return break_tags(text)


def messages(prompt: Sequence[int]) -> list[dict[str, str]]:
    """The messages of a prompt that a `TextChat` made, in the form of the chat APIs."""
    found: list[tuple[str, list[str]]] = []
    for each in prompt:
        if each == USER:
            found.append(("user", []))
        elif each == ASSISTANT:
            found.append(("assistant", []))
        elif each != END:
            found[-1][1].append(chr(each))
    return [{"role": role, "content": "".join(text)} for role, text in found[:-1]]
