"""Check training rows for leaks: find the secrets of forget records in prompt and target, by rules and without a model.

Flagged as a leak:
- In any row: the whole answer (kind "verbatim", or "split" where it begins in the prompt and ends in the target), a
  long run of its words ("ngram"), an e-mail, a phone number, a house number with its street.
- In a row that names the record's subject: also names in the answer, numbers of three or more digits, dates, streets,
  e-mail domains, and two rare words of the answer close to each other.
- In a row written for the record (`record_id`), or a row that names the subject and asks the record's question: also a
  single revealing word, small numbers, months, and four consecutive content words of the answer, even ordinary ones.
- In a row written for another record of the same subject: also a single concrete word.

Not flagged:
- Words of the record's own question, which are public.
- In a row written for a record: all words of that record's question, even if they are a secret of another record.
- In an external row whose prompt is a question on another topic: names and words in the prompt, which are context. In
  the target: words repeated from the prompt that are also in some forget question about the subject. A prompt that is
  the beginning of a statement is checked like a target.

Words are compared in the normal form of text.normalize, so that case, accents, punctuation, apostrophes and digit
grouping make no difference.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from relearn.data import Record
from relearn.leakage.rules import Hit, LeakKind, Relation, RowText, common_length, find_contacts, find_hits
from relearn.leakage.secrets import Secret, read_secrets, topic_of
from relearn.text.normalize import contains, is_function_word, norms, singular
from relearn.text.subjects import NameTokens

# Kinds of findings, from worst to mildest.
KINDS: tuple[LeakKind, ...] = ("verbatim", "split", "email", "address", "date", "number", "name", "ngram")
# Minimum share of a question's topic words in a prompt that asks the same question.
SAME_TOPIC = 0.5
# Number of tokens by which runs of an answer are looked up.
SEED_LENGTH = 3
LONG_RUN = 6
RARE_IN_RUN = 2
LONG_ANSWER = 8

_ADJECTIVE = re.compile(r"[A-Z]\w+(?:ish|ese|an|ch|ic|i|ek)")
_NOUN_AFTER = re.compile(r"[ -](?!(?:and|or|in|at|on|to|of|for|with|by|as|is|was|does|did|has|had)\b)[^\W\dA-Z_]\w+")

SecretHit = tuple[Hit, Secret]


@dataclass(frozen=True, slots=True)
class Finding:
    """Store a leak: a secret of the forget record `record_id` at characters `start` to `end` of a field of the row.

    A secret that begins in the prompt and ends in the target gives two findings.
    """

    kind: LeakKind
    field: Literal["prompt", "target"]
    start: int
    end: int
    text: str
    record_id: str


class LeakIndex:
    """Index the secrets of a forget set, to check many rows for leaks."""

    def __init__(self, records: Sequence[Record]):
        self._rank = {record.id: rank for rank, record in enumerate(records)}
        self._questions = {record.id: _with_singulars(norms(record.question)) for record in records}
        self._secrets = read_secrets(records)
        self._lookup = SecretLookup(self._secrets)
        self._seeds: dict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)
        self._contacts: dict[str, list[Secret]] = defaultdict(list)
        self._phones = [secret for secret in self._secrets if secret.phones]
        for number, secret in enumerate(self._secrets):
            for start in range(len(secret.tokens) - SEED_LENGTH + 1):
                self._seeds[secret.tokens[start : start + SEED_LENGTH]].append((number, start))
            for key in {email.domain[0] for email in secret.emails} | {address[0] for address in secret.addresses}:
                self._contacts[key].append(secret)

    def check(
        self, prompt: str, target: str, *, record_id: str | None = None, subject: str | None = None
    ) -> list[Finding]:
        """Find all leaks in a row, the worst kind first, without findings inside another finding.

        `record_id`: the forget record that the row was written for; None for an external row. `subject`: the subject of
        an external row whose text does not name it.
        """
        row = RowText(prompt, target)
        public = self._questions.get(record_id, frozenset()) if record_id else frozenset()
        hits = [*self._long_runs(row, public), *self._contact_hits(row)]
        hits += self._hits_for_record(row, record_id, public) if record_id else self._hits_in_external(row, subject)
        hits = [(hit, secret) for hit, secret in hits if not public.issuperset(norms(row.text[hit.start : hit.end]))]
        return self._findings(hits, row, record_id)

    def _hits_for_record(self, row: RowText, record_id: str, public: frozenset[str]) -> Iterator[SecretHit]:
        for secret, relation in self._lookup.for_record(record_id, row):
            hidden = public if relation >= Relation.QUESTION else public | self._lookup.name_words
            yield from ((hit, secret) for hit in find_hits(secret, row, relation, hidden))

    def _hits_in_external(self, row: RowText, subject: str | None) -> Iterator[SecretHit]:
        for secret, relation in self._lookup.for_external(row, subject):
            if relation >= Relation.QUESTION:
                hidden = row.question_words & self._lookup.name_words
            else:
                context = row.question_words & self._lookup.question_words(secret.subject)
                hidden = self._lookup.name_words | context
            for hit in find_hits(secret, row, relation, hidden):
                if not _is_context(hit, relation, row):
                    yield hit, secret

    def _long_runs(self, row: RowText, public: frozenset[str]) -> Iterator[SecretHit]:
        """Yield the runs of an answer's tokens that are a leak in any row."""
        ends: dict[tuple[int, int], int] = {}
        for at in range(len(row.norms) - SEED_LENGTH + 1):
            for number, start in self._seeds.get(tuple(row.norms[at : at + SEED_LENGTH]), ()):
                if ends.get((number, start - at), -1) > at:
                    continue  # inside a run that has been found already
                secret = self._secrets[number]
                length = common_length(secret.tokens[start:], row.norms[at:])
                ends[number, start - at] = at + length - SEED_LENGTH + 1
                kind = _kind_of_run(secret, start, length, public)
                if kind is not None:
                    content = [0, length - 1] if kind == "verbatim" else secret.content_indices(start, length)
                    yield row.hit(kind, (at + content[0], at + content[-1] + 1)), secret

    def _contact_hits(self, row: RowText) -> Iterator[SecretHit]:
        secrets = {id(secret): secret for norm in row.norms for secret in self._contacts.get(norm, ())}
        secrets |= {id(secret): secret for secret in self._phones}
        for secret in secrets.values():
            yield from ((hit, secret) for hit in find_contacts(secret, row))

    def _findings(self, hits: Iterable[SecretHit], row: RowText, record_id: str | None) -> list[Finding]:
        """Convert hits to findings; remove those inside a worse or longer finding."""
        findings = [finding for hit, secret in hits for finding in _split_hit(hit, secret.record.id, row)]
        findings.sort(key=lambda one: (one.record_id != record_id, self._rank[one.record_id]))
        findings.sort(key=lambda one: (KINDS.index(one.kind), one.start - one.end))
        outermost: list[Finding] = []
        for finding in findings:
            if not any(_is_within(finding, other) for other in outermost):
                outermost.append(finding)
        return sorted(outermost, key=lambda one: (KINDS.index(one.kind), one.field, one.start))


