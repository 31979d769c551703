"""Text from outside, made harmless: a tokenizer reads no control token in it, and nobody a tag of ours.

Words are broken up by a space after their first character, which leaves them legible; those of one character
become a space. What counts is not their spelling alone. A tokenizer may normalise a text before it looks for its
tokens, and two texts that are put side by side may come to a word that neither of them holds.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import cache
from typing import Any

_PLAIN = re.compile(r"[\t\n\r -~]*")


class Breaker:
    """Breaks up `words` in a text, in whatever case and disguise; a blank among them is left.

    Disguises are what normalisers undo: look-alikes of compatibility (`＜`), accents, and characters that
    do not show. A text that holds a word in disguise is folded as a whole; others keep every character.
    """

    def __init__(self, words: Iterable[str]) -> None:
        words = list(words)
        spellings = {spelling.lower() for word in words for spelling in (word, _fold(word)) if len(spelling) > 1}
        # A letter that only remains of a token when its accent is gone is kept.
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
        """`text` with the words in it broken up, one included that is left unfinished at its end.

        Doing it twice changes nothing more.
        """
        text = self._break(text)
        if not _PLAIN.fullmatch(text):
            text = text.encode(errors="replace").decode()  # half of a surrogate pair, which tokenizers refuse
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
    """The control tokens of `tokenizer`."""
    added = tokenizer.added_tokens_decoder.values()
    return {*map(str, tokenizer.all_special_tokens), *(str(token) for token in added if token.special)}


def marks(tokenizer: Any) -> set[str]:
    """Tokens that are no control tokens by name and still mean something to the model, such as `<think>`."""
    return {
        str(token) for token in tokenizer.added_tokens_decoder.values() if re.fullmatch(r"</?[^\s<>]+>", str(token))
    }


def _fold(text: str) -> str:
    """The plainest spelling that a normaliser may make of `text`."""
    return unicodedata.normalize("NFC", "".join(filter(_shows, unicodedata.normalize("NFKD", text))))


@cache
def _shows(char: str) -> bool:
    category = unicodedata.category(char)
    return char in "\t\n\r" or (category[0] != "C" and category not in ("Mn", "Me") and char != "\ufffd")
