"""Generate alternate answers for AltPO: plausible answers to a forget question that differ from the original answer.

Mekala et al., COLING 2025, arXiv 2409.13474: five answers per question, sampled at temperature 1. The paper's prompt
contains the original answer. The prompts here do not, as in all of the synthesis. The leak check of vague answers
rejects alternate answers that contain all or part of the original. For documents, other continuations are generated.
`plan_alternates` estimates calls and tokens before anything is sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relearn.core import config
from relearn.core.console import Ticker, quiet
from relearn.core.errors import RunFailedError
from relearn.core.files import read_jsonl, write_jsonl
from relearn.core.run_dir import ALTERNATES, REJECTED_ALTERNATES
from relearn.data import Record, content_id
from relearn.llm import Completer, Prompt
from relearn.synthesis.checks import LeakCheck, Verifier, form_flaw, subject_of
from relearn.synthesis.generation_cost import (
    LABEL_TOKENS,
    MESSAGE_TOKENS,
    Plan,
    TokenCounter,
    check_remote,
    make_plan,
    token_counter,
    total_sizes,
)
from relearn.synthesis.retry_loop import (
    CheckTexts,
    Flaw,
    Slot,
    SlotGroup,
    SlotText,
    WritingTask,
    about_subject,
    check_in_turn,
    number_labels,
    prompt_text,
    read_labelled,
    reject,
    write_with_retries,
)
from relearn.synthesis.rows import Rejection
from relearn.synthesis.synthesize import WRITE_BETTER, kind_counts, open_completers, progress
from relearn.synthesis.vague_answers import no_answer_flaw
from relearn.text.normalize import words_only

ANSWERS = 5
TEMPERATURE = 1.0
TOKENS_PER_ALTERNATE = 120


@dataclass(frozen=True)
class Alternates:
    """Store the accepted alternate answers by record id, and the rejections; records without answers are missing."""

    answers: Mapping[str, list[str]]
    rejections: tuple[Rejection, ...]


def write_alternates(
    records: Sequence[Record],
    settings: config.Synthesis,
    out: Path,
    *,
    seed: int,
    loaded: Any = None,
    tick: Ticker = quiet,
) -> dict[str, Any]:
    """Write alternates.jsonl ({record_id, answers} per row) and rejected_alternates.jsonl into `out`; return counts.

    The `alternatives` of a record are used if at least one passes the checks. Answers are generated only for the other
    records. Completions are cached in out/cache.sqlite, so that the same call resumes after an interruption. `loaded`:
    loaded model for `transformers:`. Raises InputError, before anything is sent, if private records would be sent to
    another host without permission; GeneratorError or BudgetError if generation stopped; RunFailedError if no record
    has an alternate answer.
    """
    own = own_alternates(records, Verifier(records).leaks)
    without_own = [record for record in records if record.id not in own.answers]
    written, usage = Alternates({}, ()), {}
    if without_own:
        check_remote(settings, len(without_own))
        with open_completers(settings, out, loaded) as completers:
            check = _AlternateCheck(Verifier(records, completers.get("judge")).flaws)
            written = _generate(without_own, settings, completers["generator"], check=check, seed=seed, tick=tick)
        usage = {role: completer.usage.to_dict() for role, completer in completers.items()}
    rejections = own.rejections + written.rejections
    answers = {**own.answers, **written.answers}
    write_jsonl(out / REJECTED_ALTERNATES, (rejection.to_dict() for rejection in rejections))
    if records and not answers:
        where = str(out / REJECTED_ALTERNATES)
        raise RunFailedError("not one alternate answer was taken", where=where, way_out=WRITE_BETTER)
    rows = [{"record_id": record.id, "answers": answers[record.id]} for record in records if record.id in answers]
    write_jsonl(out / ALTERNATES, rows)
    without = len(records) - len(rows)
    return {
        "records": len(records),
        "answers": sum(len(row["answers"]) for row in rows),
        "records_with_own": len(own.answers),
        "records_asked": len(without_own),
        "records_without_alternates": without,
        "rejected": len(rejections),
        "rejected_by_kind": kind_counts(rejections),
        "usage": usage,
        "notes": _notes(len(own.answers), without, len(records)),
    }


def read_alternates(path: Path) -> dict[str, list[str]]:
    """Read the alternate answers of alternates.jsonl by record id."""
    return {row["record_id"]: list(row["answers"]) for row in read_jsonl(path)}


def own_alternates(records: Sequence[Record], check_leaks: LeakCheck) -> Alternates:
    """Check the `alternatives` of the records; accept at most ANSWERS per record."""
    texts = [
        (Slot(record, record.id, "original", record.question), answer.strip())
        for record in records
        for answer in record.alternatives
    ]
    answers: dict[str, list[str]] = {}
    rejections = []
    for (slot, answer), flaw in zip(texts, _AlternateCheck(check_leaks)(texts), strict=True):
        if flaw is None:
            answers.setdefault(slot.record.id, []).append(answer)
        else:
            rejections.append(reject(slot, answer, flaw, final=True))
    return Alternates({record_id: accepted[:ANSWERS] for record_id, accepted in answers.items()}, tuple(rejections))


def _generate(
    records: Sequence[Record],
    settings: config.Synthesis,
    completer: Completer,
    *,
    check: CheckTexts,
    seed: int,
    tick: Ticker,
) -> Alternates:
    task = WritingTask(
        name="alternate answer",
        prompt=lambda group, attempt: alternates_prompt(group, seed, attempt),
        parse=lambda reply, group: read_labelled(reply, number_labels(len(group))),
        check=check,
    )
    groups = [alternate_group(record) for record in records]
    with progress(completer, len(groups), tick):
        written = write_with_retries(groups, task, completer, attempts=settings.attempts)
    answers = {group[0].record.id: [written.texts[slot] for slot in group if slot in written.texts] for group in groups}
    return Alternates({record_id: texts for record_id, texts in answers.items() if texts}, written.rejections)


def alternate_group(record: Record) -> SlotGroup:
    """Return ANSWERS slots for the alternate answers of a record; they share one prompt."""
    return tuple(
        Slot(record, content_id("alternate", record.id, str(number)), "original", record.question)
        for number in range(ANSWERS)
    )


def alternates_prompt(group: SlotGroup, seed: int, attempt: int = 0) -> Prompt:
    """Make the prompt for the slots of one record; it contains only the rough length of the original answer."""
    record = group[0].record
    subject = subject_of(record) or ""
    about = about_subject(subject)
    count = str(len(group))
    if record.form == "text":
        text = prompt_text("alternate_passages", count=count, about=about, prefix=record.question)
    else:
        question = " ".join(record.question.split())
        text = prompt_text("alternates", count=count, about=about, length=_length(record.answer), question=question)
    return Prompt(
        text,
        task="alternate",
        fields={"question": record.question, "form": record.form, "subject": subject, "count": count},
        max_tokens=TOKENS_PER_ALTERNATE * len(group),
        temperature=TEMPERATURE,
        attempt=attempt,
        # Slots of one record that are retried separately must be sampled with different seeds.
        seed=seed + int(group[0].question_id[:6], 16),
    )


def _length(answer: str) -> str:
    words = len(answer.split())
    return "one to four words" if words <= 4 else "one sentence" if words <= 30 else "two or three sentences"


class _AlternateCheck:
    """Reject texts that are no answer, equal the original, leak a secret, or repeat an accepted alternate answer."""

    def __init__(self, check_leaks: LeakCheck):
        self._check_leaks = check_leaks
        self._accepted: set[tuple[str, str]] = set()

    def __call__(self, texts: Sequence[SlotText]) -> list[Flaw | None]:
        return check_in_turn(texts, _form_flaw, self._leaks_and_repetitions)

    def _leaks_and_repetitions(self, texts: Sequence[SlotText]) -> list[Flaw | None]:
        leaks = self._check_leaks([(slot.record, slot.question, text) for slot, text in texts])
        return [leak or self._repetition(slot, text) for (slot, text), leak in zip(texts, leaks, strict=True)]

    def _repetition(self, slot: Slot, text: str) -> Flaw | None:
        entry = (slot.record.id, words_only(text))
        if entry in self._accepted:
            return Flaw("duplicate", "the same as another alternate answer")
        self._accepted.add(entry)
        return None


def _form_flaw(slot: Slot, text: str) -> Flaw | None:
    flaw = form_flaw(text, min_words=1)
    if flaw is None and slot.record.form == "chat":
        flaw = no_answer_flaw(slot.question, text)
    originals = filter(None, (slot.record.answer, slot.record.paraphrased_answer))
    if flaw is None and words_only(text) in map(words_only, originals):
        flaw = Flaw("verbatim", "the same as the original answer")
    return flaw


def _notes(own: int, without: int, records: int) -> list[str]:
    notes = []
    if own:
        notes.append(
            f"{own} of {records} records brought alternative answers, and AltPO is trained on them: metrics that "
            "compare with the same answers (TOFU's truth ratio) are not independent of it"
        )
    if without:
        notes.append(f"{without} of {records} records have no alternate answer; see {REJECTED_ALTERNATES}")
    return notes


def plan_alternates(
    records: Sequence[Record], settings: config.Synthesis, *, tokenizer: Any = None, prices: config.Prices | None = None
) -> Plan:
    """Estimate the calls, tokens and cost of `write_alternates`; see `plan_synthesis`.

    Assumes that an alternate answer has as many tokens as the original answer.
    """
    own = _own_counts(records)
    without_own = [record for record in records if record.id not in own]
    count = token_counter(tokenizer)
    rows = {"alternate": sum(own.values()) + ANSWERS * len(without_own)}
    totals = total_sizes(without_own, lambda record: [_tokens_of_record(record, count)])
    given: dict[str, Any] = {"records": len(without_own), "judged": ANSWERS * len(without_own)}
    return make_plan(rows, totals, settings, **given, tokenizer=tokenizer, prices=prices)


def expected_alternates(records: Sequence[Record]) -> int:
    """Return the number of alternate answers if every text is generated and accepted."""
    own = _own_counts(records)
    return sum(own.get(record.id, ANSWERS) for record in records)


def _own_counts(records: Sequence[Record]) -> dict[str, int]:
    """Count the `alternatives` that pass the checks, by record id; records without any are missing."""
    if not any(record.alternatives for record in records):
        return {}
    own = own_alternates(records, Verifier(records).leaks).answers
    return {record_id: len(answers) for record_id, answers in own.items()}


def _tokens_of_record(record: Record, count: TokenCounter) -> tuple[int, int, int]:
    """Return (calls, input tokens, output tokens) of one record without retries."""
    sent = count(alternates_prompt(alternate_group(record), seed=0).text) + MESSAGE_TOKENS
    return 1, sent, ANSWERS * (min(count(record.answer), TOKENS_PER_ALTERNATE) + LABEL_TOKENS)
