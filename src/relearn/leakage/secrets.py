"""Extract the secrets of a record: what its answer has and its question does not.

Secrets are typed spans found by rules (names, numbers, dates, addresses, e-mails, phone numbers) and rare words. Words
of the question, and of the subject's name where the question has a part of it, are public and never a secret.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from relearn.data import Record
from relearn.text.normalize import find_numerals, is_function_word, is_ordinary, norms, singular, street_form, tokenise
from relearn.text.spans import Span, find_spans
from relearn.text.subjects import Name, common_words, find_subjects, lower_case_words

# Words with these endings are mostly abstract; alone they reveal little.
_ABSTRACT = re.compile(r"(?:tion|sion|ity|ness|ment|ance|ence|ive|ly|ful|ous|al|ing|ed|ism|ic|ship|dom)\Z")
# An answer of at most so many content words is short; one of at most BARE_ANSWER, without spans, is a bare word.
SHORT_ANSWER = 8
BARE_ANSWER = 3
LONG_NAME = 3


@dataclass(frozen=True)
class Day:
    """The secret parts of a date; None for a part that is unknown or public."""

    year: str | None
    month: int | None
    day: int | None


@dataclass(frozen=True)
class Email:
    """The tokens before and after the @."""

    local: tuple[str, ...]
    domain: tuple[str, ...]


@dataclass(frozen=True)
class SecretWord:
    """A token of the answer, as `norm` and `singular` for comparison.

    `is_content`: not a function word and not in the question; `is_rare`: content that is not an ordinary word, nor
    common in the data set; `is_name`: part of a name span; `is_typed`: part of another span, or starts with a digit.
    """

    norm: str
    singular: str
    is_content: bool
    is_rare: bool
    is_name: bool
    is_typed: bool


@dataclass(frozen=True)
class Secret:
    """The secrets of one answer. Texts are normalised tokens (text.normalize.norms); sets of words hold singulars.

    `answer`: the words in order; `tokens`: their norms. `public`: the words of the question. `topic`: what the question
    asks, without the subject's name. `names`, `words`: rare words inside and outside of names. `title_words`: those of
    names of LONG_NAME words or more, which may be common nouns. `phrases`: names of ordinary words ("Green Book").
    `revealing`: words that reveal the answer alone, to somebody who asked for it; `concrete`: those that do so in any
    context.
    """

    record: Record
    subject: Name
    answer: tuple[SecretWord, ...]
    tokens: tuple[str, ...]
    public: frozenset[str]
    topic: frozenset[str]
    names: frozenset[str]
    title_words: frozenset[str]
    words: frozenset[str]
    revealing: frozenset[str]
    concrete: frozenset[str]
    phrases: tuple[Name, ...]
    days: tuple[Day, ...]
    decades: frozenset[str]
    numbers: frozenset[str]
    phones: frozenset[str]
    emails: tuple[Email, ...]
    addresses: tuple[tuple[str, ...], ...]

    def content_indices(self, start: int, length: int) -> list[int]:
        """Return the positions of content words within `length` tokens from `start`, counted from `start`."""
        return [index for index, word in enumerate(self.answer[start : start + length]) if word.is_content]


def read_secrets(records: Sequence[Record]) -> list[Secret]:
    """Extract a `Secret` from every answer and every paraphrased answer, in the order of the records."""
    subjects = find_subjects(records)
    common, lower_case = common_words(records, subjects), lower_case_words(records)
    return [
        _read_secret(record, answer, subject, common=common, lower_case=lower_case)
        for record, subject in zip(records, subjects, strict=True)
        for answer in (record.answer, record.paraphrased_answer)
        if answer
    ]


def _read_secret(
    record: Record, answer: str, subject: Name, *, common: frozenset[str], lower_case: frozenset[str]
) -> Secret:
    public = _public_words(record, subject)
    spans = [span for span in find_spans(answer) if not public.issuperset(norms(span.text))]
    words = _answer_words(answer, spans, public=public, common=common, lower_case=lower_case)
    rare = frozenset(word.singular for word in words if word.is_rare and not word.is_typed and not word.is_name)
    rare_names = frozenset(word.singular for word in words if word.is_rare and not word.is_typed and word.is_name)
    names = [tuple(span.norm.split()) for span in spans if span.kind == "name"]
    long_name_words = {singular(norm) for name in names if len(name) >= LONG_NAME for norm in name}
    revealing = frozenset() if record.form == "text" else _revealing_words(words, rare, bool(spans))
    tokens = tuple(word.norm for word in words)
    return Secret(
        record=record,
        subject=subject,
        answer=words,
        tokens=tokens,
        public=public,
        topic=topic_of([norm for norm in norms(record.question) if norm not in subject]),
        names=rare_names,
        title_words=rare_names & long_name_words,
        words=rare,
        revealing=revealing,
        concrete=frozenset(word for word in revealing & rare if not _ABSTRACT.search(word)),
        phrases=tuple(name for name in names if len(name) > 1 and all(map(is_ordinary, name))),
        days=tuple(day for span in spans if span.kind == "date" for day in _secret_days(span, record.question)),
        decades=frozenset(span.norm for span in spans if span.kind == "date" and span.norm.endswith("s")),
        numbers=frozenset(_numbers(spans, tokens)) - public - _spelled_numbers(norms(record.question)),
        phones=frozenset(span.norm for span in spans if span.kind == "phone"),
        emails=tuple(_split_email(span) for span in spans if span.kind == "email"),
        addresses=tuple(street_form(norms(span.text)) for span in spans if span.kind == "address"),
    )


def _public_words(record: Record, subject: Name) -> frozenset[str]:
    """Return the words of the question with their singulars, and the subject's name where it has a part of it."""
    words = frozenset(norms(record.question))
    if record.subject or not words.isdisjoint(subject):
        words |= frozenset(subject)
    return words | frozenset(map(singular, words))