class SecretLookup:
    """Look up the secrets that apply to a row: by record, by the subjects in its text, by the question it asks."""

    def __init__(self, secrets: Sequence[Secret]):
        self._by_record: dict[str, list[Secret]] = defaultdict(list)
        self._by_subject: dict[NameTokens, list[Secret]] = defaultdict(list)
        self._by_question: dict[NameTokens, list[Secret]] = defaultdict(list)
        self._subjects_with: dict[str, set[NameTokens]] = defaultdict(set)
        for secret in secrets:
            self._by_record[secret.record.id].append(secret)
            self._by_question[norms(secret.record.question)].append(secret)
            if secret.subject:
                self._by_subject[secret.subject].append(secret)
        for name in self._by_subject:
            for norm in name:
                self._subjects_with[norm].add(name)
        self._unnamed = [secret for secret in secrets if not secret.public & set(secret.subject)]
        self._question_words: dict[NameTokens, frozenset[str]] = {}
        self.name_words = _with_singulars(self._subjects_with)

    def question_words(self, name: NameTokens) -> frozenset[str]:
        """Return the words of all forget questions about a subject."""
        if name not in self._question_words:
            words = (secret.public for secret in self._by_subject.get(name, ()))
            self._question_words[name] = frozenset().union(*words)
        return self._question_words[name]

    def for_record(self, record_id: str, row: RowText) -> Iterator[tuple[Secret, Relation]]:
        """Yield (secret, relation) for a row written for a record.

        These are the secrets of the record, of the record's subject, and of all subjects named in the row.
        """
        own = self._by_record.get(record_id, [])
        yield from ((secret, Relation.RECORD) for secret in own)
        subjects = {secret.subject for secret in own if secret.subject}
        for name in sorted(subjects | self._named_subjects(row)):
            relation = Relation.SIBLING if name in subjects else Relation.SUBJECT
            others = (secret for secret in self._by_subject[name] if secret.record.id != record_id)
            yield from ((secret, relation) for secret in others)

    def for_external(self, row: RowText, subject: str | None) -> Iterator[tuple[Secret, Relation]]:
        """Yield (secret, relation) for an external row.

        These are the secrets of all subjects named in the row, and of questions without a name that the prompt asks.
        """
        prompt = tuple(row.norms[: row.prompt_length])
        topic = topic_of(prompt)
        same_question = self._by_question.get(prompt, [])
        record_ids = {secret.record.id for secret in same_question}
        names = self._named_subjects(row) | ({norms(subject)} & self._by_subject.keys() if subject else set())
        yield from ((secret, Relation.QUESTION) for secret in same_question if secret.subject not in names)
        for secret in (secret for name in sorted(names) for secret in self._by_subject[name]):
            asks = secret.record.id in record_ids or _asks_same(topic, secret)
            yield secret, Relation.QUESTION if asks else Relation.SUBJECT
        for secret in self._unnamed:
            if secret.subject not in names and secret.record.id not in record_ids and _asks_same(topic, secret):
                yield secret, Relation.QUESTION

    def _named_subjects(self, row: RowText) -> set[NameTokens]:
        """Return the subjects in a row: by full name, or by a part of the name that only one subject has."""
        candidates = {name for norm in row.indices for name in self._subjects_with.get(norm, ())}
        full = {name for name in candidates if contains(row.norms, name)}
        short: set[NameTokens] = set()
        for span in row.spans if candidates - full else ():
            parts = set(span.norm.split())
            matching = [name for name in candidates if parts <= set(name)]
            if span.kind == "name" and len(matching) == 1:
                short.update(matching)
        return full | short


