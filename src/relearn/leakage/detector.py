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

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from relearn.data import Record
from relearn.leakage.rules import (
    Hit,
    LeakKind,
    Relation,
    RowText,
    common_length,
    contact_keys,
    find_contacts,
    find_hits,
    row_contact_keys,
    row_keys,
    secret_keys,
)
from relearn.leakage.secrets import Secret, read_secrets, topic_of
from relearn.text.normalize import contains, is_function_word, norms, singular
from relearn.text.subjects import NameTokens

# Kinds of findings, from worst to mildest.
KINDS: tuple[LeakKind, ...] = ("verbatim", "split", "email", "address", "date", "number", "name", "ngram")
# Minimum share of a question's topic words in a prompt that asks the same question.
SAME_TOPIC = 0.5
# Minimum number of tokens of an answer that is looked up as a whole.
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
    """Index the secrets of a forget set, to check many rows for leaks.

    Only the secrets that share a word, number, date or code with a row are compared with it, so that the time for a row
    hardly grows with the number of records.
    """

    def __init__(self, records: Sequence[Record]):
        self._rank = {record.id: rank for rank, record in enumerate(records)}
        self._questions = {record.id: _with_singulars(norms(record.question)) for record in records}
        self._secrets = read_secrets(records)
        self._lookup = SecretLookup(self._secrets)
        self._runs = RunIndex(self._secrets)
        self._contacts = _numbers_by_key(self._secrets, contact_keys)
        self._keys = _numbers_by_key(self._secrets, secret_keys)

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

    def _sharing(self, row: RowText) -> set[int]:
        """Return the numbers of the secrets that can be in a row."""
        return set().union(*(self._keys[key] for key in row_keys(row) if key in self._keys))

    def _with_contacts(self, row: RowText) -> set[int]:
        """Return the numbers of the secrets of which an e-mail, address, phone number or code can be in a row."""
        return set().union(*(self._contacts[key] for key in row_contact_keys(row) if key in self._contacts))

    def _hits_for_record(self, row: RowText, record_id: str, public: frozenset[str]) -> Iterator[SecretHit]:
        names = self._lookup.name_words.intersection(row.indices)
        for number, relation in self._lookup.for_record(record_id, row, self._sharing(row)):
            hidden = public if relation >= Relation.QUESTION else public | names
            secret = self._secrets[number]
            yield from ((hit, secret) for hit in find_hits(secret, row, relation, hidden))

    def _hits_in_external(self, row: RowText, subject: str | None) -> Iterator[SecretHit]:
        names = self._lookup.name_words.intersection(row.indices)
        for number, relation in self._lookup.for_external(row, subject, self._sharing(row)):
            secret = self._secrets[number]
            if relation >= Relation.QUESTION:
                hidden = row.question_words & names
            else:
                hidden = names | (row.question_words & self._lookup.question_words(secret.subject))
            for hit in find_hits(secret, row, relation, hidden):
                if not _is_context(hit, relation, row):
                    yield hit, secret

    def _long_runs(self, row: RowText, public: frozenset[str]) -> Iterator[SecretHit]:
        """Yield the runs of an answer's tokens that are a leak in any row."""
        for number, start, at, length in self._runs.find(row.norms):
            secret = self._secrets[number]
            kind = _kind_of_run(secret, start, length, public)
            if kind is not None:
                content = [0, length - 1] if kind == "verbatim" else secret.content_indices(start, length)
                yield row.hit(kind, (at + content[0], at + content[-1] + 1)), secret

    def _contact_hits(self, row: RowText) -> Iterator[SecretHit]:
        for number in self._with_contacts(row):
            yield from ((hit, self._secrets[number]) for hit in find_contacts(self._secrets[number], row))

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


