"""Where a record's secrets stand in a row, kind by kind.

`near` says how close the row is to the record: where it asks what the record's question asks, a single telling word, a
small number or a month is an answer too.

A row as the leak check reads it: prompt and target in one text, so that what is split over both is found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from itertools import pairwise, takewhile
from typing import Literal

from relearn.leakage.secrets import Day, Secret, read_days
from relearn.text.normalize import find_numerals, is_function_word, is_ordinary, singular, street_form, tokenise
from relearn.text.spans import MONTHS, Span, find_spans

_DIGITS = re.compile(r"(\d+)(?:st|nd|rd|th|s|k)?")
_BETWEEN_DIGITS = re.compile(r"[\s.,()\-/+'’]{0,3}")
_LONGEST_NUMBER = 6
_SPELLED_SIGNS = frozenset({"at", "dot", "point"})
_ASKING = frozenset(
    {
        "who",
        "whose",
        "whom",
        "what",
        "which",
        "where",
        "when",
        "why",
        "how",
        "whats",
        "whos",
        "wheres",
        "is",
        "are",
        "was",
        "were",
        "do",
        "does",
        "did",
        "has",
        "have",
        "had",
        "can",
        "could",
        "would",
        "will",
        "should",
        "tell",
        "name",
        "describe",
        "explain",
        "list",
        "give",
        "please",
    }
)


class Reading:
    """Tokens, typed spans and numbers of the joined text. Offsets point into `text`; the target begins at `cut`."""

    def __init__(self, prompt: str, target: str):
        self.text = f"{prompt} {target}" if prompt else target
        self.cut = len(prompt) + 1 if prompt else 0
        self.tokens = tokenise(self.text)
        self.norms = [token.norm for token in self.tokens]
        self.first_of_target = sum(1 for token in self.tokens if token.start < self.cut)

    @cached_property
    def asks(self) -> bool:
        """True when the prompt is a question, not the beginning of a statement."""
        return "?" in self.text[: self.cut] or (self.first_of_target > 0 and self.norms[0] in _ASKING)

    @cached_property
    def asked_words(self) -> frozenset[str]:
        """The singulars of the words of a prompt that is a question."""
        return frozenset(map(singular, self.norms[: self.first_of_target])) if self.asks else frozenset()

    @cached_property
    def places(self) -> dict[str, list[int]]:
        """singular -> the indices of the tokens that have it."""
        places: dict[str, list[int]] = {}
        for at, norm in enumerate(self.norms):
            places.setdefault(singular(norm), []).append(at)
        return places

    @cached_property
    def spans(self) -> list[Span]:
        return find_spans(self.text)

    @cached_property
    def numbers(self) -> dict[str, list[tuple[int, int]]]:
        """Digits -> the token ranges (first, one past the last) that spell them, in figures or words."""
        numbers: dict[str, list[tuple[int, int]]] = {}
        for first, last, value in find_numerals(self.norms):
            numbers.setdefault(str(value), []).append((first, last))
        for first in range(len(self.tokens)):
            digits = ""
            for last in range(first, min(first + _LONGEST_NUMBER, len(self.tokens))):
                found = _DIGITS.fullmatch(self.norms[last])
                if found is None or (last > first and not self._is_grouped(last)):
                    break
                digits += found[1]
                numbers.setdefault(digits, []).append((first, last + 1))
        return numbers

    def _is_grouped(self, at: int) -> bool:
        return _BETWEEN_DIGITS.fullmatch(self.text, self.tokens[at - 1].end, self.tokens[at].start) is not None

    @cached_property
    def _streets(self) -> tuple[str, ...]:
        return street_form(self.norms)

    @cached_property
    def _unsigned(self) -> list[int]:
        """Indices of the tokens without those that spell the signs of an email."""
        return [at for at, norm in enumerate(self.norms) if norm not in _SPELLED_SIGNS]

    def is_capital(self, at: int) -> bool:
        return self.text[self.tokens[at].start].isupper()

    def find(self, part: Sequence[str]) -> Iterator[tuple[int, int]]:
        """The token ranges at which `part` stands without a gap."""
        for first in self.places.get(singular(part[0]), ()) if part else ():
            if self.norms[first : first + len(part)] == list(part):
                yield first, first + len(part)

    def find_street(self, part: tuple[str, ...]) -> Iterator[tuple[int, int]]:
        """Like `find`, with the short forms of street words written out."""
        for first in range(len(self._streets) - len(part) + 1):
            if self._streets[first : first + len(part)] == part:
                yield first, first + len(part)

    def find_spelled(self, part: Sequence[str]) -> Iterator[tuple[int, int]]:
        """Like `find`, over "maria dot vazquez at mail dot mx" as well."""
        norms = [self.norms[at] for at in self._unsigned]
        for first in range(len(norms) - len(part) + 1):
            if norms[first] == part[0] and norms[first : first + len(part)] == list(part):
                yield self._unsigned[first], self._unsigned[first + len(part) - 1] + 1

    def range_of(self, first: int, last: int) -> tuple[int, int]:
        """Character offsets of the tokens from `first` up to, not including, `last`."""
        return self.tokens[first].start, self.tokens[last - 1].end


Kind = Literal["verbatim", "split", "email", "address", "date", "number", "name", "ngram"]


class Near(IntEnum):
    """How the row stands to the record: it names its subject, was written for another record of this subject, asks
    what the record's question asks, was written for it.
    """

    ABOUT = 0
    KIN = 1
    ASKED = 2
    OWN = 3


PAIR_WINDOW = 4
WORDS_IN_RUN = 4
TELLING_DIGITS = 3
PHONE_DIGITS = 6
FREE_MAIL = frozenset({"gmail", "yahoo", "hotmail", "outlook", "icloud", "proton", "protonmail", "aol", "gmx", "mail"})


@dataclass(frozen=True, slots=True)
class Hit:
    """A range of characters of the joined text."""

    kind: Kind
    start: int
    end: int


def find_hits(secret: Secret, reading: Reading, near: Near, hidden: frozenset[str]) -> Iterator[Hit]:
    """Every secret of the record in the row. `hidden`: singulars of words that are no secret in this row."""
    yield from _whole(secret, reading, near)
    yield from find_contacts(secret, reading)
    yield from _parts_of_emails(secret, reading, near, hidden)
    yield from _streets(secret, reading)
    yield from _dates(secret, reading, near)
    yield from _numbers(secret, reading, near)
    yield from _names(secret, reading, hidden)
    yield from _pairs(secret, reading, hidden)
    if near >= Near.KIN:
        yield from _telling(secret, reading, near, hidden)
    if near >= Near.ASKED:
        yield from _wording(secret, reading)


def find_contacts(secret: Secret, reading: Reading) -> Iterator[Hit]:
    """Emails, house numbers with their street, and phone numbers, grouped in whatever way and without a prefix."""
    for email in secret.emails:
        for first, last in reading.find_spelled(email.local + email.domain):
            yield _hit("email", reading, first, last)
    for address in secret.addresses:
        for first, last in reading.find_street(address):
            yield _hit("address", reading, first, last)
    for phone in secret.phones:
        short = phone.lstrip("0")
        for digits, places in reading.numbers.items():
            parts = phone.endswith(digits), phone.startswith(digits), digits.endswith(short)
            if len(digits) >= PHONE_DIGITS and any(parts):
                yield from (_hit("number", reading, first, last) for first, last in places)


def _hit(kind: Kind, reading: Reading, first: int, last: int) -> Hit:
    return Hit(kind, *reading.range_of(first, last))


def _whole(secret: Secret, reading: Reading, near: Near) -> Iterator[Hit]:
    """The whole of a short answer; a bare yes or no counts where the target begins with it."""
    if all(map(is_function_word, secret.tokens)):
        start, end = reading.first_of_target, reading.first_of_target + len(secret.tokens)
        if near >= Near.ASKED and secret.tokens and tuple(reading.norms[start:end]) == secret.tokens:
            yield _hit("verbatim", reading, start, end)
    elif (near >= Near.ASKED or any(word.rare for word in secret.answer)) and not secret.public.issuperset(
        secret.tokens
    ):
        for first, last in reading.find(secret.tokens):
            yield _hit("verbatim", reading, first, last)


def _parts_of_emails(secret: Secret, reading: Reading, near: Near, hidden: frozenset[str]) -> Iterator[Hit]:
    """The domain's name, or the part before the @ where it is written as one word."""
    for email in secret.emails:
        for norm in email.domain[:-1]:
            free = norm in FREE_MAIL and near < Near.ASKED
            if len(norm) > 2 and not (free or is_ordinary(norm) or singular(norm) in hidden | secret.public):
                yield from (_hit("email", reading, at, at + 1) for at in reading.places.get(singular(norm), ()))
        for first, last in reading.find(email.local) if len(email.local) > 1 else ():
            start, end = reading.range_of(first, last)
            if not any(character.isspace() for character in reading.text[start:end]):
                yield Hit("email", start, end)


