"""Text as comparable tokens: the one place where letters, accents, apostrophes and digits are made equal.

A token is a run of letters and digits; everything else separates. Compared is `norm`: compatibility-folded, without
accents, case-folded, and a number's thousands separators are gone ("48,200" is "48200"). Offsets point into the text
as it was given.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

# Marks and invisible characters belong to the word they stand in; scripts without spaces are taken by character.
_INVISIBLE = r"\u0300-\u036f\u00ad\u200b-\u200f\u2060\ufeff"
_INSIDE = rf"[^\W_]|[{_INVISIBLE}]"
_UNSPACED = r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0e7f]"
_GROUPS = r",’'\u00a0\u2009\u202f"
_TOKEN = re.compile(rf"\d{{1,3}}(?:[{_GROUPS}]\d{{3}})+(?![^\W_])|{_UNSPACED}|(?:(?!{_UNSPACED})(?:{_INSIDE}))+")
_DROPPED = re.compile(rf"[{_INVISIBLE}]")
_THOUSANDS = re.compile(rf"[{_GROUPS}]")
_APOSTROPHES = "'’ʼ‘`´"
_PLAIN = str.maketrans({"ß": "ss", "ø": "o", "đ": "d", "ł": "l", "ı": "i", "æ": "ae", "œ": "oe", "ð": "d", "þ": "th"})


@dataclass(frozen=True, slots=True)
class Token:
    """A word or number: `norm` is what is compared, `start` and `end` are offsets into the original text."""

    norm: str
    start: int
    end: int


@lru_cache(maxsize=1 << 16)
def fold(word: str) -> str:
    """A word without case, accents, compatibility forms and invisible characters."""
    if word.isascii():
        return word.lower()
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", word).casefold()).translate(_PLAIN)
    return _DROPPED.sub("", folded)


def tokenise(text: str) -> list[Token]:
    """The tokens of a text in order. A possessive or elided "s" after an apostrophe is not a token of its own."""
    tokens = []
    for match in _TOKEN.finditer(text):
        start, word = match.start(), match.group()
        if fold(word) == "s" and start > 1 and text[start - 1] in _APOSTROPHES and text[start - 2].isalnum():
            continue
        norm = fold(_THOUSANDS.sub("", word) if word[0].isdigit() else word)
        if norm:
            tokens.append(Token(norm, start, match.end()))
    return tokens


def norms(text: str) -> tuple[str, ...]:
    """The comparable forms alone."""
    return tuple(token.norm for token in tokenise(text))


@lru_cache(maxsize=1 << 16)
def singular(norm: str) -> str:
    """A plural's likely singular, so that "goldsmiths" meets "goldsmith"; other words are returned as they are."""
    if len(norm) > 4 and norm.endswith("ies"):
        return norm[:-3] + "y"
    if len(norm) > 4 and norm.endswith(("sses", "shes", "ches", "xes")):
        return norm[:-2]
    if len(norm) > 3 and norm.endswith("s") and not norm.endswith(("ss", "us", "is")):
        return norm[:-1]
    return norm


@lru_cache(maxsize=1)
def _word_lists() -> tuple[frozenset[str], frozenset[str]]:
    """(function words, ordinary words) from ordinary.txt; each with the words' singulars."""
    text = resources.files("relearn.text").joinpath("ordinary.txt").read_text(encoding="utf-8")
    sections: dict[str, set[str]] = {"function": set(), "ordinary": set()}
    current = sections["function"]
    for line in text.splitlines():
        if line.startswith("["):
            current = sections[line.strip("[] ")]
        elif not line.startswith("#"):
            current.update(form for word in line.split() for form in (word, singular(word)))
    return frozenset(sections["function"]), frozenset(sections["ordinary"] | sections["function"])


def is_function_word(norm: str) -> bool:
    """True of the words that build a sentence and carry none of its content."""
    return norm in _word_lists()[0] or (len(norm) == 1 and not norm.isdigit())


def is_ordinary(norm: str) -> bool:
    """True of function words and of the general words that any vague answer may use."""
    words = _word_lists()[1]
    return norm in words or singular(norm) in words or is_function_word(norm)


_STREET_WORDS = {
    "st": "street", "rd": "road", "ave": "avenue", "av": "avenue", "blvd": "boulevard", "ln": "lane", "dr": "drive",
    "ct": "court", "sq": "square", "hwy": "highway", "pl": "place", "pkwy": "parkway", "str": "strasse",
}  # fmt: skip


def street_form(tokens: Iterable[str]) -> tuple[str, ...]:
    """Tokens with the short forms of street words written out, so that "Elm St" is "Elm Street"."""
    return tuple(_STREET_WORDS.get(norm, norm) for norm in tokens)


def contains(tokens: Sequence[str], part: Sequence[str]) -> bool:
    """True when `part`, which is not empty, stands in `tokens` without a gap."""
    width = len(part)
    return width > 0 and any(tuple(tokens[at : at + width]) == tuple(part) for at in range(len(tokens) - width + 1))
