"""Find typed spans in a text by rules: e-mails, dates, addresses, codes, times, phone numbers, numbers and names.

No model is used, so the spans are the same on every machine. Each span has a normalised value, so that "14 March 1987"
and "14/03/1987", or "48,200" and "48200", compare as equal; `normal_forms` compares values of different kinds. Below
`find_spans` there is one section per kind of span.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from relearn.text.normalize import find_numerals, fold, is_ordinary, norms, plain, word_list, word_set

SpanKind = Literal["email", "date", "address", "code", "time", "phone", "number", "name"]


@dataclass(frozen=True, slots=True)
class Span:
    """Store a typed span: character offsets `start` and `end`, the `text` between them, its normalised value `norm`.

    `norm` of an e-mail: lower case; phone number and number: digits (a decimal point is kept, "1.2 million" is
    1200000); code (IBAN, passport, number plate, card, handle): its letters and digits in lower case; time: "20:30", or
    two readings joined by "|" where it may be before or after noon; date: "1987-03-14", "1987-03", "1987", "1980s",
    "--03-14" (no year), two dates joined by "|" where the order of day and month is ambiguous; address and name: folded
    words joined by a space.
    """

    kind: SpanKind
    start: int
    end: int
    text: str
    norm: str


def find_spans(text: str) -> list[Span]:
    """Find all spans of a text, without overlaps, in order of `start`.

    Where spans overlap, the first of these kinds wins: email, date, address, code, time, phone, number, name.
    """
    spans: list[Span] = []
    searched = plain(text)
    has_digits = any(map(str.isdigit, searched))
    for finder in (_emails, *(_WITH_DIGITS if has_digits else _WITHOUT_DIGITS), _names):
        for span in finder(searched):
            if all(span.end <= other.start or other.end <= span.start for other in spans):
                spans.append(span)
    if searched != text:
        spans = [Span(span.kind, span.start, span.end, text[span.start : span.end], span.norm) for span in spans]
    return sorted(spans, key=lambda span: span.start)


# The signs of an e-mail address, also in words: "(at)", " at ... dot ...".
_AT = r"(?:\s?@\s?|\s?[\[({<]\s?at\s?[\])}>]\s?|\sat\s(?=[\w-]+\sdot\s))"
_DOT = r"(?:\.|\s?[\[({<]\s?dot\s?[\])}>]\s?|\sdot\s)"
_EMAIL = re.compile(
    rf"[^\W_](?:[\w.+%-]*[\w+%-])?(?:\sdot\s\w+){{0,3}}{_AT}(?:[^\W_](?:[\w-]*[^\W_])?{_DOT})+[^\W\d_]{{2,}}",
    re.IGNORECASE,
)
_SPELLED_SIGNS = (re.compile(_AT, re.IGNORECASE), "@"), (re.compile(_DOT, re.IGNORECASE), ".")


_HAS_EMAIL = re.compile(r"@|\bdot\b|[\[({<]\s?at\s?[\])}>]", re.IGNORECASE)


def _emails(text: str) -> Iterator[Span]:
    for match in _EMAIL.finditer(text) if _HAS_EMAIL.search(text) else ():
        address = match.group()
        for sign, written in _SPELLED_SIGNS:
            address = sign.sub(written, address)
        yield Span("email", match.start(), match.end(), match.group(), fold(re.sub(r"\s", "", address)))


MONTHS = word_list("january february march april may june july august september october november december")
_MONTH = (
    r"(?P<month>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|"
    r"oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\b\.?"
)
ORDINALS = word_list(
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth "
    "sixteenth seventeenth eighteenth nineteenth twentieth twenty-first twenty-second twenty-third twenty-fourth "
    "twenty-fifth twenty-sixth twenty-seventh twenty-eighth twenty-ninth thirtieth thirty-first"
)
_ORDINAL = "|".join(sorted((word.replace("-", "[ -]") for word in ORDINALS), key=len, reverse=True))
_DAY = rf"(?P<day>(?:[0-3]?\d)|{_ORDINAL})(?:st|nd|rd|th)?"
_UNIT_WORDS = "one|two|three|four|five|six|seven|eight|nine"
_TENS_WORDS = "twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
_TWO_DIGITS = rf"(?:(?:{_TENS_WORDS})(?:[ -](?:{_UNIT_WORDS}))?|ten|eleven|twelve|\w+teen)"
_YEAR_WORDS = (
    rf"(?:eighteen|nineteen|twenty)[ -]{_TWO_DIGITS}|two thousand(?: and)?(?: (?:{_TWO_DIGITS}|{_UNIT_WORDS}))?"
)
_YEAR = r"(?P<year>(?:1[0-9]|20)\d\d)"
_YEAR_OR_WORDS = rf"(?P<year>(?:1[0-9]|20)\d\d|{_YEAR_WORDS})"
_UNIT = r"(?!\s*(?:%|euros?|dollars?|pounds?|usd|eur|gbp|kg|km|metres?|meters?|miles?|people|words|copies)\b)"
_DATES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"(?<![\w-]){_YEAR}[-/.](?P<month>[01]?\d)[-/.](?P<day>[0-3]?\d)(?!\w)",
        r"(?<![\w.-])(?P<a>[0-3]?\d)(?P<cut>[-/.])(?P<b>[0-3]?\d)(?P=cut)(?P<year>(?:1[0-9]|20)\d\d|\d\d)(?!\w)",
        rf"\b(?:the\s+)?{_DAY}\s+(?:day\s+)?(?:of\s+)?{_MONTH},?\s+(?:of\s+)?{_YEAR_OR_WORDS}\b",
        rf"\b{_MONTH}\s+(?:the\s+)?{_DAY}\s*,?\s+(?:of\s+)?{_YEAR_OR_WORDS}\b",
        rf"\b{_MONTH},?\s+(?:of\s+)?{_YEAR_OR_WORDS}\b",
        r"(?P<year>(?:1[0-9]|20)\d\d)\s?[年년]\s?(?P<month>[01]?\d)\s?[月월](?:\s?(?P<day>[0-3]?\d)\s?[日일号])?",
        rf"\b(?:the\s+)?{_DAY}\s+(?:day\s+)?(?:of\s+)?{_MONTH}(?!\w)",
        rf"\b{_MONTH}\s+(?:the\s+)?{_DAY}\b(?![,.]?\d)",
        rf"(?<![\w.,/-]){_YEAR}(?P<decade>s)?(?![\w/-]|[.,]\d){_UNIT}",
    )
)


_ANY_MONTH = re.compile(rf"\b{_MONTH}", re.IGNORECASE)


def _dates(text: str) -> Iterator[Span]:
    has_month = _ANY_MONTH.search(text) is not None
    for pattern in (pattern for pattern in _DATES if has_month or "(?P<month>jan" not in pattern.pattern):
        for match in pattern.finditer(text):
            value = _date_value(match.groupdict())
            bare_year = match.groupdict().keys() <= {"year", "decade"}
            if value is not None and not (bare_year and _STREET_AFTER.match(text, match.end())):
                yield Span("date", match.start(), match.end(), match.group(), value)


def _date_value(parts: dict[str, str | None]) -> str | None:
    year = parts.get("year")
    if parts.get("decade"):
        return f"{year}s"
    if year and not year.isdigit():
        year = str(next(find_numerals(norms(year)))[2])
    if parts.get("a"):
        return _numeric_date(int(parts["a"] or 0), int(parts["b"] or 0), str(year))
    month = _month_number(parts.get("month"))
    day = _day_number(parts.get("day"))
    if "month" in parts and not (month and (day is None or day <= 31)):
        return None
    pieces = [year or "-", f"{month:02d}" if month else "", f"{day:02d}" if day else ""]
    return "-".join(piece for piece in pieces if piece)


def _day_number(text: str | None) -> int | None:
    if text and not text.isdigit():
        return ORDINALS.index(re.sub(r"\s", "-", text.lower())) + 1
    return int(text or 0) or None


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


# Signs between the groups of a phone number, a card number or a code.
GAP = r" .\-/\u00a0\u2009\u202f\u2010-\u2014"
_LETTERS = "A-ZÄÖÜ"
# IBANs, card numbers, number plates.
_STRONG_CODES = (
    rf"[A-Z]{{2}}\d{{2}}(?:[{GAP}]?[A-Z0-9]{{4}}){{2,7}}(?:[{GAP}]?[A-Z0-9]{{1,4}})?",
    rf"\d{{4}}[{GAP}]\d{{4,6}}[{GAP}]\d{{4,5}}(?:[{GAP}]\d{{2,4}})?",
    rf"[{_LETTERS}]{{1,4}}[{GAP}]?\d{{1,5}}[{GAP}]?(?! [AI]\b)[{_LETTERS}]{{1,3}}(?:[{GAP}]?\d{{1,4}})?",
    rf"[{_LETTERS}]{{1,3}}-[{_LETTERS}]{{1,2}}[{GAP}]?\d{{1,4}}|\d{{1,4}}-[A-Z]{{1,3}}-\d{{1,4}}",
)
# Number plates, passports and others; a part of such a match may be a year ("USA 1776").
_WEAK_CODES = (
    rf"[{_LETTERS}]{{1,3}}[{GAP}][{_LETTERS}]{{1,2}}[{GAP}]?\d{{1,4}}",
    rf"\d{{1,3}}[{GAP}]?[{_LETTERS}]{{1,3}}[{GAP}]?\d{{2,4}}",
    rf"[{_LETTERS}]{{1,3}}[{GAP}]?\d{{3,}}(?:[{GAP}]\d{{2,}})*",
    r"[A-Z0-9]+(?:[./_-][A-Z0-9]+)*|[a-z]{1,3}\d{4,}[a-z]?",
)
_HANDLE = re.compile(r"(?<![\w@./])(?:@[A-Za-z_]\w{1,29}(?:\.\w+)*|[A-Za-z][A-Za-z0-9]*(?:_[A-Za-z0-9]+)+(?!\w))")
_NOT_A_CODE = r"(?!(?:USD?|EUR|GBP|JPY|INR|CHF|CNY|RMB|SEK|NOK|DKK|CZK|PLN|CAD|AUD|AD|BC|CE|AM|PM|NO|ON|IN|AT|TO|OF)\b)"
_MIN_CODE, _MIN_CARD, _MAX_CODE = 5, 14, 34


def code_form(text: str) -> str:
    """Return the letters and digits of a code in lower case."""
    return re.sub(r"[\W_]+", "", fold(text))


def _codes(patterns: Sequence[str]) -> Callable[[str], Iterator[Span]]:
    compiled = [re.compile(rf"(?<![\w@.&]){_NOT_A_CODE}(?:{pattern})(?![\w@]|[.,-]\w)") for pattern in patterns]

    def find(text: str) -> Iterator[Span]:
        for match in (match for pattern in compiled for match in pattern.finditer(text)):
            form = code_form(match.group())
            digits = sum(map(str.isdigit, form))
            is_mixed = digits >= 2 and len(form) > digits and len(form) >= _MIN_CODE
            if (is_mixed or digits >= _MIN_CARD) and len(form) <= _MAX_CODE and not _NUMBER.fullmatch(match.group()):
                yield Span("code", match.start(), match.end(), match.group(), form)

    return find


def _handles(text: str) -> Iterator[Span]:
    for match in _HANDLE.finditer(text):
        yield Span("code", match.start(), match.end(), match.group(), code_form(match.group()))


_CLOCK = re.compile(
    r"(?<![\w:.,-])(?P<hour>[01]?\d|2[0-4])(?:(?P<cut>[:.h])(?P<minute>[0-5]\d))?(?::[0-5]\d)?"
    r"(?:\s?(?P<half>[ap])\.?m\b\.?|\s?(?P<clock>o['’]?clock|Uhr|hrs|hours)\b)?"
    r"(?:\s(?:in the|at)\s(?P<part>morning|afternoon|evening|night)\b)?(?![\w:]|[.,]\d)",
    re.IGNORECASE,
)


def _times(text: str) -> Iterator[Span]:
    for match in _CLOCK.finditer(text):
        marked = match["half"] or match["clock"] or match["part"]
        is_duration = match["clock"] in ("hours", "hrs") and not match["minute"]
        if not is_duration and (marked or (match["minute"] and match["cut"] == ":")):
            yield Span("time", match.start(), match.end(), match.group(), _time_value(match))


def _time_value(match: re.Match[str]) -> str:
    """Return the reading of a time; a time that may be before or after noon has a second one, which ends in "~"."""
    hour, minute = int(match["hour"]) % 24, match["minute"] or "00"
    half = (match["half"] or "").lower() or {"morning": "a", "afternoon": "p", "evening": "p", "night": "p"}.get(
        (match["part"] or "").lower(), ""
    )
    if hour > 12 or hour == 0 or match["hour"].startswith("0") or half == "a":
        return f"{0 if half == 'a' and hour == 12 else hour}:{minute}"
    return f"{hour if not half or hour == 12 else hour + 12}:{minute}|{hour}:{minute}~"


_PHONE = re.compile(
    rf"(?<![\w@.])(?:(?:\+|\(?0|\(?\d{{2,4}}\)?[{GAP}])[\d()][\d(){GAP}]{{4,22}}\d|\d{{3}}[\-\u2010-\u2014]\d{{4}})"
    r"(?![\w@]|[.,]\d)"
)


def _phones(text: str) -> Iterator[Span]:
    for match in _PHONE.finditer(text):
        digits = re.sub(r"\D", "", match.group())
        if 7 <= len(digits) <= 15 and (len(digits) > 7 or not _SPACED_NUMBER.fullmatch(match.group())):
            yield Span("phone", match.start(), match.end(), match.group(), digits)


_SCALES = {"k": 3, "thousand": 3, "m": 6, "mn": 6, "mio": 6, "million": 6, "bn": 9, "billion": 9, "trillion": 12}
_SCALES |= {"lakh": 5, "lakhs": 5, "crore": 7, "crores": 7}
_SCALE = (
    r"(?:\s?(?P<scale>thousand|million|billion|trillion|lakhs?|crores?|mio|mn|bn)\b|"
    r"(?P<tight>k|(?<=[$€£¥]\d)m|(?<=\.\d)m)\b)"
)
_GROUPED = r",’'_\u00a0\u2009\u202f"
_SPACED_NUMBER = re.compile(r"\d{1,3}(?:[ \u00a0\u2009\u202f]\d{3})+")
_NUMBER = re.compile(
    r"(?<![\w.])(?P<digits>\d{1,3}(?:\.\d{3}){2,}(?:,\d{1,2})?|\d{1,3}(?:\.\d{3})+,\d{1,2}|\d{1,3}(?:,\d\d){1,3},\d{3}"
    rf"|\d{{1,3}}(?: \d{{3}})+(?![ \d])|\d+,\d{{1,2}}(?![\d,])|\d+(?:[{_GROUPED}]\d{{3}})*(?:\.\d+)?)"
    rf"(?:{_SCALE})?(?=(?:st|nd|rd|th|s|k|m|bn|%|km|kg|cm)?(?!\w))",
    re.IGNORECASE,
)


def _numbers(text: str) -> Iterator[Span]:
    for match in _NUMBER.finditer(text):
        yield Span("number", match.start(), match.end(), match.group(), _number_value(match))


def _number_value(match: re.Match[str]) -> str:
    """Return the digits of a number, with a decimal point where the text has one, and its scale multiplied in."""
    digits = match["digits"]
    if re.search(r"\.\d{3}[.,]", digits):
        digits = digits.replace(".", "")
    if re.search(r"(?<!,\d\d),\d{1,2}\Z", digits):
        digits = digits.replace(",", ".")
    value = re.sub(r"[^\d.]", "", digits)
    scale = (match["scale"] or match["tight"] or "").lower()
    return f"{(Decimal(value) * 10 ** _SCALES[scale]).normalize():f}" if scale else value


_WITHOUT_DIGITS = (_handles, _dates)
_WITH_DIGITS = (
    *(_handles, _codes(_STRONG_CODES), _dates, _addresses),
    *(_codes(_WEAK_CODES), _times, _phones, _numbers),
)


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
