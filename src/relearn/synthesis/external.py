"""Use training rows of an existing file (`synthesis.file`), such as a published augmented set, instead of new rows.

A row is accepted if, checked in this order,
- its prompt, or the whole row, names a subject of the forget set;
- its answer (of a completion: prefix or rest) names that subject. An answer about "the individual" does not train the
  model to be vague about the subject (arXiv 2502.11190, section 3, subject consistency);
- it leaks no secret of the forget set (`relearn verify` finds none);
- it is not a duplicate.
An accepted row is assigned to the record of its subject whose question has most words in common with its prompt. The
other rows are written to rejected.jsonl.
"""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relearn.core import config
from relearn.core.config import DataSource
from relearn.core.errors import RunFailedError
from relearn.core.files import write_jsonl
from relearn.data import Record, content_id
from relearn.data.loaders import read_records
from relearn.leakage.detector import LeakIndex
from relearn.synthesis.retry_loop import Flaw
from relearn.synthesis.rows import Rejection, TrainingRow, attack_shaped_rows, choose_generic, cut_row, generic_shortage
from relearn.synthesis.synthesize import REJECTED, SYNTHESIS, count_rows
from relearn.text.normalize import contains, norms, word_set
from relearn.text.subjects import NameTokens, find_subjects

_ASKING = word_set(
    "what whats who whos whom whose where wheres when why which how hows is are was were do does did has have had can "
    "could will would should may tell describe explain list name give provide discuss please"
)


@dataclass(frozen=True)
class ExternalRows:
    """Store the accepted rows, assigned to forget records, and a rejection for every other row."""

    rows: tuple[TrainingRow, ...]
    rejections: tuple[Rejection, ...]


def write_external_rows(
    path: Path | str,
    forget: Sequence[Record],
    generic: Sequence[Record],
    *,
    settings: config.Synthesis,
    out: Path,
    seed: int,
) -> dict[str, Any]:
    """Write synthesis.jsonl and rejected.jsonl from the rows of `path` and generic rows; return the counts.

    Completions are derived from the answers only if the file contains no completions. Raises InputError for a file that
    cannot be read, RunFailedError if no row is accepted.
    """
    external = read_external_rows(path, forget)
    rows = list(external.rows)
    write_jsonl(out / REJECTED, (rejection.to_dict() for rejection in external.rejections))
    if not rows:
        raise RunFailedError("not one of the given rows passes", where=str(path), way_out=f"see {out / REJECTED}")
    if settings.completions and all(row.kind == "qa" for row in rows):
        rows += _completions(rows, settings.completion_split, LeakIndex(forget))
    rows += attack_shaped_rows(rows, forget, settings.harden, seed=seed)
    generic_rows = choose_generic(generic, len(rows), settings.generic_ratio, seed=seed)
    write_jsonl(out / SYNTHESIS, (row.to_dict() for row in (*rows, *generic_rows)))
    counts = count_rows(forget, rows, generic_rows, rejections=external.rejections, ratio=settings.generic_ratio)
    taken = f"{len(external.rows)} of the rows in {path} pass and are learned in place of new ones"
    shortage = generic_shortage(len(generic_rows), counts["generic_wanted"])
    return {
        "records": len(forget),
        "offered": len(external.rows) + len(external.rejections),
        **counts,
        "usage": {},
        "notes": [taken, *([shortage] if shortage else [])],
    }


def read_external_rows(path: Path | str, forget: Sequence[Record]) -> ExternalRows:
    """Read and check the rows of a file (checks: see the module). Raises InputError if the file cannot be read."""
    external = [record for _, record in read_records(DataSource(path=str(path)), "generic")]
    records_of: dict[NameTokens, list[Record]] = {}
    for record, subject in zip(forget, find_subjects(forget), strict=True):
        records_of.setdefault(subject, []).append(record)
    subjects = records_of.keys() - {()}
    index = LeakIndex(forget)
    rows: dict[str, TrainingRow] = {}
    rejections = []
    for source, prompt_subject in zip(external, find_subjects(external), strict=True):
        subject = _forget_subject(source, prompt_subject, subjects)
        row = _training_row(source, _closest(source, records_of[subject])) if subject else None
        flaw = _flaw(row, source, subject, index)
        if flaw is None and row is not None and row.id in rows:
            flaw = Flaw("duplicate", "stands in the file twice")
        if flaw is not None:
            rejections.append(_rejection(source, row, flaw))
        elif row is not None:
            rows[row.id] = row
    return ExternalRows(tuple(rows.values()), tuple(rejections))


def _forget_subject(source: Record, prompt_subject: NameTokens, subjects: Set[NameTokens]) -> NameTokens | None:
    """Find the only subject of the forget set that a row names; return None if it names none or several."""
    if prompt_subject in subjects:
        return prompt_subject
    text = norms(f"{source.question} {source.answer}")
    named = [name for name in subjects if contains(text, name)]
    return named[0] if len(named) == 1 else None


def _closest(source: Record, records: Sequence[Record]) -> Record:
    words = set(norms(source.question))
    return max(records, key=lambda record: len(words & set(norms(record.question))))


def _training_row(source: Record, record: Record) -> TrainingRow:
    kind = "completion" if _is_completion(source) else "qa"
    return TrainingRow(
        id=content_id(kind, record.id, source.question, source.answer),
        kind=kind,
        prompt=source.question,
        target=source.answer,
        form="chat" if kind == "qa" else "text",
        record_id=record.id,
        question_id=content_id("given", source.question),
    )


def _is_completion(source: Record) -> bool:
    """Return whether a row is a completion: its form is "text", or its prompt is not phrased as a question."""
    first_word = re.match(r"\W*(\w*)", source.question)
    asks = source.question.rstrip().endswith("?") or (first_word and first_word[1].lower() in _ASKING)
    return source.form == "text" or not asks


def _flaw(row: TrainingRow | None, source: Record, subject: NameTokens | None, index: LeakIndex) -> Flaw | None:
    if row is None or subject is None:
        return Flaw("subject", "is about nobody in the forget set")
    new_text = norms(source.answer if row.kind == "qa" else f"{source.question} {source.answer}")
    if not set(subject) & set(new_text):
        return Flaw("unnamed", "does not name its subject")
    if findings := index.check(source.question, source.answer):
        return Flaw(findings[0].kind, f"tells a secret of record {findings[0].record_id}")
    return None


def _completions(rows: Sequence[TrainingRow], share: float, index: LeakIndex) -> list[TrainingRow]:
    """Derive completions from answers; leave out those that leak a secret without the question."""
    cut = [cut_row(row, share, content_id("completion", row.id)) for row in rows]
    return [row for row in cut if row and not index.check(row.prompt, row.target, record_id=row.record_id)]


def _rejection(source: Record, row: TrainingRow | None, flaw: Flaw) -> Rejection:
    return Rejection(
        record_id=(row and row.record_id) or "",
        question_id=(row and row.question_id) or "",
        variant="original",
        prompt=source.question,
        target=source.answer,
        attempt=0,
        reason=flaw.reason,
        kind=flaw.kind,
        final=True,
    )
