"""What a method's forget stream is made of, all from the same records: original answers, vague ones, refusals, ...

Every source keeps each answer with the question it was written for (by ids, never by place). What is drawn at random is
keyed by the seed and the record's id, so adding or removing a forget record changes nothing for the others.

Refusals for the methods that teach a model to decline (idk_nll, idk_dpo, jensun).

Varied in words, length and tone, so that a method learns to decline and not one sentence.
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

# A passage of a document breaks off in the middle of a sentence; these say that it is not gone on with.
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


Source = Literal[
    "synthesised",
    "original_beside_synthesised",
    "original",
    "refusals",
    "mismatched",
    "preferred_refusals",
    "preferred_synthesised",
    "preferred_alternates",
]
# Yao et al. 2023 (arXiv 2310.10683) draw five random answers for every question.
MISMATCHED_ANSWERS = 5


@dataclass(frozen=True)
class Material:
    """Everything a method can be trained on. `alternates`: record id -> answers written for AltPO."""

    records: Sequence[Record]
    rows: Sequence[TrainingRow] = ()
    retain: Sequence[Record] = ()
    alternates: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Streams:
    """Forget examples, and by stream what belongs to each of them (by its id)."""

    forget: list[Example]
    beside: dict[str, dict[str, list[Example]]] = field(default_factory=dict)


def streams(source: Source, material: Material, seed: int) -> Streams:
    """The forget side of a method whose data is `source`.

    Documents (`form` "text") have passages in place of questions: their answer is how the passage goes on, and what
    comes from the document itself is not closed with an end of turn. Raises RunFailedError when there is nothing to
    train on, InputError when random answers have no retain records to come from.
    """
    made = _MAKERS[source](material, seed)
    if not made.forget:
        raise RunFailedError(f"there are no rows of {source} data to train on", way_out="see rejected.jsonl")
    return made


def _synthesised(material: Material, seed: int) -> Streams:
    """Vague answers, completions and generic rows (ReLearn); the original answers are in none of them."""
    return Streams([_row_example(row) for row in material.rows])


def _original_beside_synthesised(material: Material, seed: int) -> Streams:
    """Vague answers, completions and generic rows, and beside each vague answer the original to the same question."""
    made = _synthesised(material, seed)
    pushed = {row.id: [_rejected(_row_example(row), record)] for row, record in _answers_of_records(material)}
    return Streams(made.forget, {"original": {example.id: pushed.get(example.id, []) for example in made.forget}})


def _original(material: Material, seed: int) -> Streams:
    """Every record with its own answer: what reverse optimisation pushes down."""
    return Streams([record_example(record) for record in material.records])


def _refusals(material: Material, seed: int) -> Streams:
    return Streams([_refusal(record, seed) for record in material.records])


def _mismatched(material: Material, seed: int) -> Streams:
    """The original rows, and beside each the same question with answers of retain records (Yao et al. 2023).

    Never with answers of other forget records: those would be taught instead of forgotten.
    """
    made = _original(material, seed)
    forms: tuple[Form, ...] = ("chat", "text")
    pools = {form: _answers(material.retain, form) for form in forms}
    table = {}
    for record, example in zip(material.records, made.forget, strict=True):
        drawn = _drawn(pools[record.form], record, seed)
        if not drawn:
            raise InputError(
                "random answers have to come from retain records, and there are none to draw from",
                where="data.retain",
                way_out="give a retain set",
            )
        table[example.id] = [
            replace(example, id=content_id("mismatched", record.id, answer), target=answer) for answer in drawn
        ]
    return Streams(made.forget, {"mismatched": table})


def _preferred_refusals(material: Material, seed: int) -> Streams:
    """A refusal before the original answer (IdkDPO)."""
    chosen = [_refusal(record, seed) for record in material.records]
    return _over_original(chosen, material.records)


def _preferred_alternates(material: Material, seed: int) -> Streams:
    """Each alternate answer before the original answer (AltPO); a record without alternates has no row."""
    chosen, records = [], []
    for record in material.records:
        for answer in material.alternates.get(record.id, ()):
            chosen.append(replace(record_example(record), id=content_id("alternate", record.id, answer), target=answer))
            records.append(record)
    return _over_original(chosen, records)


def _preferred_synthesised(material: Material, seed: int) -> Streams:
    """Each vague answer before the original answer to the same question (relearn_dpo).

    Completions of vague answers and generic rows have no original answer to be preferred to, and are left out.
    """
    pairs = _answers_of_records(material)
    return _over_original([_row_example(row) for row, _ in pairs], [record for _, record in pairs])


def _answers_of_records(material: Material) -> list[tuple[TrainingRow, Record]]:
    """Rows that ask what a record asks, with it: neither completions nor given beginnings, nor generic rows."""
    known = {record.id: record for record in material.records}
    pairs = [(row, known[row.record_id]) for row in material.rows if row.record_id in known]
    return [(row, record) for row, record in pairs if row.form == record.form and not row.given]


def _over_original(chosen: Sequence[Example], records: Sequence[Record]) -> Streams:
    """`rejected` asks what the chosen example asks and gives the original answer, as the record has it."""
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


def _answers(donors: Sequence[Record], form: Form) -> dict[str, str]:
    """Comparable form -> answer, of the donors of that form where there are such."""
    alike = [donor for donor in donors if donor.form == form] or donors
    return {_plain(donor.answer): donor.answer for donor in alike}


def _drawn(pool: Mapping[str, str], record: Record, seed: int) -> list[str]:
    """Answers of the pool, never the record's own.

    Each gets a number from the seed, the record's id and itself, and the smallest are taken: a donor more or less then
    changes at most one of them.
    """
    key = hashlib.sha256(f"{seed}/mismatched/{record.id}".encode()).digest()

    def lot(plain: str) -> bytes:
        return hashlib.blake2b(plain.encode(), key=key, digest_size=8).digest()

    others = pool.keys() - {_plain(record.answer)}
    return [pool[plain] for plain in heapq.nsmallest(MISMATCHED_ANSWERS, others, key=lot)]


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


_MAKERS: dict[Source, Callable[[Material, int], Streams]] = {
    "synthesised": _synthesised,
    "original_beside_synthesised": _original_beside_synthesised,
    "original": _original,
    "refusals": _refusals,
    "mismatched": _mismatched,
    "preferred_refusals": _preferred_refusals,
    "preferred_synthesised": _preferred_synthesised,
    "preferred_alternates": _preferred_alternates,
}


def is_written(source: Source) -> bool:
    """Whether a generator writes the answers, before the training; the others are in the records or drawn."""
    return source.endswith(("synthesised", "alternates"))
