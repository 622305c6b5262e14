"""Compare methods with the same records, start model and training budget (`relearn compare`).

Each method gets the learning rate whose short training has the highest score on a sample of TRAINING questions. The
sample is drawn once and is the same for all methods and learning rates. The probes, on which methods are compared, are
not used, because selection on test questions would bias the comparison. The score of a short training is

    harmonic mean of KFR (forget sample) and KRR (retain sample)  x  min(1, LS after / LS before)

with LS as mean per answer over both samples. Without this factor, gibberish would count as forgetting.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from relearn.core import console
from relearn.core.config import Recipe
from relearn.core.errors import InputError, RunFailedError
from relearn.core.files import make_private_dir, read_json, write_json
from relearn.core.ownership import RUNS_OF_COMPARISON, below, check_links, is_new, is_ours, outputs_in, refuse_overwrite
from relearn.core.run_dir import CACHE, EVALUATION, RECIPE, SELECTION, RunFolder
from relearn.data import Record
from relearn.inference.answers import ask, with_response_logprobs
from relearn.inference.run_models import ModelSet
from relearn.llm.generators import make_completer
from relearn.metrics.answer_row import AnswerRow, asked_first
from relearn.metrics.judges import Judges, make_judges
from relearn.metrics.score import score
from relearn.workflows.compare.comparison_config import (
    RETAIN_ONLY,
    Comparison,
    PlannedRun,
    Select,
    plan_retain_only,
    plan_run,
    plan_shared_run,
    without_learning,
)
from relearn.workflows.compare.method_runs import copy_stages, evaluate, needs_synthesis, run_shared, run_until
from relearn.workflows.compare.results import check_results, read_results, result, write_overview, write_result
from relearn.workflows.run.inputs import input_paths
from relearn.workflows.run.pipeline import check_inputs

SAMPLED = ("forget", "retain")


def compare(comparison: Comparison, out: Path, results: Path, *, read: tuple[Path, ...] = ()) -> list[dict[str, Any]]:
    """Run or continue a comparison in folder `out` and write its results to `results`/NAME; return them, in order.

    A method that fails does not stop the others; the first failure is raised at the end. Raises InputError, before
    anything is written, for wrong input, for folders with other content, and if results would overwrite an input.
    `read`: files that the comparison was read from.
    """
    job = ComparisonJob(comparison, out)
    target = below(results, comparison.name)
    job.check(target, read)
    open_comparison(out)
    runs: dict[str, RunFolder] = {}
    failures: list[Exception] = []
    for method in comparison.methods:
        console.note(f"== {method}")
        try:
            runs[method] = job.run(method, target)
        except Exception as error:  # The other methods, which may take hours, still run.
            console.note(f"{method} failed: {error}")
            failures.append(error)
        write_overview(target, tuple(comparison.methods), runs)
    if failures:
        raise failures[0]
    return read_results(target, tuple(comparison.methods))


def open_comparison(out: Path) -> None:
    """Create the folder of a comparison, with a manifest. Raises InputError for a folder with other content."""
    has_settings = any((out / name).exists() for name in (RECIPE, EVALUATION))
    # Version 0.1 wrote no manifest here, only into the shared run.
    if has_settings or not (is_new(out) or is_ours(out) or is_ours(out / "shared")):
        raise InputError("is not empty and holds no comparison", where=str(out), way_out="choose another --out")
    check_links(out)
    if not is_ours(out):
        RunFolder(make_private_dir(out)).update_manifest()


@contextmanager
def _named(method: str) -> Iterator[None]:
    """Add the name of a method to an InputError in the block."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error), where=method) from None


