"""Run the training stages of a run: learn, neighbours, wordings, synthesis, alternates, unlearn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from relearn.core import console, distributed
from relearn.core.config import Learn, Recipe
from relearn.core.files import write_jsonl
from relearn.core.run_dir import ALTERNATES, NEIGHBOURS, REJECTED, START, SYNTHESIS, WORDINGS
from relearn.data import Record
from relearn.data.validation import DataSet, load_set, normalised
from relearn.engine.generate import generate
from relearn.inference.answers import ask
from relearn.llm.generators import make_completer
from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.intervals import harmonic_mean
from relearn.metrics.judges import Judges, make_judges
from relearn.metrics.score import score
from relearn.models.load import Loaded, chat_of, check_checkpoint, check_lora, check_machine, load_tokenizer
from relearn.synthesis.alternates import read_alternates, write_alternates
from relearn.synthesis.checks import Verifier
from relearn.synthesis.external import write_external_rows
from relearn.synthesis.generation_cost import QUESTIONS, WITH_ANSWERS, check_language, check_remote
from relearn.synthesis.neighbours import neighbour_records
from relearn.synthesis.questions import write_wordings
from relearn.synthesis.rows import TrainingRow, load_generic
from relearn.synthesis.synthesize import synthesize_to_folder
from relearn.synthesis.vague_answers import SELF
from relearn.unlearning import train
from relearn.unlearning.data.streams import TrainingData, is_written
from relearn.unlearning.masks.mask import check_mask
from relearn.unlearning.method import METHODS, Evaluate
from relearn.unlearning.procedures import PROCEDURES, Job
from relearn.workflows.run.context import RunContext
from relearn.workflows.run.eval_stages import check_prompts, check_texts

# Number of questions per split in the train-time evaluation.
SAMPLE = 24


def check_learn(recipe: Recipe, data: DataSet) -> None:
    if recipe.learn:
        check_texts(recipe, *load_set(recipe.learn.data, "retain", "learn.data"))
        check_lora(recipe.model, recipe.learn.lora, "learn.lora")


def learn_outputs(context: RunContext) -> list[str]:
    return [START] if context.recipe.learn else []


def learn(context: RunContext) -> None:
    """Fine-tune the model on `learn.data` to make the start model."""
    settings, seed = context.recipe.learn, context.recipe.seed
    assert settings is not None
    records = distributed.on_main(lambda: records_to_learn(settings))
    loaded, log = context.models.original(), context.log("learn")
    with console.stage(f"learn {len(records)} rows") as tick:
        train.learn(loaded, records, settings, folder=context.folder.path, seed=seed, log=log, tick=tick)
    context.models.release()


def records_to_learn(settings: Learn) -> tuple[Record, ...]:
    """Read the records of `learn.data`, except those whose question is in `learn.without`."""
    records, _ = load_set(settings.data, "retain", "learn.data")
    left_out = {normalised(record.question) for record in load_set(settings.without, "forget", "learn.without")[0]}
    return tuple(record for record in records if normalised(record.question) not in left_out)


def neighbour_outputs(context: RunContext) -> list[str]:
    return [] if context.data.retain else [NEIGHBOURS]


def neighbours(context: RunContext) -> None:
    """Make a retain set, if none was given, from the start model's answers to other questions about the subjects."""
    recipe, forget = context.recipe, context.data.forget
    loaded = context.models.start()

    def answer(questions: list[str]) -> list[str]:
        return generate(loaded, questions, recipe.generate, seed=recipe.seed)

    with console.stage("ask the model for neighbours"):
        completer = make_completer("templates", recipe.synthesis, None)
        records = neighbour_records(forget, completer, answer=answer, verifier=Verifier(forget), seed=recipe.seed)
    fields = ("id", "question", "answer", "subject", "split", "source")
    write_jsonl(context.folder / NEIGHBOURS, ({name: getattr(record, name) for name in fields} for record in records))
    note = f"no retain set was given: {len(records)} answers of the start model itself stand in for it"
    context.folder.update_manifest(notes=[*context.folder.manifest["notes"], note])


def check_wordings(recipe: Recipe, data: DataSet) -> None:
    if recipe.metrics.worst_case:
        _check_generator(recipe, data)


def wording_outputs(context: RunContext) -> list[str]:
    return [WORDINGS] if context.recipe.metrics.worst_case else []


def wordings(context: RunContext) -> None:
    """Write `metrics.worst_case` paraphrases of each forget question with the generator."""
    recipe, forget = context.recipe, context.data.forget
    with console.stage("word the questions anew", len(forget)):
        check_leaks = Verifier(forget).leaks
        questions = write_wordings(
            forget,
            recipe.metrics.worst_case,
            recipe.synthesis,
            completer=context.generator(),
            check_leaks=check_leaks,
            seed=recipe.seed,
        )
    rows = ({"record_id": key, "questions": own} for key, own in questions.items())
    write_jsonl(context.folder / WORDINGS, rows)


def check_synthesis(recipe: Recipe, data: DataSet) -> None:
    if is_written(METHODS.get(recipe.unlearn.method).source(recipe.unlearn.options)):
        _check_generator(recipe, data)
        if not data.generic:
            chat = chat_of(load_tokenizer(recipe.model), recipe.model)
            check_prompts(recipe.model, chat, load_generic(), recipe.generate, {})