class RunIndex:
    """Index the runs of the answers' tokens that `_kind_of_run` may call a leak, to find them in a row.

    A part of an answer is a leak only with RARE_IN_RUN different rare words, so the stretches from one rare word to the
    next are enough. Of an answer with fewer, only the whole is a leak: the window of LONG_RUN tokens that the fewest
    answers share is enough.
    """

    def __init__(self, secrets: Sequence[Secret]):
        self._tokens = [secret.tokens for secret in secrets]
        shared = Counter(tokens[start:end] for tokens in self._tokens for start, end in _windows(tokens))
        self._seeds: dict[NameTokens, list[tuple[int, int]]] = defaultdict(list)
        self._lengths: dict[str, set[int]] = defaultdict(set)  # by the first token
        for number, secret in enumerate(secrets):
            tokens = secret.tokens
            rarest = sorted(_windows(tokens), key=lambda window: shared[tokens[window[0] : window[1]]])[:1]
            for start, end in _between_rare(secret) or rarest:
                self._seeds[tokens[start:end]].append((number, start))
                self._lengths[tokens[start]].add(end - start)

    def find(self, norms: Sequence[str]) -> Iterator[tuple[int, int, int, int]]:
        """Yield (secret, its first token, the row's first token, length) of the longest common runs."""
        seen: set[tuple[int, int, int]] = set()
        for at, norm in enumerate(norms):
            for length in self._lengths.get(norm, ()):
                for number, start in self._seeds.get(tuple(norms[at : at + length]), ()):
                    tokens = self._tokens[number]
                    back = common_length(tokens[:start][::-1], norms[:at][::-1])
                    run = (number, start - back, at - back)
                    if run not in seen:
                        seen.add(run)
                        yield *run, common_length(tokens[start - back :], norms[at - back :])


def _between_rare(secret: Secret) -> list[tuple[int, int]]:
    """Return the stretches of tokens, as (first, one past the last), from a rare word to the next different one."""
    if len(secret.tokens) < SEED_LENGTH:
        return []
    rare = [at for at, word in enumerate(secret.answer) if word.is_rare and word.norm not in secret.subject]
    words = secret.answer
    return [(one, other + 1) for one, other in pairwise(rare) if words[one].singular != words[other].singular]


def _windows(tokens: Sequence[str]) -> list[tuple[int, int]]:
    """Return the windows of LONG_RUN tokens, or of all tokens where there are fewer; none below SEED_LENGTH."""
    width = min(LONG_RUN, len(tokens))
    return [(at, at + width) for at in range(len(tokens) - width + 1)] if width >= SEED_LENGTH else []


def _numbers_by_key(secrets: Sequence[Secret], keys: Callable[[Secret], Iterable[object]]) -> dict[object, list[int]]:
    numbers: dict[object, list[int]] = defaultdict(list)
    for number, secret in enumerate(secrets):
        for key in set(keys(secret)):
            numbers[key].append(number)
    return numbers


