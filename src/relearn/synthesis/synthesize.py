"""Run the synthesis stage: generate training rows and rejections from forget records (arXiv 2502.11190, section 3).

`synthesize` runs all steps. `synthesize_to_folder` also writes the result into a folder and can resume. The original
answer of a forget record is used only for comparison, and is not copied into rows, except up to its first secret in
stems (`synthesis.harden`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from relearn.core import config
from relearn.core.console import Ticker, quiet
from relearn.core.errors import RunFailedError
from relearn.core.files import make_private_dir, write_jsonl
from relearn.core.run_dir import CACHE, REJECTED, SYNTHESIS
from relearn.data import Record, content_id
from relearn.llm import Completer
from relearn.llm.cache import CachedCompleter, ignore_arrival
from relearn.llm.generators import budget_for, make_completer
from relearn.synthesis.checks import LeakCheck, Verifier, leak_check_note
from relearn.synthesis.generation_cost import check_language, check_remote
from relearn.synthesis.questions import write_questions
from relearn.synthesis.retry_loop import Slot, SlotText, reject
from relearn.synthesis.rows import (
    Rejection,
    TrainingRow,
    attack_shaped_rows,
    choose_generic,
    cut_row,
    generic_shortage,
    generic_wanted,
)
from relearn.synthesis.vague_answers import answer_group, write_answers

WRITE_BETTER = "read there what was written and why it was rejected, and take a generator that writes better"


@dataclass(frozen=True)
class SynthesisResult:
    """Store the rows, rejections and counts of a synthesis.

    `rows`: question rows and then completions of each record, then attack-shaped rows, then generic rows. `counts`:
    rows by kind, rejections by kind, records without a row. `notes`: messages about missing rows.
    """

    rows: tuple[TrainingRow, ...]
    rejections: tuple[Rejection, ...]
    counts: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def synthesize(
    records: Sequence[Record],
    generic: Sequence[Record],
    settings: config.Synthesis,
    *,
    completer: Completer,
    verifier: Verifier,
    seed: int,
    tick: Ticker = quiet,
) -> SynthesisResult:
    """Generate and verify question variants and vague answers, and derive the other rows.

    The same records, settings, seed and completions give the same rows in the same order. Raises GeneratorError if the
    generator fails and BudgetError if the budget is used up. A cached completer keeps the completions received before
    the error, so the same call resumes.
    """
    calls = sum(1 if record.form == "text" or not settings.variants else 2 for record in records)
    with progress(completer, calls, tick):
        questions, rejected_questions = write_questions(
            records, settings, completer, check_leaks=verifier.leaks, seed=seed
        )
        answers = write_answers(
            records,
            questions,
            settings,
            completer=completer,
            check_leaks=verifier.flaws,
            seed=seed,
            hide=verifier.hide_secrets,
        )
    rows: list[TrainingRow] = []
    rejected_completions: list[Rejection] = []
    for record in records:
        group = answer_group(record, questions[record.id])
        answered = [(slot, answers.texts[slot]) for slot in group if slot in answers.texts]
        rows += [_answer_row(slot, text) for slot, text in answered]
        if settings.completions and record.form == "chat":
            completions, rejected = _completions(answered, settings.completion_split, verifier.leaks)
            rows += completions
            rejected_completions += rejected
    rows += attack_shaped_rows(rows, records, settings.harden, seed=seed)
    generic_rows = choose_generic(generic, len(rows), settings.generic_ratio, seed=seed)
    rejections = (*rejected_questions, *answers.rejections, *rejected_completions)
    made = _result(records, rows, generic_rows, rejections=rejections, ratio=settings.generic_ratio)
    return replace(made, counts={**made.counts, "written_by": dict(answers.writers)}) if answers.writers else made


def _answer_row(slot: Slot, text: str) -> TrainingRow:
    """Make a row of a question and its vague answer, or of a document prefix and its new continuation."""
    kind = "qa" if slot.record.form == "chat" else "completion"
    return TrainingRow(
        id=content_id(kind, slot.question_id),
        kind=kind,
        prompt=slot.question,
        target=text,
        form=slot.record.form,
        record_id=slot.record.id,
        question_id=slot.question_id,
        variant=slot.variant,
    )


def _completions(
    answered: Sequence[SlotText], share: float, check_leaks: LeakCheck
) -> tuple[list[TrainingRow], list[Rejection]]:
    """Derive completions from the answers of a record; reject those that leak a secret without the question."""
    cut = [
        (slot, row)
        for slot, text in answered
        if (row := cut_row(_answer_row(slot, text), share, content_id("completion", slot.question_id)))
    ]
    rows, rejections = [], []
    flaws = check_leaks([(slot.record, row.prompt, row.target) for slot, row in cut])
    for (slot, row), flaw in zip(cut, flaws, strict=True):
        if flaw is None:
            rows.append(row)
        else:
            rejections.append(reject(replace(slot, question=row.prompt), row.target, flaw, final=True))
    return rows, rejections


def _result(
    records: Sequence[Record],
    rows: list[TrainingRow],
    generic_rows: list[TrainingRow],
    *,
    rejections: tuple[Rejection, ...],
    ratio: float,
) -> SynthesisResult:
    counts = count_rows(records, rows, generic_rows, rejections=rejections, ratio=ratio)
    notes = []
    if without := counts["records_without_rows"]:
        notes.append(f"{without} of {len(records)} records have no row to learn from; see rejected.jsonl")
    if shortage := generic_shortage(len(generic_rows), counts["generic_wanted"]):
        notes.append(shortage)
    if languages := leak_check_note(records):
        notes.append(languages)
    return SynthesisResult((*rows, *generic_rows), rejections, counts, tuple(notes))


def count_rows(
    records: Sequence[Record],
    rows: Sequence[TrainingRow],
    generic_rows: Sequence[TrainingRow],
    *,
    rejections: Sequence[Rejection],
    ratio: float,
) -> dict[str, Any]:
    """Count rows and rejections by kind, and records without a row; `ratio`: `generic_ratio` of the settings."""
    kinds = Counter(row.kind for row in rows)
    with_rows = {row.record_id for row in rows}
    return {
        "records": len(records),
        "qa": kinds["qa"],
        "completion": kinds["completion"],
        "generic": len(generic_rows),
        "generic_wanted": generic_wanted(len(rows), ratio),
        "records_without_rows": sum(record.id not in with_rows for record in records),
        "rejected": len(rejections),
        "rejected_for_good": sum(rejection.final for rejection in rejections),
        "rejected_by_kind": kind_counts(rejections),
    }


def kind_counts(rejections: Sequence[Rejection]) -> dict[str, int]:
    """Count the rejections by kind, in alphabetical order."""
    return dict(sorted(Counter(rejection.kind for rejection in rejections).items()))


def synthesize_to_folder(
    records: Sequence[Record],
    generic: Sequence[Record],
    settings: config.Synthesis,
    *,
    out: Path,
    seed: int,
    verifier: Verifier | None = None,
    loaded: Any = None,
    tick: Ticker = quiet,
) -> dict[str, Any]:
    """Synthesize, write synthesis.jsonl and rejected.jsonl into `out`, and return the counts.

    `verifier`: by default made from records and settings. `loaded`: loaded model that `transformers:` may use. Raises
    InputError, before anything is sent, if private records would be sent to another host without permission;
    GeneratorError or BudgetError if generation stopped (the same call resumes from the completions in cache.sqlite);
    RunFailedError if no record has a row.
    """
    check_remote(settings, len(records))
    check_language(settings, records)
    with open_completers(settings, out, loaded) as completers:
        verifier = verifier or Verifier(records, completers.get("judge"))
        generator = completers["generator"]
        result = synthesize(records, generic, settings, completer=generator, verifier=verifier, seed=seed, tick=tick)
    write_jsonl(out / REJECTED, (rejection.to_dict() for rejection in result.rejections))
    if records and result.counts["records_without_rows"] == len(records):
        counts = Counter(rejection.kind for rejection in result.rejections).most_common()
        problem = f"not one new answer was taken: {', '.join(f'{count} {kind}' for kind, count in counts)}"
        raise RunFailedError(problem, where=str(out / REJECTED), way_out=WRITE_BETTER)
    write_jsonl(out / SYNTHESIS, (row.to_dict() for row in result.rows))
    usage = {role: completer.usage.to_dict() for role, completer in completers.items()}
    return {**result.counts, "usage": usage, "notes": list(result.notes)}


@contextmanager
def open_completers(settings: config.Synthesis, out: Path, loaded: Any) -> Iterator[dict[str, CachedCompleter]]:
    """Open the completers "generator" and, if set, "judge", with one budget and the cache in `out`; close on exit."""
    cache = make_private_dir(out) / CACHE
    budget = budget_for(settings, cache)
    names = {"generator": settings.generator, "judge": settings.judge}
    completers = {
        role: make_completer(name, settings, cache, loaded=loaded, budget=budget)
        for role, name in names.items()
        if name
    }
    try:
        yield completers
    finally:
        for completer in completers.values():
            completer.close()


@contextmanager
def progress(completer: Completer, total: int, tick: Ticker) -> Iterator[None]:
    """Update the progress bar on every completion of a cached completer; `total` does not include retries."""
    if not isinstance(completer, CachedCompleter):
        yield
        tick(total, total)
        return
    done = 0

    def on_arrival() -> None:
        nonlocal done
        done += 1
        tick(min(done, total), total)

    completer.on_arrival = on_arrival
    try:
        yield
    finally:
        completer.on_arrival = ignore_arrival
    tick(total, total)
