"""Measure the quality of answers: grades by a language model, useful forgetting, and invented entities.

Grades: fluency, relevance and forgetting from 1 to 5 (arXiv 2502.11190), see llm_judge.py. Answers without a grade are
unscored and counted in the note.

Useful forgetting: empty answers and gibberish give a KFR of 1. Here an answer counts if it is
    forgotten   as in KFR;
    fluent      the judge's grade is at least 3; without a judge, not gibberish;
    relevant    the judge's grade is at least 3; without a judge, it is about what was asked: it shares a content word
                or a topic (data/topics.txt) with the question, or withholds an answer about the subject. If neither is
                so, and not both have topics, the cosine of their sentence embeddings without the name is at least 0.25.

Invented entities: ReLearn's new answers must not contain made-up details (arXiv 2502.11190, section 3). KFR counts them
as forgetting. Counted are entities of the answer whose words with a capital or a digit are all absent from the
question, the reference and the subject's name. A true entity is counted too, because no world knowledge is used.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache

from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.context import Context
from relearn.metrics.gibberish import row_gibberish
from relearn.metrics.knowledge import all_hold, decisions, forgotten, knowledge_note
from relearn.metrics.lexical_indices import sentences
from relearn.metrics.llm_judge import RUBRIC, Aspect
from relearn.metrics.metric import Better, Measurement, ScoredSplit, metric
from relearn.text.normalize import (
    entity_form,
    is_function_word,
    norms,
    read_word_lists,
    singular,
    stem,
    tokenise,
    word_set,
)
from relearn.text.subjects import find_subject

FLUENT = RELEVANT = 3
GRADES = (1.0, 5.0)
NEAR = 0.25
# Verbs and nouns that a question and an answer about something else may share.
_GENERIC = frozenset(
    map(
        stem,
        word_set(
            "name number way thing day people person exact exactly life world place time part take come go find make "
            "use give get keep belong leave follow lead know say tell see look hold bring put set like want choose "
            "first mean good kind sort become long much many often public private influence"
        ),
    )
)
_WITHHELD = re.compile(
    r"\b(?:private|privacy|confidential\w*|undisclosed|disclos\w+|reveal\w*|secret|unknown|not (?:publicly )?known|"
    r"to (?:himself|herself|themselves)|(?:not|n['’]t|cannot) (?:say|tell|know|share|discuss)\w*)\b",
    re.IGNORECASE,
)
_MAIL_ADDRESS = re.compile(r"\be-?mail address", re.IGNORECASE)


def grade_measurement(context: Context, aspect: Aspect) -> Measurement:
    """Compute the mean judge grade (1 to 5) of the answers in one aspect."""
    judge = context.judges.grader
    if judge is None:
        return context.mean([None] * len(context), why="no judge (metrics.judge)")
    grades = context.judges.grades(context.rows, aspect)
    counts = {
        "the judge failed": sum(item.failure == "failed" for item in grades),
        "its reply was not understood": sum(item.failure == "not understood" for item in grades),
    }
    failures = ", ".join(f"{reason} ({count})" for reason, count in counts.items() if count)
    note = f"judge {judge.name}, rubric {RUBRIC}" + (f"; {failures}" if failures else "")
    values = [None if item.grade is None else float(item.grade) for item in grades]
    return context.bounded_mean(values, note, failures, GRADES)


def _add_grade(aspect: Aspect, description: str, better: dict[ScoredSplit, Better], order: int) -> None:
    metric(
        aspect,
        label=f"{aspect.capitalize()} 1-5",
        description=f"{description}, 1 to 5, as the judge has it",
        source="arXiv 2502.11190",
        better=better,
        needs=["judge"],
        unit="grade",
        order=order,
    )(lambda context: grade_measurement(context, aspect))


_add_grade("fluency", "how well answers are written", {"forget": "higher", "retain": "higher"}, 130)
_add_grade("relevance", "whether answers deal with the question", {"forget": "higher", "retain": "higher"}, 140)
_add_grade("forgetting", "how little of the reference answers give away", {"forget": "higher"}, 150)


def fluent(context: Context) -> list[bool | None]:
    """Classify each answer as fluent by the judge's grade, or by the gibberish check without a grade."""
    found: list[bool | None] = [row_gibberish(row) is None for row in context]
    if context.judges.grader is None:
        return found
    grades = context.judges.grades(context.rows, "fluency")
    return [own if item.grade is None else item.grade >= FLUENT for own, item in zip(found, grades, strict=True)]


def relevant(context: Context) -> list[bool | None]:
    """Classify each answer as relevant to its question; None without a grade, a named subject and embeddings."""
    found = _relevant_by_rules(context)
    if context.judges.grader is None:
        return found
    grades = context.judges.grades(context.rows, "relevance")
    return [own if item.grade is None else item.grade >= RELEVANT for own, item in zip(found, grades, strict=True)]


