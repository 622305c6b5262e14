"""Rows that were written elsewhere, such as a published augmented set, taken in place of new ones where they pass.

A row of `synthesis.file` is taken when, in this order, it
- is about a subject of the forget set: its prompt names one, or it does so as a whole;
- names that subject in what is new, the answer, or prefix and rest of a completion: "the individual" teaches nobody
  about whom to be vague (arXiv 2502.11190, section 3, subject consistency);
- carries no secret of the forget set (`relearn verify` finds nothing in it);
- was not there before.
It is tied to the record of its subject whose question is closest to its own. What is left out stands in rejected.jsonl.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relearn.core import config
from relearn.core.config import Source
from relearn.core.errors import RunFailedError
from relearn.core.run_dir import write_jsonl
from relearn.data import Record, content_id
from relearn.data.loaders import read_records
from relearn.leakage.detector import LeakIndex
from relearn.synthesis.rows import Rejection, TrainingRow, choose_generic, generic_wanted, split_answer
from relearn.synthesis.synthesize import REJECTED, SYNTHESIS
from relearn.synthesis.vague_answers import hardened
from relearn.text.normalize import contains, norms, word_set
from relearn.text.subjects import NameTokens, find_subjects

_ASKING = word_set(
    "what whats who whos whom whose where wheres when why which how hows is are was were do does did has have had can "
    "could will would should may tell describe explain list name give provide discuss please"
)


@dataclass(frozen=True)
class Given:
    """`rows` taken, tied to forget records; `rejections` with the reason for every other row."""

    rows: tuple[TrainingRow, ...]
    rejections: tuple[Rejection, ...]


def given_rows(path: Path | str, forget: Sequence[Record]) -> Given:
    """The rows of a file that pass; see the head of this module. Raises InputError for a file that cannot be read."""
    offered = [record for _, record in read_records(Source(path=str(path)), "generic")]
    subjects = dict(zip((record.id for record in forget), find_subjects(forget), strict=True))
    index = LeakIndex(forget)
    rows: dict[str, TrainingRow] = {}
    rejections = []
    for row, about in zip(offered, find_subjects(offered), strict=True):
        whose = _named(row, about, set(subjects.values()) - {()})
        made = (
            _row(row, _closest(row, [record for record in forget if subjects[record.id] == whose])) if whose else None
        )
        kind, reason = _flaw(made, row, whose, index)
        if made is not None and made.id in rows and not kind:
            kind, reason = "duplicate", "stands in the file twice"
        if kind or made is None:
            rejections.append(_rejection(row, made, kind, reason))
        else:
            rows[made.id] = made
    return Given(tuple(rows.values()), tuple(rejections))


def write_given(
    path: Path | str,
    forget: Sequence[Record],
    generic: Sequence[Record],
    settings: config.Synthesis,
    out: Path,
    seed: int,
) -> dict[str, Any]:
    """Write synthesis.jsonl and rejected.jsonl from the rows of `path`, mixed with generic ones; returns the counts.

    Answers are cut into completions only when the file has no completions of its own.
    """
    given = given_rows(path, forget)
    rows = list(given.rows)
    write_jsonl(out / REJECTED, (rejection.to_dict() for rejection in given.rejections))
    if not rows:
        raise RunFailedError("not one of the given rows passes", where=str(path), way_out=f"see {out / REJECTED}")
    if settings.completions and all(row.kind == "qa" for row in rows):
        rows += list(_completions(rows, settings, LeakIndex(forget)))
    rows += hardened(rows, forget, settings.harden, seed)
    mixed = choose_generic(generic, len(rows), settings.generic_ratio, seed)
    write_jsonl(out / SYNTHESIS, (row.to_dict() for row in (*rows, *mixed)))
    served = {row.record_id for row in rows}
    kinds = Counter(row.kind for row in rows)
    without = sum(record.id not in served for record in forget)
    return {
        "records": len(forget),
        "offered": len(given.rows) + len(given.rejections),
        "qa": kinds["qa"],
        "completion": kinds["completion"],
        "generic": len(mixed),
        "generic_wanted": generic_wanted(len(rows), settings.generic_ratio),
        "records_without_rows": without,
        "rejected": len(given.rejections),
        "rejected_for_good": len(given.rejections),
        "rejected_by_kind": dict(sorted(Counter(rejection.kind for rejection in given.rejections).items())),
        "usage": {},
        "notes": [f"{len(given.rows)} of the rows in {path} pass and are learned in place of new ones"],
    }


def _named(row: Record, about: NameTokens, known: set[NameTokens]) -> NameTokens | None:
    """The one subject of the forget set that the row is about."""
    if about in known:
        return about
    text = norms(f"{row.question} {row.answer}")
    named = [name for name in known if contains(text, name)]
    return named[0] if len(named) == 1 else None


def _closest(row: Record, records: Sequence[Record]) -> Record:
    asked = set(norms(row.question))
    return max(records, key=lambda record: len(asked & set(norms(record.question))))


def _row(row: Record, record: Record) -> TrainingRow:
    kind = "completion" if _is_completion(row) else "qa"
    return TrainingRow(
        content_id(kind, record.id, row.question, row.answer),
        kind,
        row.question,
        row.answer,
        "chat" if kind == "qa" else "text",
        record_id=record.id,
        question_id=content_id("given", row.question),
    )


def _is_completion(row: Record) -> bool:
    """A prefix with its rest: the prompt neither ends nor begins as a question does."""
    first = re.match(r"\W*(\w*)", row.question)
    asks = row.question.rstrip().endswith("?") or (first and first[1].lower() in _ASKING)
    return row.form == "text" or not asks


def _flaw(made: TrainingRow | None, row: Record, whose: NameTokens | None, index: LeakIndex) -> tuple[str, str]:
    """(kind, reason) why a row cannot be taken; two empty texts when it can."""
    if made is None or whose is None:
        return "subject", "is about nobody in the forget set"
    new = norms(row.answer if made.kind == "qa" else f"{row.question} {row.answer}")
    if not set(whose) & set(new):
        return "unnamed", "does not name its subject"
    if findings := index.check(row.question, row.answer):
        return findings[0].kind, f"tells a secret of record {findings[0].record_id}"
    return "", ""


def _completions(rows: Sequence[TrainingRow], settings: config.Synthesis, index: LeakIndex) -> Iterator[TrainingRow]:
    for row in rows:
        cut = split_answer(row.target, settings.completion_split)
        if cut and not index.check(*cut, record_id=row.record_id):
            yield TrainingRow(
                content_id("completion", row.id),
                "completion",
                *cut,
                "text",
                record_id=row.record_id,
                question_id=row.question_id,
            )


def _rejection(row: Record, made: TrainingRow | None, kind: str, reason: str) -> Rejection:
    return Rejection(
        made.record_id or "" if made else "",
        made.question_id or "" if made else "",
        "original",
        row.question,
        row.answer,
        0,
        reason,
        kind,
        final=True,
    )