def _answer_words(
    answer: str, spans: Sequence[Span], *, public: frozenset[str], common: frozenset[str], lower_case: frozenset[str]
) -> tuple[SecretWord, ...]:
    """Classify every token. `common`: words frequent in the data set; `lower_case`: words it writes in lower case."""
    words = []
    for token in tokenise(answer):
        kinds = {span.kind for span in spans if span.start <= token.start < span.end}
        single = singular(token.norm)
        is_name = "name" in kinds and single not in lower_case
        is_content = not (token.norm in public or single in public or is_function_word(token.norm))
        is_rare = is_content and not is_ordinary(token.norm) and (is_name or single not in common)
        is_typed = bool(kinds - {"name"}) or token.norm[0].isdigit()
        words.append(SecretWord(token.norm, single, is_content, is_rare, is_name, is_typed))
    return tuple(words)


_SYNONYMS = (
    "live living reside residing residence residential home",
    "profession occupation job career employed",
    "phone telephone mobile call",
    "address adress",
    "born birth birthday birthdate birthplace",
    "partner spouse husband wife married marry",
    "salary income earn earning wage paid",
    "illness disease condition diagnosis diagnosed suffer sick health",
    "parent mother father mom mum dad",
    "child children son daughter kid",
)
_TOPIC_WORD = {word: group.split()[0] for group in _SYNONYMS for word in group.split()}


def topic_of(tokens: Sequence[str]) -> frozenset[str]:
    """Return what a question asks about: the singulars of its content words, synonyms as one word."""
    words = (singular(norm) for norm in tokens if not is_function_word(norm))
    return frozenset(_TOPIC_WORD.get(word, word) for word in words)


def _revealing_words(words: Sequence[SecretWord], rare: frozenset[str], has_spans: bool) -> frozenset[str]:
    """Select the rare words of a short answer, else its last word where it is bare; the concrete ones of a long one."""
    content = [word.singular for word in words if word.is_content and not word.is_typed and not word.is_name]
    if len(content) > SHORT_ANSWER:
        return frozenset(word for word in rare if not _ABSTRACT.search(word))
    is_bare = not has_spans and 0 < len(content) <= BARE_ANSWER
    return rare or frozenset(content[-1:] if is_bare else ())


def _secret_days(span: Span, question: str) -> list[Day]:
    """Parse a date without the parts that a date in the question has."""
    public = [day for other in find_spans(question) if other.kind == "date" for day in read_days(other.norm)]
    return [
        Day(
            None if any(day.year == other.year for other in public) else day.year,
            None if any(day.month == other.month for other in public) else day.month,
            None if any(day.day == other.day for other in public) else day.day,
        )
        for day in read_days(span.norm)
    ]


def read_days(norm: str) -> list[Day]:
    """Parse a date span's norm: one day, two where day and month are ambiguous, none for a decade."""
    return [_parse_day(part) for part in norm.split("|") if not part.endswith("s")]


_DATE_PARTS = re.compile(r"(?P<year>\d{4})?(?:-+(?P<month>\d\d))?(?:-(?P<day>\d\d))?")


def _parse_day(text: str) -> Day:
    match = _DATE_PARTS.fullmatch(text)
    assert match is not None
    return Day(match["year"], int(match["month"] or 0) or None, int(match["day"] or 0) or None)


def _numbers(spans: Sequence[Span], tokens: Sequence[str]) -> list[str]:
    """Return the digits of plain numbers, of house numbers, and of numbers in words."""
    plain = [span.norm.replace(".", "") for span in spans if span.kind == "number"]
    house = [norm for span in spans if span.kind == "address" for norm in span.norm.split() if norm.isdigit()]
    return [*plain, *house, *_spelled_numbers(tokens)]


def _spelled_numbers(tokens: Sequence[str]) -> frozenset[str]:
    return frozenset(str(value) for _, _, value in find_numerals(tokens))


def _split_email(span: Span) -> Email:
    local, _, domain = span.norm.partition("@")
    return Email(norms(local), norms(domain))
