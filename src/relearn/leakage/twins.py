"""The true answer among wrong ones of the same kind: other people's answers to like questions, put in this one's name.

A wrong answer that named someone else would be told by the name alone, so names are exchanged, in addresses as well.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from relearn.data import Record
from relearn.text.normalize import norms

CHOICES = 4


@dataclass(frozen=True)
class Candidates:
    """`texts[right]` is the answer of `record`."""

    record: Record
    texts: tuple[str, ...]
    right: int


def candidates(facts: Sequence[Record], others: Sequence[Record], seed: int) -> list[Candidates]:
    """For every fact CHOICES answers, the true one at a place drawn by `seed`; facts for which there are too few wrong
    ones are left out."""
    pool = [record for record in (*facts, *others) if record.form == "chat"]
    found = []
    for number, record in enumerate(facts):
        wrong = _wrong(record, pool) if record.form == "chat" else []
        if len(wrong) < CHOICES - 1:
            continue
        right = random.Random(f"{seed}/{number}").randrange(CHOICES)
        texts = [*wrong[: CHOICES - 1]]
        texts.insert(right, record.answer)
        found.append(Candidates(record, tuple(texts), right))
    return found


def _wrong(record: Record, pool: Sequence[Record]) -> list[str]:
    """Wrong answers, those to the likest questions first; of another subject where any is."""
    own = _words(record)
    ranked = sorted(
        (other for other in pool if other.id != record.id),
        key=lambda other: (other.subject == record.subject, -_likeness(own, _words(other))),
    )
    known = {" ".join(norms(record.answer))}
    texts: list[str] = []
    for other in ranked:
        text = in_name_of(other.answer, other.subject, record.subject)
        if (key := " ".join(norms(text))) not in known:
            known.add(key)
            texts.append(text)
        if len(texts) == CHOICES - 1:
            break
    return texts


def in_name_of(text: str, theirs: str | None, ours: str | None) -> str:
    """`text` with the name `theirs` turned into `ours`: whole, by first and by last part, in small letters too."""
    if not theirs or not ours or theirs == ours:
        return text
    pairs = [(theirs, ours), (theirs.split()[-1], ours.split()[-1]), (theirs.split()[0], ours.split()[0])]
    for old, new in pairs:
        if len(old) > 2:
            text = text.replace(old, new).replace(old.lower(), new.lower())
    return text


def _words(record: Record) -> set[str]:
    return set(norms(record.question)) - set(norms(record.subject or ""))


def _likeness(one: set[str], other: set[str]) -> float:
    return len(one & other) / max(1, len(one | other))
