"""From messages to token ids and back, through the model's own chat template.

Sampled ids are never re-tokenised: a chat that goes on consists of the ids so far and the
ids of the text that the template puts between two replies. Text from an environment or a
remark passes `Chat.clean` first, so that it forms neither control tokens nor the tags by
which replies are parsed. A message as a whole forms no control tokens either.

A template's handling of thinking is found by rendering it with its switch on and off, not from the model's name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from openrlhf_lamer import LamerError
from openrlhf_lamer.cleaning import Breaker, marks, special_tokens
from openrlhf_lamer.thinking import BEGINNINGS, CLOSE, OPEN, Reader, Reading, ends_inside, mark_ids
from openrlhf_lamer.vocabulary import ContextPolicy

TAGS = tuple(f"<{end}{tag}" for tag in ("action", "remark") for end in ("", "/"))
"""Beginnings of the tags by which replies are parsed."""

_PROBE, _THOUGHT = "\x00reply\x00", "\x00thought\x00"
_THINKING_REPLY = f"{OPEN}\n{_THOUGHT}\n{CLOSE}\n\n{_PROBE}"


class TemplateError(LamerError, ValueError):
    """A tokenizer whose chat template cannot carry a multi-turn conversation."""


class ThinkingError(TemplateError):
    """A chat template that does not do what was asked about thinking."""


class Chat:
    """A tokenizer and its chat template, reduced to what a trial needs.

    Args:
        tokenizer: A Hugging Face tokenizer with a chat template.
        thinking: Whether the model is to think before it answers.
        context: Where a new chat begins.

    Attributes:
        thinking: As given.
        opened: Whether prompts end inside a thought, so that replies have its closing mark only.
        end_of_reply: Ids of the control token that ends a reply; empty if there is none.

    Raises:
        TemplateError: There is no template, or it drops or changes replies.
        ThinkingError: The template makes the model think although it should not, cannot make it think although it
            should, or drops the thoughts of earlier replies while `context` has a chat that goes on.
    """

    thinking = False
    opened = False
    _reader: Reader | None = None

    def __init__(self, tokenizer: Any, *, thinking: bool = False, context: ContextPolicy = "turn") -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise TemplateError("the tokenizer has no chat template; use an instruction-tuned model")
        self.tokenizer, self.thinking = tokenizer, thinking
        specials = special_tokens(tokenizer)
        self._special = re.compile("|".join(re.escape(token) for token in sorted(specials, key=len, reverse=True)))
        self._without_control = Breaker(specials)
        self._clean = Breaker({*specials, *marks(tokenizer), *TAGS, *(BEGINNINGS if thinking else ())})
        self._between = lru_cache(maxsize=4096)(self._encode_between)
        if thinking:
            self.opened = self._thinks(context)
            self._reader = Reader(self.decode, mark_ids(tokenizer), opened=self.opened)
        elif ends_inside(self._before_reply(thinking=False)):
            raise ThinkingError(
                "the chat template leaves the model in thinking mode although it was switched off; let it think with "
                "--lamer.thinking on (in `eval` and `doctor`, --thinking), or use a model that can answer without"
            )
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

    def read(self, ids: Sequence[int]) -> Reading:
        """A sampled reply: its text, and its answer."""
        if self._reader is not None:
            return self._reader(ids)
        text = self.decode(ids)
        return Reading(text, text)

    def kept(self, reply: tuple[int, ...]) -> tuple[int, ...]:
        """Part of a sampled reply that stays in a chat that goes on: all of it, as it was sampled."""
        return reply

    def clean(self, text: str) -> str:
        """`text` with control tokens and our tags broken up by a space; see `cleaning.Breaker`."""
        return self._clean(text)

    def _thinks(self, context: ContextPolicy) -> bool:
        """Whether prompts end inside a thought; raises `ThinkingError` where thinking is not possible."""
        inside = ends_inside(self._before_reply(thinking=True))
        closes = ends_inside(self._before_reply(thinking=False)) is False
        earlier = self._render(_history(_THINKING_REPLY))
        if inside is False or not (inside or closes or _THOUGHT not in earlier):
            raise ThinkingError(
                f"thinking is on, but the chat template neither lets the model think by its switch `enable_thinking` "
                f"nor knows {OPEN}: it would change nothing; leave --lamer.thinking (--thinking) out, or use a model "
                "that thinks"
            )
        if context != "turn" and _THINKING_REPLY not in earlier:
            raise ThinkingError(
                f"thinking is on in context {context}, where a chat goes on with replies as they were sampled, but the "
                "chat template drops the thoughts of earlier replies: the model would see what its template never "
                "shows; give --lamer.context turn (--context turn), or a template that keeps them"
            )
        return bool(inside)

    def _before_reply(self, *, thinking: bool) -> str:
        """Text that the template puts between the user's message and the reply."""
        return self._render([{"role": "user", "content": _PROBE}], thinking=thinking).rpartition(_PROBE)[2]

    def _render(self, messages: list[dict[str, str]], *, thinking: bool | None = None) -> str:
        # `enable_thinking` is the switch of Qwen3 and others; templates without it ignore it.
        return self.tokenizer.apply_chat_template(
            messages,
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=self.thinking if thinking is None else thinking,
        )

    def _after_reply(self, text: str) -> str:
        _, found, after = self._render(_history(_PROBE, self._without_control(text))).partition(_PROBE)
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


def _history(reply: str, text: str = "x") -> list[dict[str, str]]:
    """Messages of a chat with an earlier reply, and the user's next message."""
    said = ("user", "x"), ("assistant", reply), ("user", text)
    return [{"role": role, "content": content} for role, content in said]


def parse_tag(text: str, tag: str) -> str | None:
    """Content of the only `<tag>…</tag>` in `text`; None if there is none, more than one, or no closing tag."""
    opening, closing = f"<{tag}>", f"</{tag}>"
    if text.count(opening) != 1 or text.count(closing) != 1:
        return None
    content, closed, _ = text.partition(opening)[2].partition(closing)
    return content.strip() if closed else None
