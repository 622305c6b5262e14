"""What an evaluation scores: records to ask a model, or rows that bring their answers; all checked beforehand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from relearn.core.config import Data, Model
from relearn.core.errors import InputError
from relearn.core.run_dir import file_hash
from relearn.data import Record
from relearn.data.validation import DataSet, check_special_tokens, load_all, normalised
from relearn.evaluation.models import check_model
from relearn.metrics.answer_files import has_responses, read_answers
from relearn.metrics.answer_ids import divided
from relearn.models.chat import chat_format
from relearn.models.load import load_config, load_tokenizer
from relearn.synthesis.wordings import worded_record
from relearn.text.subject import find_subject
from relearn.workflows.evaluate.evaluation_config import WORDINGS, Evaluation
from relearn.workflows.run.prepare import with_subject


@dataclass(frozen=True)
class Material:
    """`records` to ask, or `answers` as they were read, by set (forget, retain); one of the two is empty."""

    records: Mapping[str, tuple[Record, ...]] = field(default_factory=dict)
    answers: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def sets(self) -> tuple[str, ...]:
        return tuple(self.records or self.answers)

    @property
    def counts(self) -> dict[str, int]:
        return {name: len(rows) for name, rows in (self.records or self.answers).items()}


def read_material(settings: Evaluation) -> Material:
    """Read and check all that an evaluation needs; raises InputError at the first thing that is wrong."""
    _check_files(settings)
    for role, spec in (*settings.models.items(), ("base", settings.base)):
        if spec is not None:
            check_model(spec, f"--{role}")
    return _to_ask(settings) if settings.models else _to_score(settings)


def _check_files(settings: Evaluation) -> None:
    """No file may be two sets: what is to be gone and what is to stay would be the same."""
    known: dict[str, str] = {}
    for name, source in settings.sets.items():
        if not (file := Path(source.path).expanduser()).is_file():
            continue
        first = known.setdefault(file_hash(file), name)
        if first != name:
            raise InputError(f"is both --{first} and --{name}", where=str(file), way_out="give each its own file")


def _to_ask(settings: Evaluation) -> Material:
    sets = {name: source.model_dump() for name, source in settings.sets.items()}
    utility = {name: sets.pop(name) for name in ("real_authors", "world_facts") if name in sets}
    data = load_all(Data.model_validate({**sets, "utility": utility}))
    for spec in dict.fromkeys(map(_plain, settings.models.values())):
        _check_texts(spec, data)
    left_out = [
        f"{source.path} holds answers; they are left out, since a model is asked"
        for source in settings.sets.values()
        if has_responses(source)
    ]
    return Material(
        records={name: tuple(map(with_subject, records)) for name, records in data.sets()},
        notes=(*data.notes, *left_out),
    )


def _plain(spec: Model) -> Model:
    return spec.model_copy(update={"adapter": None})


def _check_texts(spec: Model, data: DataSet) -> None:
    """None of the model's special tokens inside a record, and no record longer than the model can see."""
    tokenizer = load_tokenizer(spec)
    chat = chat_format(tokenizer, template=spec.chat_template, system_prompt=spec.system_prompt)
    limit = getattr(load_config(spec), "max_position_embeddings", None)
    for name, records in data.sets():
        places = data.places.get(name, {})
        check_special_tokens(records, tokenizer.all_special_tokens, places)
        for record in records:
            tokens = len(tokenizer(chat.prompt(record.question, record.form) + record.answer).input_ids)
            if limit is not None and tokens > limit:
                raise InputError(
                    f"question and answer have {tokens} tokens, {spec.name} sees {limit}",
                    where=places.get(record.id) or record.source,
                    way_out="shorten them, or give the passage as a document (a row with `text` alone)",
                )  # fmt: skip


def _to_score(settings: Evaluation) -> Material:
    answers: dict[str, list[dict[str, Any]]] = {}
    notes: list[str] = []
    for name, source in settings.sets.items():
        own, wordings = divided(read_answers(source))
        answers[name] = [_about(row) for row in own]
        if wordings and name == "forget":
            answers[WORDINGS] = _about_the_same(wordings, answers[name])
        elif wordings:
            notes.append(f"{len(wordings)} rows of {source.path} are other wordings; left out, only --forget has use "
                         "for them")  # fmt: skip
    notes += _notes_on_sets(answers)
    if settings.base is None:
        notes += _notes_on_logprobs(answers)
    return Material(answers=answers, notes=tuple(notes))


def _about(row: dict[str, Any]) -> dict[str, Any]:
    """The row with the subject its question names, unless it brings one."""
    return {**row, "subject": row["subject"] or find_subject(row["question"])}


def _about_the_same(wordings: list[dict[str, Any]], own: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Other wordings with the subject of the question they word."""
    subjects = {row["id"]: row["subject"] for row in own}
    return [{**row, "subject": row["subject"] or subjects[worded_record(row["id"])]} for row in wordings]


def _notes_on_sets(answers: Mapping[str, list[dict[str, Any]]]) -> Iterable[str]:
    keys = {
        name: {(normalised(row["question"]), normalised(row["reference"])) for row in rows}
        for name, rows in answers.items()
    }
    if both := len(keys["forget"] & keys.get("retain", set())):
        yield f"{both} questions with the same reference are in both files, to forget and to keep"


def _notes_on_logprobs(answers: Mapping[str, list[dict[str, Any]]]) -> Iterable[str]:
    rows = [row for rows in answers.values() for row in rows]
    missing = sum(row["response_logprobs"] is None for row in rows)
    if missing == len(rows):
        yield "PPL and LS are unscored: they need a model from before any fine-tuning (--base MODEL)"
    else:
        yield "PPL and LS rest on the log-probabilities in the files, whatever model they are of"
    if 0 < missing < len(rows):
        yield f"{missing} of {len(rows)} answers carry no log-probabilities: PPL and LS leave them out (--base MODEL)"
