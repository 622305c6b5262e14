"""The deterministic leak check: which secrets of which forget records a training row carries.

What counts
- anywhere, whoever the row is about: the whole answer (kind "verbatim", or "split" when only prompt and target together
  have it), a long run of its words ("ngram"), an email, a phone number, a house number with its street;
- where the row names the record's subject: its names, numbers of three digits and more, dates, streets, email domains,
  and two rare words of the answer that stand together;
- where the row was written for the record (`record_id`), or names its subject and asks what its question asks: also a
  single telling word, small numbers, months, and four words of the answer in a row however ordinary they are; where it
  was written for another record of the same subject, the single word too.

What does not count
- what the record's own question contains;
- in a row of our own (`record_id`): what the question of its record contains, whomever it is a secret of, since the row
  cannot do without it;
- in a foreign row with a question for a prompt, and on another matter than the record's: names and words in the prompt,
  and in the target those that it repeats from the prompt and that some question of the forget set asks the subject by.
  They are context. In a prompt that begins a statement they count as they do in a target.

Words are compared as `relearn.text.normalize` makes them equal: case, accents, punctuation, apostrophes and the way
digits are grouped hide nothing.

Whom and what a row is about: the forget records whose names, numbers and words count in it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from relearn.data import Record
from relearn.leakage.rules import Hit, Kind, Near, Reading, common_length, find_contacts, find_hits
from relearn.leakage.secrets import Secret, read_secrets, topic_of
from relearn.text.normalize import contains, is_function_word, norms, singular
from relearn.text.subjects import NameTokens

SAME_TOPIC = 0.5


class Scope:
    """Looks up secrets by record, by the subject a row names, and by the question its prompt asks."""

    def __init__(self, secrets: Sequence[Secret]):
        self._of_record: dict[str, list[Secret]] = defaultdict(list)
        self._of_subject: dict[NameTokens, list[Secret]] = defaultdict(list)
        self._of_question: dict[NameTokens, list[Secret]] = defaultdict(list)
        self._bearers: dict[str, set[NameTokens]] = defaultdict(set)
        for secret in secrets:
            self._of_record[secret.record.id].append(secret)
            self._of_question[norms(secret.record.question)].append(secret)
            if secret.subject:
                self._of_subject[secret.subject].append(secret)
        for name in self._of_subject:
            for norm in name:
                self._bearers[norm].add(name)
        self._unnamed = [secret for secret in secrets if not secret.public & set(secret.subject)]
        self._asked: dict[NameTokens, frozenset[str]] = {}
        self.name_words = frozenset(self._bearers) | {singular(norm) for norm in self._bearers}

    def asked_about(self, name: NameTokens) -> frozenset[str]:
        """The words of all questions about a subject."""
        if name not in self._asked:
            self._asked[name] = frozenset().union(*(secret.public for secret in self._of_subject.get(name, ())))
        return self._asked[name]

    def of_own(self, record_id: str, reading: Reading) -> Iterator[tuple[Secret, Near]]:
        """For a row of our own: its record's secrets, and those of everybody it names."""
        own = self._of_record.get(record_id, [])
        yield from ((secret, Near.OWN) for secret in own)
        subjects = {secret.subject for secret in own if secret.subject}
        for name in sorted(subjects | self._named(reading)):
            near = Near.KIN if name in subjects else Near.ABOUT
            yield from ((secret, near) for secret in self._of_subject[name] if secret.record.id != record_id)

    def of_foreign(self, reading: Reading, subject: str | None) -> Iterator[tuple[Secret, Near]]:
        """For a foreign row: the secrets of everybody it names, and of those it asks for without naming them."""
        prompt = tuple(reading.norms[: reading.first_of_target])
        topic = topic_of(prompt)
        repeated = self._of_question.get(prompt, [])
        asked = {secret.record.id for secret in repeated}
        names = self._named(reading) | ({norms(subject)} & self._of_subject.keys() if subject else set())
        about = [secret for name in sorted(names) for secret in self._of_subject[name]]
        yield from ((secret, Near.ASKED) for secret in repeated if secret.subject not in names)
        for secret in about:
            close = secret.record.id in asked or _asks(topic, secret)
            yield secret, Near.ASKED if close else Near.ABOUT
        for secret in self._unnamed:
            if secret.subject not in names and secret.record.id not in asked and _asks(topic, secret):
                yield secret, Near.ASKED

    def _named(self, reading: Reading) -> set[NameTokens]:
        """Subjects whose full name stands in the row; or a shorter name that only one subject has."""
        bearers = {name for norm in reading.places for name in self._bearers.get(norm, ())}
        full = {name for name in bearers if contains(reading.norms, name)}
        short: set[NameTokens] = set()
        for span in reading.spans if bearers - full else ():
            said = set(span.norm.split())
            meant = [name for name in bearers if said <= set(name)]
            if span.kind == "name" and len(meant) == 1:
                short.update(meant)
        return full | short


