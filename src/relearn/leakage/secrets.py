"""Extract the secrets of a record: names, numbers, dates, contacts and rare words of its answer.

Secrets are typed spans found by rules (names, numbers, dates, addresses, e-mails, phone numbers) and rare words. Words
of the question are public and never a secret; so is the subject's name where the question contains a part of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

from relearn.data import Record
from relearn.text.normal_forms import find_values, joined_forms, number_form, phone_readings, spelled_numbers
from relearn.text.normalize import (
    OTHER_SCRIPT,
    is_function_word,
    is_ordinary,
    norms,
    plain,
    singular,
    skeleton,
    stem,
    street_form,
    tokenise,
)
from relearn.text.spans import Span, find_spans
from relearn.text.subjects import NameTokens, common_words, find_subjects, lower_case_words

# Endings of words that are mostly abstract; such a word alone reveals little.
_ABSTRACT = re.compile(r"(?:tion|sion|ity|ness|ment|ance|ence|ive|ly|ful|ous|al|ing|ed|ism|ic|ship|dom)\Z")
# Maximum number of content words of a short answer, and of a bare answer, which has no spans.
SHORT_ANSWER = 8
BARE_ANSWER = 3
LONG_NAME = 3
LONGEST_PHRASE = 4
MIN_SKELETON = 2
MIN_ACRONYM = 3
MIN_GROUPED = 8


@dataclass(frozen=True)
class Day:
    """Store the secret parts of a date; None for a part that is unknown or public."""

    year: str | None
    month: int | None
    day: int | None


@dataclass(frozen=True)
class Email:
    """Store the tokens of an e-mail address before the @ (`local`) and after it (`domain`)."""

    local: tuple[str, ...]
    domain: tuple[str, ...]


@dataclass(frozen=True)
class SecretWord:
    """Store a token of the answer with its normal form `norm`, its `singular`, and its properties.

    `is_content`: neither a function word nor in the question. `is_rare`: a content word that is neither ordinary nor
    common in the data set. `is_name`: part of a name span. `is_typed`: part of another span, or starts with a digit.
    """

    norm: str
    singular: str
    is_content: bool
    is_rare: bool
    is_name: bool
    is_typed: bool


@dataclass(frozen=True)
class Phrase:
    """Store a word or phrase that means nearly the same as a word of the answer, in the singular and as stems.

    `is_name`: it is a leak only with a capital letter ("Turkey").
    """

    words: tuple[str, ...]
    is_name: bool = False

    @property
    def stems(self) -> tuple[str, ...]:
        return tuple(map(stem, self.words))


@dataclass(frozen=True)
class Secret:
    """Store the secrets of one answer. Tokens are normalised (text.normalize.norms); sets of words contain singulars.

    `answer`: the words in order; `tokens`: their norms. `public`: words of the question. `topic`: content words of the
    question without the subject's name. `names`, `words`: rare words inside and outside of names. `title_words`: rare
    words in names of at least LONG_NAME words, which may be common nouns. `phrases`: names of ordinary words ("Green
    Book"). `revealing`: words each of which reveals the answer in a reply to the question; `concrete`: words each of
    which reveals it in any context. `codes`, `times`: normal forms (text.normal_forms). `related`: synonyms of the
    content words, and the stems of the revealing words. `skeletons`: names (text.normalize.skeleton), to find them in
    other scripts. `initials`: first letters of names of several words. `acronyms`: names of capitals ("MIT").
    """

    record: Record
    subject: NameTokens
    answer: tuple[SecretWord, ...]
    tokens: tuple[str, ...]
    public: frozenset[str]
    topic: frozenset[str]
    names: frozenset[str]
    title_words: frozenset[str]
    words: frozenset[str]
    revealing: frozenset[str]
    concrete: frozenset[str]
    phrases: tuple[NameTokens, ...]
    days: tuple[Day, ...]
    decades: frozenset[str]
    numbers: frozenset[str]
    phones: frozenset[str]
    codes: frozenset[str]
    times: frozenset[str]
    emails: tuple[Email, ...]
    addresses: tuple[tuple[str, ...], ...]
    related: frozenset[Phrase]
    skeletons: frozenset[str]
    initials: frozenset[str]
    acronyms: frozenset[str]

    def content_indices(self, start: int, length: int) -> list[int]:
        """Return the indices of the content words among the `length` tokens from `start`, relative to `start`."""
        return [index for index, word in enumerate(self.answer[start : start + length]) if word.is_content]


def read_secrets(records: Sequence[Record]) -> list[Secret]:
    """Extract the secrets of every answer and every paraphrased answer, in the order of the records."""
    subjects = find_subjects(records)
    common, lower_case = common_words(records, subjects), lower_case_words(records)
    return [
        _read_secret(record, answer, subject, common=common, lower_case=lower_case)
        for record, subject in zip(records, subjects, strict=True)
        for answer in (record.answer, record.paraphrased_answer)
        if answer
    ]


def secret_spans(secret: Secret) -> list[tuple[int, int]]:
    """Return (start, end) of the secret words in the answer.

    Secret words are names, numbers, dates and rare words that the question does not contain. If the answer has none of
    these, its other content words are used.
    """
    words = list(zip(tokenise(secret.record.answer), secret.answer, strict=True))
    content = [(token, word) for token, word in words if word.is_content]
    specific = [token for token, word in content if word.is_rare or word.is_name or word.is_typed]
    return [(token.start, token.end) for token in specific or [token for token, _ in content]]


def _read_secret(
    record: Record, answer: str, subject: NameTokens, *, common: frozenset[str], lower_case: frozenset[str]
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
    asked = frozenset(form for value in find_values(record.question) for form, _ in value.readings)
    codes = [span.norm for span in spans if span.kind == "code"]
    hidden_names = [span for span in spans if span.kind == "name" and public.isdisjoint(span.norm.split())]
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
        numbers=frozenset(_numbers(spans, answer)) - public - asked,
        phones=frozenset(digits for span in spans if span.kind == "phone" for digits in _phone_digits(span)) - asked,
        codes=frozenset((*codes, *_grouped_codes(answer, spans))) - asked - public,
        times=frozenset(form for span in spans if span.kind == "time" for form in span.norm.split("|")) - asked,
        emails=tuple(_split_email(span) for span in spans if span.kind == "email"),
        addresses=tuple(street_form(norms(span.text)) for span in spans if span.kind == "address"),
        related=_related_phrases(words, public) | {Phrase((word,)) for word in revealing if not _ABSTRACT.search(word)},
        skeletons=_skeletons(answer, hidden_names),
        initials=frozenset(filter(None, (initials_of(span.text) for span in hidden_names))),
        acronyms=frozenset(span.norm for span in hidden_names if is_acronym(span.text)),
    )


def _phone_digits(span: Span) -> list[str]:
    """Return the digits of a phone number, and without the country code where it has one."""
    is_international = span.text.lstrip("( ").startswith(("+", "00"))
    national = [form for form, _ in phone_readings(span.norm, True)] if is_international else []
    return [span.norm, *national]


_YEARS = re.compile(r"(?:1\d{3}|20\d\d){2}")


def _grouped_codes(answer: str, spans: Sequence[Span]) -> Iterator[str]:
    """Yield the codes in capitals with several groups ("FRR ALD 80A01 H501U"), and numbers of several groups."""
    tokens = tokenise(answer)
    numbers = {span.start for span in spans if span.kind == "number"}
    end = 0
    for form, first, last in reversed(list(joined_forms(plain(answer), tokens))):
        start = tokens[first].start
        is_number = start in numbers and form.isdigit() and not _YEARS.fullmatch(form)
        is_code = is_number or answer[start : tokens[last - 1].end].isupper()
        if is_code and len(form) >= MIN_GROUPED and sum(map(str.isdigit, form)) >= MIN_ACRONYM and last != end:
            end = last
            yield form


def is_acronym(name: str) -> bool:
    return name.isupper() and name.isalpha() and len(name) >= MIN_ACRONYM


def initials_of(name: str) -> str:
    """Return the initials of a name of several words in lower case, without particles; "" for one word."""
    initials = "".join(word[0] for word in re.findall(r"\w+", name) if word[0].isupper()).lower()
    return initials if len(initials) > 1 else ""


# Letters that have two sounds, and another spelling of the second: "Marchetti", "George", "John", "Hugo".
_SOUNDS = (("ch", "k"), ("g", "zh"), ("j", "zh"), (r"\bh", ""))


def _skeletons(answer: str, names: Sequence[Span]) -> frozenset[str]:
    """Return the skeletons of the names of an answer, and of its words in other scripts."""
    words = [part for span in names for part in (*span.norm.split(), span.norm.replace(" ", ""))]
    heard = (re.sub(letters, sound, word) for word in words for letters, sound in _SOUNDS)
    found = (skeleton(word) for word in (*words, *heard, *OTHER_SCRIPT.findall(answer)))
    return frozenset(form for form in found if len(form) >= MIN_SKELETON)


_STEMS = "="


def _related_phrases(words: Sequence[SecretWord], public: frozenset[str]) -> frozenset[Phrase]:
    """Return the synonyms (synonyms.txt) of the content words of an answer, unless the question has one of them."""
    public_stems = frozenset(map(stem, public))
    singulars = tuple(word.singular for word in words)
    related: set[Phrase] = set()
    for first, word in enumerate(words):
        for length in range(1, LONGEST_PHRASE + 1) if word.is_content and not word.is_typed else ():
            phrase = singulars[first : first + length]
            for group in _synonyms().get(phrase) or _synonyms().get((_STEMS, *map(stem, phrase)), ()):
                if not any(len(other.words) == 1 and other.stems[0] in public_stems for other in group):
                    related |= group
    return frozenset(related)


@lru_cache(maxsize=1)
def _synonyms() -> dict[tuple[str, ...], list[frozenset[Phrase]]]:
    """Read synonyms.txt: a word or phrase, and its stems after _STEMS, -> groups of what gives it away."""
    groups: dict[tuple[str, ...], list[frozenset[Phrase]]] = {}
    lines = resources.files("relearn.leakage").joinpath("synonyms.txt").read_text(encoding="utf-8").splitlines()
    for line in (line for line in lines if line and not line.startswith("#")):
        same, narrower = (part.split() for part in (*line.split(" > "), "")[:2])
        phrases = {entry: _phrase(entry) for entry in (*same, *narrower)}
        for entry, phrase in phrases.items():
            others = (*same, *narrower) if entry in same else same
            group = frozenset(phrases[other] for other in others) - {phrase}
            for key in (phrase.words, (_STEMS, *phrase.stems)):
                groups.setdefault(key, []).append(group)
    return groups


def _phrase(entry: str) -> Phrase:
    """Convert an entry of synonyms.txt to a phrase."""
    return Phrase(tuple(map(singular, norms(entry.replace("_", " ")))), entry[0].isupper())


def _public_words(record: Record, subject: NameTokens) -> frozenset[str]:
    """Return the words of the question, the subject's name where the question has a part of it, and all singulars."""
    words = frozenset(norms(record.question))
    words |= {form for word in words if not is_function_word(word) for form in _inflections(word)}
    if record.subject or not words.isdisjoint(subject):
        words |= frozenset(subject)
    return words | frozenset(map(singular, words))


def _inflections(verb: str) -> list[str]:
    """Return the forms of a word of the question that an answer to it has: "did she marry" is answered by "married"."""
    base = verb[:-1] if verb.endswith(("e", "y")) else verb
    endings = ("ied", "ies") if verb.endswith("y") else ("ed", "es", "s", "ing")
    return [base + ending for ending in endings]


def _answer_words(
    answer: str, spans: Sequence[Span], *, public: frozenset[str], common: frozenset[str], lower_case: frozenset[str]
) -> tuple[SecretWord, ...]:
    """Classify every token of an answer.

    `common`: words that are frequent in the data set; `lower_case`: words that occur in lower case in it.
    """
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
    """Return the topic of a question: the singulars of its content words, with synonyms replaced by one word."""
    words = (singular(norm) for norm in tokens if not is_function_word(norm))
    return frozenset(_TOPIC_WORD.get(word, word) for word in words)


def _revealing_words(words: Sequence[SecretWord], rare: frozenset[str], has_spans: bool) -> frozenset[str]:
    """Select the words that alone reveal an answer.

    Of a long answer: the rare words that are not abstract. Of a short answer: the rare words; where there are none, the
    last content word of a bare answer.
    """
    content = [word.singular for word in words if word.is_content and not word.is_typed and not word.is_name]
    if len(content) > SHORT_ANSWER:
        return frozenset(word for word in rare if not _ABSTRACT.search(word))
    is_bare = not has_spans and 0 < len(content) <= BARE_ANSWER
    return rare or frozenset(content[-1:] if is_bare else ())


def _secret_days(span: Span, question: str) -> list[Day]:
    """Parse a date; parts that are also in a date of the question are None."""
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
    """Parse the norm of a date span: one date, two where the order of day and month is ambiguous, none for a decade."""
    return [_parse_day(part) for part in norm.split("|") if not part.endswith("s")]


_DATE_PARTS = re.compile(r"(?P<year>\d{4})?(?:-+(?P<month>\d\d))?(?:-(?P<day>\d\d))?")


def _parse_day(text: str) -> Day:
    match = _DATE_PARTS.fullmatch(text)
    assert match is not None
    return Day(match["year"], int(match["month"] or 0) or None, int(match["day"] or 0) or None)


def _numbers(spans: Sequence[Span], answer: str) -> list[str]:
    """Return the digits of plain numbers, of house numbers, and of numbers written in words."""
    plain = [form for span in spans if span.kind == "number" for form in number_forms(span)]
    house = [norm for span in spans if span.kind == "address" for norm in span.norm.split() if norm.isdigit()]
    return [*plain, *house, *(form for _, _, form in spelled_numbers(tokenise(answer)))]


def number_forms(span: Span) -> tuple[str, str]:
    """Return the value of a number, and its digits alone."""
    return number_form(span.norm), span.norm.replace(".", "")


def _split_email(span: Span) -> Email:
    local, _, domain = span.norm.partition("@")
    return Email(norms(local), norms(domain))
