"""Entity coverage score (ECS, arXiv 2502.11190 section 2.3): how much of what the reference names the answer names too.

    E = |entities of the reference matched in the answer| / |entities of the reference|

One entity of the answer matches at most one of the reference, so E never exceeds 1, and entities that the question
itself gives are left out on both sides. An entity of the reference that stands in the answer word for word counts as
named there even if the extractor overlooked it: what is said is said. General nouns that any answer may use ("career",
"inspiration") count only where the reference has nothing more specific; on TOFU and KnowUnDo that parts vague answers
and false ones further from faithful paraphrases.
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
    """`reference`: the entities that count; `matched`: those of them found; `answer`: those the answer names.

    `value` is None when no entity of the reference counts.
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


def is_empty(response: str) -> bool:
    return not response.strip()


def coverages(rows: Sequence[AnswerRow], judges: Judges) -> list[Coverage | None]:
    """One for each row, in order; None where entities could not be had (no extractor, no matcher, a failed call)."""
    if judges.missing is not None or judges.matcher is None:
        return [None] * len(rows)
    texts = [text for row in rows for text in (row.question, row.reference, row.response)]
    found = judges.entities(texts)
    sides = [_sides(row, *found[3 * index : 3 * index + 3]) for index, row in enumerate(rows)]
    partners = judges.matcher.match([side or ((), ()) for side in sides])
    return [side and _coverage(row, *side, partner) for row, side, partner in zip(rows, sides, partners, strict=True)]


def _sides(
    row: AnswerRow, query: list[str] | None, reference: list[str] | None, answer: list[str] | None
) -> tuple[list[str], list[str]] | None:
    if query is None or reference is None or answer is None:
        return None
    wanted = _specific(_without_subject(without_query(reference, row.question, query), row))
    said = [entity for entity in wanted if occurs_in(entity, row.response)]
    return wanted, distinct([*said, *without_query(answer, row.question, query)])


def _without_subject(entities: list[str], row: AnswerRow) -> list[str]:
    """Less the subject's name where the question gives part of it ("Marta"), unless the name is the answer itself."""
    if not row.subject:
        return entities
    asked = set(entity_form(row.question).split())
    subject = set(entity_form(row.subject).split())
    if not subject & asked:
        return entities
    others = [entity for entity in entities if not set(entity_form(entity).split()) <= subject]
    return others or entities


def _specific(entities: list[str]) -> list[str]:
    """Less the general nouns, unless there is nothing else. A capital or a digit marks a name, never general."""
    named = [entity for entity in entities if not (entity.islower() and all(map(is_ordinary, norms(entity))))]
    return named or entities


def _coverage(row: AnswerRow, reference: list[str], answer: list[str], partners: list[int | None]) -> Coverage:
    matched = [entity for entity, partner in zip(reference, partners, strict=True) if partner is not None]
    return Coverage(tuple(reference), tuple(matched), is_empty(row.response), tuple(answer))
