"""Detect word salad in English text without a language model: words in random order, or words run together.

Each word has a class: a function word is its own class, other words have the class of their ending or kind (name,
number, sign). Counts of class pairs and triples (data/word_order.json) give the probability of a class after the two
before it. The gain is the mean log-probability per word minus its average over random orders of the same words. So only
the word order has an effect, not names, rare words or length. The gain of word salad is near 0, of prose 1 or more.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources
from itertools import pairwise

import numpy as np

from relearn.text.normalize import SHARED_WORDS, is_function_word, is_ordinary, other_language
from relearn.text.spans import find_spans

# With fewer words there are too few orders to compare with.
MIN_WORDS = 6
START = "<"
_PART = re.compile(
    r"(?:https?://|www\.)\S+|[^\W\d_]+(?:['’-][^\W\d_]+)*|\d+(?:(?:[.,:/-]| (?=\d{3}\b))\d+)*|\.{2,}|[^\w\s]|_"
)
# Spans of text.spans that are one part each, with the text that replaces them.
_ONE_PART = {"email": "Contact", "address": "Address", "phone": "0", "date": "0000"}
_ENDINGS = ("ing", "ed", "ly", "tion", "s", "er", "al", "ic", "ous", "ive", "ble")
_CONTRACTION = re.compile(r"['’](?:s|t|re|ll|ve|d|m)$")
_SIGNS = frozenset(".,;:!?()\"'-–—&/%$“”‘’")
_SHORT_LINE = 3  # words
_MAX_HANGING = 0.3  # share of a list's lines that end in a function word
_PUNCTUATION = ".,;:!?()\"'“”‘’"
# The class of words run together, with a capital inside ("eldogeneticTag"), as random vocabulary tokens give.
GLUED = "Glued"
_PIECES = re.compile(r"['’-]")
_INNER_CAPITAL = re.compile(r"^(?!(?:Mc|Mac|De|Di|Du|La|Le|Van|Fitz)[A-Z][a-z]+$).+[A-Z]")
_LONG_WORD = 16
_GLUED_SHARE = 0.15
_ENGLISH_SHARE = 0.2
_CLOSING = " \n\"'”’)"
_STOPS = (".", "!", "?", "…")
_LAST_LATIN = "\u024f"
# Characters at the beginning and at the end of a longer text that are examined.
_EXAMINED = 1500


def word_order(text: str) -> float | None:
    """Compute the word-order gain in nats per word; None for few words, lists, numbers, code and other languages."""
    parts = parts_of(text)
    if len(parts) < MIN_WORDS or not _is_prose(text, parts) or other_language(text) or _is_foreign(text, parts):
        return None
    return _table().gain([word_class(part) for part in parts])


def is_glued(text: str) -> bool:
    """Return True if at least two words and a share _GLUED_SHARE are run together or too long; False for code."""
    parts = parts_of(text)
    words = [part for part in parts if part[0].isalpha()]
    glued = sum(
        word_class(word) == GLUED or (len(word) >= _LONG_WORD and word.isalpha()) for word in words if _cased(word)
    )
    return glued >= max(2, _GLUED_SHARE * len(words)) and len(words) > len(parts) / 2 and not other_language(text)


def parts_of(text: str) -> list[str]:
    """Split a text into words, numbers and signs; an address, a date or a contact becomes one part of its class."""
    if len(text) > 2 * _EXAMINED:
        text = f"{text[:_EXAMINED]} {text[-_EXAMINED:]}"
    for span in reversed(find_spans(text)):
        if span.kind in _ONE_PART:
            text = f"{text[: span.start]}{_ONE_PART[span.kind]}{text[span.end :]}"
    return _PART.findall(text)


@lru_cache(maxsize=1 << 16)
def word_class(part: str) -> str:
    """Return the class of a word, number or sign."""
    if part[0].isdigit():
        return "0000" if len(part) == 4 else "0"
    if not part[0].isalpha():
        return part if part in _SIGNS else "sign"
    if "//" in part or part.startswith("www."):
        return "Name"
    low = part.lower().replace("’", "'")
    if part.isascii() and (is_function_word(low) or is_function_word(_CONTRACTION.sub("", low))):
        return low
    return _content_class(part, low)


def _content_class(part: str, low: str) -> str:
    if any(_INNER_CAPITAL.match(piece) for piece in _PIECES.split(part)) and not part.isupper():
        return GLUED
    if part[0].isupper():
        return "Name"
    ending = next((ending for ending in _ENDINGS if low.endswith(ending) and len(low) > len(ending) + 2), "")
    return f"-{ending}" if ending else "word"


def _is_prose(text: str, parts: Sequence[str]) -> bool:
    """Return True if at least half of the parts are words in Latin letters, few are signs, and it is not a list."""
    words = sum(map(_cased, parts))
    odd = sum(word_class(part) == "sign" or part in "()/" for part in parts)
    return words >= len(parts) / 2 and odd <= len(parts) / 5 and not _is_list(text)


def _is_foreign(text: str, parts: Sequence[str]) -> bool:
    """Return True for sentences in which less than _ENGLISH_SHARE of the words in lower case are general English words.

    Names tell no language, and a short sentence may have no word of the lists of text.normalize.other_language.
    """
    small = [part for part in parts if _cased(part) and part.islower()]
    english = sum(len(word) > 1 and word not in SHARED_WORDS and is_ordinary(word) for word in small)
    is_sentence = text.strip()[:1].isupper() and text.rstrip(_CLOSING).endswith(_STOPS)
    return is_sentence and len(small) > 0 and english < _ENGLISH_SHARE * len(small)


def _is_list(text: str) -> bool:
    """Return True for three or more lines, most of them short and few with a function word at the end ("of the")."""
    lines = [line.split() for line in text.splitlines() if line.strip()]
    short = sum(len(line) <= _SHORT_LINE for line in lines)
    hanging = sum(is_function_word(line[-1].strip(_PUNCTUATION).lower()) for line in lines)
    return len(lines) > 2 and short > len(lines) / 2 and hanging < _MAX_HANGING * len(lines)


def _cased(part: str) -> bool:
    """Return True if the part has letters of the Latin alphabet, with upper and lower case."""
    return part[0].isalpha() and part[0] <= _LAST_LATIN and part.lower() != part.upper()


@dataclass(frozen=True)
class OrderTable:
    """Hold counts of class pairs and triples, keyed by the indices of the classes in `classes`.

    Probabilities of triples, pairs and single classes are interpolated with the Witten-Bell rule.
    """

    classes: tuple[str, ...]
    pairs: dict[tuple[int, int], int]
    triples: dict[tuple[int, int, int], int]

    def gain(self, classes: Sequence[str]) -> float | None:
        """Compute the mean log-probability in this order minus the mean over all; None if all orders are equal."""
        other = self._indices["word"]
        keys = [self._indices.get(name, other) for name in classes]
        if len(set(keys)) == 1:
            return None
        start = self._indices[START]
        sequence = [start, start, *keys]
        own = [self._triple_log(*sequence[at - 2 : at + 1]) for at in range(2, len(sequence))]
        return sum(own) / len(own) - self._mean_over_orders(keys)

    def _mean_over_orders(self, keys: list[int]) -> float:
        """Compute the mean log-probability of random orders: the mean over ordered pairs of different positions."""
        seen = Counter(keys)
        at, count = np.array(list(seen)), np.array(list(seen.values()), dtype=np.float64)
        logs = self._pair_logs[np.ix_(at, at)]
        total = count @ logs @ count - count @ np.diag(logs)
        return float(total / (len(keys) * (len(keys) - 1)))

    @cached_property
    def _indices(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.classes)}

    @cached_property
    def _pair_logs(self) -> np.ndarray:
        """Compute the log-probability of the second class after the first, (classes, classes)."""
        size = len(self.classes)
        counts = np.zeros((size, size))
        for (first, second), count in self.pairs.items():
            counts[first, second] = count
        single = (counts.sum(axis=0) + 1) / (counts.sum() + size)
        kinds = (counts > 0).sum(axis=1, keepdims=True)
        seen = counts.sum(axis=1, keepdims=True)
        return np.log(np.where(seen > 0, (counts + kinds * single) / np.maximum(seen + kinds, 1), single))

    @cached_property
    def _contexts(self) -> dict[tuple[int, int], tuple[int, int]]:
        """Map two classes to (count of following classes, number of different following classes)."""
        seen: Counter[tuple[int, int]] = Counter()
        kinds: Counter[tuple[int, int]] = Counter()
        for (first, second, _), count in self.triples.items():
            seen[first, second] += count
            kinds[first, second] += 1
        return {key: (seen[key], kinds[key]) for key in seen}

    def _triple_log(self, first: int, second: int, third: int) -> float:
        pair = float(self._pair_logs[second, third])
        if (first, second) not in self._contexts:
            return pair
        seen, kinds = self._contexts[first, second]
        return math.log((self.triples.get((first, second, third), 0) + kinds * math.exp(pair)) / (seen + kinds))

    def to_json(self) -> str:
        triples = [[*key, count] for key, count in sorted(self.triples.items())]
        pairs = [[*key, count] for key, count in sorted(self.pairs.items())]
        return json.dumps({"classes": self.classes, "pairs": pairs, "triples": triples}, separators=(",", ":"))


def count_orders(texts: Sequence[str], fewest: int = 1) -> OrderTable:
    """Count the class pairs and triples of texts; those with fewer than `fewest` occurrences are left out."""
    pairs: Counter[tuple[str, str]] = Counter()
    triples: Counter[tuple[str, str, str]] = Counter()
    for text in texts:
        sequence = [START, START, *map(word_class, parts_of(text))]
        pairs.update(pairwise(sequence[1:]))
        triples.update(zip(sequence, sequence[1:], sequence[2:], strict=False))
    classes = tuple(sorted({name for pair in pairs for name in pair} | {START, "word"}))
    index = {name: at for at, name in enumerate(classes)}
    return OrderTable(
        classes,
        {(index[a], index[b]): count for (a, b), count in pairs.items() if count >= fewest},
        {(index[a], index[b], index[c]): count for (a, b, c), count in triples.items() if count >= fewest},
    )


@lru_cache(maxsize=1)
def _table() -> OrderTable:
    raw = json.loads(resources.files("relearn.metrics").joinpath("data/word_order.json").read_text(encoding="utf-8"))
    pairs = {(first, second): count for first, second, count in raw["pairs"]}
    triples = {(first, second, third): count for first, second, third, count in raw["triples"]}
    return OrderTable(tuple(raw["classes"]), pairs, triples)