def _asks(topic: frozenset[str], secret: Secret) -> bool:
    """True when the prompt has at least half of what the record's question asks."""
    return bool(secret.topic) and len(topic & secret.topic) >= SAME_TOPIC * len(secret.topic)


KINDS: tuple[Kind, ...] = ("verbatim", "split", "email", "address", "date", "number", "name", "ngram")
SEED = 3
LONG_RUN = 6
RARE_IN_RUN = 2
LONG_ANSWER = 8

_ADJECTIVE = re.compile(r"[A-Z]\w+(?:ish|ese|an|ch|ic|i|ek)")
_NOUN_AFTER = re.compile(r"[ -](?!(?:and|or|in|at|on|to|of|for|with|by|as|is|was|does|did|has|had)\b)[^\W\dA-Z_]\w+")

Found = tuple[Hit, Secret]


@dataclass(frozen=True, slots=True)
class Finding:
    """A secret of the forget record `record_id` at `field[start:end]`; one that stands across both fields is two."""

    kind: Kind
    field: Literal["prompt", "target"]
    start: int
    end: int
    text: str
    record_id: str


class LeakIndex:
    """The secrets of a forget set, ready to be looked for in many rows."""

    def __init__(self, records: Sequence[Record]):
        self._rank = {record.id: rank for rank, record in enumerate(records)}
        self._questions = {record.id: _all_forms(norms(record.question)) for record in records}
        self._secrets = read_secrets(records)
        self._scope = Scope(self._secrets)
        self._seeds: dict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)
        self._contacts: dict[str, list[Secret]] = defaultdict(list)
        self._phones = [secret for secret in self._secrets if secret.phones]
        for number, secret in enumerate(self._secrets):
            for at in range(len(secret.tokens) - SEED + 1):
                self._seeds[secret.tokens[at : at + SEED]].append((number, at))
            keys = {email.domain[0] for email in secret.emails} | {address[0] for address in secret.addresses}
            for key in keys:
                self._contacts[key].append(secret)

    def check(
        self, prompt: str, target: str, *, record_id: str | None = None, subject: str | None = None
    ) -> list[Finding]:
        """All findings of a row, the worst kind first; a finding inside another is left out.

        `record_id` is the forget record that a row of our own was written for. `subject` says whom a foreign row is
        about where its text does not.
        """
        reading = Reading(prompt, target)
        own = self._questions.get(record_id, frozenset()) if record_id else frozenset()
        found = [*self._runs(reading, own), *self._contact_hits(reading)]
        found += self._own_hits(reading, record_id, own) if record_id else self._foreign_hits(reading, subject)
        found = [one for one in found if not own.issuperset(norms(reading.text[one[0].start : one[0].end]))]
        return self._findings(found, reading, record_id)

    def _own_hits(self, reading: Reading, record_id: str, own: frozenset[str]) -> Iterator[Found]:
        for secret, near in self._scope.of_own(record_id, reading):
            hidden = own if near >= Near.ASKED else own | self._scope.name_words
            yield from ((hit, secret) for hit in find_hits(secret, reading, near, hidden))

    def _foreign_hits(self, reading: Reading, subject: str | None) -> Iterator[Found]:
        for secret, near in self._scope.of_foreign(reading, subject):
            if near >= Near.ASKED:
                hidden = reading.asked_words & self._scope.name_words
            else:
                hidden = self._scope.name_words | (reading.asked_words & self._scope.asked_about(secret.subject))
            for hit in find_hits(secret, reading, near, hidden):
                if not _is_context(hit, near, reading):
                    yield hit, secret

    def _runs(self, reading: Reading, own: frozenset[str]) -> Iterator[Found]:
        """Runs of an answer's tokens that say enough to count anywhere."""
        ends: dict[tuple[int, int], int] = {}
        for at in range(len(reading.norms) - SEED + 1):
            for number, start in self._seeds.get(tuple(reading.norms[at : at + SEED]), ()):
                if ends.get((number, start - at), -1) > at:
                    continue
                secret = self._secrets[number]
                length = common_length(secret.tokens[start:], reading.norms[at:])
                ends[number, start - at] = at + length - SEED + 1
                if (kind := _worth(secret, start, length, own)) is not None:
                    said = [0, length - 1] if kind == "verbatim" else secret.said_in(start, length)
                    yield Hit(kind, *reading.range_of(at + said[0], at + said[-1] + 1)), secret

    def _contact_hits(self, reading: Reading) -> Iterator[Found]:
        candidates = {id(secret): secret for norm in reading.norms for secret in self._contacts.get(norm, ())}
        candidates |= {id(secret): secret for secret in self._phones}
        for secret in candidates.values():
            yield from ((hit, secret) for hit in find_contacts(secret, reading))

    def _findings(self, found: Iterable[Found], reading: Reading, own: str | None) -> list[Finding]:
        """Hits as findings in the fields' own offsets, without those inside a worse or longer one."""
        findings = [finding for hit, secret in found for finding in _place(hit, secret.record.id, reading)]
        findings.sort(key=lambda one: (one.record_id != own, self._rank[one.record_id]))
        findings.sort(key=lambda one: (KINDS.index(one.kind), one.start - one.end))
        kept: list[Finding] = []
        for one in findings:
            if not any(_is_within(one, other) for other in kept):
                kept.append(one)
        return sorted(kept, key=lambda one: (KINDS.index(one.kind), one.field, one.start))


