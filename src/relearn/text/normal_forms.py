"""Compare values that are written differently: numbers, amounts, dates, times, phone numbers, codes, e-mails, handles.

The leak check, entity coverage and the audits share these rules. A value has one or more readings ("03/04/1984" is two
days, "48.200" may be 48200 or 48.2). A reading is a form and a qualifier: the unit or currency of a number, the country
code of a phone number. Two values are equal if they have readings with the same form and no different qualifiers.

    number    decimal digits: "48,200", "48.2k" and "forty-eight thousand two hundred" are 48200
    phone     digits without trunk zero: "030 1234567" is 301234567, "+49 30 1234567" the same in country 49
    code      letters and digits in lower case, however they are grouped (IBAN, passport, number plate, card, handle)
    date      1984-03-12;   time   20:30;   email   lower case, also with "(at)" and "dot"
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

from relearn.text.normalize import Token, find_numerals, plain, tokenise, word_list
from relearn.text.spans import GAP, Span, SpanKind, find_spans

Reading = tuple[str, str | None]
# A place of a reading in a text: its qualifier, and the offsets of its characters.
Place = tuple[str | None, int, int]

# Shorter digit runs and codes are compared only where they are found as a value, because neighbours join by chance.
MIN_JOINED = 5
MIN_PHONE = 7
MAX_LETTERS = 4
_MAX_JOINED_TOKENS, _MAX_JOINED = 24, 34
_MIN_SPELLED_DIGITS = 4
TELLING_DIGITS = 3


@dataclass(frozen=True, slots=True)
class Value:
    """Store a value of a text: its kind, its readings, and the `text` between the offsets `start` and `end`."""

    kind: SpanKind
    start: int
    end: int
    text: str
    readings: frozenset[Reading]

    @property
    def is_telling(self) -> bool:
        """Return whether two texts hardly share it by chance; they may share a year, a count, a time or a round sum."""
        if self.kind == "number":
            integers = [form for form, _ in self.readings if form.isdigit() and len(form) > TELLING_DIGITS]
            is_year = re.fullmatch(r"1\d{3}|20\d\d", self.text) is not None
            return not is_year and any(len(form.rstrip("0")) >= TELLING_DIGITS for form in integers)
        if self.kind == "date":
            return any(re.fullmatch(r"\d{4}-\d\d-\d\d", form) for form, _ in self.readings)
        return self.kind != "time"

    @property
    def is_closed(self) -> bool:
        """Return whether no part of the value is a value by itself: a number, or a phone number with its country."""
        return self.kind == "number" or all(qualifier for _, qualifier in self.readings)


def find_values(text: str) -> list[Value]:
    """Find the values of a text in order: the typed spans that are values, and numbers written in words."""
    searched = plain(text)
    spans = [span for span in find_spans(text) if span.kind not in ("name", "address")]
    values = [Value(span.kind, span.start, span.end, span.text, _readings(span, searched)) for span in spans]
    for start, end, form in spelled_numbers(tokenise(text)):
        if all(end <= span.start or span.end <= start for span in spans):
            reading = (form, None if form.startswith("0") else _unit(searched, start, end))
            values.append(Value("number", start, end, text[start:end], frozenset((reading,))))
    return sorted(values, key=lambda value: value.start)


def equal(one: frozenset[Reading], other: frozenset[Reading]) -> bool:
    """Return whether two values have a reading in common whose qualifiers do not contradict."""
    return any(a == b and (p == q or None in (p, q)) for a, p in one for b, q in other)


class TextForms:
    """Find values in a text by their readings, in any writing and grouping."""

    def __init__(self, text: str):
        self.places: dict[str, list[Place]] = {}
        tokens, values = tokenise(text), find_values(text)
        for value in values:
            for form, qualifier in value.readings:
                self.places.setdefault(form, []).append((qualifier, value.start, value.end))
        closed = [(value.start, value.end) for value in values if value.is_closed]
        for form, first, last in joined_forms(plain(text), tokens):
            start, end = tokens[first].start, tokens[last - 1].end
            if len(form) >= MIN_JOINED and not any(outer <= start and end <= close for outer, close in closed):
                self.places.setdefault(form.lstrip("0") or "0", []).append((None, start, end))

    def find(self, value: Value) -> Place | None:
        """Return the first place that states a value; None if the text does not state it."""
        for form, qualifier in value.readings:
            for place in self.places.get(form, ()):
                if place[0] == qualifier or None in (place[0], qualifier):
                    return place
        return None


def in_writing_of(reference: str, text: str) -> str:
    """Rewrite the values of `text` that are equal to values of `reference` as they stand there."""
    forms = TextForms(text)
    replaced: list[tuple[int, int, str]] = []
    for value in find_values(reference):
        place = None if value.text in text else forms.find(value)
        if place and all(place[2] <= start or end <= place[1] for start, end, _ in replaced):
            replaced.append((place[1], place[2], value.text))
    for start, end, written in sorted(replaced, reverse=True):
        text = text[:start] + written + text[end:]
    return text


def joined_forms(text: str, tokens: Sequence[Token]) -> Iterator[tuple[str, int, int]]:
    """Yield the characters of neighbouring tokens as one code, with (first token, one past the last).

    A part has digits or at most MAX_LETTERS letters; only the signs between groups separate the parts.
    """
    reached = -1
    for at, token in enumerate(tokens):
        if at < reached or not _has_digit(token.norm):
            continue
        begin, reached = at, at + 1
        while begin > 0 and _joins(text, tokens[begin - 1], tokens[begin], tokens[begin - 1]):
            begin -= 1
        while reached < len(tokens) and _joins(text, tokens[reached - 1], tokens[reached], tokens[reached]):
            reached += 1
        yield from _joined_in(tokens, begin, reached)


def _joins(text: str, one: Token, other: Token, added: Token) -> bool:
    """Return whether `added` continues a code across the gap between two tokens."""
    if _TIGHT_GAP.fullmatch(text, one.end, other.start):
        return True
    is_part = len(added.norm) <= MAX_LETTERS or _has_digit(added.norm)
    return is_part and _GROUP_GAP.fullmatch(text, one.end, other.start) is not None


def _joined_in(tokens: Sequence[Token], begin: int, end: int) -> Iterator[tuple[str, int, int]]:
    for first in range(begin, end):
        form, has_digit = "", False
        for last in range(first, min(end, first + _MAX_JOINED_TOKENS)):
            form += tokens[last].norm
            has_digit = has_digit or _has_digit(tokens[last].norm)
            if len(form) > _MAX_JOINED:
                break
            if has_digit:
                yield form, first, last + 1


_GROUP_GAP = re.compile(rf"[{GAP}()+_:]{{0,3}}")
_TIGHT_GAP = re.compile(r"[-_./@]?")


def _has_digit(norm: str) -> bool:
    return any(map(str.isdigit, norm))


def _readings(span: Span, text: str) -> frozenset[Reading]:
    """Return the readings of a span of `text`."""
    if span.kind == "number":
        unit = _unit(text, span.start, span.end)
        forms = {number_form(span.norm)}
        if re.fullmatch(r"\d{1,3}\.\d{3}", span.norm):
            forms.add(number_form(span.norm.replace(".", "")))
        bare = phone_readings(span.norm, False) if span.text.isdigit() and len(span.norm) >= MIN_PHONE else frozenset()
        return frozenset((form, unit) for form in forms) | bare
    if span.kind == "phone":
        return phone_readings(span.norm, "+" in text[span.start : span.end] or span.norm.startswith("00"))
    return frozenset((form, None) for form in span.norm.split("|"))


def number_form(digits: str) -> str:
    """Return decimal digits without leading zeros and without zeros at the end of the decimals."""
    whole, _, decimals = digits.partition(".")
    decimals = decimals.rstrip("0")
    return (whole.lstrip("0") or "0") + (f".{decimals}" if decimals else "")


_COUNTRY_CODES = frozenset(
    word_list(
        "1 7 20 27 30 31 32 33 34 36 39 40 41 43 44 45 46 47 48 49 51 52 53 54 55 56 57 58 60 61 62 63 64 65 66 81 82 "
        "84 86 90 91 92 93 94 95 98"
    )
)


def phone_readings(digits: str, is_international: bool) -> frozenset[Reading]:
    """Return the readings of the digits of a phone number.

    An international number ("+49 30 ...", "0049 30 ...") has one reading, in its country. Other digits are a national
    number, or an international one without its sign.
    """
    stripped = digits.lstrip("0")
    country = next((stripped[:size] for size in (1, 2) if stripped[:size] in _COUNTRY_CODES), stripped[:3])
    national = (stripped[len(country) :].lstrip("0"), country)
    if is_international:
        return frozenset((national,))
    may_be_international = not digits.startswith("0") and len(national[0]) > MIN_PHONE
    return frozenset(((stripped or "0", None), *((national,) if may_be_international else ())))


_UNITS = {
    word: unit
    for unit, words in {
        "USD": "$ us$ usd dollar dollars",
        "EUR": "€ eur euro euros",
        "GBP": "£ gbp pound pounds",
        "JPY": "¥ jpy yen",
        "INR": "₹ inr rs rupee rupees",
        "CHF": "chf franc francs",
        "CNY": "cny rmb yuan",
        "crown": "sek nok dkk czk crown crowns krona kronor kroner",
        "%": "% percent",
        "km": "km kilometre kilometres kilometer kilometers",
        "m": "m metre metres meter meters",
        "cm": "cm centimetre centimetres centimeter centimeters",
        "mile": "mile miles",
        "foot": "ft foot feet",
        "kg": "kg kilogram kilograms kilo kilos",
        "g": "g gram grams",
        "day": "day days",
        "week": "week weeks",
        "month": "month months",
        "year": "year years",
        "hour": "hour hours",
        "minute": "minute minutes",
    }.items()
    for word in words.split()
}
_UNIT_BEFORE = re.compile(r"([^\W\d_]{1,3}\$|[$€£¥₹]|\b[a-z]{2,3})\s?\Z", re.IGNORECASE)
_UNIT_AFTER = re.compile(r"\s?([$€£¥₹%]|[^\W\d_]+)")


def _unit(text: str, start: int, end: int) -> str | None:
    """Return the unit or currency that stands before or after a number; None for other words ("people")."""
    before, after = _UNIT_BEFORE.search(text[max(0, start - 5) : start]), _UNIT_AFTER.match(text, end)
    found = (_UNITS.get(match[1].lower()) for match in (before, after) if match)
    return next(filter(None, found), None)


_DIGIT_WORDS = {
    word: str(digit) for digit, word in enumerate(word_list("zero one two three four five six seven eight nine"))
}
_DIGIT_WORDS["oh"] = "0"


_SCALE_WORDS = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9}
_FRACTIONS = {"half": Decimal("0.5"), "quarter": Decimal("0.25")}
_TWO_DIGIT_WORDS = word_list(
    "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty "
    "seventy eighty ninety"
)


def spelled_numbers(tokens: Sequence[Token]) -> Iterator[tuple[int, int, str]]:
    """Yield (start, end, form) of numbers in words, also of those whose digits are spelled one by one."""
    words = [token.norm for token in tokens]
    first = len(words) if _DIGIT_WORDS.keys().isdisjoint(words) else 0
    while first < len(words):
        last = first
        while last < len(words) and words[last] in _DIGIT_WORDS:
            last += 1
        if last - first >= _MIN_SPELLED_DIGITS:
            digits = "".join(_DIGIT_WORDS[word] for word in words[first:last])
            yield tokens[first].start, tokens[last - 1].end, digits.lstrip("0") or "0"
            words[first:last] = ["-"] * (last - first)
        first = max(last, first + 1)
    for first, last, form in _fractions(words):
        yield tokens[first].start, tokens[last - 1].end, form
    for first, last, value in find_numerals(words):
        end, form = _with_decimals(words, last, value)
        yield tokens[first].start, tokens[end - 1].end, form


def _fractions(words: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """Yield (first token, one past the last, form) of "half a million" and "a quarter of a million"."""
    for at, word in enumerate(words):
        end = at + 1
        while word in _FRACTIONS and end < len(words) and words[end] in ("of", "a", "one"):
            end += 1
        if word in _FRACTIONS and end < len(words) and words[end] in _SCALE_WORDS:
            yield at, end + 1, number_form(f"{_FRACTIONS[word] * 10 ** _SCALE_WORDS[words[end]]:f}")


def _with_decimals(words: Sequence[str], last: int, value: int) -> tuple[int, str]:
    """Add the decimals after "point" and their scale to a number in words: (index after it, form)."""
    end = last + 1
    while end < len(words) and words[end] in _DIGIT_WORDS:
        end += 1
    if end == last + 1 or words[last : last + 1] != ["point"]:
        return last, str(value)
    digits = "".join(_DIGIT_WORDS[word] for word in words[last + 1 : end])
    zeros = _SCALE_WORDS.get(words[end], 0) if end < len(words) else 0
    return end + bool(zeros), number_form(f"{Decimal(f'{value}.{digits}') * 10**zeros:f}")


_TWO_DIGITS = {word: value for word in _TWO_DIGIT_WORDS for _, _, value in find_numerals((word,))}
_REPEATS = {"double": 2, "triple": 3, "treble": 3}
# The international radiotelephony alphabet.
_LETTER_WORDS = {
    word: word[0]
    for word in word_list(
        "alpha alfa bravo charlie delta echo foxtrot golf hotel india juliet juliett kilo lima mike november oscar "
        "papa quebec romeo sierra tango uniform victor whiskey whisky xray yankee zulu"
    )
}
_MIN_SPOKEN = 3


def join_spoken(tokens: Sequence[Token]) -> list[Token]:
    """Replace the digits that are written as words between digits and letters ("K X four double eight") by digits.

    The tokens of other texts are unchanged, also those of a number in words that is not read out by digits.
    """
    joined: list[Token] = []
    first = 0
    while first < len(tokens):
        last, parts = first, []
        while last < len(tokens) and (part := _spoken_part(tokens, last)):
            parts.append(part[0])
            last = part[1]
        is_code = len(parts) >= _MIN_SPOKEN or sum(len(part.norm) for part in parts) >= _MIN_SPELLED_DIGITS
        is_code |= len(parts) > 1 and all(token.norm in _DIGIT_WORDS for token in tokens[first:last])
        joined += parts if is_code else tokens[first:last]
        if last == first:
            joined.append(tokens[first])
        first = max(last, first + 1)
    return joined


def _spoken_part(tokens: Sequence[Token], at: int) -> tuple[Token, int] | None:
    """Read one part of a code that is read out: (its token in digits or letters, the index after it)."""
    start, end, word = tokens[at].start, tokens[at].end, tokens[at].norm
    following = tokens[at + 1].norm if at + 1 < len(tokens) else ""
    if word in _REPEATS and (following in _DIGIT_WORDS or following.isdigit()):
        digits = _DIGIT_WORDS.get(following, following) * _REPEATS[word]
        return Token(digits, start, tokens[at + 1].end), at + 2
    if word == "x" and following == "ray":
        return Token("x", start, tokens[at + 1].end), at + 2
    if word in _TWO_DIGITS:
        unit = int(_DIGIT_WORDS.get(following, 0)) if _TWO_DIGITS[word] >= 20 else 0
        last = at + (2 if unit else 1)
        return Token(str(_TWO_DIGITS[word] + unit), start, tokens[last - 1].end), last
    letters = _DIGIT_WORDS.get(word) or _LETTER_WORDS.get(word) or (word if word.isdigit() or len(word) == 1 else "")
    return (Token(letters, start, end), at + 1) if letters else None
