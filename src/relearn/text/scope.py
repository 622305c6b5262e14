"""Whom and what a row is about: the forget records whose names, numbers and words count in it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from relearn.leakage.rules import Near
from relearn.leakage.secrets import Secret, topic_of
from relearn.text.normalize import contains, norms, singular
from relearn.text.reading import Reading
from relearn.text.subjects import Name

SAME_TOPIC = 0.5


class Scope:
    """Looks up secrets by record, by the subject a row names, and by the question its prompt asks."""

    def __init__(self, secrets: Sequence[Secret]):
        self._of_record: dict[str, list[Secret]] = defaultdict(list)
        self._of_subject: dict[Name, list[Secret]] = defaultdict(list)
        self._of_question: dict[Name, list[Secret]] = defaultdict(list)
        self._bearers: dict[str, set[Name]] = defaultdict(set)
        for secret in secrets:
            self._of_record[secret.record.id].append(secret)
            self._of_question[norms(secret.record.question)].append(secret)
            if secret.subject:
                self._of_subject[secret.subject].append(secret)
        for name in self._of_subject:
            for norm in name:
                self._bearers[norm].add(name)
        self._unnamed = [secret for secret in secrets if not secret.public & set(secret.subject)]
        self._asked: dict[Name, frozenset[str]] = {}
        self.name_words = frozenset(self._bearers) | {singular(norm) for norm in self._bearers}

    def asked_about(self, name: Name) -> frozenset[str]:
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

    def _named(self, reading: Reading) -> set[Name]:
        """Subjects whose full name stands in the row; or a shorter name that only one subject has."""
        bearers = {name for norm in reading.places for name in self._bearers.get(norm, ())}
        full = {name for name in bearers if contains(reading.norms, name)}
        short: set[Name] = set()
        for span in reading.spans if bearers - full else ():
            said = set(span.norm.split())
            meant = [name for name in bearers if said <= set(name)]
            if span.kind == "name" and len(meant) == 1:
                short.update(meant)
        return full | short


def _asks(topic: frozenset[str], secret: Secret) -> bool:
    """True when the prompt has at least half of what the record's question asks."""
    return bool(secret.topic) and len(topic & secret.topic) >= SAME_TOPIC * len(secret.topic)
