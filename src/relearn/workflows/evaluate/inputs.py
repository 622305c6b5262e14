"""What an evaluation scores: records to ask a model, or rows that bring their answers; all checked beforehand.

Taking hold of an evaluation's folder: all that can be wrong is looked at first, then the beginning is noted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from relearn.ability import check_ability
from relearn.core.config import Data, Model
from relearn.core.errors import InputError
from relearn.core.run_dir import (
    RunDir,
    check_links,
    file_hash,
    is_new,
    is_ours,
    locked,
    make_private_dir,
    outputs_in,
    refuse_overwrite,
    write_text,
)
from relearn.data import Record
from relearn.data.validation import DataSet, check_special_tokens, load_all, normalised
from relearn.inference.run_models import check_model, fingerprint
from relearn.metrics.answer_files import has_responses, read_answers, split_wordings
from relearn.metrics.judges import EXTRACTORS
from relearn.metrics.llm_judge import check_remote_judge
from relearn.metrics.metric import METRICS, JointMetric
from relearn.metrics.retain_reference import load_reference
from relearn.models.chat import chat_format
from relearn.models.load import load_config, load_tokenizer
from relearn.synthesis.generation_cost import WITH_ANSWERS, check_remote
from relearn.synthesis.questions import worded_record
from relearn.text.subjects import find_subject
from relearn.workflows.evaluate.evaluation_config import FILE, WORDINGS, Evaluation, differing, part_of
from relearn.workflows.run.prepare import versions, with_subject


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
                )


def _to_score(settings: Evaluation) -> Material:
    answers: dict[str, list[dict[str, Any]]] = {}
    notes: list[str] = []
    for name, source in settings.sets.items():
        own, wordings = split_wordings(read_answers(source))
        answers[name] = [_about(row) for row in own]
        if wordings and name == "forget":
            answers[WORDINGS] = _about_the_same(wordings, answers[name])
        elif wordings:
            notes.append(
                f"{len(wordings)} rows of {source.path} are other wordings; left out, only --forget has use for them"
            )
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


def take(folder: RunDir, settings: Evaluation, held: ExitStack) -> Material:
    """Check everything, take hold of the folder, and write down what the evaluation begins with."""
    _check_folder(folder, settings)
    material = read_material(settings)
    _check_metrics(settings, material)
    _check_judges(settings, sum(material.counts.values()))
    _check_wordings(settings, material)
    inputs = {
        source.path: file_hash(path)
        for source in settings.sets.values()
        if (path := Path(source.path).expanduser()).is_file()
    }
    models = {role: fingerprint(spec) for role, spec in _roles(settings).items()}
    _check_unchanged(folder.manifest, inputs, models)
    make_private_dir(folder.path)
    held.enter_context(locked(folder))
    folder.clear_leftovers()
    # Marked first: what a process leaves that is killed here must be known as its own.
    folder.update_manifest()
    write_text(folder / FILE, settings.to_yaml())
    folder.update_manifest(
        versions=versions(),
        seed=settings.seed,
        inputs=inputs,
        models=models,
        counts=material.counts,
        notes=[*material.notes, *_notes(settings)],
    )
    return material


def _roles(settings: Evaluation) -> dict[str, Model]:
    return settings.models | ({"base": settings.base} if settings.base else {})


def _check_folder(folder: RunDir, settings: Evaluation) -> None:
    kept = folder / FILE
    if is_new(folder.path):
        return
    begun = is_new(folder.path, FILE) and kept.read_bytes() == settings.to_yaml().encode()
    if not kept.is_file() or not (begun or is_ours(folder.path)):
        raise InputError(
            "is there already and holds no evaluation", where=str(folder.path), way_out="choose another --out"
        )
    check_links(folder.path)
    refuse_overwrite(outputs_in(folder.path), _read_paths(settings))
    why = differing(Evaluation.from_yaml(kept), settings)
    if why:
        raise InputError(
            f"holds another evaluation: {why}", where=str(folder.path), way_out="choose another --out, or remove it"
        )


def _read_paths(settings: Evaluation) -> list[str]:
    """Everything an evaluation reads: data and models, by the names they were given."""
    models = [name for spec in _roles(settings).values() for name in (spec.name, *spec.adapters)]
    judged = filter(None, (settings.metrics.retain_reference, *settings.metrics.ability.tasks))
    return [*models, *(source.path for source in settings.sets.values()), *judged]


def _check_unchanged(manifest: dict[str, Any], inputs: dict[str, str], models: dict[str, str | None]) -> None:
    for name, found, place in (("inputs", inputs, str), ("models", models, "the model {}".format)):
        for key, digest in manifest.get(name, {}).items():
            if key in found and digest != found[key]:
                raise InputError(
                    "has changed since this evaluation began",
                    where=place(key),
                    way_out="restore it, or start anew with another --out",
                )


def _check_judges(settings: Evaluation, rows: int) -> None:
    """A judge that cannot be, or that must not be shown the answers, is refused before anything is asked."""
    metrics = settings.metrics
    check_remote_judge(metrics)
    check_ability(metrics.ability)
    if metrics.ability.tasks and not settings.models:
        raise InputError(
            "asks a model, and there are files of answers alone", where="metrics.ability", way_out="give --after MODEL"
        )
    if settings.asks_generator:
        if metrics.entities not in EXTRACTORS:
            raise InputError(
                f"no entity extractor {metrics.entities!r}",
                where="metrics.entities",
                way_out=f"one of {', '.join(EXTRACTORS)}",
            )
        check_remote(settings.synthesis, rows, WITH_ANSWERS)
    if metrics.retain_reference:
        load_reference(metrics.retain_reference)


def _check_wordings(settings: Evaluation, material: Material) -> None:
    """Raises InputError where questions may not go to the generator that words them anew, or would not be worded."""
    if settings.asks_for_wordings:
        check_remote(settings.synthesis, material.counts["forget"])
    elif "worst_case" in settings.measure and not settings.metrics.worst_case and WORDINGS not in material.sets:
        raise InputError(
            "'worst_case' rests on other wordings of the questions, and there are none",
            where="--metrics",
            way_out="--set metrics.worst_case=5" if settings.models else "rows with a `wording` (docs/evaluate.md)",
        )


def _check_metrics(settings: Evaluation, material: Material) -> None:
    splits = {part_of(name)[1] for name in material.sets}
    for name in settings.measure:
        metric = METRICS.get(name)
        if not isinstance(metric, JointMetric) and not splits & set(metric.better):
            raise InputError(
                f"{name!r} is measured on the {' or '.join(metric.better)} set, and there is none",
                where="--metrics",
                way_out=f"give --{next(iter(metric.better))} FILE",
            )


def _notes(settings: Evaluation) -> list[str]:
    if not settings.models or settings.base:
        return []
    if settings.before is None:
        return ["PPL and LS are unscored: they need a model from before any fine-tuning (--base MODEL)"]
    without = " without its adapter" if settings.before.adapters else ""
    return [f"PPL and LS rest on the model before{without}: no model from before any fine-tuning was given (--base)"]
