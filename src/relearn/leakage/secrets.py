"""What of a record is secret: the names, numbers, dates, addresses, emails and words of its answer that its question
does not itself contain.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from relearn.data import Record
from relearn.text.normalize import find_numerals, is_function_word, is_ordinary, norms, singular, street_form, tokenise
from relearn.text.spans import Span, find_spans
from relearn.text.subjects import NameTokens, common_words, find_subjects, lower_case_words

# Words made from others by these endings are abstract more often than not: alone they tell little.
_ABSTRACT = (
    "tion",
    "sion",
    "ity",
    "ness",
    "ment",
    "ance",
    "ence",
    "ive",
    "ly",
    "ful",
    "ous",
    "al",
    "ing",
    "ed",
    "ism",
    "ic",
    "ship",
    "dom",
)
SHORT_ANSWER = 8
BARE_ANSWER = 3
LONG_NAME = 3


@dataclass(frozen=True)
class Day:
    """A date as far as it is known and secret."""

    year: str | None
    month: int | None
    day: int | None


@dataclass(frozen=True)
class Email:
    """The tokens of the two sides of the @."""

    local: tuple[str, ...]
    domain: tuple[str, ...]


@dataclass(frozen=True)
class Word:
    """A token of the answer. `said`: it has content that the question has not; `rare`: and it is no ordinary word."""

    norm: str
    singular: str
    said: bool
    rare: bool
    named: bool
    typed: bool


@dataclass(frozen=True)
class Secret:
    """One answer as the leak check knows it. All words are in their comparable form, in sets they are singulars.

    `names` and `words`: the rare words that do and do not stand in a name. `title_words`: those of names of three words
    and more, which may well be common nouns. `telling`: words that give the answer away even alone, to somebody who
    asked for it; `concrete`: those that do so in any context. `phrases`: names of ordinary words ("Green Book").
    `public`: the words of the question. `topic`: what the question asks, without the subject's name.
    """

    record: Record
    subject: NameTokens
    answer: tuple[Word, ...]
    tokens: tuple[str, ...]
    public: frozenset[str]
    topic: frozenset[str]
    names: frozenset[str]
    title_words: frozenset[str]
    words: frozenset[str]
    telling: frozenset[str]
    concrete: frozenset[str]
    phrases: tuple[NameTokens, ...]
    days: tuple[Day, ...]
    decades: frozenset[str]
    numbers: frozenset[str]
    phones: frozenset[str]
    emails: tuple[Email, ...]
    addresses: tuple[tuple[str, ...], ...]

    def said_in(self, start: int, length: int) -> list[int]:
        """Which tokens of a run, counted from its first, have content that the question has not."""
        return [at for at, word in enumerate(self.answer[start : start + length]) if word.said]


def read_secrets(records: Sequence[Record]) -> list[Secret]:
    """A `Secret` for every answer, and for every paraphrased answer, in the order of the records."""
    subjects = find_subjects(records)
    common, small = common_words(records, subjects), lower_case_words(records)
    return [
        _read(record, answer, subject, common, small)
        for record, subject in zip(records, subjects, strict=True)
        for answer in (record.answer, record.paraphrased_answer)
        if answer
    ]


def _read(record: Record, answer: str, subject: NameTokens, common: frozenset[str], small: frozenset[str]) -> Secret:
    public = _public(record, subject)
    spans = [span for span in find_spans(answer) if not public.issuperset(norms(span.text))]
    words = _answer_words(answer, spans, public, common, small)
    rare = frozenset(word.singular for word in words if word.rare and not word.typed and not word.named)
    names = frozenset(word.singular for word in words if word.rare and not word.typed and word.named)
    long_names = [name for name in _names(spans) if len(name) >= LONG_NAME]
    telling = frozenset() if record.form == "text" else _telling(words, rare, bool(spans))
    tokens = tuple(word.norm for word in words)
    return Secret(
        record=record,
        subject=subject,
        answer=words,
        tokens=tokens,
        public=public,
        topic=topic_of([norm for norm in norms(record.question) if norm not in subject]),
        names=names,
        title_words=names & {singular(norm) for name in long_names for norm in name},
        words=rare,
        telling=telling,
        concrete=frozenset(word for word in telling & rare if not word.endswith(_ABSTRACT)),
        phrases=tuple(name for name in _names(spans) if len(name) > 1 and all(map(is_ordinary, name))),
        days=tuple(day for span in spans if span.kind == "date" for day in _days(span, record.question)),
        decades=frozenset(span.norm for span in spans if span.kind == "date" and span.norm.endswith("s")),
        numbers=frozenset(_numbers(spans, tokens)) - public - _numerals(norms(record.question)),
        phones=frozenset(span.norm for span in spans if span.kind == "phone"),
        emails=tuple(_email(span) for span in spans if span.kind == "email"),
        addresses=tuple(street_form(norms(span.text)) for span in spans if span.kind == "address"),
    )


def _public(record: Record, subject: NameTokens) -> frozenset[str]:
    """The words of the question with their singulars; all of the subject's name where it has a part of it."""
    asked = frozenset(norms(record.question))
    known = asked | (frozenset(subject) if record.subject or not asked.isdisjoint(subject) else frozenset())
    return known | frozenset(map(singular, known))


