"""Find typed spans in a text by rules: e-mails, phone numbers, dates, addresses, numbers and capitalised names.

No model is used, so the spans are the same on every machine. Each span has a normalised value, so that "14 March 1987"
and "14/03/1987", or "48,200" and "48200", compare as equal. Below `find_spans` there is one section per kind of span.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from relearn.text.normalize import fold, is_ordinary, norms, word_list, word_set

SpanKind = Literal["email", "phone", "date", "address", "number", "name"]


@dataclass(frozen=True, slots=True)
class Span:
    """Store a typed span: character offsets `start` and `end`, the `text` between them, its normalised value `norm`.

    `norm` of an e-mail: lower case; phone number and number: digits (a decimal point is kept); date: "1987-03-14",
    "1987-03", "1987", "1980s", "--03-14" (no year), two dates joined by "|" where the order of day and month is
    ambiguous; address and name: folded words joined by a space.
    """

    kind: SpanKind
    start: int
    end: int
    text: str
    norm: str


def find_spans(text: str) -> list[Span]:
    """Find all spans of a text, without overlaps, in order of `start`.

    Where spans overlap, the first of these kinds wins: email, date, address, phone, number, name.
    """
    spans: list[Span] = []
    for finder in (_emails, _dates, _addresses, _phones, _numbers, _names):
        for span in finder(text):
            if all(span.end <= other.start or other.end <= span.start for other in spans):
                spans.append(span)
    return sorted(spans, key=lambda span: span.start)


_EMAIL = re.compile(r"[^\W_](?:[\w.+%-]*[\w+%-])?\s?@\s?(?:[^\W_](?:[\w-]*[^\W_])?\.)+[^\W\d_]{2,}")


def _emails(text: str) -> Iterator[Span]:
    for match in _EMAIL.finditer(text):
        yield Span("email", match.start(), match.end(), match.group(), fold(re.sub(r"\s", "", match.group())))


MONTHS = word_list("january february march april may june july august september october november december")
_MONTH = (
    r"(?P<month>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|"
    r"oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\b\.?"
)
_DAY = r"(?P<day>[0-3]?\d)(?:st|nd|rd|th)?"
_YEAR = r"(?P<year>(?:1[0-9]|20)\d\d)"
_UNIT = r"(?!\s*(?:%|euros?|dollars?|pounds?|usd|eur|gbp|kg|km|metres?|meters?|miles?|people|words|copies)\b)"
_DATES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"(?<![\w-]){_YEAR}[-/.](?P<month>[01]?\d)[-/.](?P<day>[0-3]?\d)(?!\w)",
        r"(?<![\w.-])(?P<a>[0-3]?\d)(?P<cut>[-/.])(?P<b>[0-3]?\d)(?P=cut)(?P<year>(?:1[0-9]|20)\d\d|\d\d)(?!\w)",
        rf"\b(?:the\s+)?{_DAY}\s+(?:day\s+)?(?:of\s+)?{_MONTH},?\s+(?:of\s+)?{_YEAR}\b",
        rf"\b{_MONTH}\s+(?:the\s+)?{_DAY}\s*,?\s+(?:of\s+)?{_YEAR}\b",
        rf"\b{_MONTH},?\s+(?:of\s+)?{_YEAR}\b",
        rf"\b(?:the\s+)?{_DAY}\s+(?:day\s+)?(?:of\s+)?{_MONTH}(?!\w)",
        rf"\b{_MONTH}\s+(?:the\s+)?{_DAY}\b(?![,.]?\d)",
        rf"(?<![\w.,/-]){_YEAR}(?P<decade>s)?(?![\w/-]|[.,]\d){_UNIT}",
    )
)


def _dates(text: str) -> Iterator[Span]:
    for pattern in _DATES:
        for match in pattern.finditer(text):
            value = _date_value(match.groupdict())
            bare_year = match.groupdict().keys() <= {"year", "decade"}
            if value is not None and not (bare_year and _STREET_AFTER.match(text, match.end())):
                yield Span("date", match.start(), match.end(), match.group(), value)


def _date_value(parts: dict[str, str | None]) -> str | None:
    year = parts.get("year")
    if parts.get("decade"):
        return f"{year}s"
    if parts.get("a"):
        return _numeric_date(int(parts["a"] or 0), int(parts["b"] or 0), str(year))
    month = _month_number(parts.get("month"))
    day = int(parts.get("day") or 0) or None
    if "month" in parts and not (month and (day is None or day <= 31)):
        return None
    pieces = [year or "-", f"{month:02d}" if month else "", f"{day:02d}" if day else ""]
    return "-".join(piece for piece in pieces if piece)


def _numeric_date(first: int, second: int, year: str) -> str | None:
    """Parse a date such as 14/03/1987, day first and month first.

    Returns both dates joined by "|" where both are valid, None where neither is.
    """
    if len(year) == 2:
        year = ("19" if int(year) > 30 else "20") + year
    orders = [(first, second), (second, first)] if first != second else [(first, second)]
    values = [f"{year}-{month:02d}-{day:02d}" for day, month in orders if 1 <= month <= 12 and 1 <= day <= 31]
    return "|".join(values) or None


def _month_number(text: str | None) -> int | None:
    if not text:
        return None
    if text.isdigit():
        return int(text) if 1 <= int(text) <= 12 else None
    return next(number for number, name in enumerate(MONTHS, 1) if name.startswith(text.lower()[:3]))


_STREETS = (
    "street|st|road|rd|avenue|ave|lane|ln|boulevard|blvd|drive|dr|court|ct|square|sq|place|pl|terrace|way|alley|quay|"
    "row|crescent|close|gardens?|park|parkway|highway|hwy|village|palace|walk|mews|hill|circle|plaza|trail|path|yard|"
    "gate|bridge|wharf|dock|grove|heights|house|building|tower|apartments?|estate|mansions?|loop|pass|esplanade"
)
_CAPITAL = r"(?:[ld]['’])?[^\W\d_a-zà-öø-ÿ][\w'’-]*"
_NAME_WORD = rf"(?:(?:{_CAPITAL}|de|la|le|du|des|del|della|di|do|da|los|las|van|der|den|of|the)\s)"
_STREET_AFTER = re.compile(rf"\s{_NAME_WORD}{{1,4}}?(?i:{_STREETS})\b")
_ADDRESSES = (
    re.compile(
        rf"(?<![\w.,/-])\d{{1,6}}[A-Za-z]?(?:[-/]\d{{1,4}})?,?\s{_NAME_WORD}{{1,5}}?(?i:{_STREETS})\b"
        rf"(?:\s(?=[A-Z])(?i:{_STREETS})\b)?"
    ),
    re.compile(
        rf"\b(?i:rue|via|calle|avenida|rua|plaza|piazza|paseo|viale|corso|carrer|ulitsa|ul\.|jalan)\s"
        rf"{_NAME_WORD}{{0,4}}{_CAPITAL},?\s\d{{1,5}}[A-Za-z]?\b"
    ),
    re.compile(
        r"\b[^\W\d_]*(?i:stra(?:ß|ss)e|str\.|weg|gasse|platz|allee|damm|ufer|straat|laan|gade|gatan|vej)\s\d{1,4}[a-z]?\b"
    ),
    re.compile(rf"(?<=\bat )\d{{1,6}}[A-Za-z]?\s(?!(?i:{'|'.join(MONTHS)})\b){_NAME_WORD}{{0,3}}{_CAPITAL}"),
)


def _addresses(text: str) -> Iterator[Span]:
    for pattern in _ADDRESSES:
        for match in pattern.finditer(text):
            address = match.group().rstrip("'’-")
            yield Span("address", match.start(), match.start() + len(address), address, " ".join(norms(address)))


_PHONE = re.compile(
    r"(?<![\w@.])(?:\d{3}-\d{4}|(?:\+|\(?0|\(?\d{2,4}\)?[ \-./])[\d()][\d() \-./]{4,18}\d)(?![\w@]|[.,]\d)"
)


def _phones(text: str) -> Iterator[Span]:
    for match in _PHONE.finditer(text):
        digits = re.sub(r"\D", "", match.group())
        if 7 <= len(digits) <= 15:
            yield Span("phone", match.start(), match.end(), match.group(), digits)


_NUMBER = re.compile(
    r"(?<![\w.])\d+(?:[,’'\u00a0\u2009\u202f]\d{3})*(?:\.\d+)?(?=(?:st|nd|rd|th|s|k|m|bn|%|km|kg|cm)?(?!\w))",
    re.IGNORECASE,
)


def _numbers(text: str) -> Iterator[Span]:
    for match in _NUMBER.finditer(text):
        yield Span("number", match.start(), match.end(), match.group(), re.sub(r"[^\d.]", "", match.group()))


_WORD = re.compile(r"[^\W\d_](?:[^\W_\u0300-\u036f]|[\u0300-\u036f]|[-‐‑'’](?![sS]\b)(?=[^\W_]))*")
_NAME_PARTICLES = word_set("of the de la le du des del della di da do dos van von der den ter bin ibn al el y e av")
_TITLES = word_set("dr mr mrs ms prof sir lady sra sr mme")
_ABBREVIATED = _TITLES | {"st", "mt", "ft"}
_NOT_NAMES = frozenset(MONTHS) | _TITLES | {"i", "ok"}
_DERIVED = ("ing", "ed", "ly")
_SENTENCE_OPENERS = " \t\u00a0'\"“‘(*[-–—"
_SENTENCE_ENDS = ".!?:;\n"


def _names(text: str) -> Iterator[Span]:
    words = list(_WORD.finditer(text))
    if _is_all_capitals(words):
        return
    first = 0
    while first < len(words):
        last = _name_end(text, words, first)
        begin = _name_begin(text, words, first, last)
        if begin < last:
            start, end = words[begin].start(), words[last - 1].end()
            yield Span("name", start, end, text[start:end], " ".join(norms(text[start:end])))
        first = max(last, first + 1)


def _is_all_capitals(words: list[re.Match[str]]) -> bool:
    """Return whether most words are in capitals, so that a capital letter does not indicate a name."""
    long = [word for word in words if len(word.group()) > 1]
    return len(long) > 3 and sum(word.group().isupper() for word in long) > 0.6 * len(long)


def _name_end(text: str, words: list[re.Match[str]], first: int) -> int:
    """Return the index after the run of capitalised words that starts at `first`; `first` where there is no run."""
    last = first
    while last < len(words) and words[last].group()[0].isupper():
        last += 1
        ahead = last
        while ahead < min(last + 2, len(words)) and words[ahead].group() in _NAME_PARTICLES:
            ahead += 1
        if ahead < len(words) and all(_joined(text, words, index) for index in range(last, ahead + 1)):
            last = ahead if words[ahead].group()[0].isupper() else last
        else:
            break
    return last


def _joined(text: str, words: list[re.Match[str]], index: int) -> bool:
    """Return whether a word follows the previous one after a space, or after the full stop of a title or initial."""
    before = words[index - 1].group()
    gap = text[words[index - 1].end() : words[index].start()]
    return gap in (" ", "\u00a0") or (gap in (".", ". ") and (len(before) == 1 or before.lower() in _ABBREVIATED))


def _name_begin(text: str, words: list[re.Match[str]], first: int, last: int) -> int:
    """Return the index of the first word of a name, after sentence openers, articles, titles and months.

    Returns `last` where no name is left.
    """
    while first < last:
        word = fold(words[first].group())
        opens = starts_sentence(text, words[first].start())
        alone = first + 1 == last
        starter = opens and (is_ordinary(word) or (alone and word.endswith(_DERIVED)))
        if not (starter or word in _NOT_NAMES or word in _NAME_PARTICLES or (alone and is_ordinary(word))):
            break
        first += 1
    return first


def starts_sentence(text: str, start: int) -> bool:
    """Return whether the word at offset `start` begins a sentence or a line, where every word is capitalised."""
    before = text[:start].rstrip(_SENTENCE_OPENERS)
    if not before or text[len(before) : start].find("\n") >= 0:
        return True
    if before[-1] not in _SENTENCE_ENDS:
        return False
    previous = _WORD.findall(before[-12:])
    return not (before[-1] == "." and previous and (len(previous[-1]) == 1 or previous[-1].lower() in _TITLES))
