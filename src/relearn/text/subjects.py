"""Whom each record of a set is about, and which words the set uses so freely that they tell nothing about anybody."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from relearn.data import Record
from relearn.text.normalize import contains, fold, norms, singular
from relearn.text.subject import find_subject

Name = tuple[str, ...]
FEW_SUBJECTS = 20
COMMON_SHARE = 0.15
_SMALL = re.compile(r"\b[^\W\d_A-Z]\w+")


def find_subjects(records: Sequence[Record]) -> list[Name]:
    """The folded name of each record's subject, () where it has none.

    A last name alone stands for the one full name in the set that has it; a question without a name is about the one
    subject whom the answer names.
    """
    found = [norms(record.subject or find_subject(record.question) or "") for record in records]
    full = sorted({name for name in found if len(name) > 1})
    return [
        _complete(name, full) or _only_name_in(norms(record.answer), full)
        for name, record in zip(found, records, strict=True)
    ]


def _complete(name: Name, full: Iterable[Name]) -> Name:
    longer = [other for other in full if len(name) == 1 and name[0] in other]
    return longer[0] if len(longer) == 1 else name


def _only_name_in(answer: Name, full: Iterable[Name]) -> Name:
    named = [name for name in full if contains(answer, name)]
    return named[0] if len(named) == 1 else ()


def common_words(records: Sequence[Record], subjects: Sequence[Name]) -> frozenset[str]:
    """Singulars that the answers of a large set use of many subjects."""
    said_of: dict[str, set[Name]] = {}
    for record, subject in zip(records, subjects, strict=True):
        for norm in norms(record.answer):
            said_of.setdefault(singular(norm), set()).add(subject)
    everybody = len(set(subjects))
    if everybody < FEW_SUBJECTS:
        return frozenset()
    return frozenset(word for word, about in said_of.items() if len(about) > COMMON_SHARE * everybody)


def lower_case_words(records: Sequence[Record]) -> frozenset[str]:
    """Singulars that the set writes small: "Urban Fantasy" in one answer is no name where another has "urban"."""
    texts = [text for record in records for text in (record.question, record.answer)]
    return frozenset(singular(fold(word)) for text in texts for word in _SMALL.findall(text))
