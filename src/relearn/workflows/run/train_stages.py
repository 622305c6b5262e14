"""The stages that make something: the start model, rows to train on, the unlearned model. None: nothing to do.

Evaluation while training: one number for a model in training, from a sample of what will be asked at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from relearn.core import console, distributed
from relearn.core.config import Recipe
from relearn.core.run_dir import read_jsonl, write_jsonl
from relearn.data import Record
from relearn.engine.generate import generate
from relearn.inference.answers import ask
from relearn.llm.generators import make_completer
from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.intervals import harmonic_mean
from relearn.metrics.judges import Judges, make_judges
from relearn.metrics.score import score
from relearn.models.load import Loaded
from relearn.synthesis.alternates import read_alternates, write_alternates
from relearn.synthesis.checks import Verifier
from relearn.synthesis.external import write_given
from relearn.synthesis.neighbours import neighbour_records
from relearn.synthesis.questions import write_wordings
from relearn.synthesis.rows import TrainingRow, load_generic
from relearn.synthesis.synthesize import synthesize_to_folder
from relearn.unlearning import train
from relearn.unlearning.data.streams import TrainingData
from relearn.unlearning.procedures import PROCEDURES, Job
from relearn.workflows.run.prepare import records_to_learn
from relearn.workflows.run.state import Stage, State

SAMPLE = 24


def watcher(
    loaded: Loaded, forget: Sequence[Record], retain: Sequence[Record], recipe: Recipe, judges: Judges
) -> Callable[[Any], float]:
    """A function model -> harmonic mean of KFR and KRR on the first `SAMPLE` questions of either set."""

    def measure(model: Any) -> float:
        asked = replace(loaded, model=model)
        values = [_rate(asked, forget[:SAMPLE], "forget", "kfr"), _rate(asked, retain[:SAMPLE], "retain", "krr")]
        known = [value for value in values if value is not None]
        return harmonic_mean(known) if known else 0.0

    def _rate(asked: Loaded, records: Sequence[Record], split: Any, name: str) -> float | None:
        if not records:
            return None
        rows = [AnswerRow.from_dict(row) for row in ask(asked, records, recipe.generate.once, seed=recipe.seed).rows]
        return distributed.on_main(
            lambda: score(rows, split, recipe.metrics, judges=judges, names=[name]).measurements[name].value
        )

    return measure


def learn(state: State) -> Stage | None:
    settings = state.recipe.learn
    if settings is None:
        return None

    def work() -> None:
        records = distributed.on_main(lambda: records_to_learn(settings))
        loaded = state.models.start_to_learn()
        with console.stage(f"learn {len(records)} rows") as tick:
            train.learn(
                loaded,
                records,
                settings,
                folder=state.folder.path,
                seed=state.recipe.seed,
                log=state.log("learn"),
                tick=tick,
            )
        state.models.release()

    return Stage(["start"], work)


def neighbours(state: State) -> Stage | None:
    if state.data.retain:
        return None

    def work() -> None:
        loaded = state.models.start()

        def answer(questions: list[str]) -> list[str]:
            return generate(loaded, questions, state.recipe.generate, seed=state.recipe.seed)

        with console.stage("ask the model for neighbours"):
            completer = make_completer("templates", state.recipe.synthesis, None)
            found = neighbour_records(
                state.data.forget, completer, answer, Verifier(state.data.forget), state.recipe.seed
            )
        kept = ("id", "question", "answer", "subject", "split", "source")
        rows = ({name: getattr(record, name) for name in kept} for record in found)
        write_jsonl(state.folder / "neighbours.jsonl", rows)
        notes = [
            *state.folder.manifest["notes"],
            f"no retain set was given: {len(found)} answers of the start model itself stand in for it",
        ]
        state.folder.update_manifest(notes=notes)

    return Stage(["neighbours.jsonl"], work)


def wordings(state: State) -> Stage | None:
    count = state.recipe.metrics.worst_case
    if not count:
        return None

    def work() -> None:
        settings = state.recipe.synthesis
        with console.stage("word the questions anew", len(state.data.forget)):
            completer = make_completer(settings.generator, settings, state.folder / "cache.sqlite")
            leaks = Verifier(state.data.forget).leaks
            found = write_wordings(state.data.forget, count, settings, completer, leaks, state.recipe.seed)
        rows = ({"record_id": key, "questions": questions} for key, questions in found.items())
        write_jsonl(state.folder / "wordings.jsonl", rows)

    return Stage(["wordings.jsonl"], work)


def synthesis(state: State) -> Stage | None:
    if not state.method.needs_synthesis(state.recipe.unlearn.options):
        return None

    def work() -> None:
        state.models.release()
        generic = state.data.generic or load_generic()
        file = state.recipe.synthesis.file
        counts = _given(state, file, generic) if file else _written(state, generic)
        state.folder.update_manifest(synthesis=counts)

    return Stage(["synthesis.jsonl", "rejected.jsonl"], work)


def _written(state: State, generic: Sequence[Record]) -> Mapping[str, Any]:
    with console.stage("write new answers", len(state.data.forget)) as tick:
        return synthesize_to_folder(
            state.data.forget, generic, state.recipe.synthesis, state.folder.path, state.recipe.seed, tick=tick
        )


def _given(state: State, file: str, generic: Sequence[Record]) -> Mapping[str, Any]:
    with console.stage("look through the given rows"):
        return write_given(
            file, state.data.forget, generic, state.recipe.synthesis, state.folder.path, state.recipe.seed
        )


def alternates(state: State) -> Stage | None:
    if not state.method.needs_alternates(state.recipe.unlearn.options):
        return None

    def work() -> None:
        state.models.release()
        with console.stage("write alternate answers", len(state.data.forget)) as tick:
            counts = write_alternates(
                state.data.forget, state.recipe.synthesis, state.folder.path, state.recipe.seed, tick=tick
            )
        state.folder.update_manifest(alternates=counts)

    return Stage(["alternates.jsonl"], work)


def unlearn(state: State) -> Stage:
    settings = state.recipe.unlearn
    procedure = PROCEDURES.get(state.method.procedure)

    def work() -> None:
        loaded = state.models.start()
        evaluate = _watcher(state, loaded) if settings.evaluate_every else None
        with console.stage(f"unlearn with {settings.method}") as tick:
            procedure(
                Job(
                    loaded=loaded,
                    data=_material(state),
                    settings=settings,
                    model=state.recipe.model,
                    folder=state.folder.path,
                    seed=state.recipe.seed,
                    log=state.log("unlearn"),
                    tick=tick,
                    evaluate=evaluate,
                )
            )
        state.models.release()

    return Stage([procedure.result_name(settings)], work)


def _material(state: State) -> TrainingData:
    written, other = state.folder / "synthesis.jsonl", state.folder / "alternates.jsonl"
    return TrainingData(
        state.data.forget,
        [TrainingRow(**row) for row in read_jsonl(written)] if written.exists() else (),
        state.records("retain"),
        read_alternates(other) if other.exists() else {},
    )


def _watcher(state: State, loaded: Any) -> Callable[[Any], float]:
    forget = state.data.probes_forget or state.data.forget
    retain = state.data.probes_retain or state.records("retain")
    judges: list[Judges] = []
    # They stay where they are made: the main process alone scores.
    distributed.on_main(lambda: judges.append(make_judges(state.recipe.metrics, state.entity_completer())))
    return watcher(loaded, forget, retain, state.recipe, judges[0] if judges else Judges())
