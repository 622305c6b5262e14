"""Score two models, one model, or files of answers, without a run (`relearn evaluate`).

    evaluation.yaml manifest.json before/ after/ {forget,retain,holdout,...}.jsonl summary.json scores.json
    report.json report.html, with `metrics.worst_case` wordings.jsonl

Stages: other wordings, answers after, answers before, perplexity under the base model, scores, report. Every stage has
a key: a hash of all its inputs and settings. A stage is skipped if the manifest has its key and its files exist. The
same command therefore continues an interrupted evaluation, and does nothing for a finished one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from relearn.ability import ability_scores, measure_ability
from relearn.core import console, distributed
from relearn.core.config import Model
from relearn.core.errors import InputError
from relearn.core.files import file_hash, read_jsonl, replaced_dir, write_json, write_jsonl
from relearn.core.ownership import remove_outputs
from relearn.core.run_dir import CACHE, EVALUATION, REPORT_HTML, REPORT_JSON, SCORES, SUMMARY, RunFolder
from relearn.core.run_dir import WORDINGS as WORDINGS_FILE
from relearn.core.splits import SPLITS
from relearn.inference.answers import Answers, ask, with_response_logprobs
from relearn.inference.run_models import ModelSet, named_fingerprints
from relearn.llm.generators import make_completer
from relearn.metrics.answer_files import exported
from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.judges import make_judges
from relearn.metrics.metric import SplitScores, scores
from relearn.metrics.paired import summarised
from relearn.metrics.retain_reference import load_reference
from relearn.metrics.score import score_parts
from relearn.report.build import write_report
from relearn.synthesis.checks import Verifier
from relearn.synthesis.questions import wording_records, write_wordings
from relearn.workflows.evaluate.evaluation_config import Evaluation, from_options
from relearn.workflows.evaluate.inputs import EvaluationInputs, models_of, open_evaluation
from relearn.workflows.run.eval_stages import write_summary
from relearn.workflows.run.inputs import record_models
from relearn.workflows.run.pipeline import score_again

OUT = Path("runs/evaluation")
WORDINGS = "wordings"
# Settings of `metrics` that need a model, so a finished run cannot change them without running models again.
_NEED_MODEL = ("metrics.base_model", "metrics.worst_case", "metrics.ability")


def evaluate(
    run: Path | str | None = None,
    *,
    out: Path | str | None = None,
    changes: Sequence[str] = (),
    trust_remote_code: bool = False,
    **options: Any,
) -> RunFolder:
    """Score two models, one model, or files of answers, or score the answers in folder `run` again; return the folder.

    With `run` (a run folder or evaluation folder), its answers are scored again and its report is rewritten. Without
    `run`, `options` are those of `from_options`: `after`, `before`, `base` (models), `forget`, `retain` (files), and
    others; stages that are complete in folder `out` are skipped. `changes`: strings such as "metrics.c1=0.5".
    `trust_remote_code`: run code from the repositories of the models. Raises InputError, before anything is written,
    for wrong input and for a folder `out` with other content.
    """
    if run is None:
        settings = from_options(changes=changes, trust_remote_code=trust_remote_code, **options)
        return run_evaluation(settings, Path(out or OUT))
    if given := sorted(name for name, value in {**options, "out": out}.items() if value):
        problem = f"has its own models, files and folder; {given[0]!r} is for an evaluation without a run"
        raise InputError(problem, where=str(run))
    folder = RunFolder(run)
    if folder.is_evaluation:
        settings = Evaluation.in_folder(folder / EVALUATION, changes, trust_remote_code=trust_remote_code)
        return run_evaluation(settings, folder.path, again=True)
    _check_changes(changes)
    return score_again(folder.path, changes, trust_remote_code=trust_remote_code)


def export_answers(folder: Path, out: Path) -> list[Path]:
    """Write the answers of a run or an evaluation in the format of the public ReLearn code; return the paths.

    Each file of answers becomes out/SIDE_SPLIT.json, a list of {query, ground_truth, generated_response}. Raises
    InputError if `folder` has no answers or `out` exists.
    """
    RunFolder.existing(folder)
    files = sorted(folder.glob("before/*.jsonl")) + sorted(folder.glob("after/*.jsonl"))
    if not files:
        raise InputError("holds no answers", where=str(folder), way_out="a purged run has none; one to come: --resume")
    if out.exists():
        raise InputError("is there already", where=str(out), way_out="name a new folder")
    names = [f"{file.parent.name}_{file.stem}.json" for file in files]
    with replaced_dir(out) as target:
        for file, name in zip(files, names, strict=True):
            write_json(target / name, exported(read_jsonl(file)))
    return [out / name for name in names]


def _check_changes(changes: Sequence[str]) -> None:
    """Raise InputError for a change that a finished run cannot make without running models again."""
    for change in changes:
        if not change.startswith("metrics.") or change.startswith(_NEED_MODEL):
            problem = f"a run that is over cannot change {change.partition('=')[0].strip()!r}"
            way_out = (
                "only how its answers are judged: metrics.KEY=VALUE; what asks a model more is an evaluation of its "
                "own: --after MODEL --after-adapter RUN/adapter"
            )
            raise InputError(problem, where="--set", way_out=way_out)


def run_evaluation(settings: Evaluation, out: Path, *, again: bool = False) -> RunFolder:
    """Run or continue an evaluation in folder `out`; with `again`, score and report even if nothing has changed."""
    folder = RunFolder(out)
    is_new = not out.exists()
    try:
        with ExitStack() as held:
            inputs = distributed.on_main(lambda: open_evaluation(folder, settings, held))
            EvaluationJob(settings, folder, inputs, again).run()
    except InputError:
        # Some input errors are found only when a model is loaded: remove the new folder unless it has answers.
        has_answers = settings.models and any(out.glob("*/*.jsonl"))
        if is_new and distributed.is_main() and not has_answers and out.is_dir():
            remove_outputs(out)
        raise
    return folder


class EvaluationJob:
    """Run the stages of one evaluation."""

    def __init__(self, settings: Evaluation, folder: RunFolder, inputs: EvaluationInputs, again: bool):
        self.settings = settings
        self.folder = folder
        self.inputs = inputs
        self.models = ModelSet.of_evaluation(settings.models, folder.path, base=settings.perplexity_model)
        self._again = again
        self._keys: dict[str, str] = {}

    def run(self) -> None:
        if self.settings.asks_for_wordings:
            distributed.on_main(self._wordings)
            self.inputs = self._with_wordings()
        for side in self.settings.models or self.settings.scored:
            for split in self.inputs.splits:
                self._answers(side, split)
            if self.settings.metrics.ability.tasks:
                self._ability(side)
        if self.settings.perplexity_model is not None:
            for split in self.inputs.splits:
                self._perplexity(split, self.settings.perplexity_model)
        self.models.release()
        distributed.on_main(self._scores)
        distributed.on_main(self._report)

    def _stage(self, name: str, outputs: list[str], key: str, work: Callable[[], Any], *, again: bool = False) -> None:
        """Run a stage in all processes unless it is complete with the same key."""
        if self._is_due(name, outputs, key, again):
            with self._recorded(name, outputs, key):
                work()

    def _is_due(self, name: str, outputs: list[str], key: str, again: bool) -> bool:
        self._keys[name] = key
        return distributed.on_main(lambda: again or not self._is_done(name, outputs, key))

    def _is_done(self, name: str, outputs: list[str], key: str) -> bool:
        same = self.folder.manifest.get("keys", {}).get(name) == key
        done = same and all((self.folder / output).exists() for output in outputs)
        if done:
            self.folder.check_files(*outputs)
        return done

    @contextmanager
    def _recorded(self, name: str, outputs: list[str], key: str) -> Iterator[None]:
        """Record in the manifest, on the main process, that a stage is running, and its key when it is complete."""
        if not distributed.is_main():
            yield
            return
        with self.folder.stage(name, outputs):
            yield
            models = named_fingerprints(models_of(self.settings))
            record_models(self.folder, models, began="evaluation")
        self.folder.update_manifest(keys={**self.folder.manifest.get("keys", {}), name: key})

    def _wordings(self) -> None:
        """Paraphrase the forget questions with the generator, except those that have paraphrases."""
        settings, count, seed = self.settings.synthesis, self.settings.metrics.worst_case, self.settings.seed
        records = self.inputs.records["forget"]

        def work() -> None:
            with console.stage("word the questions anew", len(records)):
                leaks = Verifier(records).leaks
                questions = write_wordings(
                    records, count, settings, completer=self._generator(), check_leaks=leaks, seed=seed
                )
            rows = ({"record_id": key, "questions": own} for key, own in questions.items())
            write_jsonl(self.folder / WORDINGS_FILE, rows)

        asked = [
            [record.id, record.question, record.answer, record.subject, record.form, record.paraphrases]
            for record in records
        ]
        self._stage(WORDINGS, [WORDINGS_FILE], _key(WORDINGS, asked, count, settings, seed), work)

    def _with_wordings(self) -> EvaluationInputs:
        """Return the inputs with the other wordings as a further split after the forget set."""
        (name, forget), *others = self.inputs.records.items()
        wordings = tuple(wording_records(self.inputs.records["forget"], self.folder.wordings))
        own = [(WORDINGS, wordings)] if wordings else []
        return replace(self.inputs, records=dict([(name, forget), *own, *others]))

    def _answers(self, side: str, split: str) -> None:
        """Ask a model the questions of a split, or copy its answers from a file."""
        file, settings = f"{side}/{split}.jsonl", self.settings
        spec = settings.models.get(side)
        if spec is None:
            rows = self.inputs.answers[split]
            if settings.base is not None:
                rows = [{**row, "response_logprobs": None} for row in rows]
            copy = Answers(rows)
            self._stage(f"{side} {split}", [file], _key("read", rows), lambda: copy.write(self.folder / file))
            return
        # Membership inference compares forget records (members) with holdout records (non-members).
        membership = settings.holdout is not None and split in ("forget", "holdout")
        records = self.inputs.records[split]

        def work() -> None:
            loaded = self.models.get(side)
            with console.stage(f"ask {side}: {split.replace('_', ' ')}", len(records)) as tick:
                answers = ask(loaded, records, settings.generate, seed=settings.seed, tick=tick, membership=membership)
                answers.write(self.folder / file)

        asked = [
            [record.id, record.question, record.answer, record.form, record.choices, record.choice, record.tags]
            for record in records
        ]
        key = _key("asked", spec.identity, asked, settings.generate.model_dump(), settings.seed, membership)
        self._stage(f"{side} {split}", [file], key, work)

    def _ability(self, side: str) -> None:
        file, settings = f"{side}/ability.json", self.settings
        ability, spec = settings.metrics.ability, settings.models[side]
        contents = [file_hash(Path(task)) for task in ability.tasks if Path(task).is_file()]

        def work() -> None:
            loaded = self.models.get(side)
            with console.stage(f"general ability {side}", len(ability.tasks)) as tick:
                outcomes = measure_ability(loaded, ability, seed=settings.seed, tick=tick)
            write_json(self.folder / file, [outcome.to_dict() for outcome in outcomes])

        self._stage(f"ability {side}", [file], _key("ability", spec.identity, ability, contents, settings.seed), work)

    def _perplexity(self, split: str, base: Model) -> None:
        """Compute log-probabilities of the responses of all sides together, because many responses are identical."""
        due = {}
        for side in self.settings.scored:
            name, file = f"perplexity {side} {split}", f"{side}/{split}.jsonl"
            path = self.folder / file
            missing = distributed.on_main(
                lambda path=path: all(row["response_logprobs"] is None for row in read_jsonl(path))
            )
            key = _key("perplexity", base.identity, self._keys[f"{side} {split}"])
            if self._is_due(name, [file], key, missing):
                due[path] = (name, [file], key)
        if not due:
            return
        with ExitStack() as stages, console.stage(f"perplexity: {split.replace('_', ' ')}"):
            for stage in due.values():
                stages.enter_context(self._recorded(*stage))
            scored = with_response_logprobs(self.models.base(), *map(Answers.read, due))
            for path, answers in zip(due, scored, strict=True):
                answers.write(path)

    def _scores(self) -> None:
        settings = self.settings
        files = [f"{side}/{split}.jsonl" for side in settings.scored for split in self.inputs.splits]
        if settings.metrics.ability.tasks:
            files += [f"{side}/ability.json" for side in settings.scored]
        scoring = {name: getattr(settings, name) for name in ("measure", "metrics", "synthesis", "seed")}
        key = _key({file: file_hash(self.folder / file) for file in files}, scoring)

        def work() -> None:
            with console.stage("score the answers"):
                generator = self._generator() if settings.asks_generator else None
                judges = make_judges(settings.metrics, generator, self.folder / CACHE)
                by_side = {side: self._score_side(side, judges) for side in settings.scored}
                write_summary(self.folder, summarised(by_side, settings.metrics, settings.seed))
                write_json(self.folder / SCORES, {side: scores(parts) for side, parts in by_side.items()})

        self._stage("scores", [SUMMARY, SCORES], key, work, again=self._again)

    def _score_side(self, side: str, judges: Any) -> dict[str, SplitScores]:
        rows: dict[str, tuple[Any, list[AnswerRow]]] = {
            SPLITS[split].key: (
                SPLITS[split].scored_as,
                [AnswerRow.from_dict(row) for row in self.folder.answers(side, split)],
            )
            for split in self.inputs.splits
        }
        metrics, names = self.settings.metrics, self.settings.measure or None
        reference = load_reference(metrics.retain_reference) if metrics.retain_reference else None
        measured = score_parts(rows, metrics, judges=judges, seed=self.settings.seed, names=names, reference=reference)
        ability = ability_scores(self.folder / f"{side}/ability.json") if metrics.ability.tasks else {}
        return {**measured, **ability}

    def _generator(self) -> Any:
        settings = self.settings.synthesis
        return make_completer(settings.generator, settings, self.folder / CACHE)

    def _report(self) -> None:
        key = _key(file_hash(self.folder / SCORES), self.folder.manifest["notes"])
        outputs = [REPORT_JSON, REPORT_HTML]
        self._stage("report", outputs, key, lambda: write_report(self.folder.path), again=self._again)


def _key(*values: Any) -> str:
    """Compute the sha256 of values and settings as JSON."""

    def plain(value: Any) -> Any:
        return value.model_dump(mode="json") if hasattr(value, "model_dump") else str(value)

    return hashlib.sha256(json.dumps(values, ensure_ascii=False, sort_keys=True, default=plain).encode()).hexdigest()
