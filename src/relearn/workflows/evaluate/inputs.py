"""Read and check the inputs of an evaluation: records to ask models, or files of answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from relearn.ability import check_ability
from relearn.core.config import Data, Generate, Model, Sources
from relearn.core.errors import InputError
from relearn.core.files import file_hash
from relearn.core.ownership import check_links, is_new, is_ours, outputs_in, refuse_overwrite
from relearn.core.run_dir import EVALUATION, RunFolder, require_trust
from relearn.core.splits import SPLITS
from relearn.data import Record
from relearn.data.validation import DataSet, check_special_tokens, load_all, normalised
from relearn.inference.run_models import check_model, named_fingerprints
from relearn.metrics.answer_files import has_responses, read_answers, split_wordings
from relearn.metrics.judges import EXTRACTORS
from relearn.metrics.llm_judge import check_remote_judge
from relearn.metrics.metric import METRICS, JointMetric
from relearn.metrics.retain_reference import load_reference
from relearn.models.chat import control_tokens
from relearn.models.load import chat_of, load_config, load_tokenizer
from relearn.synthesis.generation_cost import WITH_ANSWERS, check_remote
from relearn.synthesis.questions import record_id_of_wording
from relearn.text.subjects import find_subject
from relearn.workflows.evaluate.evaluation_config import Evaluation, difference
from relearn.workflows.run.eval_stages import check_prompts
from relearn.workflows.run.inputs import begin, input_hashes, with_subjects

NOT_GIVEN = {
    "forget": "no facts to forget were given (--forget FILE): KFR and the other metrics of forgetting are not measured",
    "retain": "no facts to keep were given (--retain FILE): KRR and the other metrics of what is kept are not measured",
}


class AskedData(Data):
    """Choose the records of an evaluation, which may have no records to forget."""

    forget: Sources = ()


@dataclass(frozen=True)
class EvaluationInputs:
    """Hold records to ask or rows with answers, by split; one of the two is empty."""

    records: Mapping[str, tuple[Record, ...]] = field(default_factory=dict)
    answers: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.records or self.answers)

    @property
    def counts(self) -> dict[str, int]:
        return {split: len(rows) for split, rows in (self.records or self.answers).items()}


def open_evaluation(folder: RunFolder, settings: Evaluation, held: ExitStack) -> EvaluationInputs:
    """Validate all inputs, lock the folder and write the initial manifest; return the inputs.

    Raises InputError before anything is written. The lock is released when `held` closes.
    """
    _check_folder(folder, settings)
    inputs = read_inputs(settings)
    _check_metrics(settings, inputs)
    _check_judges(settings, sum(inputs.counts.values()))
    _check_wordings(settings, inputs)
    begin(
        folder,
        {EVALUATION: settings.to_yaml()},
        held,
        began="evaluation",
        inputs=input_hashes(source.path for source in settings.sources.values()),
        models=named_fingerprints(models_of(settings)),
        seed=settings.seed,
        counts=inputs.counts,
        notes=[*inputs.notes, *_notes_on_base(settings), *_notes_on_splits(settings)],
    )
    return inputs


def _check_folder(folder: RunFolder, settings: Evaluation) -> None:
    path, where = folder / EVALUATION, str(folder.path)
    if is_new(folder.path):
        return
    begun = is_new(folder.path, EVALUATION) and path.read_bytes() == settings.to_yaml().encode()
    if not path.is_file() or not (begun or is_ours(folder.path)):
        raise InputError("is there already and holds no evaluation", where=where, way_out="choose another --out")
    check_links(folder.path)
    refuse_overwrite(outputs_in(folder.path), _input_paths(settings))
    earlier = Evaluation.from_yaml(path)
    if why := difference(earlier, settings):
        way_out = "choose another --out, or remove it"
        raise InputError(f"holds another evaluation: {why}", where=where, way_out=way_out)
    require_trust(earlier.trusts_remote_code, settings.trusts_remote_code, folder.path)


def read_inputs(settings: Evaluation) -> EvaluationInputs:
    """Read and check the files and models of an evaluation. Raises InputError for the first problem."""
    _check_files(settings)
    for role, spec in models_of(settings).items():
        check_model(spec, f"--{role}")
    return _records_to_ask(settings) if settings.models else _answers_to_score(settings)


def models_of(settings: Evaluation) -> dict[str, Model]:
    """Return the models of an evaluation by role: after, before, base."""
    return settings.models | ({"base": settings.base} if settings.base else {})


def _check_files(settings: Evaluation) -> None:
    """Raise InputError if two splits have the same file."""
    splits: dict[str, str] = {}
    for split, source in settings.sources.items():
        if not (file := Path(source.path).expanduser()).is_file():
            continue
        first = splits.setdefault(file_hash(file), split)
        if first != split:
            raise InputError(f"is both --{first} and --{split}", where=str(file), way_out="give each its own file")


def _records_to_ask(settings: Evaluation) -> EvaluationInputs:
    sources = {split: source.model_dump() for split, source in settings.sources.items()}
    utility = {split: sources.pop(split) for split in ("real_authors", "world_facts") if split in sources}
    data = load_all(AskedData.model_validate({**sources, "utility": utility}))
    for spec in dict.fromkeys(spec.model_copy(update={"adapter": None}) for spec in settings.models.values()):
        _check_texts(spec, data, settings.generate)
    left_out = [
        f"{source.path} holds answers; they are left out, since a model is asked"
        for source in settings.sources.values()
        if has_responses(source)
    ]
    return EvaluationInputs(records=dict(with_subjects(data).sets()), notes=(*data.notes, *left_out))


def _check_texts(spec: Model, data: DataSet, generate: Generate) -> None:
    """Raise InputError for a control token of the model in a record, or for a record over its context length."""
    tokenizer = load_tokenizer(spec)
    chat = chat_of(tokenizer, spec)
    limit = getattr(load_config(spec), "max_position_embeddings", None)
    for split, records in data.sets():
        places = data.places.get(split, {})
        check_special_tokens(records, control_tokens(tokenizer), places)
        check_prompts(spec, chat, records, generate, places)
        for record in records:
            tokens = len(tokenizer(chat.answer_prompt(record.question, record.form) + record.answer).input_ids)
            if limit is not None and tokens > limit:
                problem = f"question and answer have {tokens} tokens, {spec.name} sees {limit}"
                way_out = "shorten them, or give the passage as a document (a row with `text` alone)"
                raise InputError(problem, where=places.get(record.id) or record.source, way_out=way_out)


def _answers_to_score(settings: Evaluation) -> EvaluationInputs:
    answers: dict[str, list[dict[str, Any]]] = {}
    notes: list[str] = []
    for split, source in settings.sources.items():
        rows, wordings = split_wordings(read_answers(source))
        answers[split] = [{**row, "subject": row["subject"] or find_subject(row["question"])} for row in rows]
        if wordings and split == "forget":
            # A wording without a subject gets the subject of its question.
            subjects = {row["id"]: row["subject"] for row in answers[split]}
            answers["wordings"] = [
                {**row, "subject": row["subject"] or subjects[record_id_of_wording(row["id"])]} for row in wordings
            ]
        elif wordings:
            count = f"{len(wordings)} rows of {source.path} are other wordings"
            notes.append(f"{count}; left out, only --forget has use for them")
    notes += _notes_on_overlap(answers)
    if settings.base is None:
        notes += _notes_on_logprobs(answers)
    return EvaluationInputs(answers=answers, notes=tuple(notes))


def _notes_on_overlap(answers: Mapping[str, list[dict[str, Any]]]) -> Iterable[str]:
    keys = {
        split: {(normalised(row["question"]), normalised(row["reference"])) for row in rows}
        for split, rows in answers.items()
    }
    if both := len(keys.get("forget", set()) & keys.get("retain", set())):
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


def _input_paths(settings: Evaluation) -> list[str]:
    """List all data and models that an evaluation reads, by the names in its settings."""
    models = [name for spec in models_of(settings).values() for name in (spec.name, *spec.adapters)]
    others = filter(None, (settings.metrics.retain_reference, *settings.metrics.ability.tasks))
    return [*models, *(source.path for source in settings.sources.values()), *others]


def _check_judges(settings: Evaluation, rows: int) -> None:
    """Raise InputError for a judge that is unknown or runs on another host without permission."""
    metrics = settings.metrics
    check_remote_judge(metrics)
    check_ability(metrics.ability)
    if metrics.ability.tasks and not settings.models:
        problem = "asks a model, and there are files of answers alone"
        raise InputError(problem, where="metrics.ability", way_out="give --after MODEL")
    if settings.asks_generator:
        if metrics.entities not in EXTRACTORS:
            problem = f"no entity extractor {metrics.entities!r}"
            raise InputError(problem, where="metrics.entities", way_out=f"one of {', '.join(EXTRACTORS)}")
        check_remote(settings.synthesis, rows, WITH_ANSWERS)
    if metrics.retain_reference:
        load_reference(metrics.retain_reference)


def _check_wordings(settings: Evaluation, inputs: EvaluationInputs) -> None:
    """Raise InputError if the generator of wordings is not permitted, or `worst_case` has no wordings."""
    if settings.asks_for_wordings:
        if settings.forget is None:
            problem = "asks the questions to forget in other words, and there are none"
            raise InputError(problem, where="metrics.worst_case", way_out="give --forget FILE")
        check_remote(settings.synthesis, inputs.counts["forget"])
    elif "worst_case" in settings.measure and not settings.metrics.worst_case and "wordings" not in inputs.splits:
        problem = "'worst_case' rests on other wordings of the questions, and there are none"
        way_out = "--set metrics.worst_case=5" if settings.models else "rows with a `wording` (docs/evaluate.md)"
        raise InputError(problem, where="--metrics", way_out=way_out)


def _check_metrics(settings: Evaluation, inputs: EvaluationInputs) -> None:
    """Raise InputError for a metric if none of its splits is given."""
    scored_as = {SPLITS[split].scored_as for split in inputs.splits}
    for name in settings.measure:
        metric = METRICS.get(name)
        parts = {metric.part} & set(NOT_GIVEN) if isinstance(metric, JointMetric) else set(metric.better)
        if parts and not scored_as & parts:
            problem = f"{name!r} is measured on the {' or '.join(metric.better)} set, and there is none"
            raise InputError(problem, where="--metrics", way_out=f"give --{next(iter(metric.better))} FILE")


def _notes_on_splits(settings: Evaluation) -> list[str]:
    """Say what is not measured without a forget set or without a retain set, unless no metric of it was asked for."""
    wanted = {split for name in settings.measure for split in METRICS.get(name).better} or set(NOT_GIVEN)
    return [text for split, text in NOT_GIVEN.items() if getattr(settings, split) is None and split in wanted]


def _notes_on_base(settings: Evaluation) -> list[str]:
    if not settings.models or settings.base:
        return []
    if settings.before is None:
        return ["PPL and LS are unscored: they need a model from before any fine-tuning (--base MODEL)"]
    without = " without its adapter" if settings.before.adapters else ""
    return [f"PPL and LS rest on the model before{without}: no model from before any fine-tuning was given (--base)"]
