"""The whole synthesis: forget records in, training rows and what was rejected out; into a folder, so that it can go on.

The original answer of a forget record is in no row: it is only ever compared with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relearn.core import config
from relearn.core.console import Ticker, quiet
from relearn.core.errors import RunFailedError
from relearn.core.run_dir import make_private_dir, write_jsonl
from relearn.data import Record, content_id
from relearn.llm import Completer
from relearn.llm.cache import CachedCompleter, ignore_arrival
from relearn.llm.generators import budget_for, make_completer
from relearn.synthesis.checks import Inspect, Verifier
from relearn.synthesis.generation_cost import check_remote
from relearn.synthesis.questions import write_questions
from relearn.synthesis.retry_loop import Slot
from relearn.synthesis.rows import Rejection, TrainingRow, choose_generic, generic_wanted, split_answer
from relearn.synthesis.vague_answers import answer_group, hardened, write_answers

SYNTHESIS, REJECTED, CACHE = "synthesis.jsonl", "rejected.jsonl", "cache.sqlite"
Answered = list[tuple[Slot, str]]


@dataclass(frozen=True)
class Synthesised:
    """`counts`: rows by kind, rejected texts by kind, records left without a row; `notes` say in words what is short.

    Rows stand record by record, question rows before completions, generic rows last.
    """

    rows: tuple[TrainingRow, ...]
    rejections: tuple[Rejection, ...]
    counts: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def synthesize(
    records: Sequence[Record],
    generic: Sequence[Record],
    settings: config.Synthesis,
    completer: Completer,
    verifier: Verifier,
    seed: int,
    tick: Ticker = quiet,
) -> Synthesised:
    """Variants, vague answers, verification, completions and the generic mix (arXiv 2502.11190, section 3).

    The same records, settings, seed and completions give the same rows in the same order. Raises GeneratorError when
    the generator stopped answering and BudgetError when the budget is used up; a cached completer then holds every
    answer received, and the same call goes on from there.
    """
    total = sum(1 if record.form == "text" or not settings.variants else 2 for record in records)
    with progress(completer, total, tick):
        questions, refused_questions = write_questions(records, settings, completer, verifier.leaks, seed)
        answers = write_answers(records, questions, settings, completer, verifier.flaws, seed)
    rows: list[TrainingRow] = []
    refused_completions: list[Rejection] = []
    for record in records:
        group = answer_group(record, questions[record.id])
        answered = [(slot, answers.texts[slot]) for slot in group if slot in answers.texts]
        rows += [_row(slot, text) for slot, text in answered]
        if settings.completions and record.form == "chat":
            taken, refused = _completions(answered, settings, verifier.leaks)
            rows += taken
            refused_completions += refused
    rows += hardened(rows, records, settings.harden, seed)
    mixed = choose_generic(generic, len(rows), settings.generic_ratio, seed)
    rejections = (*refused_questions, *answers.rejections, *refused_completions)
    return _summed_up(records, rows, mixed, rejections, settings)


def synthesize_to_folder(
    records: Sequence[Record],
    generic: Sequence[Record],
    settings: config.Synthesis,
    out: Path,
    seed: int,
    *,
    verifier: Verifier | None = None,
    loaded: Any = None,
    tick: Ticker = quiet,
) -> dict[str, Any]:
    """Synthesise, write synthesis.jsonl and rejected.jsonl into `out`, and return the counts.

    `verifier` is made from records and settings when it is not given; `loaded` is a model in memory that
    `transformers:` may use. Raises InputError before anything is sent when private records would go to another host
    unasked, GeneratorError or BudgetError when it had to stop (cache.sqlite then holds every answer received, and the
    same call goes on from there), RunFailedError when all that was written was rejected.
    """
    check_remote(settings, len(records))
    cache = make_private_dir(out) / CACHE
    budget = budget_for(settings, cache)
    completer = make_completer(settings.generator, settings, cache, loaded=loaded, budget=budget)
    judge = None
    if verifier is None:
        judge = (
            make_completer(settings.judge, settings, cache, loaded=loaded, budget=budget) if settings.judge else None
        )
        verifier = Verifier(records, judge)
    try:
        made = synthesize(records, generic, settings, completer, verifier, seed, tick)
    finally:
        for used in filter(None, (completer, judge)):
            used.close()
    write_jsonl(out / REJECTED, (rejection.to_dict() for rejection in made.rejections))
    if records and made.counts["records_without_rows"] == len(records):
        raise RunFailedError(
            f"not one new answer was taken: {_most_common(made.rejections)}",
            where=str(out / REJECTED),
            way_out="read there what was written and why it was rejected, and take a generator that writes better",
        )
    write_jsonl(out / SYNTHESIS, (row.to_dict() for row in made.rows))
    usage = {"generator": completer.usage.to_dict()} | ({"judge": judge.usage.to_dict()} if judge else {})
    return {**made.counts, "usage": usage, "notes": list(made.notes)}


def _most_common(rejections: Sequence[Rejection]) -> str:
    counted = Counter(rejection.kind for rejection in rejections).most_common()
    return ", ".join(f"{count} {kind}" for kind, count in counted)


@contextmanager
def progress(completer: Completer, total: int, tick: Ticker) -> Iterator[None]:
    """Moves the bar with every answer; what has to be asked again is not in the total."""
    if not isinstance(completer, CachedCompleter):
        yield
        tick(total, total)
        return
    done = 0

    def arrived() -> None:
        nonlocal done
        done += 1
        tick(min(done, total), total)

    completer.on_arrival = arrived
    try:
        yield
    finally:
        completer.on_arrival = ignore_arrival
    tick(total, total)


def _row(slot: Slot, text: str) -> TrainingRow:
    """A question with its vague answer; a document's prefix with its new continuation."""
    kind = "qa" if slot.record.form == "chat" else "completion"
    return TrainingRow(
        content_id(kind, slot.question_id),
        kind,
        slot.asked,
        text,
        slot.record.form,
        record_id=slot.record.id,
        question_id=slot.question_id,
        variant=slot.variant,
    )


