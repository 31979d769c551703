"""Full-text ranking as Lucene does it with Anserini's settings, in numpy.

The words of a text are those of Unicode's UAX #29, in lower case, without possessive 's and
Lucene's English stop words, stemmed. A product scores for each word of the query

    idf(t) · tf / (tf + k1 · (1 - b + b · len(d) / avg len)),   idf(t) = ln(1 + (N - df + ½) / (df + ½))

with k1 = 0.9, b = 0.4 and `len(d)` as Lucene stores it, in one byte. Equal scores are ordered
by product number, and products are numbered by asin.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

K1 = 0.9
B = 0.4
DEPTH = 50
"""Most products that a search finds."""

STOP_WORDS = frozenset(
    "a an and are as at be but by for if in into is it no not of on or such "
    "that the their then there these they this to was will with".split()
)

_PICTURE = (
    r"[\p{Extended_Pictographic}\u2600-\u2605\u2607-\u2612\u2614-\u2685\u2690-\u2705\u2708-\u2712\U0001F1E6-\U0001F1FF]"
    r"[\uFE0F\p{Emoji_Modifier}]*"
)
_WORD = rf"""
      {_PICTURE} (?: \u200D {_PICTURE} )*                        # emoji, joined ones as one word
    | [\p{{Han}}\p{{Hiragana}}]                                  # a word each
    | [\p{{Alphabetic}}\p{{Nd}}_]
      (?: [\p{{Alphabetic}}\p{{Nd}}_\p{{M}}\p{{Cf}}--[\p{{Han}}\p{{Hiragana}}]]
        | (?<=\p{{Nd}}) [.,;'‘’\u2044\u2024\uFF0C\uFF1B\uFF0E] (?=\p{{Nd}})                        # 1,000.5
        | (?<=\p{{Alphabetic}}) [.:·'‘’\u2027\u2024\uFF1A\uFF0E\uFF07] (?=\p{{Alphabetic}})        # don't
      )*
    """
_POSSESSIVES = ("'s", "’s", "＇s")


@cache
def _pattern() -> Any:
    import regex  # of the extra `webshop`

    return regex.compile(_WORD, regex.VERBOSE | regex.VERSION1)


@cache
def _porter() -> Any:
    from nltk.stem.porter import PorterStemmer  # of the extra `webshop`; takes two seconds

    return PorterStemmer(PorterStemmer.MARTIN_EXTENSIONS)


@lru_cache(maxsize=1 << 18)
def stem(word: str) -> str:
    """The stem of a word in lower case by Porter's later algorithm, which Lucene has: `bli` and `logi` are suffixes."""
    return _porter().stem(word, to_lowercase=False)


def words(text: str) -> list[str]:
    """Stems under which a text is indexed, and which a query looks up."""
    whole = (word for word in _pattern().findall(text.lower()) if word.strip("_"))
    found = (word[:-2] if word.endswith(_POSSESSIVES) else word for word in whole)
    return [stem(word) for word in found if word and word not in STOP_WORDS]


def stored_length(length: int) -> int:
    """`length` after Lucene has put it into one byte: exact up to 39, then four bits of mantissa."""
    if length < 40:
        return length
    shift = (length - 24).bit_length() - 4
    return 24 + (length - 24 >> shift << shift)


class Index:
    """An immutable index. Terms are columns of products and weights.

    Args:
        terms: The words, in the order of their columns.
        bounds: Start of each column, and the end of the last one; one longer than `terms`.
        products: Product numbers, rising within a column.
        weights: Amount that the term adds to the score of that product; as long as `products`.
        size: Number of products.
    """

    def __init__(
        self,
        terms: Sequence[str],
        bounds: npt.NDArray[np.int64],
        products: npt.NDArray[np.int32],
        weights: npt.NDArray[np.float32],
        size: int,
    ) -> None:
        self.terms, self.bounds, self.products, self.weights, self.size = terms, bounds, products, weights, size
        self._columns = {term: column for column, term in enumerate(terms)}
        self.search = lru_cache(maxsize=4096)(self._search)

    def _search(self, query: str) -> tuple[int, ...]:
        """Numbers of the products that fit `query` best, at most `DEPTH`, best first."""
        scores = np.zeros(self.size)
        for word in words(query):
            column = self._columns.get(word)
            if column is not None:
                part = slice(self.bounds[column], self.bounds[column + 1])
                scores[self.products[part]] += self.weights[part]
        found = np.flatnonzero(scores)
        negative = -scores[found].astype(np.float32)
        if len(found) > 4 * DEPTH:
            near = negative <= np.partition(negative, DEPTH - 1)[DEPTH - 1]
            found, negative = found[near], negative[near]
        return tuple(found[np.argsort(negative, kind="stable")[:DEPTH]].tolist())


class IndexBuilder:
    """Builds an index from the texts of products, given one by one in any order."""

    def __init__(self) -> None:
        self._columns: dict[str, int] = {}
        self._term, self._text, self._frequency = array("i"), array("i"), array("i")
        self._lengths = array("i")

    def add(self, text: str) -> None:
        """Index the next product's text."""
        found = words(text)
        number = len(self._lengths)
        self._lengths.append(len(found))
        for word, frequency in Counter(found).items():
            self._term.append(self._columns.setdefault(word, len(self._columns)))
            self._text.append(number)
            self._frequency.append(frequency)

    def build(self, numbers: Sequence[int]) -> Index:
        """The index of the texts so far; text i is product `numbers[i]`."""
        size = len(self._lengths)
        term, text = np.array(self._term, np.int32), np.array(self._text, np.int32)
        frequency = np.array(self._frequency, float)
        matching = np.bincount(term, minlength=len(self._columns))
        idf = np.log(1 + (size - matching + 0.5) / (matching + 0.5))
        stored = np.array([stored_length(length) for length in self._lengths], float)
        # The order of operations decides the last bit, and with it ties.
        norm = K1 * (1 - B + B * stored * size / max(float(sum(self._lengths)), 1.0))
        weights = (idf[term] * frequency / (frequency + norm[text])).astype(np.float32)
        products = np.array(numbers, np.int32)[text]
        order = np.lexsort((products, term))
        bounds = np.concatenate(([0], np.cumsum(matching)))
        return Index(list(self._columns), bounds, products[order], weights[order], size)