def _answer_words(
    answer: str, spans: Sequence[Span], public: frozenset[str], common: frozenset[str], small: frozenset[str]
) -> tuple[Word, ...]:
    words = []
    for token in tokenise(answer):
        kinds = {span.kind for span in spans if span.start <= token.start < span.end}
        single = singular(token.norm)
        named = "name" in kinds and single not in small
        said = not (token.norm in public or single in public or is_function_word(token.norm))
        rare = said and not is_ordinary(token.norm) and (named or single not in common)
        typed = bool(kinds - {"name"}) or token.norm[0].isdigit()
        words.append(Word(token.norm, single, said, rare, named, typed))
    return tuple(words)


_SAME_TOPIC = {
    word: words[0]
    for words in (
        ("live", "living", "reside", "residing", "residence", "residential", "home"),
        ("profession", "occupation", "job", "career", "employed"),
        ("phone", "telephone", "mobile", "call"),
        ("address", "adress"),
        ("born", "birth", "birthday", "birthdate", "birthplace"),
        ("partner", "spouse", "husband", "wife", "married", "marry"),
        ("salary", "income", "earn", "earning", "wage", "paid"),
        ("illness", "disease", "condition", "diagnosis", "diagnosed", "suffer", "sick", "health"),
        ("parent", "mother", "father", "mom", "mum", "dad"),
        ("child", "children", "son", "daughter", "kid"),
    )
    for word in words
}


def topic_of(tokens: Sequence[str]) -> frozenset[str]:
    """What a question asks about: the singulars of its words, one for words that ask the same."""
    words = (singular(norm) for norm in tokens if not is_function_word(norm))
    return frozenset(_SAME_TOPIC.get(word, word) for word in words)


def _telling(words: Sequence[Word], rare: frozenset[str], has_spans: bool) -> frozenset[str]:
    """In a short answer every rare word, or the last word of one that has none; in a long one the concrete ones."""
    content = [word.singular for word in words if word.said and not word.typed and not word.named]
    if len(content) > SHORT_ANSWER:
        return frozenset(word for word in rare if not word.endswith(_ABSTRACT))
    bare = not has_spans and 0 < len(content) <= BARE_ANSWER
    return rare or frozenset(content[-1:] if bare else ())


def _names(spans: Sequence[Span]) -> list[NameTokens]:
    return [tuple(span.norm.split()) for span in spans if span.kind == "name"]


def _days(span: Span, question: str) -> list[Day]:
    """The readings of a date, without the parts that stand in the question's dates."""
    known = [day for other in find_spans(question) if other.kind == "date" for day in read_days(other.norm)]
    return [
        Day(
            None if any(day.year == other.year for other in known) else day.year,
            None if any(day.month == other.month for other in known) else day.month,
            None if any(day.day == other.day for other in known) else day.day,
        )
        for day in read_days(span.norm)
    ]


def read_days(norm: str) -> list[Day]:
    """A date span's norm as days: one, or two where day and month cannot be told apart; none for a decade."""
    return [_read_day(reading) for reading in norm.split("|") if not reading.endswith("s")]


_PARTS = re.compile(r"(?P<year>\d{4})?(?:-+(?P<month>\d\d))?(?:-(?P<day>\d\d))?")


def _read_day(reading: str) -> Day:
    found = _PARTS.fullmatch(reading)
    assert found is not None
    return Day(found["year"], int(found["month"] or 0) or None, int(found["day"] or 0) or None)


def _numbers(spans: Sequence[Span], tokens: Sequence[str]) -> list[str]:
    """Digits of plain numbers, of house numbers, and of numbers in words."""
    plain = [span.norm.replace(".", "") for span in spans if span.kind == "number"]
    house = [norm for span in spans if span.kind == "address" for norm in span.norm.split() if norm.isdigit()]
    return [*plain, *house, *_numerals(tokens)]


def _numerals(tokens: Sequence[str]) -> frozenset[str]:
    return frozenset(str(value) for _, _, value in find_numerals(tokens))


def _email(span: Span) -> Email:
    local, _, domain = span.norm.partition("@")
    return Email(norms(local), norms(domain))
