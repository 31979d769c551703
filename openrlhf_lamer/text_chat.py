"""A chat without a tokenizer, for players that exchange text: servers behind a chat API, and scripts.

The trial loop works on ids. Here an id is a character's code point, and messages are separated by
ids beyond Unicode, which no text contains. Counts of "tokens" are therefore counts of characters.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from openrlhf_lamer.chat import TAGS, Chat
from openrlhf_lamer.cleaning import Breaker
from openrlhf_lamer.records import Trial
from openrlhf_lamer.thinking import Reader

USER, ASSISTANT, END = range(sys.maxunicode + 1, sys.maxunicode + 4)
"""Ids that begin a user's message, begin a reply, and end a reply."""


USUAL_CONTROL = ("<|", "<s>", "</s>", "<think>", "</think>", "<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]")
"""Control tokens of common models, or their beginnings: a server may read them in a message."""


class TextChat(Chat):
    """Messages as characters, with the methods of `Chat` that a trial needs.

    A chat that goes on holds the answers of earlier replies without their thoughts, as chat APIs do.
    """

    end_of_reply = (END,)

    def __init__(self, *, thinking: bool = False) -> None:
        """Set up without a tokenizer: there is none to check or to ask for its control tokens."""
        self.thinking = thinking
        self._clean = Breaker({*TAGS, *USUAL_CONTROL})
        self._reader = Reader(self.decode, {}, opened=False) if thinking else None

    def opening(self, text: str) -> tuple[int, ...]:
        return (USER, *self.encode(text), ASSISTANT)

    def continuation(self, text: str, reply: Sequence[int]) -> tuple[int, ...]:
        opening = self.opening(text)
        return opening if tuple(reply[-1:]) == self.end_of_reply else self.end_of_reply + opening

    def kept(self, reply: tuple[int, ...]) -> tuple[int, ...]:
        if not self.thinking:
            return reply
        end = tuple(each for each in reply[-1:] if each == END)
        return self.encode((self.read(reply).answer or "").lstrip("\n")) + end

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(map(ord, text))

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(each) for each in ids if each <= sys.maxunicode)


def counts_characters(trial: Trial) -> bool:
    """Whether the ids of a trial are a `TextChat`'s, so that counts of them are counts of characters.

    Its prompts begin with `USER`, which is beyond the vocabulary of any tokenizer.
    """
    return any(turn.prompt_ids[:1] == (USER,) for turn in trial.turns)


def messages(prompt: Sequence[int]) -> list[dict[str, str]]:
    """Messages of a prompt that a `TextChat` made, in the format of chat APIs."""
    found: list[tuple[str, list[str]]] = []
    for each in prompt:
        if each == USER:
            found.append(("user", []))
        elif each == ASSISTANT:
            found.append(("assistant", []))
        elif each != END:
            found[-1][1].append(chr(each))
    return [{"role": role, "content": "".join(text)} for role, text in found[:-1]]
