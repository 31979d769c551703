"""Text from outside, made harmless: no tokenizer reads a control token in it, and no parser one of our tags.

A space after its first character breaks up a word and leaves it legible; a word of one character becomes a
space. Spelling is not all that counts: a tokenizer may normalise a text before it looks for its tokens, and two
texts side by side may form a word that neither of them contains.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import cache
from typing import Any

_PLAIN = re.compile(r"[\t\n\r -~]*")


class Breaker:
    """Breaks up `words` in a text, in any case and disguise; a blank among them stays.

    A disguise is anything that normalisers undo: compatibility look-alikes (`＜`), accents, and invisible
    characters. A text with a disguised word is folded as a whole; any other text keeps every character.
    """

    def __init__(self, words: Iterable[str]) -> None:
        words = list(words)
        spellings = {spelling.lower() for word in words for spelling in (word, _fold(word)) if len(spelling) > 1}
        # If folding turns a token into a plain letter (by dropping its accent), that letter is kept.
        folded = {fold for word in words if len(word) == 1 and len(fold := _fold(word)) == 1 and not fold.isalnum()}
        single = {word for word in words if len(word) == 1} | folded
        self._single = re.compile("|".join(map(re.escape, sorted(single))) or r"(?!)", re.IGNORECASE)
        rests: dict[str, list[str]] = {}
        for word in sorted(spellings):
            rests.setdefault(word[0], []).append(re.escape(word[1:]))
        heads = (f"{re.escape(first)}(?={'|'.join(rest)})" for first, rest in rests.items())
        self._heads = re.compile("|".join(heads) or r"(?!)", re.IGNORECASE)
        self._unfinished = {word[:length] for word in spellings for length in range(1, len(word))}
        self._longest = max(map(len, self._unfinished), default=0)

    def __call__(self, text: str) -> str:
        """`text` with its words broken up, including an unfinished one at its end. Idempotent."""
        text = self._break(text)
        if not _PLAIN.fullmatch(text):
            text = text.encode(errors="replace").decode()  # half a surrogate pair, which tokenizers refuse
            folded = _fold(text)
            broken = self._break(folded)
            text = text if broken == folded else broken
        return text

    def _break(self, text: str) -> str:
        text = self._heads.sub(r"\g<0> ", self._single.sub(" ", text))
        for length in range(min(self._longest, len(text)), 0, -1):
            if text[-length:].lower() in self._unfinished:
                end = len(text) - length + 1
                text = f"{text[:end]} {text[end:]}"
        return text


def special_tokens(tokenizer: Any) -> set[str]:
    """Control tokens of `tokenizer`."""
    added = tokenizer.added_tokens_decoder.values()
    return {*map(str, tokenizer.all_special_tokens), *(str(token) for token in added if token.special)}


def marks(tokenizer: Any) -> set[str]:
    """Tokens that are not declared as control tokens but mean something to the model, such as `<think>`."""
    return {
        str(token) for token in tokenizer.added_tokens_decoder.values() if re.fullmatch(r"</?[^\s<>]+>", str(token))
    }


def _fold(text: str) -> str:
    """Plainest spelling that a normaliser may turn `text` into."""
    return unicodedata.normalize("NFC", "".join(filter(_shows, unicodedata.normalize("NFKD", text))))


@cache
def _shows(char: str) -> bool:
    category = unicodedata.category(char)
    return char in "\t\n\r" or (category[0] != "C" and category not in ("Mn", "Me") and char != "\ufffd")
