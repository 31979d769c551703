"""Tokens that a generation sees: a fresh prompt, or the chat so far and a new message.

`turn` starts a new chat at every generation, `episode` at every episode, `trial` never. The rows that the trainer gets
follow from the ids only (see `rows.py`), so the three policies differ in nothing else.
"""

from __future__ import annotations

from openrlhf_lamer.chat import Chat
from openrlhf_lamer.vocabulary import ContextPolicy


class Context:
    """The conversation of one trial under one policy."""

    def __init__(self, policy: ContextPolicy, chat: Chat) -> None:
        self._policy = policy
        self._chat = chat
        self._prompt: tuple[int, ...] = ()
        self._reply: tuple[int, ...] = ()

    def continues(self, *, episode_begins: bool) -> bool:
        """Whether the next generation continues the chat so far, and so needs only the new message."""
        if not self._prompt or self._policy == "turn":
            return False
        return self._policy == "trial" or not episode_begins

    def prompt(self, text: str, *, continuing: bool) -> tuple[int, ...]:
        """Ids to generate from, for the user's message `text`."""
        if not continuing:
            return self._chat.opening(text)
        reply = self._chat.kept(self._reply)
        return self._prompt + reply + self._chat.continuation(text, reply)

    def replied(self, prompt: tuple[int, ...], reply: tuple[int, ...]) -> None:
        """Remember the reply that was sampled after `prompt`."""
        self._prompt, self._reply = prompt, reply