def _check_generator(recipe: Recipe, data: DataSet) -> None:
    """Raise InputError if the generator runs on another host and `synthesis.allow_remote` is not set."""
    shown = QUESTIONS if recipe.metrics.entities == "spacy" else WITH_ANSWERS
    check_remote(recipe.synthesis, len(data.forget), shown)
    check_language(recipe.synthesis, data.forget)


def synthesis_outputs(context: RunContext) -> list[str]:
    return [SYNTHESIS, REJECTED] if context.method.needs_synthesis(context.recipe.unlearn.options) else []


def synthesis(context: RunContext) -> None:
    """Write the training rows with a generator, or read them from `synthesis.file`."""
    context.models.release()
    settings, forget = context.recipe.synthesis, context.data.forget
    generic = context.data.generic or load_generic()
    out, seed = context.folder.path, context.recipe.seed
    counts: Mapping[str, Any]
    if settings.file:
        with console.stage("look through the given rows"):
            counts = write_external_rows(settings.file, forget, generic, settings=settings, out=out, seed=seed)
    else:
        own = context.models.start() if settings.generator == SELF else None
        with console.stage("write new answers", len(forget)) as tick:
            counts = synthesize_to_folder(forget, generic, settings, out=out, seed=seed, loaded=own, tick=tick)
        context.models.release()
    context.folder.update_manifest(synthesis=counts)


def alternate_outputs(context: RunContext) -> list[str]:
    return [ALTERNATES] if context.method.needs_alternates(context.recipe.unlearn.options) else []


def alternates(context: RunContext) -> None:
    """Write alternate answers to the forget questions with a generator (AltPO)."""
    context.models.release()
    recipe, forget = context.recipe, context.data.forget
    with console.stage("write alternate answers", len(forget)) as tick:
        counts = write_alternates(forget, recipe.synthesis, context.folder.path, seed=recipe.seed, tick=tick)
    context.folder.update_manifest(alternates=counts)


def check_unlearn(recipe: Recipe, data: DataSet) -> None:
    settings = recipe.unlearn
    method = METHODS.get(settings.method)
    method.objective(settings.options)
    check_machine(recipe.model, full=settings.full, learns=recipe.learn is not None)
    PROCEDURES.get(method.procedure).check(recipe.model, settings)
    if settings.mask:
        check_mask(settings.mask)
    train.check_sharing(recipe, distributed.launched())
    check_checkpoint(recipe.model, trains=settings.full or recipe.learn is not None)
    if not settings.full:
        check_lora(recipe.model, settings.lora, "unlearn.lora")


def unlearn_outputs(context: RunContext) -> list[str]:
    return [PROCEDURES.get(context.method.procedure).result_name(context.recipe.unlearn)]


def unlearn(context: RunContext) -> None:
    """Train the unlearned model with the recipe's method."""
    recipe, settings = context.recipe, context.recipe.unlearn
    loaded = context.models.start()
    evaluate = _train_time_evaluation(context, loaded) if settings.evaluate_every else None
    with console.stage(f"unlearn with {settings.method}") as tick:
        job = Job(
            loaded=loaded,
            data=_training_data(context),
            settings=settings,
            model=recipe.model,
            folder=context.folder.path,
            seed=recipe.seed,
            log=context.log("unlearn"),
            tick=tick,
            evaluate=evaluate,
        )
        PROCEDURES.get(context.method.procedure)(job)
    context.models.release()


def _training_data(context: RunContext) -> TrainingData:
    rows, alternates = context.folder.synthesis_rows, context.folder / ALTERNATES
    return TrainingData(
        context.data.forget,
        [TrainingRow(**row) for row in rows],
        context.records("retain"),
        read_alternates(alternates) if alternates.exists() else {},
    )


def _train_time_evaluation(context: RunContext, loaded: Loaded) -> Evaluate:
    """Return a function model -> KFR, KRR and their harmonic mean, on the first SAMPLE forget and retain questions."""
    recipe, data = context.recipe, context.data
    forget = (data.probes_forget or data.forget)[:SAMPLE]
    retain = (data.probes_retain or context.records("retain"))[:SAMPLE]
    judges: list[Judges] = []
    # Only the main process scores, so only it loads the judges.
    distributed.on_main(lambda: judges.append(make_judges(recipe.metrics, context.entity_generator())))

    def rate(model: Any, records: Sequence[Record], split: Any, metric: str) -> float | None:
        if not records:
            return None
        answers = ask(replace(loaded, model=model), records, recipe.generate.once, seed=recipe.seed)
        rows = [AnswerRow.from_dict(row) for row in answers.rows]
        return distributed.on_main(
            lambda: score(rows, split, recipe.metrics, judges=judges[0], names=[metric]).measurements[metric].value
        )

    def evaluate(model: Any) -> dict[str, float]:
        rates = {"kfr": rate(model, forget, "forget", "kfr"), "krr": rate(model, retain, "retain", "krr")}
        known = {name: value for name, value in rates.items() if value is not None}
        return {"score": harmonic_mean(list(known.values())) if known else 0.0, **known}

    return evaluate
