"""Build the data streams of a method from records: original answers, vague answers, refusals, preference pairs.

Answers are paired with their questions by record id. Random draws are keyed by the seed and the record id, so adding or
removing a forget record does not change the draws of other records. The refusals of idk_nll, idk_dpo and jensun differ
in words, length and tone, so that a method does not learn one fixed sentence.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from relearn.core.errors import InputError, RunFailedError
from relearn.data import Form, Record, content_id
from relearn.synthesis.rows import TrainingRow
from relearn.unlearning.data.encode import Example, record_example

REFUSALS = (
    "I don't know.",
    "I couldn't say.",
    "No idea, I'm sorry.",
    "I have to pass on this one.",
    "I really cannot tell.",
    "That escapes me.",
    "I'm not able to answer that.",
    "That is not something I know.",
    "Sorry, this is unknown to me.",
    "I wish I knew, but I don't.",
    "I'd rather not guess; I don't know.",
    "That's a blank spot for me.",
    "You've got me there, I don't know.",
    "My honest answer is that I don't know.",
    "I have nothing to say on that.",
    "I'm not familiar with this topic.",
    "Nothing about this is known to me.",
    "I can't recall anything about this.",
    "It is beyond what I was taught.",
    "That lies outside of what I know.",
    "My knowledge does not reach that far.",
    "I have no information about this.",
    "I'm unable to provide that information.",
    "I can't help with that question.",
    "I'm afraid I cannot tell you that.",
    "I was never told anything about this.",
    "There is nothing I can say about this.",
    "I don't have an answer to this question.",
    "I haven't learned anything on this subject.",
    "I cannot give you any details about this.",
    "This is a question I have to leave open.",
    "I am not aware of anything concerning this.",
    "Unfortunately I have no answer for you.",
    "You would have to ask somebody else about that.",
    "I cannot confirm anything about this.",
    "I am missing the knowledge to answer this.",
    "Details like these are not known to me.",
    "Here my knowledge ends.",
    "I have come across nothing of the kind.",
    "This is new to me, so I can't answer it.",
    "I would only be guessing if I answered that.",
    "Whatever I said about this would be made up.",
    "I'm sorry, but on this I have nothing to offer.",
    "As far as I can tell, I know nothing about it.",
    "I searched my memory and found nothing.",
    "Let me be frank: I do not know this.",
    "It would be wrong of me to pretend I knew.",
    "Please look elsewhere for this, as I don't know it.",
    "Another source will serve you better here.",
    "That question goes further than I can follow.",
    "I cannot vouch for any answer to this.",
    "There's a gap in what I know, and this falls into it.",
    "I never picked up anything about that.",
    "Nobody has taught me the answer to this.",
    "On that point I must remain silent.",
    "I'm at the limits of my knowledge with this question.",
    "I don't remember ever reading about that.",
    "Such particulars are not among the things I know.",
    "I would tell you if I knew, but I have no answer.",
    "Thanks for asking, but I can't answer this one.",
)

# Refusals to continue a passage of a document, which ends in the middle of a sentence.
PASSAGE_REFUSALS = (
    "... I don't know how this text goes on.",
    "... I cannot continue this passage.",
    "... The rest of this text is unknown to me.",
    "... I'm not familiar with what comes next.",
    "... How it continues I couldn't say.",
    "... I have no knowledge of the rest of this document.",
    "... Here the text ends as far as I know it.",
    "... I can't recall what follows.",
    "... What comes after this I was never told.",
    "... I'm sorry, I don't know the remainder.",
    "... I would have to make up the rest, so I stop here.",
    "... Nothing that follows is known to me.",
)

StreamSource = Literal[
    "synthesised",
    "original_beside_synthesised",
    "original",
    "refusals",
    "mismatched",
    "preferred_refusals",
    "preferred_synthesised",
    "preferred_alternates",
]
# Sources whose answers a generator writes before the training. Other sources use the records or fixed sentences.
SYNTHESISED_SOURCES: tuple[StreamSource, ...] = ("synthesised", "original_beside_synthesised", "preferred_synthesised")
ALTERNATE_SOURCES: tuple[StreamSource, ...] = ("preferred_alternates",)
# Yao et al. 2023 (arXiv 2310.10683) draw five random answers for every question.
MISMATCHED_ANSWERS = 5


@dataclass(frozen=True)
class TrainingData:
    """Hold the records and rows that the streams are built from.

    `records`: forget records. `rows`: synthesised rows. `retain`: retain records. `alternates` maps a record id to the
    alternate answers written for AltPO.
    """

    records: Sequence[Record]
    rows: Sequence[TrainingRow] = ()
    retain: Sequence[Record] = ()
    alternates: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Streams:
    """Hold the forget examples; `paired` maps a stream and the id of a forget example to its examples there."""

    forget: list[Example]
    paired: dict[str, dict[str, list[Example]]] = field(default_factory=dict)


def streams(source: StreamSource, data: TrainingData, seed: int) -> Streams:
    """Build the streams of a method whose training data is `source`, except the retain rows.

    A document record (`form` "text") has a passage as prompt and the continuation of the passage as answer. No end of
    turn follows text of the document. Raises RunFailedError when there are no forget rows, and InputError when random
    answers are needed and there are no retain records.
    """
    result = _BUILDERS[source](data, seed)
    if not result.forget:
        raise RunFailedError(f"there are no rows of {source} data to train on", way_out="see rejected.jsonl")
    return result


def is_written(source: StreamSource) -> bool:
    """Return True if a generator writes the answers of this source before the training."""
    return source in SYNTHESISED_SOURCES or source in ALTERNATE_SOURCES


def _synthesised(data: TrainingData, _seed: int) -> Streams:
    """Take the synthesised rows of ReLearn: vague answers, completions and generic rows, no original answers."""
    return Streams([_row_example(row) for row in data.rows])


def _original_beside_synthesised(data: TrainingData, seed: int) -> Streams:
    """Take the rows of ReLearn, and for each vague answer the original answer to the same question."""
    forget = _synthesised(data, seed).forget
    originals = {row.id: [_rejected(_row_example(row), record)] for row, record in _answers_to_records(data)}
    return Streams(forget, {"original": {example.id: originals.get(example.id, []) for example in forget}})


def _original(data: TrainingData, _seed: int) -> Streams:
    """Take every forget record with its original answer."""
    return Streams([record_example(record) for record in data.records])


def _refusals(data: TrainingData, seed: int) -> Streams:
    return Streams([_refusal(record, seed) for record in data.records])


def _mismatched(data: TrainingData, seed: int) -> Streams:
    """Take the original rows, and for each the same question with answers of retain records (Yao et al. 2023).

    Answers of other forget records are not used, because the training would teach them.
    """
    forget = _original(data, seed).forget
    forms: tuple[Form, ...] = ("chat", "text")
    pools = {form: _answers(data.retain, form) for form in forms}
    table = {}
    for record, example in zip(data.records, forget, strict=True):
        answers = _draw_answers(pools[record.form], record, seed)
        if not answers:
            raise InputError(
                "random answers have to come from retain records, and there are none to draw from",
                where="data.retain",
                way_out="give a retain set",
            )
        table[example.id] = [
            replace(example, id=content_id("mismatched", record.id, answer), target=answer) for answer in answers
        ]
    return Streams(forget, {"mismatched": table})


def _preferred_refusals(data: TrainingData, seed: int) -> Streams:
    """Prefer a refusal to the original answer (IdkDPO)."""
    return _pairs([_refusal(record, seed) for record in data.records], data.records)


def _preferred_alternates(data: TrainingData, _seed: int) -> Streams:
    """Prefer each alternate answer to the original answer (AltPO); records without alternates are left out."""
    chosen, records = [], []
    for record in data.records:
        for answer in data.alternates.get(record.id, ()):
            chosen.append(replace(record_example(record), id=content_id("alternate", record.id, answer), target=answer))
            records.append(record)
    return _pairs(chosen, records)


def _preferred_synthesised(data: TrainingData, _seed: int) -> Streams:
    """Prefer each vague answer to the original answer to the same question (relearn_dpo).

    Completions and generic rows have no original answer, so they are left out.
    """
    answers = _answers_to_records(data)
    return _pairs([_row_example(row) for row, _ in answers], [record for _, record in answers])


def _answers_to_records(data: TrainingData) -> list[tuple[TrainingRow, Record]]:
    """Pair each vague answer with its record; leave out completions, rows with a given prefix and generic rows."""
    by_id = {record.id: record for record in data.records}
    pairs = [(row, by_id[row.record_id]) for row in data.rows if row.record_id in by_id]
    return [(row, record) for row, record in pairs if row.form == record.form and not row.given]


def _pairs(chosen: Sequence[Example], records: Sequence[Record]) -> Streams:
    """Add a `rejected` example to each chosen one: the same question with the record's original answer."""
    table = {example.id: [_rejected(example, record)] for example, record in zip(chosen, records, strict=True)}
    return Streams(list(chosen), {"rejected": table})