class SecretLookup:
    """Look up the secrets that apply to a row: by record, by the subjects in its text, by the question it asks.

    `sharing`: the numbers of the secrets that can be in the row; others are left out.
    """

    def __init__(self, secrets: Sequence[Secret]):
        self._secrets = secrets
        self._asked = [norms(secret.record.question) for secret in secrets]
        self._by_record: dict[str, set[int]] = defaultdict(set)
        self._by_subject: dict[NameTokens, set[int]] = defaultdict(set)
        self._by_question: dict[NameTokens, set[int]] = defaultdict(set)
        for number, secret in enumerate(secrets):
            self._by_record[secret.record.id].add(number)
            self._by_question[self._asked[number]].add(number)
            if secret.subject:
                self._by_subject[secret.subject].add(number)
        self._subjects_with: dict[str, set[NameTokens]] = defaultdict(set)
        for name in self._by_subject:
            for norm in name:
                self._subjects_with[norm].add(name)
        self._name_lengths: dict[str, set[int]] = defaultdict(set)  # by the first word
        for name in self._by_subject:
            self._name_lengths[name[0]].add(len(name))
        self._unnamed = TopicIndex(secrets)
        self._question_words: dict[NameTokens, frozenset[str]] = {}
        self.name_words = _with_singulars(self._subjects_with)

    def question_words(self, name: NameTokens) -> frozenset[str]:
        """Return the words of all forget questions about a subject."""
        if name not in self._question_words:
            words = (self._secrets[number].public for number in self._by_subject.get(name, ()))
            self._question_words[name] = frozenset().union(*words)
        return self._question_words[name]

    def for_record(self, record_id: str, row: RowText, sharing: set[int]) -> Iterator[tuple[int, Relation]]:
        """Yield (secret, relation) for a row written for a record.

        These are the secrets of the record, of the record's subject, and of all subjects named in the row.
        """
        own = self._by_record.get(record_id, set())
        yield from ((number, Relation.RECORD) for number in own & sharing)
        subjects = {subject for number in own if (subject := self._secrets[number].subject)}
        for name in sorted(subjects | self._named_subjects(row)):
            relation = Relation.SIBLING if name in subjects else Relation.SUBJECT
            yield from ((number, relation) for number in (self._by_subject[name] & sharing) - own)

    def for_external(self, row: RowText, subject: str | None, sharing: set[int]) -> Iterator[tuple[int, Relation]]:
        """Yield (secret, relation) for an external row.

        These are the secrets of all subjects named in the row, and of questions without a name that the prompt asks.
        """
        prompt = tuple(row.norms[: row.prompt_length])
        topic = topic_of(prompt)
        names = self._named_subjects(row) | ({norms(subject)} & self._by_subject.keys() if subject else set())
        asking = (self._by_question.get(prompt, set()) | self._unnamed.find(topic)) & sharing
        yield from ((number, Relation.QUESTION) for number in asking if self._secrets[number].subject not in names)
        for number in (number for name in sorted(names) for number in self._by_subject[name] & sharing):
            asks = self._asked[number] == prompt or _asks_same(topic, self._secrets[number].topic)
            yield number, Relation.QUESTION if asks else Relation.SUBJECT

    def _named_subjects(self, row: RowText) -> set[NameTokens]:
        """Return the subjects in a row: by full name, or by a part of the name that only one subject has."""
        full = {
            name
            for first, norm in enumerate(row.norms)
            for length in self._name_lengths.get(norm, ())
            if (name := tuple(row.norms[first : first + length])) in self._by_subject and self._is_indexed(name, row)
        }
        with_word = {norm: self._subjects_with[norm] for norm in row.indices if norm in self._subjects_with}
        short: set[NameTokens] = set()
        for span in row.spans if any(not names <= full for names in with_word.values()) else ():
            if span.kind == "name":
                named = (self._subjects_with.get(part, set()) for part in set(span.norm.split()))
                matching = [name for name in set.intersection(*named) if self._is_indexed(name, row)]
                short.update(matching if len(matching) == 1 else ())
        return full | short

    @staticmethod
    def _is_indexed(name: NameTokens, row: RowText) -> bool:
        """Return whether the row has a word of the name in the singular; names of plurals alone are not looked for."""
        return any(norm in row.indices for norm in name)


class TopicIndex:
    """Index the secrets whose questions do not name their subject by the topics of the questions."""

    def __init__(self, secrets: Sequence[Secret]):
        self._numbers: dict[frozenset[str], set[int]] = defaultdict(set)
        for number, secret in enumerate(secrets):
            if secret.topic and not secret.public & set(secret.subject):
                self._numbers[secret.topic].add(number)
        frequency = Counter(word for topic in self._numbers for word in topic)
        self._topics: dict[str, list[frozenset[str]]] = defaultdict(list)
        for topic in self._numbers:
            # A prompt that has the share SAME_TOPIC of the words has at least one of these, the rarest.
            needed = math.ceil(SAME_TOPIC * len(topic))
            for word in sorted(topic, key=lambda word: (frequency[word], word))[: len(topic) - needed + 1]:
                self._topics[word].append(topic)

    def find(self, topic: frozenset[str]) -> set[int]:
        """Return the numbers of the secrets whose questions a prompt with this topic asks."""
        near = {own for word in topic for own in self._topics.get(word, ()) if _asks_same(topic, own)}
        return set().union(*(self._numbers[own] for own in near))


def _asks_same(topic: frozenset[str], own: frozenset[str]) -> bool:
    """Return whether a prompt contains at least SAME_TOPIC of the topic words of a record's question, `own`."""
    return bool(own) and len(topic & own) >= SAME_TOPIC * len(own)


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