class ComparisonJob:
    """Run the methods of a comparison in its folder."""

    def __init__(self, comparison: Comparison, out: Path):
        self._comparison = comparison
        self._out = out

    def check(self, results: Path, read: Iterable[Path]) -> None:
        """Raise InputError for wrong names, recipes or results of any method, before the first method is run."""
        inputs: set[Path | str] = {*read}
        for method in self._comparison.methods:
            # Method names are used as names of run folders and result files, so they must not leave the folder.
            below(self._out / "runs", method)
            if method == RETAIN_ONLY:
                recipes = [plan_retain_only(self._comparison).recipe]
            else:
                rates = self._comparison.learning_rates(method) or (None,)
                recipes = [plan_run(self._comparison, method, rate).recipe for rate in rates]
            for recipe in recipes:
                inputs.update(input_paths(recipe))
            with _named(method):
                check_inputs(recipes[0])  # The others differ in the learning rate alone.
        check_results(results, tuple(self._comparison.methods), inputs)
        runs = [self._out, *(folder for pattern in RUNS_OF_COMPARISON for folder in self._out.glob(pattern))]
        refuse_overwrite([output for folder in runs for output in outputs_in(folder)], read)

    def run(self, method: str, results: Path) -> RunFolder:
        """Choose the learning rate, train, ask and score one method, and write its result; return the full run."""
        if method == RETAIN_ONLY:
            return self._retain_only(results)
        donor = self._shared(method)
        chosen = self._search(method, donor)
        full = plan_run(self._comparison, method, chosen["learning_rate"])
        folder = below(self._out, "runs", full.name)
        copy_stages(full, folder, donor)
        done = run_until(full, folder)
        chosen["learning_rate"] = full.recipe.unlearn.learning_rate
        write_result(results, result(self._comparison.name, method, full.portable, done, chosen=chosen))
        return done

    def _shared(self, method: str | None = None) -> RunFolder:
        """Finish and return the shared run to copy stages from; a method with its own synthesis has its own."""
        entry = self._comparison.methods[method] if method else None
        with_synthesis = method is not None and needs_synthesis(plan_run(self._comparison, method, None).recipe)
        if method is None or not with_synthesis or not (entry and entry.synthesis):
            plan = plan_shared_run(self._comparison)
            return run_shared(plan, below(self._out, plan.name), with_synthesis=with_synthesis)
        plan = plan_shared_run(self._comparison, method)
        folder = below(self._out, plan.name)
        copy_stages(plan, folder, self._shared(), only=("learn", "neighbours", "before"))
        return run_shared(plan, folder, with_synthesis=True)

    def _search(self, method: str, donor: RunFolder) -> dict[str, Any]:
        """Choose the learning rate whose short training has the highest score; the smaller one if scores are equal."""
        rates = self._comparison.learning_rates(method)
        if len(rates) < 2:
            return {"learning_rate": rates[0] if rates else None, "grid": []}
        selector = Selector(donor, plan_shared_run(self._comparison).recipe, self._comparison.select)
        grid = [self._try(method, rate, donor, selector) for rate in rates]
        finished = [entry for entry in grid if not entry.get("failed")]
        if not finished:
            raise RunFailedError(f"{method}: every learning rate failed: {grid[0]['failed']}", way_out="lower ones")
        best = max(finished, key=lambda entry: (entry["score"], -entry["learning_rate"]))
        return {"learning_rate": best["learning_rate"], "grid": grid}

    def _try(self, method: str, rate: float, donor: RunFolder, selector: Selector) -> dict[str, Any]:
        short: PlannedRun = plan_run(self._comparison, method, rate, self._comparison.budget.search)
        folder = below(self._out, "search", short.name)
        copy_stages(short, folder, donor)
        try:
            done = run_until(short, folder, until="unlearn")
        except RunFailedError as error:
            console.note(f"{short.name} failed: {error}")
            return {"learning_rate": rate, "failed": str(error)}
        return {"learning_rate": rate, **asdict(selector.judge(short.recipe, done))}

    def _retain_only(self, results: Path) -> RunFolder:
        donor = self._shared()
        plan = plan_retain_only(self._comparison)
        learned = run_until(plan, below(self._out, "runs", f"{plan.name}_learn"), until="learn")
        plan_without_learning = without_learning(plan)
        folder = below(self._out, "runs", plan.name)
        copy_stages(plan_without_learning, folder, donor, learned=learned)
        done = evaluate(plan_without_learning, folder)
        chosen: Mapping[str, Any] = {"learning_rate": plan.recipe.learn and plan.recipe.learn.learning_rate, "grid": []}
        value = result(
            self._comparison.name, plan.name, plan.portable, done, chosen=chosen, trained=learned, stage="learn"
        )
        write_result(results, value)
        return done


