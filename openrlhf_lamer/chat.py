"""From messages to token ids and back, through the model's own chat template.

Sampled ids are never re-tokenised: a chat that goes on is the ids so far plus the
ids of what the template puts between two replies. Text that comes from an
environment or a remark passes `Chat.clean` first, so that it can make neither
control tokens nor the tags that replies are parsed by.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

TAGS = ("action", "remark")

_PROBE = "\x00reply\x00"
_TAG = re.compile(r"<(?=\s*/?\s*(?:" + "|".join(TAGS) + r")\s*>)", re.IGNORECASE)


class TemplateError(ValueError):
    """A tokenizer whose chat template cannot carry a multi-turn conversation."""


class ThinkingError(TemplateError):
    """A chat template that makes the model think although it is told not to."""


class Chat:
    """A tokenizer and its chat template, reduced to what a trial needs.

    Args:
        tokenizer: A Hugging Face tokenizer with a chat template.

    Raises:
        TemplateError: if there is no template, it drops or changes replies, or it leaves
            the model in thinking mode.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise TemplateError("the tokenizer has no chat template; use an instruction-tuned model")
        self.tokenizer = tokenizer
        specials = {str(token) for token in tokenizer.all_special_tokens}
        specials |= {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        self._special = re.compile(
            "|".join(re.escape(token) for token in sorted(specials, key=len, reverse=True) if token)
        )
        self._between = lru_cache(maxsize=4096)(self._encode_between)
        opening = self._render([{"role": "user", "content": "x"}])
        if opening.rstrip().endswith("<think>"):
            raise ThinkingError("the chat template leaves the model in thinking mode although it was switched off")
        after = self._after_reply("x")
        self.end_of_reply = self._end_of_reply(after)

    def opening(self, text: str) -> tuple[int, ...]:
        """Ids of a new conversation: one user message and the start of the reply."""
        return self.encode(self._render([{"role": "user", "content": text}]))

    def continuation(self, text: str, reply: Sequence[int]) -> tuple[int, ...]:
        """Ids between a sampled reply and the next one, where the user says `text`.

        What ends the reply is left out if the model sampled it itself.
        """
        ended = bool(self.end_of_reply) and tuple(reply[-len(self.end_of_reply) :]) == self.end_of_reply
        return self._between(text, ended)

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of `text`; control tokens in it count as such."""
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        """The reply as text, without control tokens."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def clean(self, text: str) -> str:
        """`text` with control tokens and our tags broken up by a space, legible as before."""
        text = self._special.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)
        return break_tags(text)

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
                {"role": "user", "content": text},
            ]
        )
        if rendered.count(_PROBE) != 1:
            raise TemplateError("the chat template does not repeat the assistant's reply as it was")
        return rendered.split(_PROBE)[1]

    def _end_of_reply(self, after: str) -> tuple[int, ...]:
        """The control token that closes a reply: what the model samples last, if it stops by itself."""
        match = self._special.match(after)
        return self.encode(match[0]) if match else ()

    def _encode_between(self, text: str, ended: bool) -> tuple[int, ...]:
        ids = self.encode(self._after_reply(text))
        return ids[len(self.end_of_reply) :] if ended else ids


def break_tags(text: str) -> str:
    """`text` with the tags that replies are parsed by broken up by a space."""
    return _TAG.sub("< ", text)


def parse_tag(text: str, tag: str) -> str | None:
    """Content of the one `<tag>…</tag>` in `text`; None if there is none, more than one, or an open end."""
    found = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    if len(found) != 1 or text.count(f"<{tag}>") != 1 or text.count(f"</{tag}>") != 1:
        return None
    return found[0].strip()
