"""Alternate answers for AltPO: plausible answers to a forget question that are not the original one.

Mekala et al., COLING 2025, arXiv 2409.13474: five answers a question, sampled at temperature 1. The authors show the
generator the original answer to be changed; here, as everywhere in the synthesis, it is not shown. What happens to be
the original, in full or in part, is caught by the leak check of vague answers. Documents get other continuations.

What AltPO's alternate answers will ask for, before anything is spent: one call for each record that brings none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relearn.core import config
from relearn.core.console import Ticker, quiet
from relearn.core.errors import RunFailedError
from relearn.core.run_dir import make_private_dir, read_jsonl, write_jsonl
from relearn.data import Record, content_id
from relearn.llm import Prompt
from relearn.llm.generators import budget_for, make_completer
from relearn.synthesis.checks import Inspect, Verifier, form_flaw, subject_of
from relearn.synthesis.generation_cost import LABEL_TOKENS, MESSAGE_TOKENS, Count, Plan, check_remote, counting, planned
from relearn.synthesis.retry_loop import Filled, Flaw, Group, Slot, Writing, fill, prompt_text, read_labelled
from relearn.synthesis.rows import Rejection
from relearn.synthesis.synthesize import CACHE, progress
from relearn.synthesis.vague_answers import no_answer_flaw

ALTERNATES, REJECTED_ALTERNATES = "alternates.jsonl", "rejected_alternates.jsonl"
ANSWERS = 5
TEMPERATURE = 1.0
TOKENS_PER_ALTERNATE = 120


@dataclass(frozen=True)
class Alternates:
    """Record id -> its alternate answers, and what was not taken; records without an answer are missing."""

    answers: Mapping[str, list[str]]
    rejections: tuple[Rejection, ...]


def write_alternates(
    records: Sequence[Record],
    settings: config.Synthesis,
    out: Path,
    seed: int,
    *,
    loaded: Any = None,
    tick: Ticker = quiet,
) -> dict[str, Any]:
    """Write alternates.jsonl, {record_id, answers} a row, and rejected_alternates.jsonl into `out`; return the counts.

    A record's own `alternatives` are taken first; the generator is asked only for records of which none passed the leak
    check. Answers are cached in out/cache.sqlite, so the same call goes on where it stopped. Raises InputError before
    anything is sent when private records would go to another host unasked, GeneratorError or BudgetError when it had to
    stop, RunFailedError when not one record has an alternate answer.
    """
    own = own_alternates(records, Verifier(records).leaks)
    asked = [record for record in records if record.id not in own.answers]
    written, usage = Alternates({}, ()), {}
    if asked:
        check_remote(settings, len(asked))
        written, usage = _ask(asked, records, settings, out, seed, loaded, tick)
    rejections = own.rejections + written.rejections
    answers = {**own.answers, **written.answers}
    write_jsonl(out / REJECTED_ALTERNATES, (rejection.to_dict() for rejection in rejections))
    if records and not answers:
        raise RunFailedError(
            "not one alternate answer was taken",
            where=str(out / REJECTED_ALTERNATES),
            way_out="read there what was written and why it was rejected, and take a generator that writes better",
        )
    rows = [{"record_id": record.id, "answers": answers[record.id]} for record in records if record.id in answers]
    write_jsonl(out / ALTERNATES, rows)
    without = len(records) - len(rows)
    return {
        "records": len(records),
        "answers": sum(len(row["answers"]) for row in rows),
        "records_with_own": len(own.answers),
        "records_asked": len(asked),
        "records_without_alternates": without,
        "rejected": len(rejections),
        "rejected_by_kind": dict(sorted(Counter(rejection.kind for rejection in rejections).items())),
        "usage": usage,
        "notes": _notes(len(own.answers), without, len(records)),
    }


def read_alternates(path: Path) -> dict[str, list[str]]:
    """Record id -> alternate answers, from an alternates.jsonl."""
    return {row["record_id"]: list(row["answers"]) for row in read_jsonl(path)}


def own_alternates(records: Sequence[Record], inspect: Inspect) -> Alternates:
    """The `alternatives` that records bring and that pass the checks, at most ANSWERS each."""
    offered = [
        (Slot(record, record.id, "original", record.question), answer.strip())
        for record in records
        for answer in record.alternatives
    ]
    answers: dict[str, list[str]] = {}
    rejections = []
    for (slot, answer), flaw in zip(offered, _Check(inspect)(offered), strict=True):
        if flaw is None:
            answers.setdefault(slot.record.id, []).append(answer)
        else:
            rejections.append(
                Rejection(
                    slot.record.id,
                    slot.question_id,
                    "original",
                    slot.asked,
                    answer,
                    0,
                    reason=flaw.reason,
                    kind=flaw.kind,
                    final=True,
                )
            )
    return Alternates({name: taken[:ANSWERS] for name, taken in answers.items()}, tuple(rejections))


def _ask(
    asked: Sequence[Record],
    records: Sequence[Record],
    settings: config.Synthesis,
    out: Path,
    seed: int,
    loaded: Any,
    tick: Ticker,
) -> tuple[Alternates, dict[str, Any]]:
    """Alternates written by the generator for `asked`, of all `records`, and what it and the judge used."""
    cache = make_private_dir(out) / CACHE
    budget = budget_for(settings, cache)
    completer = make_completer(settings.generator, settings, cache, loaded=loaded, budget=budget)
    judge = make_completer(settings.judge, settings, cache, loaded=loaded, budget=budget) if settings.judge else None
    inspect = Verifier(records, judge).flaws
    groups = [slots(record) for record in asked]
    try:
        with progress(completer, len(groups), tick):
            filled = fill(groups, _writing(inspect, seed), completer, settings.attempts)
    finally:
        for used in filter(None, (completer, judge)):
            used.close()
    usage = {"generator": completer.usage.to_dict()} | ({"judge": judge.usage.to_dict()} if judge else {})
    return Alternates(_by_record(groups, filled), filled.rejections), usage


def _writing(inspect: Inspect, seed: int) -> Writing:
    return Writing(
        what="alternate answer",
        ask=lambda group, attempt: alternates_prompt(group, seed, attempt),
        read=lambda reply, group: read_labelled(reply, _numbers(group)),
        check=_Check(inspect),
    )


def slots(record: Record) -> Group:
    """The places of a record's alternate answers, which are asked for together."""
    return tuple(
        Slot(record, content_id("alternate", record.id, str(number)), "original", record.question)
        for number in range(ANSWERS)
    )


