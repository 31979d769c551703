"""From messages to token ids and back, through the model's own chat template.

Sampled ids are never re-tokenised: a chat that goes on consists of the ids so far and the
ids of the text that the template puts between two replies. Text from an environment or a
remark passes `Chat.clean` first, so that it forms neither control tokens nor the tags by
which replies are parsed. A message as a whole forms no control tokens either.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from openrlhf_lamer import LamerError
from openrlhf_lamer.cleaning import Breaker, marks, special_tokens

TAGS = tuple(f"<{end}{tag}" for tag in ("action", "remark") for end in ("", "/"))
"""Beginnings of the tags by which replies are parsed."""

_PROBE = "\x00reply\x00"


class TemplateError(LamerError, ValueError):
    """A tokenizer whose chat template cannot carry a multi-turn conversation."""


class ThinkingError(TemplateError):
    """A chat template that makes the model think although thinking is switched off."""


class Chat:
    """A tokenizer and its chat template, reduced to what a trial needs.

    Args:
        tokenizer: A Hugging Face tokenizer with a chat template.

    Raises:
        TemplateError: There is no template, it drops or changes replies, or it leaves
            the model in thinking mode.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise TemplateError("the tokenizer has no chat template; use an instruction-tuned model")
        self.tokenizer = tokenizer
        specials = special_tokens(tokenizer)
        self._special = re.compile("|".join(re.escape(token) for token in sorted(specials, key=len, reverse=True)))
        self._without_control = Breaker(specials)
        self._clean = Breaker({*specials, *marks(tokenizer), *TAGS})
        self._between = lru_cache(maxsize=4096)(self._encode_between)
        opening = self._render([{"role": "user", "content": "x"}])
        if opening.rstrip().endswith("<think>"):
            raise ThinkingError("the chat template leaves the model in thinking mode although it was switched off")
        after = self._after_reply("x")
        self.end_of_reply = self._end_of_reply(after)

    def opening(self, text: str) -> tuple[int, ...]:
        """Ids of a new conversation: one user message and the start of the reply."""
        return self.encode(self._render([{"role": "user", "content": self._without_control(text)}]))

    def continuation(self, text: str, reply: Sequence[int]) -> tuple[int, ...]:
        """Ids between a sampled reply and the next one, with the user's message `text`.

        The end of the reply is left out if the model sampled it.
        """
        ended = bool(self.end_of_reply) and tuple(reply[-len(self.end_of_reply) :]) == self.end_of_reply
        return self._between(text, ended)

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of `text`; control tokens in it are read as such."""
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        """The reply as text, without control tokens."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def clean(self, text: str) -> str:
        """`text` with control tokens and our tags broken up by a space; see `cleaning.Breaker`."""
        return self._clean(text)

    def _render(self, messages: list[dict[str, str]]) -> str:
        # `enable_thinking` is Qwen3's switch; templates without it ignore it.
        return self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )

    def _after_reply(self, text: str) -> str:
        rendered = self._render(
            [
                {"role": "user", "content": "x"},
                {"role": "assistant", "content": _PROBE},
                {"role": "user", "content": self._without_control(text)},
            ]
        )
        _, found, after = rendered.partition(_PROBE)
        if not found:
            raise TemplateError("the chat template does not repeat the assistant's reply as it was")
        return after

    def _end_of_reply(self, after: str) -> tuple[int, ...]:
        """Control token that closes a reply: the last one that the model samples if it stops by itself."""
        match = self._special.match(after)
        return self.encode(match[0]) if match else ()

    def _encode_between(self, text: str, ended: bool) -> tuple[int, ...]:
        ids = self.encode(self._after_reply(text))
        return ids[len(self.end_of_reply) :] if ended else ids


def parse_tag(text: str, tag: str) -> str | None:
    """Content of the only `<tag>…</tag>` in `text`; None if there is none, more than one, or no closing tag."""
    opening, closing = f"<{tag}>", f"</{tag}>"
    if text.count(opening) != 1 or text.count(closing) != 1:
        return None
    content, closed, _ = text.partition(opening)[2].partition(closing)
    return content.strip() if closed else None