def _streets(secret: Secret, reading: Reading) -> Iterator[Hit]:
    """The street without its number."""
    for address in secret.addresses:
        street = tuple(norm for norm in address if not norm[0].isdigit())
        if len(street) > 1 and not secret.public.issuperset(street):
            for first, last in reading.find_street(street):
                yield _hit("address", reading, first, last)


def _dates(secret: Secret, reading: Reading, near: Near) -> Iterator[Hit]:
    for span in reading.spans if secret.days or secret.decades else ():
        if span.kind == "date" and (
            span.norm in secret.decades
            or any(_is_same(known, said) for known in secret.days for said in read_days(span.norm))
        ):
            yield Hit("date", span.start, span.end)
    for known in secret.days:
        yield from (_hit("date", reading, *place) for place in reading.numbers.get(known.year or "", ()))
        for at in reading.places.get(MONTHS[known.month - 1], ()) if near >= Near.ASKED and known.month else ():
            if reading.is_capital(at):
                yield _hit("date", reading, at, at + 1)


def _is_same(known: Day, said: Day) -> bool:
    """True when the year is right, or the day of the year."""
    same_day = None not in (known.month, known.day) and (known.month, known.day) == (said.month, said.day)
    return same_day or (known.year is not None and known.year == said.year)


def _numbers(secret: Secret, reading: Reading, near: Near) -> Iterator[Hit]:
    """Numbers of the answer; short ones, and the last four digits of a phone, only where the row asks for them."""
    digits = {digits for digits in secret.numbers if near >= Near.ASKED or len(digits) >= TELLING_DIGITS}
    for number in digits | {phone[-4:] for phone in secret.phones if near >= Near.ASKED}:
        yield from (_hit("number", reading, *place) for place in reading.numbers.get(number, ()))


