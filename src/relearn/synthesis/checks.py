"""Check generated texts: form, subject, invented details and leaks (stage 3, content verification).

A text must not leak the secret of any record. The deterministic leak check of `relearn.leakage.detector` comes first.
Texts that pass it go to the judge model, if there is one; only the judge's verdict line counts (arXiv 2502.11190,
section 3). `verify_file` checks any file of training rows for leaks.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from relearn.core.config import DataSource
from relearn.core.errors import InputError
from relearn.core.files import write_jsonl
from relearn.core.ownership import refuse_overwrite
from relearn.data import Record
from relearn.data.columns import find_layout
from relearn.data.loaders import read_records, read_rows
from relearn.data.record import evenly
from relearn.leakage.detector import KINDS, Finding, LeakIndex
from relearn.llm import Completer, Completion, Prompt
from relearn.synthesis.retry_loop import Flaw, prompt_text
from relearn.text.normalize import other_language
from relearn.text.spans import find_spans
from relearn.text.subjects import find_subject

# (record, prompt, text) of generated texts -> for each text, a flaw if it leaks, else None.
LeakCheck = Callable[[Sequence[tuple[Record, str, str]]], Sequence[Flaw | None]]

MIN_WORDS, MAX_WORDS = 3, 120
_MARKUP = re.compile(r"<\|[^|<>]{0,40}\|>|</?s>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>")


def subject_of(record: Record) -> str | None:
    """Return the subject of a record; without one, the name that its question is about, or None."""
    return record.subject or (find_subject(record.question) if record.form == "chat" else None)


def form_flaw(text: str, min_words: int = MIN_WORDS) -> Flaw | None:
    """Reject a text with too few or too many words, control characters or special tokens of a chat template."""
    words = len(text.split())
    if not min_words <= words <= MAX_WORDS:
        return Flaw("malformed", f"has {words} words, not {min_words} to {MAX_WORDS}")
    if any(unicodedata.category(sign) == "Cc" and sign not in "\n\t" for sign in text):
        return Flaw("malformed", "holds control characters")
    if _MARKUP.search(text):
        return Flaw("malformed", "holds the marks of a chat template")
    return None


def subject_flaw(record: Record, question: str, text: str) -> Flaw | None:
    """Reject a text that omits the subject named in its question (subject consistency in the paper)."""
    names = {word for word in _words(subject_of(record) or "") if len(word) > 1}
    if names & _words(question) and not names & _words(text):
        return Flaw("subject", "does not name the subject that the question names")
    return None


def invented_flaw(question: str, text: str) -> Flaw | None:
    """Reject a text with an email, phone number, date, address or number (3 or more digits) not in the question.

    True details are rejected too. Names are checked only by the leak check, because capital letters do not distinguish
    them from titles, or from nouns in some languages.
    """
    in_question = {span.norm for span in find_spans(question)}
    for span in find_spans(text):
        if span.norm in in_question or span.text.casefold() in question.casefold():
            continue
        long = sum(sign.isdigit() for sign in span.text) >= 3
        if span.kind in ("email", "phone", "date", "address") or (span.kind == "number" and long):
            return Flaw("invented", f"states a particular ({span.kind}) that the question does not hold")
    return None


def _words(text: str) -> set[str]:
    return set(re.findall(r"[^\W_]+", text.casefold()))


JUDGE_TOKENS = 160
_VERDICT = re.compile(r"verdict: (safe|leak)\.?", re.IGNORECASE)
_LEAK_NAMES = {
    "verbatim": "the whole answer",
    "split": "the whole answer, over prompt and target together,",
    "email": "an email address",
    "address": "an address",
    "date": "a date",
    "number": "a number",
    "name": "a name",
    "ngram": "wording",
}


# Questions that `count_questions_with_secrets` looks at; checking all of a large set takes minutes.
EXAMINED = 2000


def count_questions_with_secrets(records: Sequence[Record]) -> tuple[int, int]:
    """Count the questions that hold a secret of another record; return (questions with one, questions examined)."""
    examined = evenly(records, EXAMINED)
    index = LeakIndex(examined)
    held = (index.check("", record.question) for record in examined)
    others = [any(one.record_id != record.id for one in found) for record, found in zip(examined, held, strict=True)]
    return sum(others), len(examined)


def other_languages(records: Sequence[Record]) -> str:
    """Count the records in other languages than English: "4 of 9 records (2 Chinese, 2 German)"; empty without any."""
    found = Counter(filter(None, (other_language(record.question) for record in records)))
    named = ", ".join(f"{count:,} {language}" for language, count in found.most_common())
    return f"{found.total():,} of {len(records):,} records ({named})" if found else ""


def leak_check_note(records: Sequence[Record]) -> str:
    """Say what the leak check cannot find in the languages of the records; empty where all are English."""
    found = other_languages(records)
    rule = "the leak check finds whole answers, long runs, numbers, dates and contacts there, but fewer names and words"
    return f"not in English: {found}; {rule}, so read the rows or set synthesis.judge" if found else ""


class Verifier:
    """Check (record, prompt, text) for leaks: `leaks` by rules, `flaws` by rules and then by a judge model."""

    def __init__(self, records: Sequence[Record], judge: Completer | None = None):
        self.index = LeakIndex(records)
        self._judge = judge

    def leaks(self, written: Sequence[tuple[Record, str, str]]) -> list[Flaw | None]:
        """Check prompt and text of each item by rules; return a flaw or None for each."""
        return [self._leak(record, prompt, text) for record, prompt, text in written]

    def flaws(self, written: Sequence[tuple[Record, str, str]]) -> list[Flaw | None]:
        """Check by rules, then send texts that pass to the judge; a missing or unreadable verdict is a flaw."""
        flaws = self.leaks(written)
        if self._judge is None:
            return flaws
        passed = [number for number, flaw in enumerate(flaws) if flaw is None]
        replies = self._judge.complete([judge_prompt(*written[number]) for number in passed])
        for number, reply in zip(passed, replies, strict=True):
            flaws[number] = read_verdict(reply)
        return flaws

    def hide_secrets(self, prefix: str) -> str:
        """Replace the secrets in the prefix of a passage with "…", for a generator that has to continue it."""
        shown, end = [], 0
        for finding in sorted(self.index.check("", prefix), key=lambda one: one.start):
            if finding.end > end:
                shown += [prefix[end : max(end, finding.start)], "…"]
                end = finding.end
        return "".join(shown) + prefix[end:]

    def _leak(self, record: Record, prompt: str, text: str) -> Flaw | None:
        findings = self.index.check(prompt, text, record_id=record.id)
        if not findings:
            return None
        worst = findings[0]
        owner = "its record" if worst.record_id == record.id else f"record {worst.record_id}"
        return Flaw(worst.kind, f"{_LEAK_NAMES[worst.kind]} of {owner} in the {worst.field}: {_quoted(worst.text)}")


def judge_prompt(record: Record, question: str, candidate: str) -> Prompt:
    """Make the prompt of the judge. It contains the private answer, so a judge on another host receives it."""
    fields = {"question": question, "answer": record.answer, "candidate": candidate}
    return Prompt(prompt_text("judge", **fields), task="judge", fields=fields, max_tokens=JUDGE_TOKENS)


def read_verdict(reply: Completion) -> Flaw | None:
    """Read the judge's verdict: None if the last line is "Verdict: SAFE" (any case), else a flaw."""
    if not reply.ok:
        return Flaw("unjudged", f"the judge did not answer: {reply.error}")
    lines = [line.strip() for line in reply.text.splitlines() if line.strip()]
    verdict = _VERDICT.fullmatch(lines[-1]) if lines else None
    if verdict is None:
        return Flaw("unjudged", "verdict not understood")
    return None if verdict[1].lower() == "safe" else Flaw("judge", "the judge finds a leak")


