"""Stage 3, content verification: does a written text tell the secret of the record it was written for, or of any other?

The deterministic check of `relearn.text.leaks` comes first; a judge model, when there is one, reads what passed it, and
only the one line it was asked for counts (arXiv 2502.11190, section 3). `verify_file` is the same check for any file of
training rows.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from relearn.config import Source
from relearn.errors import InputError
from relearn.llm import Completer, Completion, Prompt
from relearn.records import Record
from relearn.records.columns import Layout, find_layout
from relearn.records.files import read_records, read_rows
from relearn.rundir import refuse_overwrite, write_jsonl
from relearn.synthesis.fill import Flaw
from relearn.synthesis.prompt_files import prompt_text
from relearn.text.leaks import KINDS, Finding, LeakIndex

JUDGE_TOKENS = 160
_VERDICT = re.compile(r"verdict: (safe|leak)\.?", re.IGNORECASE)
_WHAT = {
    "verbatim": "the whole answer",
    "split": "the whole answer, over prompt and target together,",
    "email": "an email address",
    "address": "an address",
    "date": "a date",
    "number": "a number",
    "name": "a name",
    "ngram": "wording",
}


class Verifier:
    """Looks at (record, prompt, text) triples: `leaks` by rule alone, `flaws` by rule and then by the judge."""

    def __init__(self, records: Sequence[Record], judge: Completer | None = None):
        self.index = LeakIndex(records)
        self._judge = judge

    def leaks(self, written: Sequence[tuple[Record, str, str]]) -> list[Flaw | None]:
        """One flaw, or None, for each text written for a record under a prompt; both are looked at."""
        return [self._leak(record, prompt, text) for record, prompt, text in written]

    def flaws(self, written: Sequence[tuple[Record, str, str]]) -> list[Flaw | None]:
        """As `leaks`; the judge is asked about the texts without a leak.

        A verdict that is not understood, and a judge that does not answer, are flaws: never "safe".
        """
        flaws = self.leaks(written)
        if self._judge is None:
            return flaws
        passed = [number for number, flaw in enumerate(flaws) if flaw is None]
        replies = self._judge.complete([judge_prompt(*written[number]) for number in passed])
        for number, reply in zip(passed, replies, strict=True):
            flaws[number] = read_verdict(reply)
        return flaws

    def _leak(self, record: Record, prompt: str, text: str) -> Flaw | None:
        findings = self.index.check(prompt, text, record_id=record.id)
        if not findings:
            return None
        worst = findings[0]
        whose = "its record" if worst.record_id == record.id else f"record {worst.record_id}"
        return Flaw(worst.kind, f"{_WHAT[worst.kind]} of {whose} in the {worst.field}: {_quoted(worst.text)}")


def judge_prompt(record: Record, question: str, candidate: str) -> Prompt:
    """What the judge reads. It holds the private answer: a judge on another host is sent it."""
    fields = {"question": question, "answer": record.answer, "candidate": candidate}
    return Prompt(prompt_text("judge", **fields), task="judge", fields=fields, max_tokens=JUDGE_TOKENS)


def read_verdict(reply: Completion) -> Flaw | None:
    """None for a last line that is "Verdict: SAFE" and nothing else; a flaw for everything else."""
    if not reply.ok:
        return Flaw("unjudged", f"the judge did not answer: {reply.error}")
    lines = [line.strip() for line in reply.text.splitlines() if line.strip()]
    verdict = _VERDICT.fullmatch(lines[-1]) if lines else None
    if verdict is None:
        return Flaw("unjudged", "verdict not understood")
    return None if verdict[1].lower() == "safe" else Flaw("judge", "the judge finds a leak")


@dataclass(frozen=True)
class VerifySummary:
    """`by_kind` counts the flagged rows by the worst kind each has, worst first."""

    rows: int
    flagged: int
    by_kind: Mapping[str, int]


def verify_file(file: Path | str, against: Path | str, out: Path | str) -> VerifySummary:
    """Write one JSON line to `out` for every row of `file` that carries a secret of the forget set `against`.

    A line has `row` (0-based), `kind` (the worst), `findings` (field, start, end, text) and `reason`. Rows that name
    the forget record they were written for (`record_id`, as in synthesis.jsonl) are checked as ours, others as foreign.
    Raises InputError for files that cannot be read, and where `out` is one of them.
    """
    refuse_overwrite([Path(out)], (file, against))
    placed = read_records(Source.model_validate({"path": str(against)}), "forget")
    places = {record.id: (place, record) for place, record in placed}
    index = LeakIndex([record for _, record in placed])
    rows = list(_texts(Path(file)))
    flagged = []
    for number, (prompt, target, record_id) in enumerate(rows):
        known = record_id if record_id in places else None
        if findings := index.check(prompt, target, record_id=known):
            flagged.append(_flagged(number, findings, places))
    write_jsonl(Path(out), flagged)
    counts = Counter(row["kind"] for row in flagged)
    return VerifySummary(len(rows), len(flagged), {kind: counts[kind] for kind in KINDS if counts[kind]})


def _texts(file: Path) -> Iterable[tuple[str, str, str | None]]:
    """(prompt, target, record id) of every row, in order; a text that is missing is empty."""
    rows = read_rows(file)
    if not rows:
        raise InputError("no rows", where=str(file), way_out="give at least one")
    columns = list(dict.fromkeys(str(column) for _, row in rows for column in row))
    layout = find_layout(columns, {}, str(file))
    for where, row in rows:
        prompt = [_text(row, column, where) for column in (layout.question, layout.context) if column]
        target = _text(row, _target_column(layout), where)
        yield "\n\n".join(filter(None, prompt)), target, row.get("record_id")


def _target_column(layout: Layout) -> str:
    column = layout.answer or layout.text
    assert column is not None
    return column


def _text(row: Mapping[str, Any], column: str, where: str) -> str:
    value = row.get(column)
    if value is not None and not isinstance(value, str):
        raise InputError(f"the field {column!r} is of type {type(value).__name__}, not a text", where=where)
    return value or ""


def _flagged(number: int, findings: Sequence[Finding], places: Mapping[str, tuple[str, Record]]) -> dict[str, Any]:
    worst = max((one for one in findings if one.kind == findings[0].kind), key=lambda one: len(one.text))
    place, record = places[worst.record_id]
    shown = [finding.text for finding in findings if finding.kind == "split"] or [worst.text]
    more = f" and {len(findings) - len(shown)} more" if len(findings) > len(shown) else ""
    return {
        "row": number,
        "kind": worst.kind,
        "findings": [asdict(finding) for finding in findings],
        "reason": f"{_WHAT[worst.kind]} of {place} {_quoted(record.question)} in the "
        f"{'row' if worst.kind == 'split' else worst.field}: {_quoted(' | '.join(shown))}{more}",
    }


def _quoted(text: str, limit: int = 120) -> str:
    """The text on one line in quotation marks, long ones cut."""
    line = " ".join(text.split())
    return f'"{line if len(line) <= limit else line[: limit - 1] + "…"}"'