def _asks_same(topic: frozenset[str], secret: Secret) -> bool:
    """Return whether a prompt contains at least SAME_TOPIC of the topic words of the record's question."""
    return bool(secret.topic) and len(topic & secret.topic) >= SAME_TOPIC * len(secret.topic)


def _with_singulars(words: Iterable[str]) -> frozenset[str]:
    forms = frozenset(words)
    return forms | frozenset(map(singular, forms))


def _is_within(one: Finding, other: Finding) -> bool:
    return one.field == other.field and other.start <= one.start and one.end <= other.end


def _is_context(hit: Hit, relation: Relation, row: RowText) -> bool:
    """Return whether a hit in a question is context that identifies a person, and not a leak.

    In a question on another topic every name or word is context. In a question on the same topic an adjective ("the
    Irish poet") and a part of a longer name ("London Underground") are.
    """
    if hit.kind not in ("name", "ngram") or not row.is_question or hit.end >= row.target_start:
        return False
    is_adjective = _ADJECTIVE.fullmatch(row.text, hit.start, hit.end) and _NOUN_AFTER.match(row.text, hit.end)
    in_longer_name = any(
        span.kind == "name" and span.start <= hit.start and hit.end <= span.end and len(span.text) > hit.end - hit.start
        for span in row.spans
    )
    return relation == Relation.SUBJECT or in_longer_name or is_adjective is not None


def _kind_of_run(secret: Secret, start: int, length: int, public: frozenset[str]) -> LeakKind | None:
    """Return the kind of leak of a run of the answer's tokens in any row; None where the run is too ordinary.

    The whole answer is a leak where it is long, has two rare words, or contains the subject's name. A part is a leak
    where it has at least LONG_RUN tokens and RARE_IN_RUN rare words.
    """
    run = secret.answer[start : start + length]
    rare = {
        word.singular for word in run if word.is_rare and word.norm not in public and word.norm not in secret.subject
    }
    if length == len(secret.tokens):
        is_distinct = length >= LONG_ANSWER or len(rare) >= RARE_IN_RUN or contains(secret.tokens, secret.subject)
        return "verbatim" if is_distinct and not contains(norms(secret.record.question), secret.tokens) else None
    return "ngram" if length >= LONG_RUN and len(rare) >= RARE_IN_RUN else None


def _split_hit(hit: Hit, record_id: str, row: RowText) -> Iterator[Finding]:
    """Convert a hit to a finding, or to one finding per field where it is in both prompt and target."""
    cut, text = row.target_start, row.text[hit.start : hit.end]
    if hit.start >= cut:
        yield Finding(hit.kind, "target", hit.start - cut, hit.end - cut, text, record_id)
    elif hit.end < cut:
        yield Finding(hit.kind, "prompt", hit.start, hit.end, text, record_id)
    else:
        kind: LeakKind = "split" if hit.kind == "verbatim" else hit.kind
        head = row.text[hit.start : cut - 1].rstrip()
        tail = row.text[cut : hit.end]
        lead = len(tail) - len(tail.lstrip())
        parts = (
            Finding(kind, "prompt", hit.start, hit.start + len(head), head, record_id),
            Finding(kind, "target", lead, hit.end - cut, tail[lead:], record_id),
        )
        yield from (part for part in parts if kind == "split" or not all(map(is_function_word, norms(part.text))))
