"""Which tokens a generation sees: a fresh prompt, or the chat so far and a little more.

`turn` begins anew at every generation, `episode` at every episode, `trial` never.
The rows that the trainer gets follow from the ids alone (see `rows.py`), so this is
the only place where the three policies differ.
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
        """Whether the next generation goes on in the chat so far, and so needs only what is new."""
        if not self._prompt or self._policy == "turn":
            return False
        return self._policy == "trial" or not episode_begins

    def prompt(self, text: str, *, continuing: bool) -> tuple[int, ...]:
        """Ids to generate from, where the user's message is `text`."""
        if not continuing:
            return self._chat.opening(text)
        return self._prompt + self._reply + self._chat.continuation(text, self._reply)

    def replied(self, prompt: tuple[int, ...], reply: tuple[int, ...]) -> None:
        """Remember what was sampled after `prompt`."""
        self._prompt, self._reply = prompt, reply