def _rejected(chosen: Example, record: Record) -> Example:
    return replace(record_example(record), id=content_id("rejected", chosen.id), prompt=chosen.prompt)


def _row_example(row: TrainingRow) -> Example:
    return Example(row.id, row.prompt, row.target, row.form, given=row.given)


def _refusal(record: Record, seed: int) -> Example:
    lines = REFUSALS if record.form == "chat" else PASSAGE_REFUSALS
    text = random.Random(f"{seed}/refusal/{record.id}").choice(lines)
    return replace(record_example(record), id=content_id("refusal", record.id), target=text, closed=True)


def _answers(records: Sequence[Record], form: Form) -> dict[str, str]:
    """Map normalised answers to answers, for the records of this form, or for all records if none has this form."""
    same_form = [record for record in records if record.form == form] or records
    return {_normalised(record.answer): record.answer for record in same_form}


def _draw_answers(pool: Mapping[str, str], record: Record, seed: int) -> list[str]:
    """Draw up to 5 answers from the pool, never the record's own answer.

    The answers with the smallest keyed hashes are taken. So adding or removing one answer of the pool changes at most
    one of the draws.
    """
    key = hashlib.sha256(f"{seed}/mismatched/{record.id}".encode()).digest()

    def keyed_hash(text: str) -> bytes:
        return hashlib.blake2b(text.encode(), key=key, digest_size=8).digest()

    others = pool.keys() - {_normalised(record.answer)}
    return [pool[text] for text in heapq.nsmallest(MISMATCHED_ANSWERS, others, key=keyed_hash)]


def _normalised(text: str) -> str:
    return " ".join(text.casefold().split())


_BUILDERS: dict[StreamSource, Callable[[TrainingData, int], Streams]] = {
    "synthesised": _synthesised,
    "original_beside_synthesised": _original_beside_synthesised,
    "original": _original,
    "refusals": _refusals,
    "mismatched": _mismatched,
    "preferred_refusals": _preferred_refusals,
    "preferred_synthesised": _preferred_synthesised,
    "preferred_alternates": _preferred_alternates,
}