def _by_record(groups: Sequence[Group], filled: Filled) -> dict[str, list[str]]:
    found = {group[0].record.id: [filled.texts[slot] for slot in group if slot in filled.texts] for group in groups}
    return {name: texts for name, texts in found.items() if texts}


def alternates_prompt(group: Group, seed: int, attempt: int = 0) -> Prompt:
    """One prompt for the places of `group`, which all belong to one record.

    Of the original answer nothing is told but roughly how long it is.
    """
    record = group[0].record
    subject = subject_of(record) or ""
    about = f" about {subject}" if subject else ""
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
        # Places of one record that are asked for again, one by one, are different draws.
        seed=seed + int(group[0].question_id[:6], 16),
    )


def _length(answer: str) -> str:
    words = len(answer.split())
    return "one to four words" if words <= 4 else "one sentence" if words <= 30 else "two or three sentences"


def _numbers(group: Group) -> list[str]:
    return [str(number) for number in range(1, len(group) + 1)]


class _Check:
    """Refuses what is no answer, repeats the original, tells a secret, or repeats an alternate that was taken."""

    def __init__(self, inspect: Inspect):
        self._inspect = inspect
        self._taken: set[tuple[str, str]] = set()

    def __call__(self, written: Sequence[tuple[Slot, str]]) -> list[Flaw | None]:
        flaws = [_own_flaw(slot, text) for slot, text in written]
        rest = [number for number, flaw in enumerate(flaws) if flaw is None]
        triples = [(slot.record, slot.asked, text) for slot, text in (written[number] for number in rest)]
        for number, leak in zip(rest, self._inspect(triples), strict=True):
            flaws[number] = leak or self._repeated(*written[number])
        return flaws

    def _repeated(self, slot: Slot, text: str) -> Flaw | None:
        entry = (slot.record.id, _plain(text))
        if entry in self._taken:
            return Flaw("duplicate", "the same as another alternate answer")
        self._taken.add(entry)
        return None


def _own_flaw(slot: Slot, text: str) -> Flaw | None:
    flaw = form_flaw(text, min_words=1)
    if flaw is None and slot.record.form == "chat":
        flaw = no_answer_flaw(slot.asked, text)
    if flaw is None and _plain(text) in map(_plain, filter(None, (slot.record.answer, slot.record.paraphrased_answer))):
        flaw = Flaw("verbatim", "the same as the original answer")
    return flaw


def _plain(text: str) -> str:
    return " ".join("".join(sign if sign.isalnum() else " " for sign in text.casefold()).split())


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
    """As `plan`, of `write_alternates`: an alternate answer is taken to be as long as the original one."""
    own = _own(records)
    asked = [record for record in records if record.id not in own]
    count = counting(tokenizer)
    rows = {"alternate": sum(own.values()) + ANSWERS * len(asked)}
    passes = [_of_record(record, count) for record in asked]
    return planned(rows, passes, ANSWERS * len(asked), settings, tokenizer=tokenizer, prices=prices)


def planned_alternates(records: Sequence[Record]) -> int:
    """Alternate answers when every text that is asked for is written and taken."""
    own = _own(records)
    return sum(own.get(record.id, ANSWERS) for record in records)


def _own(records: Sequence[Record]) -> dict[str, int]:
    """Record id -> how many of the answers that it brings will be taken, where any will."""
    if not any(record.alternatives for record in records):
        return {}
    found = own_alternates(records, Verifier(records).leaks).answers
    return {key: len(answers) for key, answers in found.items()}


def _of_record(record: Record, count: Count) -> tuple[int, int, int]:
    sent = count(alternates_prompt(slots(record), seed=0).text) + MESSAGE_TOKENS
    return 1, sent, ANSWERS * (min(count(record.answer), TOKENS_PER_ALTERNATE) + LABEL_TOKENS)