def _all_forms(words: Iterable[str]) -> frozenset[str]:
    known = frozenset(words)
    return known | frozenset(map(singular, known))


def _is_within(one: Finding, other: Finding) -> bool:
    return one.field == other.field and other.start <= one.start and one.end <= other.end


def _is_context(hit: Hit, near: Near, reading: Reading) -> bool:
    """A name or word with which a question says whom it means.

    On another matter any is; else an adjective ("the Irish poet") and a part of a longer name ("London Underground").
    """
    if hit.kind not in ("name", "ngram") or not reading.asks or hit.end >= reading.cut:
        return False
    adjective = _ADJECTIVE.fullmatch(reading.text, hit.start, hit.end) and _NOUN_AFTER.match(reading.text, hit.end)
    longer = any(
        span.kind == "name" and span.start <= hit.start and hit.end <= span.end and len(span.text) > hit.end - hit.start
        for span in reading.spans
    )
    return near == Near.ABOUT or longer or adjective is not None


def _worth(secret: Secret, start: int, length: int, own: frozenset[str]) -> Kind | None:
    """What a run of the answer's tokens is worth in a text about anybody."""
    run = secret.answer[start : start + length]
    rare = {word.singular for word in run if word.rare and word.norm not in own and word.norm not in secret.subject}
    if length == len(secret.tokens):
        distinct = length >= LONG_ANSWER or len(rare) >= RARE_IN_RUN or contains(secret.tokens, secret.subject)
        return "verbatim" if distinct and not contains(norms(secret.record.question), secret.tokens) else None
    return "ngram" if length >= LONG_RUN and len(rare) >= RARE_IN_RUN else None


def _place(hit: Hit, record_id: str, reading: Reading) -> Iterator[Finding]:
    """A hit in its field, or its two parts where it stands across both."""
    cut = reading.cut
    if hit.start >= cut:
        yield Finding(hit.kind, "target", hit.start - cut, hit.end - cut, reading.text[hit.start : hit.end], record_id)
    elif hit.end < cut:
        yield Finding(hit.kind, "prompt", hit.start, hit.end, reading.text[hit.start : hit.end], record_id)
    else:
        kind: Kind = "split" if hit.kind == "verbatim" else hit.kind
        head = reading.text[hit.start : cut - 1].rstrip()
        tail = reading.text[cut : hit.end]
        lead = len(tail) - len(tail.lstrip())
        parts = (
            Finding(kind, "prompt", hit.start, hit.start + len(head), head, record_id),
            Finding(kind, "target", lead, hit.end - cut, tail[lead:], record_id),
        )
        yield from (part for part in parts if kind == "split" or not all(map(is_function_word, norms(part.text))))