def _completions(
    answered: Answered, settings: config.Synthesis, leaks: Inspect
) -> tuple[list[TrainingRow], list[Rejection]]:
    """The answers of a record cut in two, where prefix and rest tell nothing without the question either."""
    halves = [(slot, *cut) for slot, text in answered if (cut := split_answer(text, settings.completion_split))]
    flaws = leaks([(slot.record, prefix, rest) for slot, prefix, rest in halves])
    rows, refused = [], []
    for (slot, prefix, rest), flaw in zip(halves, flaws, strict=True):
        if flaw is None:
            rows.append(
                TrainingRow(
                    content_id("completion", slot.question_id),
                    "completion",
                    prefix,
                    rest,
                    "text",
                    record_id=slot.record.id,
                    question_id=slot.question_id,
                    variant=slot.variant,
                )
            )
        else:
            refused.append(
                Rejection(
                    slot.record.id,
                    slot.question_id,
                    slot.variant,
                    prefix,
                    rest,
                    0,
                    reason=flaw.reason,
                    kind=flaw.kind,
                    final=True,
                )
            )
    return rows, refused


def _summed_up(
    records: Sequence[Record],
    rows: list[TrainingRow],
    mixed: list[TrainingRow],
    rejections: tuple[Rejection, ...],
    settings: config.Synthesis,
) -> Synthesised:
    kinds = Counter(row.kind for row in rows)
    served = {row.record_id for row in rows}
    without = [record for record in records if record.id not in served]
    wanted = generic_wanted(len(rows), settings.generic_ratio)
    counts = {
        "records": len(records),
        "qa": kinds["qa"],
        "completion": kinds["completion"],
        "generic": len(mixed),
        "generic_wanted": wanted,
        "records_without_rows": len(without),
        "rejected": len(rejections),
        "rejected_for_good": sum(rejection.final for rejection in rejections),
        "rejected_by_kind": dict(sorted(Counter(rejection.kind for rejection in rejections).items())),
    }
    notes = []
    if without:
        notes.append(f"{len(without)} of {len(records)} records have no row to learn from; see rejected.jsonl")
    if len(mixed) < wanted:
        notes.append(f"generic rows: {len(mixed)} of the {wanted} asked for by generic_ratio, there are no more")
    return Synthesised((*rows, *mixed), rejections, counts, tuple(notes))
