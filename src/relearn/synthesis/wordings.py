"""Other wordings of a question for asking, not for training: those that the records bring, then newly written ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from relearn.core.config import Synthesis
from relearn.data import Record
from relearn.llm import Completer
from relearn.synthesis.checks import Inspect
from relearn.synthesis.questions import write_questions

# "logical" asks for something else, so its answer would be another.
KINDS = ("simple", "contextual", "noise")
# Drawn apart from the question variants that training is made of.
_APART = 104_729
_MARK = "~"


def write_wordings(
    records: Sequence[Record], count: int, settings: Synthesis, completer: Completer, inspect: Inspect, seed: int
) -> dict[str, list[str]]:
    """Record id -> at most `count` wordings, all different; fewer where no more could be written."""
    found = {record.id: list(dict.fromkeys(record.paraphrases))[:count] for record in records}
    asked = settings.model_copy(update={"variants": KINDS})
    for turn in range(count):
        short = [record for record in records if len(found[record.id]) < count]
        if not short:
            break
        written, _ = write_questions(short, asked, completer, inspect, seed + _APART + turn)
        for record in short:
            texts = [question.text for question in written[record.id][1:]]
            found[record.id] = list(dict.fromkeys([*found[record.id], *texts]))[:count]
    return found


def worded(records: Sequence[Record], wordings: Mapping[str, Sequence[str]]) -> list[Record]:
    """A record for every wording, with the answer of its own record; `worded_record` gives that one's id."""
    return [
        replace(record, question=text, id=worded_id(record.id, number), paraphrases=())
        for record in records
        for number, text in enumerate(wordings.get(record.id, ()), start=1)
    ]


def worded_id(record_id: str, number: int) -> str:
    """The id of a record's wording of that number."""
    return f"{record_id}{_MARK}{number}"


def worded_record(wording_id: str) -> str:
    """The id of the record that a wording is of."""
    return wording_id.rpartition(_MARK)[0]
