"""An evaluation's folder and its stages: other wordings, ask after, ask before, perplexity under the base, scores,
report.

    evaluation.yaml manifest.json before/ after/ {forget,retain,holdout,...}.jsonl summary.json scores.json
    report.json report.html, with `metrics.worst_case` wordings.jsonl

Every stage has a key, a hash of all it depends on; a stage whose key stands in the manifest and whose file is there is
not done again. So the same command goes on with an evaluation that was stopped and does nothing where all is done.

The answers of a run or an evaluation in the form of the public ReLearn code, for other tools to read.
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
from relearn.core.config import Model, Recipe
from relearn.core.errors import InputError
from relearn.core.run_dir import (
    RunDir,
    existing_run,
    file_hash,
    own_folder,
    read_jsonl,
    remove_outputs,
    replaced_dir,
    write_json,
    write_jsonl,
    write_text,
)
from relearn.inference.answers import Answers, ask, with_response_logprobs
from relearn.inference.run_models import Models
from relearn.llm.generators import make_completer
from relearn.metrics.answer_files import exported
from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.judges import make_judges
from relearn.metrics.metric import ScoredSplit, scores
from relearn.metrics.paired import summarised
from relearn.metrics.retain_reference import load_reference
from relearn.metrics.score import score_parts
from relearn.report.build import write_report
from relearn.synthesis.checks import Verifier
from relearn.synthesis.questions import worded, write_wordings
from relearn.workflows.evaluate.evaluation_config import FILE, WORDINGS, Evaluation, from_options, part_of
from relearn.workflows.evaluate.inputs import Material, take
from relearn.workflows.run.pipeline import evaluate as judge_again

OUT = Path("runs/evaluation")
# Settings of `metrics` for which a model would have to be loaded: a run that is over would begin anew.
_ASK_AGAIN = ("metrics.base_model", "metrics.worst_case", "metrics.ability")


def evaluate(
    run: Path | str | None = None, *, out: Path | str = OUT, changes: Sequence[str] = (), **options: Any
) -> RunDir:
    """Score two models, one model, files of answers, or once more what folder `run` holds; returns the folder.

    With `run` (a run folder or an evaluation's), its answers are judged again and its report is written anew. Without,
    `options` are those of `from_options`: `after`, `before`, `base` (models), `forget`, `retain` (files), and so on;
    what is in folder `out` already is not done again. `changes`: "metrics.c1=0.5" strings. Raises InputError (nothing
    written) for wrong input and for a folder `out` that holds something else.
    """
    if run is None:
        return carry_out(from_options(changes=changes, **options), Path(out))
    if given := sorted(name for name, value in options.items() if value):
        raise InputError(
            f"has its own models and files; {given[0]!r} is for an evaluation without a run", where=str(run)
        )
    folder = Path(run)
    if (folder / FILE).exists():
        return carry_out(Evaluation.from_yaml(folder / FILE, changes), folder, again=True)
    return _judge_run_again(folder, changes)


def _judge_run_again(folder: Path, changes: Sequence[str]) -> RunDir:
    path = own_folder(folder, "recipe.yaml") / "recipe.yaml"
    for change in changes:
        if not change.startswith("metrics.") or change.startswith(_ASK_AGAIN):
            raise InputError(
                f"a run that is over cannot change {change.partition('=')[0].strip()!r}",
                where="--set",
                way_out="only how its answers are judged: metrics.KEY=VALUE; what asks a model more is an "
                "evaluation of its own: --after MODEL --after-adapter RUN/adapter",
            )
    as_it_was = path.read_text(encoding="utf-8")
    if changes:
        write_text(path, Recipe.from_yaml(path, tuple(changes)).to_yaml())
    try:
        return judge_again(folder)
    except InputError:
        write_text(path, as_it_was)
        raise


def carry_out(settings: Evaluation, out: Path, *, again: bool = False) -> RunDir:
    """Do an evaluation in folder `out`, or what is left of it; `again` judges even where nothing has changed."""
    folder = RunDir(out)
    fresh = not out.exists()
    try:
        with ExitStack() as held:
            material = distributed.on_main(lambda: take(folder, settings, held))
            Work(settings, folder, material, again).do_all()
    except InputError:
        # What could only be told by loading a model leaves no folder behind; answers that were asked for are kept.
        asked = settings.models and any(out.glob("*/*.jsonl"))
        if fresh and distributed.is_main() and not asked and out.is_dir():
            remove_outputs(out)
        raise
    return folder


class Work:
    """The stages of one evaluation."""

    def __init__(self, settings: Evaluation, folder: RunDir, material: Material, again: bool):
        self.settings = settings
        self.folder = folder
        self.material = material
        self.models = Models()
        self._again = again
        self._keys: dict[str, str] = {}

    def do_all(self) -> None:
        if self.settings.asks_for_wordings:
            distributed.on_main(self._wordings)
            self.material = self._with_wordings()
        for side in self.settings.models or self.settings.scored:
            for name in self.material.sets:
                self._answers(side, name)
            if self.settings.metrics.ability.tasks:
                self._ability(side)
        if self.settings.perplexity_model is not None:
            for name in self.material.sets:
                self._perplexity(name, self.settings.perplexity_model)
        self.models.release()
        distributed.on_main(self._scores)
        distributed.on_main(self._report)

    def _file(self, side: str, name: str) -> str:
        return f"{side}/{name}.jsonl"

    def _do(self, stage: str, outputs: list[str], key: str, work: Callable[[], Any], *, again: bool = False) -> None:
        """Do a stage in all processes unless its key is that of the last time."""
        if self._is_due(stage, outputs, key, again):
            with self._written_down(stage, outputs, key):
                work()

    def _is_due(self, stage: str, outputs: list[str], key: str, again: bool) -> bool:
        self._keys[stage] = key
        return distributed.on_main(lambda: again or not self._is_done(stage, outputs, key))

    @contextmanager
    def _written_down(self, stage: str, outputs: list[str], key: str) -> Iterator[None]:
        """The main process writes down that a stage is running, and its key once it is done."""
        if not distributed.is_main():
            yield
            return
        with self.folder.stage(stage, outputs):
            yield
        self.folder.update_manifest(keys={**self.folder.manifest.get("keys", {}), stage: key})

    def _is_done(self, stage: str, outputs: list[str], key: str) -> bool:
        same = self.folder.manifest.get("keys", {}).get(stage) == key
        return same and all((self.folder / output).exists() for output in outputs)

    def _wordings(self) -> None:
        """Word the forget questions anew, those apart that bring other wordings of their own."""
        settings, count = self.settings.synthesis, self.settings.metrics.worst_case
        records = self.material.records["forget"]
        path = self.folder / f"{WORDINGS}.jsonl"

        def work() -> None:
            with console.stage("word the questions anew", len(records)):
                completer = make_completer(settings.generator, settings, self.folder / "cache.sqlite")
                found = write_wordings(records, count, settings, completer, Verifier(records).leaks, self.settings.seed)
            write_jsonl(path, ({"record_id": key, "questions": questions} for key, questions in found.items()))

        asked = [
            [record.id, record.question, record.answer, record.subject, record.form, record.paraphrases]
            for record in records
        ]
        self._do(WORDINGS, [path.name], _key(WORDINGS, asked, count, settings, self.settings.seed), work)

    def _with_wordings(self) -> Material:
        """What is asked, with the other wordings behind the forget questions."""
        written = {row["record_id"]: row["questions"] for row in read_jsonl(self.folder / f"{WORDINGS}.jsonl")}
        found = tuple(worded(self.material.records["forget"], written))
        sets = list(self.material.records.items())
        return replace(self.material, records=dict([sets[0], *([(WORDINGS, found)] if found else []), *sets[1:]]))

    def _answers(self, side: str, name: str) -> None:
        """Ask a model, or take over what a file holds."""
        file, settings = self._file(side, name), self.settings
        spec = settings.models.get(side)
        if spec is None:
            rows = self.material.answers[name]
            if settings.base is not None:
                rows = [{**row, "response_logprobs": None} for row in rows]
            key = _key("read", rows)
            self._do(f"{side} {name}", [file], key, lambda: Answers(rows).write(self.folder / file))
            return

        def work() -> None:
            loaded = self.models.get(spec)
            with console.stage(f"ask {side}: {name.replace('_', ' ')}", len(records)) as tick:
                ask(loaded, records, settings.generate, seed=settings.seed, tick=tick, membership=membership).write(
                    self.folder / file
                )

        # What tells members from others is looked at where there are both.
        membership = settings.holdout is not None and name in ("forget", "holdout")
        records = self.material.records[name]
        asked = [
            [record.id, record.question, record.answer, record.form, record.choices, record.choice, record.tags]
            for record in records
        ]
        key = _key("asked", spec.model_dump(), asked, settings.generate.model_dump(), settings.seed, membership)
        self._do(f"{side} {name}", [file], key, work)

    def _ability(self, side: str) -> None:
        file, settings = f"{side}/ability.json", self.settings
        tasks, spec = settings.metrics.ability, settings.models[side]
        contents = [file_hash(Path(task)) for task in tasks.tasks if Path(task).is_file()]

        def work() -> None:
            loaded = self.models.get(spec)
            with console.stage(f"general ability {side}", len(tasks.tasks)) as tick:
                outcomes = measure_ability(loaded, tasks, seed=settings.seed, tick=tick)
            write_json(self.folder / file, [outcome.to_dict() for outcome in outcomes])

        self._do(f"ability {side}", [file], _key("ability", spec, tasks, contents, settings.seed), work)

    def _perplexity(self, name: str, base: Model) -> None:
        """Of all sides together: they were asked the same and say much of the same."""
        due = {}
        for side in self.settings.scored:
            stage, file = f"perplexity {side} {name}", self._file(side, name)
            path = self.folder / file
            missing = distributed.on_main(
                lambda path=path: all(row["response_logprobs"] is None for row in read_jsonl(path))
            )
            key = _key("perplexity", base.model_dump(), self._keys[f"{side} {name}"])
            if self._is_due(stage, [file], key, missing):
                due[path] = (stage, [file], key)
        if not due:
            return
        with ExitStack() as stages, console.stage(f"perplexity: {name.replace('_', ' ')}"):
            for stage in due.values():
                stages.enter_context(self._written_down(*stage))
            found = with_response_logprobs(self.models.get(base), *map(Answers.read, due))
            for path, answers in zip(due, found, strict=True):
                answers.write(path)

    def _scores(self) -> None:
        files = [self._file(side, name) for side in self.settings.scored for name in self.material.sets]
        if self.settings.metrics.ability.tasks:
            files += [f"{side}/ability.json" for side in self.settings.scored]
        judged = {name: getattr(self.settings, name) for name in ("measure", "metrics", "synthesis", "seed")}
        key = _key({file: file_hash(self.folder / file) for file in files}, judged)

        def work() -> None:
            with console.stage("score the answers"):
                judges = make_judges(self.settings.metrics, self._completer(), self.folder / "cache.sqlite")
                measured = {side: self._score(side, judges) for side in self.settings.scored}
                found = summarised(measured, self.settings.metrics, self.settings.seed)
                write_json(self.folder / "summary.json", found)
                write_json(self.folder / "scores.json", {side: scores(parts) for side, parts in measured.items()})

        self._do("scores", ["summary.json", "scores.json"], key, work, again=self._again)

    def _score(self, side: str, judges: Any) -> Any:
        parts: dict[str, tuple[ScoredSplit, list[AnswerRow]]] = {
            part: (split, [AnswerRow.from_dict(row) for row in read_jsonl(self.folder / self._file(side, name))])
            for name in self.material.sets
            for part, split in (part_of(name),)
        }
        settings, path = self.settings, self.settings.metrics.retain_reference
        found = score_parts(
            parts,
            settings.metrics,
            judges=judges,
            seed=settings.seed,
            names=settings.measure or None,
            reference=load_reference(path) if path else None,
        )
        ability = ability_scores(self.folder / f"{side}/ability.json") if settings.metrics.ability.tasks else {}
        return {**found, **ability}

    def _completer(self) -> Any:
        if not self.settings.asks_generator:
            return None
        return make_completer(self.settings.synthesis.generator, self.settings.synthesis, self.folder / "cache.sqlite")

    def _report(self) -> None:
        key = _key(file_hash(self.folder / "scores.json"), self.folder.manifest["notes"])
        self._do(
            "report", ["report.json", "report.html"], key, lambda: write_report(self.folder.path), again=self._again
        )


def _key(*values: Any) -> str:
    def plain(value: Any) -> Any:
        return value.model_dump(mode="json") if hasattr(value, "model_dump") else str(value)

    return hashlib.sha256(json.dumps(values, ensure_ascii=False, sort_keys=True, default=plain).encode()).hexdigest()


def export_answers(folder: Path, out: Path) -> list[Path]:
    """Write out/before_forget.json, out/after_forget.json, ... : one list of {query, ground_truth, generated_response}
    for every file of answers in `folder`, in its order; returns their paths.

    Raises InputError where `folder` holds no answers or `out` is there already.
    """
    files = sorted(existing_run(folder).glob("before/*.jsonl")) + sorted(folder.glob("after/*.jsonl"))
    if not files:
        raise InputError("holds no answers", where=str(folder), way_out="a purged run has none; one to come: --resume")
    if out.exists():
        raise InputError("is there already", where=str(out), way_out="name a new folder")
    names = [f"{file.parent.name}_{file.stem}.json" for file in files]
    with replaced_dir(out) as target:
        for file, name in zip(files, names, strict=True):
            write_json(target / name, exported(read_jsonl(file)))
    return [out / name for name in names]