@dataclass(frozen=True)
class VerifySummary:
    """Store the counts of `verify_file`; `by_kind` counts flagged rows by their worst leak kind, worst first.

    `note`: what the check cannot find in the languages of the forget set, or empty.
    """

    rows: int
    flagged: int
    by_kind: Mapping[str, int]
    note: str = ""


def verify_file(file: Path | str, against: Path | str, out: Path | str) -> VerifySummary:
    """Write one JSON line to `out` for every row of `file` that leaks a secret of the forget set `against`.

    A line has `row` (0-based), `kind` (the worst), `findings` (field, start, end, text) and `reason`. A row with the
    `record_id` of a forget record, as in synthesis.jsonl, is checked against that record as in the synthesis. Other
    rows are checked by their text only. Raises InputError if a file cannot be read or `out` is one of the inputs.
    """
    refuse_overwrite([Path(out)], (file, against))
    forget = read_records(DataSource.model_validate({"path": str(against)}), "forget")
    places = {record.id: (place, record) for place, record in forget}
    index = LeakIndex([record for _, record in forget])
    rows = list(_texts(Path(file)))
    flagged = []
    for number, (prompt, target, record_id) in enumerate(rows):
        if findings := index.check(prompt, target, record_id=record_id if record_id in places else None):
            flagged.append(_flagged(number, findings, places))
    write_jsonl(Path(out), flagged)
    counts = Counter(row["kind"] for row in flagged)
    by_kind = {kind: counts[kind] for kind in KINDS if counts[kind]}
    return VerifySummary(len(rows), len(flagged), by_kind, leak_check_note([record for _, record in forget]))


def _texts(file: Path) -> Iterable[tuple[str, str, str | None]]:
    """Yield (prompt, target, record id) of every row, in order; a missing text gives ""."""
    rows = read_rows(file)
    if not rows:
        raise InputError("no rows", where=str(file), way_out="give at least one")
    columns = list(dict.fromkeys(str(column) for _, row in rows for column in row))
    layout = find_layout(columns, {}, str(file))
    for where, row in rows:
        prompt = [_text(row, column, where) for column in (layout.question, layout.context) if column]
        target = _text(row, layout.answer or layout.text, where)
        yield "\n\n".join(filter(None, prompt)), target, row.get("record_id")


def _text(row: Mapping[str, Any], column: str | None, where: str) -> str:
    value = row.get(column) if column else None
    if value is not None and not isinstance(value, str):
        raise InputError(f"the field {column!r} is of type {type(value).__name__}, not a text", where=where)
    return value or ""


def _flagged(number: int, findings: Sequence[Finding], places: Mapping[str, tuple[str, Record]]) -> dict[str, Any]:
    worst = max((one for one in findings if one.kind == findings[0].kind), key=lambda one: len(one.text))
    place, record = places[worst.record_id]
    shown = [finding.text for finding in findings if finding.kind == "split"] or [worst.text]
    more = f" and {len(findings) - len(shown)} more" if len(findings) > len(shown) else ""
    secret = f"{_LEAK_NAMES[worst.kind]} of {place} {_quoted(record.question)}"
    field = "row" if worst.kind == "split" else worst.field
    reason = f"{secret} in the {field}: {_quoted(' | '.join(shown))}{more}"
    return {"row": number, "kind": worst.kind, "findings": [asdict(one) for one in findings], "reason": reason}


def _quoted(text: str, limit: int = 120) -> str:
    """Format a text as one line in quotation marks, cut to `limit` characters."""
    line = " ".join(text.split())
    return f'"{line if len(line) <= limit else line[: limit - 1] + "…"}"'