def _names(secret: Secret, reading: Reading, hidden: frozenset[str]) -> Iterator[Hit]:
    """Names by the words in them that are not ordinary, as far as these stand together.

    One word of a title has to be capitalised: "Kingdom" of "The Lost Kingdom of Oz" is one, "a kingdom" is not.
    """
    shown = sorted(at for name in secret.names - hidden for at in reading.places.get(name, ()))
    for first, last in _together(shown):
        common = last - first == 1 and singular(reading.norms[first]) in secret.title_words
        if not common or reading.is_capital(first):
            yield _hit("name", reading, first, last)
    for phrase in (phrase for phrase in secret.phrases if not hidden.issuperset(map(singular, phrase))):
        yield from (_hit("name", reading, first, last) for first, last in reading.find(phrase))


def _together(indices: list[int]) -> Iterator[tuple[int, int]]:
    """Neighbouring indices as ranges."""
    start = 0
    for at in range(1, len(indices) + 1):
        if at == len(indices) or indices[at] != indices[at - 1] + 1:
            yield indices[start], indices[at - 1] + 1
            start = at


def _pairs(secret: Secret, reading: Reading, hidden: frozenset[str]) -> Iterator[Hit]:
    """Two rare words of the answer that stand together in both."""
    shown = sorted((at, word) for word in secret.words - hidden for at in reading.places.get(word, ()))
    for (first, one), (last, other) in pairwise(shown):
        if one != other and last - first <= PAIR_WINDOW and _stand_together(secret, one, other):
            yield _hit("ngram", reading, first, last + 1)


def _stand_together(secret: Secret, one: str, other: str) -> bool:
    places = {word: [at for at, own in enumerate(secret.answer) if own.singular == word] for word in (one, other)}
    return any(abs(a - b) <= PAIR_WINDOW for a in places[one] for b in places[other])


def _telling(secret: Secret, reading: Reading, near: Near, hidden: frozenset[str]) -> Iterator[Hit]:
    """A single word that answers the question."""
    for word in (secret.telling if near == Near.OWN else secret.concrete) - hidden:
        yield from (_hit("ngram", reading, at, at + 1) for at in reading.places.get(word, ()))


def _wording(secret: Secret, reading: Reading) -> Iterator[Hit]:
    """A run of the answer's own words, however ordinary."""
    for start, norm in enumerate(secret.tokens):
        for first in reading.places.get(singular(norm), ()):
            if start and first and secret.tokens[start - 1] == reading.norms[first - 1]:
                continue
            length = common_length(secret.tokens[start:], reading.norms[first:])
            said = secret.said_in(start, length)
            if len(said) >= WORDS_IN_RUN:
                yield _hit("ngram", reading, first + said[0], first + said[-1] + 1)


def common_length(answer: tuple[str, ...], text: list[str]) -> int:
    """How many tokens the two have in common from their beginnings."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(answer, text, strict=False)))
