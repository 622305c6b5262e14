"""Compute the entity coverage score (ECS, arXiv 2502.11190 section 2.3) of answers.

    E = |entities of the reference matched in the answer| / |entities of the reference|

One entity of the answer matches at most one of the reference, so E <= 1. Entities of the question are left out of both.
An entity of the reference that is in the answer word for word counts, even if the extractor missed it. General nouns
("career", "inspiration") count only if the reference has no specific entity; on TOFU and KnowUnDo this separates vague
and false answers better from faithful paraphrases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from relearn.metrics.answer_row import AnswerRow
from relearn.text.entities import distinct, occurs_in, without_query
from relearn.text.normalize import entity_form, is_ordinary, norms

if TYPE_CHECKING:
    from relearn.metrics.judges import Judges


@dataclass(frozen=True)
class Coverage:
    """Hold the entities of one row; `value` is E, or None if no entity of the reference counts.

    reference: the entities that count; matched: those found in the answer; answer: the entities of the answer.
    """

    reference: tuple[str, ...]
    matched: tuple[str, ...]
    empty_answer: bool = False
    answer: tuple[str, ...] = ()

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
    sides = [_sides(row, *entities[3 * index : 3 * index + 3]) for index, row in enumerate(rows)]
    partners = judges.matcher.match([side or ((), ()) for side in sides])
    return [side and _coverage(row, *side, partner) for row, side, partner in zip(rows, sides, partners, strict=True)]


def _sides(
    row: AnswerRow, query: list[str] | None, reference: list[str] | None, answer: list[str] | None
) -> tuple[list[str], list[str]] | None:
    """Return the entities of the reference and of the answer that count; None if an extraction failed."""
    if query is None or reference is None or answer is None or row.cut_off:
        return None
    counted = _specific(_without_subject(without_query(reference, row.question, query), row))
    verbatim = [entity for entity in counted if occurs_in(entity, row.response)]
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


def _coverage(row: AnswerRow, reference: list[str], answer: list[str], partners: list[int | None]) -> Coverage:
    matched = [entity for entity, partner in zip(reference, partners, strict=True) if partner is not None]
    return Coverage(tuple(reference), tuple(matched), not row.response.strip(), tuple(answer))
