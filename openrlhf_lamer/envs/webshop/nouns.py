"""The nouns of a product's name, which the score compares.

The original asks spaCy's small English model. Where that is not installed, a rough tagger stands in: in titles,
nearly every capitalised word is a name, so spelling tells most nouns. Scores of near misses may differ between the two.
"""

from __future__ import annotations

import re
from collections.abc import Callable

Tagger = Callable[[str], tuple[str, ...]]

BUNDLED = "bundled"
SPACY_MODEL = "en_core_web_sm"

_WORD = re.compile(r"[^\W\d_]+(?:'(?!s\b)[^\W\d_]+)*")

# Words that are never nouns.
_FUNCTION_WORDS = frozenset(
    """
    a about above after all also an and any are as at be before below between both but by can do does each either every
    few for from has have how if in inside into is it its less many may more most must neither no nor not of off on only
    or our out outside over own per plus s same she should so some such than that the their them then there these they
    this those through to too under until up upon very via was we what when where which while who will with within
    without you your
    """.split()
)
_NO_NOUN = re.compile(r".{2,}(?:ly|ful|less|able|ible|ous|ive|ish|ed|est|ic|al)")


def bundled(name: str) -> tuple[str, ...]:
    """The nouns of `name`, in lower case and in order, by spelling only."""
    found = []
    for word in _WORD.findall(name):
        lower = word.lower()
        if len(word) > 1 and lower not in _FUNCTION_WORDS and (word != lower or not _NO_NOUN.fullmatch(word)):
            found.append(lower)
    return tuple(found)


def best_tagger() -> tuple[str, Tagger]:
    """Label and function of the best tagger: spaCy's if it is installed with its model, else the bundled one."""
    try:
        import spacy

        model = spacy.load(SPACY_MODEL, disable=["parser", "ner", "lemmatizer"])
    except (ImportError, OSError):
        return BUNDLED, bundled

    def tagged(name: str) -> tuple[str, ...]:
        return tuple(token.text.lower() for token in model(name) if token.pos_ in ("NOUN", "PROPN"))

    return f"spacy {SPACY_MODEL} {model.meta['version']}", tagged
