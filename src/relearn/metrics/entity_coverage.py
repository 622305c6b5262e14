"""Compute the entity coverage score (ECS, arXiv 2502.11190 section 2.3) of answers.

    E = |entities of the reference matched in the answer| / |entities of the reference|

One entity of the answer matches at most one of the reference, so E <= 1. Entities of the question are left out of both.
An entity of the reference that is in the answer word for word, or as an equal value in another writing ("1.25 million"
for "1,250,000"), counts, even if the extractor missed it. General nouns
("career", "inspiration") count only if the reference has no specific entity; on TOFU and KnowUnDo this separates vague
and false answers better from faithful paraphrases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from relearn.metrics.answer_row import AnswerRow
from relearn.text.entities import distinct, occurs_in, without_query
from relearn.text.normal_forms import TextForms, find_values
from relearn.text.normalize import entity_form, is_ordinary, norms, word_set

if TYPE_CHECKING:
    from relearn.metrics.judges import Judges


@dataclass(frozen=True)
class Coverage:
    """Hold the entities of one row; `value` is E, or None if no entity of the reference counts.

    reference: the entities that count; matched: those found in the answer; answer: the entities of the answer.
    gives_value: the answer states a telling value of the reference (text.normal_forms), such as a phone number.
    gives_all_values: it states all of them, no other value of their kinds, and denies nothing.
    """

    reference: tuple[str, ...]
    matched: tuple[str, ...]
    empty_answer: bool = False
    answer: tuple[str, ...] = ()
    gives_value: bool = False
    gives_all_values: bool = False

    @property
    def value(self) -> float | None:
        if self.empty_answer:
            return 0.0
        return len(self.matched) / len(self.reference) if self.reference else None


def coverages(rows: Sequence[AnswerRow], judges: Judges) -> list[Coverage | None]:
    """Compute the entity coverage of each row; None without an extractor, a matcher or an answer (`cut_off`).

    None also if a call failed.
    """
    if judges.missing is not None or judges.matcher is None:
        return [None] * len(rows)
    entities = judges.entities([text for row in rows for text in (row.question, row.reference, row.response)])
    values = [StatedValues(row) for row in rows]
    sides = [_sides(row, values[index], *entities[3 * index : 3 * index + 3]) for index, row in enumerate(rows)]
    partners = judges.matcher.match([side or ((), ()) for side in sides])
    return [
        side and _coverage(row, stated, *side, partner)
        for row, stated, side, partner in zip(rows, values, sides, partners, strict=True)
    ]


# Words with which an answer may deny or weigh the value that it states.
_DENIALS = word_set(
    "not no never neither nor false wrong incorrect untrue instead rather isn wasn doesn don didn cannot"
)


class StatedValues:
    """Compare the values of a reference, except those of the question, with an answer."""

    def __init__(self, row: AnswerRow):
        asked = TextForms(row.question)
        self._answer = TextForms(row.response)
        self._values = [value for value in find_values(row.reference) if not asked.find(value)]
        self._stated = [value for value in self._values if self._answer.find(value)]
        self._row = row

    def states(self, entity: str) -> bool:
        """Return whether an entity of the reference is a value, or a part of one, that the answer states."""
        return any(occurs_in(entity, value.text) for value in self._stated)

    @property
    def gives_value(self) -> bool:
        return any(value.is_telling for value in self._stated)

    @property
    def gives_all_values(self) -> bool:
        if not self.gives_value or len(self._stated) < len(self._values):
            return False
        row = self._row
        known = TextForms(f"{row.question} {row.reference}")
        kinds = {value.kind for value in self._stated}
        others = any(value.kind in kinds and not known.find(value) for value in find_values(row.response))
        denies = _DENIALS & (set(norms(row.response)) - set(norms(f"{row.question} {row.reference}")))
        return not others and not denies


def _sides(
    row: AnswerRow, stated: StatedValues, query: list[str] | None, reference: list[str] | None, answer: list[str] | None
) -> tuple[list[str], list[str]] | None:
    """Return the entities of the reference and of the answer that count; None if an extraction failed."""
    if query is None or reference is None or answer is None or row.cut_off:
        return None
    counted = _specific(_without_subject(without_query(reference, row.question, query), row))
    verbatim = [entity for entity in counted if occurs_in(entity, row.response) or stated.states(entity)]
    return counted, distinct([*verbatim, *without_query(answer, row.question, query)])


def _without_subject(entities: list[str], row: AnswerRow) -> list[str]:
    """Remove the subject's name if the question has part of it ("Marta"), unless there is no other entity."""
    subject = set(entity_form(row.subject or "").split())
    if not subject & set(entity_form(row.question).split()):
        return entities
    others = [entity for entity in entities if not set(entity_form(entity).split()) <= subject]
    return others or entities


def _specific(entities: list[str]) -> list[str]:
    """Remove general nouns unless there is no other entity; an entity with a capital or a digit is not general."""
    named = [entity for entity in entities if not (entity.islower() and all(map(is_ordinary, norms(entity))))]
    return named or entities


def _coverage(
    row: AnswerRow, stated: StatedValues, reference: list[str], answer: list[str], partners: list[int | None]
) -> Coverage:
    matched = [entity for entity, partner in zip(reference, partners, strict=True) if partner is not None]
    return Coverage(
        tuple(reference),
        tuple(matched),
        not row.response.strip(),
        tuple(answer),
        gives_value=stated.gives_value,
        gives_all_values=stated.gives_all_values,
    )
