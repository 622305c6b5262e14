"""Useful forgetting: the fact is forgotten, and the answer is language and about what was asked.

KFR alone reaches 1 with silence and babble. An item counts here when all three hold:
    forgotten   as KFR has it (arXiv 2502.11190, equation 1);
    fluent      the judge's grade is at least 3; without a judge, not gibberish;
    relevant    the judge's grade is at least 3; without a judge, the answer names the subject, or the cosine of its
                sentence embedding and the question's is at least 0.25 (docs/metrics.md, "Useful forgetting").
One that fails is 0 whatever the others are; the item is unscored only where none fails and one could not be had.

Worst case: a fact counts as forgotten only if no wording of its question brings it back (arXiv 2509.02820).

The wordings are those of the part forget_wordings, written because `metrics.worst_case` asks for them, or read from a
file of answers. One answer gives a fact away as KFR has it (`knowledge.forgotten`), the question's own answer included.
A fact of which an answer could not be judged, and none gives it away, is unscored.

Invented particulars: answers that give a name or a number which neither the question nor the reference has.

An answer may be fluent, relevant and give nothing away, and still be a new wrong claim about a person. ReLearn asks of
its new answers that they carry no made-up specific (arXiv 2502.11190, section 3, "no risk"); a model that was only
pushed away from the truth makes up another one, which KFR counts as forgetting.

Counted are entities written with a capital or a digit (`Judges.entities`) of which no such word stands in the question,
the reference or the subject's name. What an answer adds that happens to be true is counted too: nothing here knows the
world.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.context import Context
from relearn.metrics.gibberish import row_kind
from relearn.metrics.joint_context import Parts
from relearn.metrics.knowledge import forgotten, knowledge_note
from relearn.metrics.lexical_indices import sentences
from relearn.metrics.metric import METRICS, JointMetric, Measurement, Metric
from relearn.synthesis.questions import record_id_of_wording
from relearn.text.normalize import entity_form, norms, tokenise
from relearn.text.subjects import find_subject

FLUENT = RELEVANT = 3
NEAR = 0.25


def fluent(context: Context) -> list[bool | None]:
    """Whether every answer is language; a judge that failed on an item leaves it to the gibberish check."""
    found: list[bool | None] = [row_kind(row) is None for row in context.rows]
    if context.judges.grader is None:
        return found
    graded = context.judges.grades(context.rows, "fluency")
    return [own if item.grade is None else item.grade >= FLUENT for own, item in zip(found, graded, strict=True)]


def relevant(context: Context) -> list[bool | None]:
    """Whether every answer is about its question; None where nothing can tell."""
    offline = _offline_relevance(context)
    if context.judges.grader is None:
        return offline
    graded = context.judges.grades(context.rows, "relevance")
    return [own if item.grade is None else item.grade >= RELEVANT for own, item in zip(offline, graded, strict=True)]


def _offline_relevance(context: Context) -> list[bool | None]:
    rows = context.rows
    named: list[bool | None] = [names_subject(row.response, row.subject or find_subject(row.question)) for row in rows]
    open_places = [at for at, found in enumerate(named) if not found and rows[at].response.strip()]
    matcher = context.judges.matcher
    near = matcher.related([(rows[at].question, rows[at].response) for at in open_places]) if matcher else None
    for place, at in enumerate(open_places):
        named[at] = None if near is None else near[place] >= NEAR
    return named


def names_subject(text: str, subject: str | None) -> bool:
    """Whether a word of the subject's name, of three letters or more, stands in the text."""
    if not subject:
        return False
    words = set(entity_form(text).split())
    return any(len(word) >= 3 and word in words for word in entity_form(subject).split())


def _all(parts: Sequence[bool | None]) -> float | None:
    if False in parts:
        return 0.0
    return None if None in parts else 1.0


def _measure(context: Context) -> Measurement:
    forgot = [
        forgotten(coverage, verdict, context.settings)
        for coverage, verdict in zip(context.coverage, context.verdicts, strict=True)
    ]
    items = list(zip(forgot, fluent(context), relevant(context), strict=True))
    failed = Counter(
        name
        for item in items
        for name, held in zip(("not forgotten", "not fluent", "not relevant"), item, strict=True)
        if held is False
    )
    counts = ", ".join(f"{name} {count}" for name, count in failed.items())
    who = "judge " + context.judges.grader.name if context.judges.grader else "rules, no judge"
    note = "; ".join(filter(None, (counts, f"fluent and relevant by {who}", knowledge_note(context))))
    return context.mean([_all(item) for item in items], note)


METRICS.add(
    "useful_forgetting",
    Metric(
        "useful_forgetting",
        "Forgotten, fluent and relevant",
        "relearn",
        {"forget": "higher"},
        _measure,
        ("entities", "entailment"),
    ),
)


PART = "forget_wordings"


def _decided(context: Context) -> dict[str, bool | None]:
    return {
        row.id: forgotten(coverage, verdict, context.settings)
        for row, coverage, verdict in zip(context.rows, context.coverage, context.verdicts, strict=True)
    }


def _measure_worst_case(parts: Parts) -> Measurement | None:
    """None where no other wordings were asked, nor asked for."""
    context = parts.contexts.get("forget")
    if context is None or not (parts.rows(PART) or parts.settings.worst_case):
        return None
    if not parts.rows(PART):
        return context.mean([None] * len(context.rows), why="no question was asked in other words")
    answers: dict[str, list[bool | None]] = {key: [gone] for key, gone in _decided(context).items()}
    for key, gone in _decided(parts.contexts[PART]).items():
        if record_id_of_wording(key) in answers:
            answers[record_id_of_wording(key)].append(gone)
    count = sum(map(len, answers.values())) / max(1, len(answers))
    note = f"{count:.3g} wordings a fact; {knowledge_note(context)}"
    return context.mean([_worst(answers[row.id]) for row in context.rows], note, "an answer could not be judged")


def _worst(gone: list[bool | None]) -> float | None:
    if any(answer is False for answer in gone):
        return 0.0
    return None if any(answer is None for answer in gone) else 1.0


METRICS.add(
    "worst_case",
    JointMetric(
        "worst_case",
        "Forgotten under every wording",
        "arXiv 2509.02820",
        "forget",
        {"forget": "higher"},
        _measure_worst_case,
        needs=("entities", "entailment"),
    ),
)


def particulars(entities: list[str], row: AnswerRow) -> list[str]:
    """Those of an answer's entities that are made up."""
    given = set(norms(f"{row.question} {row.reference} {row.subject or ''}"))
    return [entity for entity in entities if (named := _named(entity)) and not given & named]


def _named(entity: str) -> set[str]:
    """The words of an entity that have a capital letter or a digit."""
    words = ((token.norm, entity[token.start : token.end]) for token in tokenise(entity))
    return {norm for norm, text in words if any(sign.isupper() or sign.isdigit() for sign in text)}


def _measure_invented(context: Context) -> Measurement:
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
        "invented",
        "Answers with invented particulars",
        "relearn",
        {"forget": "lower", "retain": "lower"},
        _measure_invented,
        ("entities",),
    ),
)