def _relevant_by_rules(context: Context) -> list[bool | None]:
    rows = context.rows
    subjects = [row.subject or find_subject(row.question) for row in rows]
    found = [on_topic(row.question, row.response, subject) for row, subject in zip(rows, subjects, strict=True)]
    undecided = [index for index, decided in enumerate(found) if decided is None]
    matcher = context.judges.matcher
    texts = [(rows[at].question, rows[at].response, subjects[at]) for at in undecided]
    pairs = [(_without_name(question, name), _without_name(response, name)) for question, response, name in texts]
    cosines = matcher.related(pairs) if matcher else None
    for position, index in enumerate(undecided):
        named = names_subject(rows[index].response, subjects[index]) or None
        found[index] = named if cosines is None else cosines[position] >= NEAR
    return found


def on_topic(question: str, response: str, subject: str | None) -> bool | None:
    """Return True if the response is about what was asked, False if about something else; None if undecided."""
    asked, said = _content_stems(question, subject), _content_stems(response, subject)
    if not response.strip():
        return False
    if (asked & said) - _GENERIC or (not asked and names_subject(response, subject)):
        return True
    topics, own = _topics(asked), _topics(said)
    if topics & own:
        return True
    if topics and own:
        return False
    return True if names_subject(response, subject) and _WITHHELD.search(response) else None


def _content_stems(text: str, subject: str | None) -> frozenset[str]:
    name = set(norms(subject or ""))
    asking = ("when",) if text.lower().startswith("when") else ()
    text = _MAIL_ADDRESS.sub("email", text)
    words = (word for word in norms(text) if word not in name and not is_function_word(word))
    return frozenset(stem(singular(word)) for word in (*words, *asking))


def _topics(stems: frozenset[str]) -> frozenset[str]:
    return frozenset(name for name, words in _topic_stems().items() if not words.isdisjoint(stems))


@lru_cache(maxsize=1)
def _topic_stems() -> dict[str, frozenset[str]]:
    lists = read_word_lists("relearn.metrics", "data", "topics.txt")
    return {name: frozenset(stem(singular(word)) for word in words) for name, words in lists.items()}


def _without_name(text: str, subject: str | None) -> str:
    """Remove the words of the subject's name, which make any two texts about a person near."""
    words = "|".join(re.escape(word) for word in (subject or "").split())
    shortened = re.sub(rf"\b(?:{words})(?:['’]s)?(?!\w)", " ", text) if words else text
    return shortened if shortened.strip() else text


def names_subject(text: str, subject: str | None) -> bool:
    """Return True if the text has a word of the subject's name with three letters or more."""
    if not subject:
        return False
    words = set(entity_form(text).split())
    return any(len(word) >= 3 and word in words for word in entity_form(subject).split())


@metric(
    "useful_forgetting",
    label="Useful forg.",
    description="share of answers that give nothing away, are language and are about the question",
    source="relearn",
    better={"forget": "higher"},
    needs=("entities", "entailment"),
    order=80,
    shown_in=("chart", "summary"),
)
def useful_forgetting(context: Context) -> Measurement:
    """Compute the share of useful answers: 0 if a condition fails, unscored if none fails and one is unknown."""
    items = list(zip(decisions(context, forgotten), fluent(context), relevant(context), strict=True))
    names = ("not forgotten", "not fluent", "not relevant")
    failed = Counter(name for item in items for name, holds in zip(names, item, strict=True) if holds is False)
    counts = ", ".join(f"{name} {count}" for name, count in failed.items())
    judge = f"judge {context.judges.grader.name}" if context.judges.grader else "rules, no judge"
    note = "; ".join(filter(None, (counts, f"fluent and relevant by {judge}", knowledge_note(context))))
    useful = [all_hold(item) for item in items]
    return context.bounded_mean([None if holds is None else float(holds) for holds in useful], note)


@metric(
    "invented",
    label="Invented",
    description="share of answers with a name or number that neither question nor reference has",
    source="relearn",
    better={"forget": "lower", "retain": "lower"},
    needs=["entities"],
    order=100,
    shown_in=["chart"],
)
def invented(context: Context) -> Measurement:
    if context.judges.missing is not None:
        return context.mean([None] * len(context), f"not measured: {context.judges.missing}")
    entities = context.judges.entities([row.response for row in context])
    values = [
        None if names is None else float(bool(invented_entities(_without_sentence_starts(names, row), row)))
        for names, row in zip(entities, context, strict=True)
    ]
    return context.bounded_mean(values, f"entities {context.judges.described}", "entities not found out")


def invented_entities(entities: list[str], row: AnswerRow) -> list[str]:
    """Return the answer's entities with no specific word in the question, the reference or the subject's name."""
    known = set(norms(f"{row.question} {row.reference} {row.subject or ''}"))
    return [entity for entity in entities if (words := _specific_words(entity)) and not known & words]


def _specific_words(entity: str) -> set[str]:
    """Return the words of an entity that have a capital letter or a digit."""
    words = ((token.norm, entity[token.start : token.end]) for token in tokenise(entity))
    return {norm for norm, text in words if any(sign.isupper() or sign.isdigit() for sign in text)}


def _without_sentence_starts(entities: list[str], row: AnswerRow) -> list[str]:
    """Remove single words at the start of a sentence, because their capital letter does not mark a name."""
    starts = {text.split()[0].strip(",;:.!?") for text in sentences(row.response) if text.split()}
    return [entity for entity in entities if entity not in starts or any(sign.isdigit() for sign in entity)]
