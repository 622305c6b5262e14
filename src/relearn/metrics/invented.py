"""Invented particulars: answers that give a name or a number which neither the question nor the reference has.

An answer may be fluent, relevant and give nothing away, and still be a new wrong claim about a person. ReLearn asks of
its new answers that they carry no made-up specific (arXiv 2502.11190, section 3, "no risk"); a model that was only
pushed away from the truth makes up another one, which KFR counts as forgetting.

Counted are entities written with a capital or a digit (`Judges.entities`) of which no such word stands in the question,
the reference or the subject's name. What an answer adds that happens to be true is counted too: nothing here knows the
world.
"""

from __future__ import annotations

from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.context import Context
from relearn.metrics.measurement import Measurement
from relearn.metrics.metric import METRICS, Metric
from relearn.text.normalize import norms, tokenise
from relearn.text.tokenise import sentences


def particulars(entities: list[str], row: AnswerRow) -> list[str]:
    """Those of an answer's entities that are made up."""
    given = set(norms(f"{row.question} {row.reference} {row.subject or ''}"))
    return [entity for entity in entities if (named := _named(entity)) and not given & named]


def _named(entity: str) -> set[str]:
    """The words of an entity that have a capital letter or a digit."""
    words = ((token.norm, entity[token.start : token.end]) for token in tokenise(entity))
    return {norm for norm, text in words if any(sign.isupper() or sign.isdigit() for sign in text)}


def _measure(context: Context) -> Measurement:
    if context.judges.missing is not None:
        return context.mean([None] * len(context.rows), f"not measured: {context.judges.missing}")
    found = context.judges.entities([row.response for row in context.rows])
    values = [
        None if entities is None else float(bool(particulars(_within(entities, row), row)))
        for entities, row in zip(found, context.rows, strict=True)
    ]
    return context.mean(values, f"entities {context.judges.described}", "entities not found out")


def _within(entities: list[str], row: AnswerRow) -> list[str]:
    """Less a single word that opens a sentence, whose capital says nothing."""
    starts = {text.split()[0].strip(",;:.!?") for text in sentences(row.response) if text.split()}
    return [entity for entity in entities if entity not in starts or any(sign.isdigit() for sign in entity)]


METRICS.add(
    "invented",
    Metric(
        "invented", "Answers with invented particulars", "relearn", {"forget": "lower", "retain": "lower"}, _measure,
        ("entities",),
    ),
)  # fmt: skip
