"""A recipe becomes stages, in order, each skipped when its outputs are complete.

    records -> learn -> neighbours -> wordings -> before -> synthesis | alternates -> unlearn -> after -> perplexity
        -> scores -> report

Every stage reads what earlier ones wrote to the run folder, so a run killed anywhere goes on there and ends the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from relearn import console, parallel
from relearn.ability import ability_scores, measure_ability
from relearn.config import Data, Recipe, Synthesis
from relearn.errors import InputError
from relearn.inference.answers import Answers, ask, with_response_logprobs
from relearn.inference.models import RunModels
from relearn.llm.make import make_completer
from relearn.metrics.answers import AnswerRow
from relearn.metrics.evaluate import score_parts
from relearn.metrics.judges import Judges, make_judges
from relearn.metrics.paired import summarised
from relearn.metrics.retain_reference import load_reference
from relearn.metrics.split_scores import SplitScores, scores
from relearn.models.generate import generate
from relearn.models.load import Loaded
from relearn.objectives.base import METHODS, Method
from relearn.preparation import begin, check_folder, locked, prepare, records_to_learn, with_subject
from relearn.records import Record
from relearn.records.checks import DataSet, load_all
from relearn.report.build import write_report
from relearn.rundir import RunDir, existing_run, make_private_dir, read_jsonl, write_json, write_jsonl
from relearn.synthesis.alternates import read_alternates, write_alternates
from relearn.synthesis.generic_data import load_generic
from relearn.synthesis.given import write_given
from relearn.synthesis.neighbours import neighbour_records
from relearn.synthesis.plan import check_remote
from relearn.synthesis.rows import TrainingRow
from relearn.synthesis.synthesize import synthesize_to_folder
from relearn.synthesis.verification import Verifier
from relearn.synthesis.wordings import worded, write_wordings
from relearn.tokens.streams import Material
from relearn.training import stages
from relearn.training.procedures import PROCEDURES, Job
from relearn.watch import watcher

STAGES = (
    "learn", "neighbours", "wordings", "before", "synthesis", "alternates", "unlearn", "after", "perplexity", "scores",
    "report",
)  # fmt: skip
# Stages in which all processes work; the others are the main one's alone.
SHARED = ("learn", "before", "unlearn", "after", "perplexity")
# set of records -> (file in before/ and after/, split it is scored as, name in summary.json)
PARTS = (
    ("forget", "forget", "forget"),
    ("retain", "retain", "retain"),
    ("wordings", "forget", "forget_wordings"),
    ("probes_forget", "forget", "forget_heldout"),
    ("probes_retain", "retain", "retain_heldout"),
    ("holdout", "holdout", "holdout"),
    ("real_authors", "retain", "real_authors"),
    ("world_facts", "retain", "world_facts"),
)


def run(recipe: Recipe, out: Path | str, *, resume: bool = False, until: str = "report") -> RunDir:
    """Do a whole run in folder `out`, or what is left of it; returns the folder.

    Raises InputError (nothing written) when the input is wrong or the folder belongs to another recipe, RunFailedError
    when the run fails; what was done stays and `resume` goes on from it.
    """
    if until not in STAGES:
        raise InputError(f"unknown stage {until!r}", way_out=f"one of {', '.join(STAGES)}")
    folder = RunDir(Path(out))
    with ExitStack() as held:
        data = parallel.on_main(lambda: _open(folder, recipe, resume, held))
        work = Run(recipe, folder, data)
        for name in STAGES[: STAGES.index(until) + 1]:
            work.do(name)
    return folder


def _open(folder: RunDir, recipe: Recipe, resume: bool, held: ExitStack) -> DataSet:
    """Check everything, take hold of the folder, and write down what the run begins with."""
    check_folder(folder, recipe, resume=resume)
    stages.check_sharing(recipe, parallel.launched())
    data = prepare(recipe)
    make_private_dir(folder.path)
    held.enter_context(locked(folder))
    folder.clear_leftovers()
    begin(folder, recipe, data)
    return data


def unlearn(recipe: Recipe, out: Path | str, *, resume: bool = False) -> RunDir:
    """Like `run`, up to the adapter: nothing is asked afterwards."""
    return run(recipe, out, resume=resume, until="unlearn")


def evaluate(out: Path | str) -> RunDir:
    """Score the answers of a finished run once more and write its report anew."""
    folder = RunDir(existing_run(Path(out), "recipe.yaml"))
    kept = {name: entry for name, entry in folder.manifest["stages"].items() if name not in ("scores", "report")}
    folder.update_manifest(stages=kept)
    return run(Recipe.from_yaml(folder / "recipe.yaml"), out, resume=True)


def synthesize(
    forget: Path, out: Path, settings: Synthesis, *, generic: Path | None = None, seed: int = 0
) -> dict[str, Any]:
    """Write synthesis.jsonl and rejected.jsonl for a forget set into folder `out`; returns the counts.

    Every answer a generator gives is kept in out/cache.sqlite, so a repeated call asks only what is missing.
    """
    data = load_all(Data.model_validate({"forget": str(forget), "generic": str(generic) if generic else None}))
    check_remote(settings, len(data.forget))
    records = [with_subject(record) for record in data.forget]
    with console.stage("write new answers", len(records)) as tick:
        return dict(synthesize_to_folder(records, data.generic or load_generic(), settings, out, seed, tick=tick))


def add_perplexity(base: Loaded, path: Path) -> None:
    """Fill the log-probabilities of the responses in an answer file, unless they are all there."""
    answers = Answers.read(path)
    if any(row["response_logprobs"] is None or _lacks_base(row) for row in answers.rows):
        with_response_logprobs(base, answers).write(path)


def _lacks_base(row: Mapping[str, Any]) -> bool:
    return row.get("reference_moments") is not None and row.get("base_logprobs") is None


class Run:
    """The stages of one run; each method does one and writes its outputs."""

    def __init__(self, recipe: Recipe, folder: RunDir, data: DataSet):
        self.recipe = recipe
        self.folder = folder
        self.data = data
        self.models = RunModels(recipe, folder.path)
        self._interrupted = False

    def do(self, name: str) -> None:
        """Do stage `name` unless it is done or the recipe has no use for it; what came after it is then done anew."""
        body: tuple[list[str], Callable[[], None]] | None = getattr(self, f"_{name}")()
        if body is None or parallel.on_main(lambda: self.folder.is_done(name)):
            return
        outputs, work = body
        with self._begun(name, outputs):
            work() if name in SHARED else parallel.on_main(work)

    @contextmanager
    def _begun(self, name: str, outputs: list[str]) -> Iterator[None]:
        """The main process writes down that the stage has begun, and at the end that it is done."""
        if not parallel.is_main():
            yield
            return
        later = STAGES[STAGES.index(name) + 1 :]
        known = self.folder.manifest["stages"]
        self._interrupted = known.get(name, {}).get("state") == "running"
        self.folder.update_manifest(stages={stage: entry for stage, entry in known.items() if stage not in later})
        with self.folder.stage(name, outputs):
            yield

    @property
    def _parts(self) -> list[tuple[str, str, str]]:
        return [part for part in PARTS if self._records(part[0])]

    def _records(self, name: str) -> Sequence[Record]:
        if name == "retain" and not self.data.retain:
            return self.neighbours
        if name == "wordings":
            return self.wordings
        return getattr(self.data, name)

    @property
    def wordings(self) -> list[Record]:
        """The questions to forget in other words."""
        path = self.folder / "wordings.jsonl"
        written = {row["record_id"]: row["questions"] for row in read_jsonl(path)} if path.exists() else {}
        return worded(self.data.forget, written)

    @property
    def neighbours(self) -> tuple[Record, ...]:
        """What the start model itself said about the subjects, standing in for a retain set."""
        path = self.folder / "neighbours.jsonl"
        return tuple(Record(**row) for row in read_jsonl(path)) if path.exists() else ()

    def _learn(self):
        if self.recipe.learn is None:
            return None
        settings = self.recipe.learn

        def work() -> None:
            records = parallel.on_main(lambda: records_to_learn(settings))
            loaded = self.models.start_to_learn()
            with console.stage(f"learn {len(records)} rows") as tick:
                stages.learn(
                    loaded,
                    records,
                    settings,
                    folder=self.folder.path,
                    seed=self.recipe.seed,
                    log=self._log("learn"),
                    tick=tick,
                )
            self.models.release()

        return ["start"], work

    def _neighbours(self):
        if self.data.retain:
            return None

        def work() -> None:
            loaded = self.models.start()

            def answer(questions: list[str]) -> list[str]:
                return generate(loaded, questions, self.recipe.generate, seed=self.recipe.seed)

            with console.stage("ask the model for neighbours"):
                completer = make_completer("templates", self.recipe.synthesis, None)
                found = neighbour_records(
                    self.data.forget, completer, answer, Verifier(self.data.forget), self.recipe.seed
                )
            kept = ("id", "question", "answer", "subject", "split", "source")
            rows = ({name: getattr(record, name) for name in kept} for record in found)
            write_jsonl(self.folder / "neighbours.jsonl", rows)
            notes = [
                *self.folder.manifest["notes"],
                f"no retain set was given: {len(found)} answers of the start model itself stand in for it",
            ]
            self.folder.update_manifest(notes=notes)

        return ["neighbours.jsonl"], work

    def _wordings(self):
        count = self.recipe.metrics.worst_case
        if not count:
            return None

        def work() -> None:
            settings = self.recipe.synthesis
            with console.stage("word the questions anew", len(self.data.forget)):
                completer = make_completer(settings.generator, settings, self.folder / "cache.sqlite")
                found = write_wordings(
                    self.data.forget, count, settings, completer, Verifier(self.data.forget).leaks, self.recipe.seed
                )
            rows = ({"record_id": key, "questions": questions} for key, questions in found.items())
            write_jsonl(self.folder / "wordings.jsonl", rows)

        return ["wordings.jsonl"], work

    def _before(self):
        return self._asking("before", lambda: self.models.start())

    def _after(self):
        return self._asking("after", lambda: self.models.unlearned())

    def _asking(self, when: str, model: Callable[[], Any]):
        names = [name for name, _, _ in self._parts]
        tasks = self.recipe.metrics.ability

        def work() -> None:
            loaded = model()
            for name in names:
                path = self.folder / f"{when}/{name}.jsonl"
                if parallel.on_main(lambda path=path: path.exists() and self._interrupted):
                    continue
                records = self._records(name)
                # What tells members from others is looked at where there are both.
                attacked = bool(self.data.holdout) and name in ("forget", "holdout")
                with console.stage(f"ask {when}: {name.replace('_', ' ')}", len(records)) as tick:
                    ask(
                        loaded, records, self.recipe.generate, seed=self.recipe.seed, tick=tick, membership=attacked
                    ).write(path)

            if tasks.tasks:
                with console.stage(f"general ability {when}", len(tasks.tasks)) as tick:
                    outcomes = measure_ability(loaded, tasks, seed=self.recipe.seed, tick=tick)
                write_json(self.folder / f"{when}/ability.json", [outcome.to_dict() for outcome in outcomes])

        files = [f"{when}/{name}.jsonl" for name in names]
        return [*files, f"{when}/ability.json"] if tasks.tasks else files, work

    @property
    def _method(self) -> Method:
        return METHODS.get(self.recipe.unlearn.method)

    def _synthesis(self):
        if not self._method.source(self.recipe.unlearn.options).endswith("synthesised"):
            return None

        def work() -> None:
            self.models.release()
            generic = self.data.generic or load_generic()
            if self.recipe.synthesis.file:
                self.folder.update_manifest(synthesis=self._given(self.recipe.synthesis.file, generic))
                return
            with console.stage("write new answers", len(self.data.forget)) as tick:
                counts = synthesize_to_folder(
                    self.data.forget, generic, self.recipe.synthesis, self.folder.path, self.recipe.seed, tick=tick
                )
            self.folder.update_manifest(synthesis=counts)

        return ["synthesis.jsonl", "rejected.jsonl"], work

    def _given(self, file: str, generic: Sequence[Record]) -> dict[str, Any]:
        with console.stage("look through the given rows"):
            return write_given(
                file, self.data.forget, generic, self.recipe.synthesis, self.folder.path, self.recipe.seed
            )  # fmt: skip

    def _alternates(self):
        if not self._method.source(self.recipe.unlearn.options).endswith("alternates"):
            return None

        def work() -> None:
            self.models.release()
            with console.stage("write alternate answers", len(self.data.forget)) as tick:
                counts = write_alternates(
                    self.data.forget, self.recipe.synthesis, self.folder.path, self.recipe.seed, tick=tick
                )
            self.folder.update_manifest(alternates=counts)

        return ["alternates.jsonl"], work

    def _unlearn(self):
        settings = self.recipe.unlearn
        procedure = PROCEDURES.get(self._method.procedure)

        def work() -> None:
            loaded = self.models.start()
            evaluate = self._watcher(loaded) if settings.evaluate_every else None
            with console.stage(f"unlearn with {settings.method}") as tick:
                procedure(
                    Job(
                        loaded, self._material(), settings, self.recipe.model, self.folder.path, self.recipe.seed,
                        self._log("unlearn"), tick, evaluate,
                    )
                )  # fmt: skip
            self.models.release()

        return [procedure.result_name(settings)], work

    def _material(self) -> Material:
        written, alternates = self.folder / "synthesis.jsonl", self.folder / "alternates.jsonl"
        return Material(
            self.data.forget,
            [TrainingRow(**row) for row in read_jsonl(written)] if written.exists() else (),
            self._records("retain"),
            read_alternates(alternates) if alternates.exists() else {},
        )

    def _watcher(self, loaded: Any) -> Callable[[Any], float]:
        forget = self.data.probes_forget or self.data.forget
        retain = self.data.probes_retain or self._records("retain")
        judges: list[Judges] = []
        # They stay where they are made: the main process alone scores.
        parallel.on_main(lambda: judges.append(make_judges(self.recipe.metrics, self._entity_completer())))
        return watcher(loaded, forget, retain, self.recipe, judges[0] if judges else Judges())

    def _perplexity(self):
        def work() -> None:
            base = self.models.base()
            with console.stage("perplexity under the base model"):
                for path in self._answer_files():
                    add_perplexity(base, path)
            self.models.release()

        return [str(path.relative_to(self.folder.path)) for path in self._answer_files()], work

    def _answer_files(self) -> list[Path]:
        return [self.folder / f"{when}/{name}.jsonl" for when in ("before", "after") for name, _, _ in self._parts]

    def _scores(self):
        def work() -> None:
            with console.stage("score the answers"):
                judges = make_judges(self.recipe.metrics, self._entity_completer(), self.folder / "cache.sqlite")
                measured = {when: self._score(when, judges) for when in ("before", "after")}
            write_json(self.folder / "summary.json", summarised(measured, self.recipe.metrics, self.recipe.seed))
            write_json(self.folder / "scores.json", {when: scores(parts) for when, parts in measured.items()})

        return ["summary.json", "scores.json"], work

    def _score(self, when: str, judges: Any) -> dict[str, SplitScores]:
        settings = self.recipe.metrics
        parts: dict[str, tuple[Any, list[AnswerRow]]] = {
            title: (split, [AnswerRow.from_dict(row) for row in read_jsonl(self.folder / f"{when}/{name}.jsonl")])
            for name, split, title in self._parts
        }
        self._leave_out_trained(parts)
        reference = load_reference(settings.retain_reference) if settings.retain_reference else None
        found = score_parts(parts, settings, judges=judges, seed=self.recipe.seed, reference=reference)
        return {**found, **ability_scores(self.folder / f"{when}/ability.json")}

    def _leave_out_trained(self, parts: dict[str, tuple[Any, list[AnswerRow]]]) -> None:
        """A wording that training happened to show as well is no other wording."""
        written = self.folder / "synthesis.jsonl"
        if "forget_wordings" in parts and written.exists():
            trained = {row["prompt"] for row in read_jsonl(written)}
            split, rows = parts["forget_wordings"]
            parts["forget_wordings"] = (split, [row for row in rows if row.question not in trained])

    def _entity_completer(self) -> Any:
        if self.recipe.metrics.entities == "spacy":
            return None
        return make_completer(self.recipe.synthesis.generator, self.recipe.synthesis, self.folder / "cache.sqlite")

    def _report(self):
        def work() -> None:
            with console.stage("write the report"):
                write_report(self.folder.path)

        return ["report.json", "report.html", "model_card.md"], work

    def _log(self, stage: str) -> Callable[..., None]:
        return lambda **row: self.folder.log(stage=stage, **row)