@dataclass(frozen=True)
class Score:
    """Hold the score of a short training and its parts; a part is None if no answer could be scored."""

    kfr: float | None
    krr: float | None
    ls_ratio: float | None
    score: float


def selection_score(kfr: float | None, krr: float | None, ls_ratio: float | None) -> float:
    """Compute the score of a short training; 0 if a part is 0 or None."""
    if not kfr or not krr or not ls_ratio:
        return 0.0
    return 2 * kfr * krr / (kfr + krr) * min(1.0, ls_ratio)


class Selector:
    """Score short trainings against the answers of the start model in the folder `shared`."""

    def __init__(self, shared: RunFolder, recipe: Recipe, settings: Select):
        self._shared = shared
        self._recipe = recipe
        self._settings = settings

    def judge(self, recipe: Recipe, folder: RunFolder) -> Score:
        """Score a finished training, or read the score from its selection.json if that has the same questions."""
        asked = {split: [row["id"] for row in self._before[split]] for split in SAMPLED}
        if (folder / SELECTION).exists():
            saved = read_json(folder / SELECTION)
            if saved["asked"] == asked:
                return Score(**saved["score"])
        answers = self._ask(recipe, folder)
        score = self._score(answers)
        write_json(folder / SELECTION, {"asked": asked, "score": asdict(score), "answers": answers})
        return score

    @cached_property
    def _before(self) -> dict[str, list[dict[str, Any]]]:
        """Draw the sample of questions, with the start model's answers, by split."""
        return {split: self._draw(asked_first(self._shared.answers("before", split)), split) for split in SAMPLED}

    def _draw(self, rows: Sequence[dict[str, Any]], split: str) -> list[dict[str, Any]]:
        rng = random.Random(f"select/{split}/{self._settings.seed}")
        chosen = rng.sample(range(len(rows)), min(getattr(self._settings, split), len(rows)))
        return [rows[at] for at in sorted(chosen)]

    def _ask(self, recipe: Recipe, folder: RunFolder) -> dict[str, list[dict[str, Any]]]:
        models = ModelSet.of_run(recipe, folder.path)
        records = {split: [_record(row) for row in self._before[split]] for split in SAMPLED}
        with console.stage("ask the sample", sum(map(len, records.values()))):
            loaded = models.unlearned()
            answers = [ask(loaded, records[split], recipe.generate.once, seed=recipe.seed) for split in SAMPLED]
            del loaded
            scored = with_response_logprobs(models.base(), *answers)
        models.release()
        return {split: part.rows for split, part in zip(SAMPLED, scored, strict=True)}

    def _score(self, answers: Mapping[str, list[dict[str, Any]]]) -> Score:
        kfr = self._value(answers["forget"], "forget", "kfr")
        krr = self._value(answers["retain"], "retain", "krr")
        after, before = self._fluency(answers), self._fluency(self._before)
        ratio = None if after is None or not before else after / before
        return Score(kfr, krr, ratio, selection_score(kfr, krr, ratio))

    def _fluency(self, answers: Mapping[str, list[dict[str, Any]]]) -> float | None:
        """Compute the mean LS over the answers of both samples."""
        values = [(self._value(answers[split], split, "ls"), len(answers[split])) for split in SAMPLED]
        scored = [(value, rows) for value, rows in values if value is not None]
        return sum(value * rows for value, rows in scored) / sum(rows for _, rows in scored) if scored else None

    @cached_property
    def _judges(self) -> Judges:
        completer = None
        if self._recipe.metrics.entities != "spacy":
            synthesis = self._recipe.synthesis
            completer = make_completer(synthesis.generator, synthesis, self._shared / CACHE)
        return make_judges(self._recipe.metrics, completer)

    def _value(self, rows: list[dict[str, Any]], split: Any, name: str) -> float | None:
        answers = [AnswerRow.from_dict(row) for row in rows]
        scored = score(answers, split, self._recipe.metrics, judges=self._judges, names=[name])
        return scored.measurements[name].value


def _record(row: Mapping[str, Any]) -> Record:
    return Record(row["question"], row["reference"], row["id"], row["subject"], form=row["form"])
