"""Text as comparable tokens: the one place where letters, accents, apostrophes and digits are made equal.

A token is a run of letters and digits; everything else separates. Compared is `norm`: compatibility-folded, without
accents, case-folded, and a number's thousands separators are gone ("48,200" is "48200"). Offsets point into the text
as it was given.

Numbers written in words: "forty-eight thousand two hundred" is 48200, "nineteen eighty-seven" 1987.

Small word lists for finding a person's name in an English question.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
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
    "st": "street",
    "rd": "road",
    "ave": "avenue",
    "av": "avenue",
    "blvd": "boulevard",
    "ln": "lane",
    "dr": "drive",
    "ct": "court",
    "sq": "square",
    "hwy": "highway",
    "pl": "place",
    "pkwy": "parkway",
    "str": "strasse",
}


def street_form(tokens: Iterable[str]) -> tuple[str, ...]:
    """Tokens with the short forms of street words written out, so that "Elm St" is "Elm Street"."""
    return tuple(_STREET_WORDS.get(norm, norm) for norm in tokens)


def contains(tokens: Sequence[str], part: Sequence[str]) -> bool:
    """True when `part`, which is not empty, stands in `tokens` without a gap."""
    width = len(part)
    return width > 0 and any(tuple(tokens[at : at + width]) == tuple(part) for at in range(len(tokens) - width + 1))


_UNITS = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SMALL = {word: value for value, word in enumerate(_UNITS)} | {word: 10 * at for at, word in enumerate(_TENS, 2)}
_LARGE = {"hundred": 100, "thousand": 1000, "million": 1_000_000, "billion": 1_000_000_000}


def find_numerals(norms: Sequence[str]) -> Iterator[tuple[int, int, int]]:
    """(first token, one past the last, value) of every run of number words. "One" alone is no number."""
    first = 0
    while first < len(norms):
        last = _end_of_numeral(norms, first)
        words = [norm for norm in norms[first:last] if norm != "and"]
        if words and words != ["one"]:
            yield first, last, _value(words)
        first = max(last, first + 1)


def _end_of_numeral(norms: Sequence[str], first: int) -> int:
    last = first
    while last < len(norms) and (norms[last] in _SMALL or (last > first and norms[last] in _LARGE)):
        last += 1
        joined = last + 1 < len(norms) and norms[last] == "and" and norms[last - 1] in _LARGE
        if joined and norms[last + 1] in _SMALL:
            last += 1
    return last


def _value(words: Sequence[str]) -> int:
    if (year := _year(words)) is not None:
        return year
    total = part = 0
    for word in words:
        if word == "hundred":
            part *= 100
        elif word in _LARGE:
            total, part = total + part * _LARGE[word], 0
        else:
            part += _SMALL[word]
    return total + part


def _year(words: Sequence[str]) -> int | None:
    """ "nineteen eighty-seven" and "twenty nineteen": two numbers side by side with nothing between them."""
    if any(word in _LARGE for word in words):
        return None
    head, tail = _SMALL[words[0]], [_SMALL[word] for word in words[1:]]
    whole_tail = (len(tail) == 1 and tail[0] >= 10) or (len(tail) == 2 and tail[0] >= 20 and 0 < tail[1] < 10)
    return 100 * head + sum(tail) if 10 <= head <= 20 and whole_tail else None


def word_set(text: str) -> frozenset[str]:
    """The words of a line, for lists that read better without a quotation mark around each."""
    return frozenset(text.split())


LEADING = word_set(
    "what whats who whom whose where when why which how is are was were am do does did has have had can could "
    "will would shall should may might must in on at of for from by with to about as if given based besides "
    "despite since after before during while through regarding concerning considering according apart other "
    "than under among between tell describe explain list name give provide share mention discuss outline "
    "identify summarize summarise state recall elaborate show please imagine suppose let i the a an this that "
    "these those there it its his her their he she they my your our do and or but so also then now not no yes "
    "any some many most all both each every another"
)

TITLES = word_set("dr doctor mr mrs ms miss mx prof professor sir dame lord lady judge father sister rev reverend")

PARTICLES = word_set("de del della der den di da dos das du la le van von zu bin bint ibn al el ben y e af av ter ten")

PLACE_PREPOSITIONS = word_set("in at from near around across outside inside within into towards")

NEVER_IN_A_NAME = word_set(
    "award awards prize prizes medal university college school institute academy foundation festival st street "
    "avenue ave rd road boulevard blvd square city war wars literature fiction history literary genre society "
    "association company corporation inc ltd press museum library theatre theater hospital republic kingdom "
    "states league club party movement internet north south east west new united international national world "
    "civil series novels novel book books narratives writing inspired"
)

COMMON_CAPITALISED = word_set(
    "January February March April May June July August September October November December Monday Tuesday "
    "Wednesday Thursday Friday Saturday Sunday English French German Spanish Italian Russian Chinese Japanese "
    "Korean Arabic Hindi Portuguese American British Irish Scottish Welsh Canadian Australian African Asian "
    "European Indian Mexican Brazilian Turkish Dutch Swedish Norwegian Danish Finnish Polish Czech Greek "
    "Egyptian Nigerian Kenyan Ethiopian Iranian Iraqi Israeli Kuwaiti Bahraini Chilean Kazakhstani Jewish "
    "Christian Muslim Islamic Hindu Buddhist Catholic Middle Eastern Western Latin France Germany Spain Italy "
    "Russia China Japan Korea India Mexico Brazil Turkey Netherlands Sweden Norway Denmark Finland Poland "
    "Greece Egypt Nigeria Kenya Ethiopia Iran Iraq Israel Kuwait Bahrain Chile Kazakhstan Canada Australia "
    "Britain England Scotland Wales Ireland Europe Africa Asia America London Paris Berlin Rome Madrid Moscow "
    "Tokyo Beijing Seoul Christmas Easter God Email Internet I Lesbian Romance Medical Historical"
)

NOT_A_PERSON = frozenset(
    [
        *(
            "Star Wars",
            "New York",
            "Los Angeles",
            "San Francisco",
            "Hong Kong",
            "Buenos Aires",
            "Abu Dhabi",
            "Tel Aviv",
        ),
        *("New Delhi", "Cape Town", "Addis Ababa", "Rio de Janeiro", "Sri Lanka", "Saudi Arabia", "Costa Rica"),
        *("Puerto Rico", "Science Thrillers", "Nobel Peace", "Old Testament"),
    ]
)
