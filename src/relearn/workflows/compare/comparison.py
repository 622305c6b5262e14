"""The comparison itself: every method searched, trained in full, asked, scored, and set beside the others.

Which learning rate a method gets: the one whose short training did best on a sample of TRAINING questions.

The sample is drawn once from the forget and the retain set, the same for every method and value. The probes, on which
methods are compared, are not looked at: choosing by test rows would be cheating. A value is judged by

    harmonic mean of KFR (forget sample) and KRR (retain sample)  x  min(1, LS after / LS before)

LS per answer, over both samples; without the factor gibberish would pass for forgetting.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from relearn.core import console
from relearn.core.config import Recipe
from relearn.core.errors import InputError, RunFailedError
from relearn.core.run_dir import (
    RunDir,
    below,
    check_links,
    is_new,
    is_ours,
    make_private_dir,
    read_json,
    read_jsonl,
    write_json,
)
from relearn.data import Record
from relearn.inference.answers import ask, with_response_logprobs
from relearn.inference.run_models import ModelSet
from relearn.llm.generators import make_completer
from relearn.metrics.answer_row import AnswerRow, asked_first
from relearn.metrics.judges import Judges, make_judges
from relearn.metrics.score import score
from relearn.unlearning.method import METHODS
from relearn.workflows.compare.comparison_config import (
    RETAIN_ONLY,
    Comparison,
    Planned,
    Select,
    evaluated,
    planned,
    retain_only,
    shared,
)
from relearn.workflows.compare.method_runs import evaluate, finish, finish_shared, needs_synthesis, take_over
from relearn.workflows.compare.results import check_results, read_results, result, write_overview, write_result
from relearn.workflows.run.prepare import read_paths

FILE = "selection.json"
SPLITS = ("forget", "retain")


@dataclass(frozen=True)
class Score:
    """What a short training is judged by; None where nothing could be scored."""

    kfr: float | None
    krr: float | None
    ls_ratio: float | None
    score: float


def value_of(kfr: float | None, krr: float | None, ls_ratio: float | None) -> float:
    """The number to be as high as possible; 0 where one of the parts is 0 or missing."""
    if not kfr or not krr or not ls_ratio:
        return 0.0
    return 2 * kfr * krr / (kfr + krr) * min(1.0, ls_ratio)


class Selector:
    """Judges short trainings against the answers before, which `shared` holds; reads models and judges when needed."""

    def __init__(self, shared: RunDir, recipe: Recipe, settings: Select):
        self._shared = shared
        self._recipe = recipe
        self._settings = settings

    def judge(self, recipe: Recipe, folder: RunDir) -> Score:
        """The score of a finished training, kept in its folder."""
        asked = {split: [row["id"] for row in self._before[split]] for split in SPLITS}
        if (folder / FILE).exists():
            kept = read_json(folder / FILE)
            if kept["asked"] == asked:
                return Score(**kept["score"])
        answers = self._ask(recipe, folder)
        found = self._measure(answers)
        write_json(folder / FILE, {"asked": asked, "score": asdict(found), "answers": answers})
        return found

    @cached_property
    def _before(self) -> dict[str, list[dict[str, Any]]]:
        """The sample with the start model's answers."""
        rows = {split: asked_first(read_jsonl(self._shared / f"before/{split}.jsonl")) for split in SPLITS}
        return {split: self._draw(rows[split], split) for split in SPLITS}

    def _draw(self, rows: Sequence[dict[str, Any]], split: str) -> list[dict[str, Any]]:
        rng = random.Random(f"select/{split}/{self._settings.seed}")
        chosen = rng.sample(range(len(rows)), min(getattr(self._settings, split), len(rows)))
        return [rows[at] for at in sorted(chosen)]

    def _ask(self, recipe: Recipe, folder: RunDir) -> dict[str, list[dict[str, Any]]]:
        models = ModelSet.of_run(recipe, folder.path)
        records = {split: [_record(row) for row in self._before[split]] for split in SPLITS}
        with console.stage("ask the sample", sum(map(len, records.values()))):
            loaded = models.unlearned()
            answers = {split: ask(loaded, records[split], recipe.generate.once, seed=recipe.seed) for split in SPLITS}
            del loaded
            base = models.base()
            scored = with_response_logprobs(base, *answers.values())
            found = {split: part.rows for split, part in zip(answers, scored, strict=True)}
        models.release()
        return found

    def _measure(self, answers: Mapping[str, list[dict[str, Any]]]) -> Score:
        kfr = self._value(answers["forget"], "forget", "kfr")
        krr = self._value(answers["retain"], "retain", "krr")
        after, before = self._fluency(answers), self._fluency(self._before)
        ratio = None if after is None or not before else after / before
        return Score(kfr, krr, ratio, value_of(kfr, krr, ratio))

    def _fluency(self, answers: Mapping[str, list[dict[str, Any]]]) -> float | None:
        """Mean LS over the answers of both samples."""
        values = [self._value(answers[split], split, "ls") for split in SPLITS]
        known = [(value, len(answers[split])) for value, split in zip(values, SPLITS, strict=True) if value is not None]
        return sum(value * rows for value, rows in known) / sum(rows for _, rows in known) if known else None

    @cached_property
    def _judges(self) -> Judges:
        completer = None
        if self._recipe.metrics.entities != "spacy":
            synthesis = self._recipe.synthesis
            completer = make_completer(synthesis.generator, synthesis, self._shared / "cache.sqlite")
        return make_judges(self._recipe.metrics, completer)

    def _value(self, rows: list[dict[str, Any]], split: Any, name: str) -> float | None:
        answers = [AnswerRow.from_dict(row) for row in rows]
        found = score(answers, split, self._recipe.metrics, judges=self._judges, names=[name])
        return found.measurements[name].value


def _record(row: Mapping[str, Any]) -> Record:
    return Record(row["question"], row["reference"], row["id"], row["subject"], form=row["form"])


def compare(comparison: Comparison, out: Path, results: Path, *, read: tuple[Path, ...] = ()) -> list[dict[str, Any]]:
    """Do all that is left of a comparison in folder `out` and write `results`/NAME; returns the results, in order.

    A method that fails does not keep the others from being run; the first failure is raised when they are done. Raises
    InputError (nothing written) for wrong input, for folders that hold something else, and where the results would be
    written over an input; `read` names files that the comparison came from.
    """
    work = Work(comparison, out)
    target = below(results, comparison.name)
    work.check(target, read)
    take(out)
    runs: dict[str, RunDir] = {}
    failures: dict[str, Exception] = {}
    for method in comparison.methods:
        console.note(f"== {method}")
        try:
            runs[method] = work.do(method, target)
        except Exception as error:  # A night of other methods is not to be lost to one of them.
            console.note(f"{method} failed: {error}")
            failures[method] = error
        write_overview(target, tuple(comparison.methods), runs)
    if failures:
        raise next(iter(failures.values()))
    return read_results(target, tuple(comparison.methods))


def take(out: Path) -> None:
    """Mark the folder of a comparison; raises InputError for one that holds something else."""
    settings = [name for name in ("recipe.yaml", "evaluation.yaml") if (out / name).exists()]
    # Version 0.1 wrote no manifest here; the shared run was its first.
    if settings or not (is_new(out) or is_ours(out) or is_ours(out / "shared")):
        raise InputError("is not empty and holds no comparison", where=str(out), way_out="choose another --out")
    check_links(out)
    if not is_ours(out):
        RunDir(make_private_dir(out)).update_manifest()


class Work:
    """One comparison in its folder."""

    def __init__(self, comparison: Comparison, out: Path):
        self._comparison = comparison
        self._out = out

    def check(self, results: Path, read: Iterable[Path]) -> None:
        """Everything that can be wrong with names, recipes and results of all methods, before the first is run."""
        inputs: set[Path | str] = {*read}
        for method in self._comparison.methods:
            # They name folders of runs and files of results.
            below(self._out / "runs", method)
            if method == RETAIN_ONLY:
                inputs.update(read_paths(retain_only(self._comparison).recipe))
            else:
                for rate in self._comparison.learning_rates(method) or (None,):
                    recipe = planned(self._comparison, method, rate).recipe
                    METHODS.get(recipe.unlearn.method).objective(recipe.unlearn.options)
                    inputs.update(read_paths(recipe))
        check_results(results, tuple(self._comparison.methods), inputs)

    def do(self, method: str, results: Path) -> RunDir:
        """Search, train, ask and score one method and write its result; returns the folder of the full run."""
        if method == RETAIN_ONLY:
            return self._retain_only(results)
        donor = self._shared(method)
        chosen = self._search(method, donor)
        full = planned(self._comparison, method, chosen["learning_rate"])
        folder = below(self._out, "runs", full.name)
        take_over(full, folder, donor)
        done = finish(full, folder)
        chosen["learning_rate"] = full.recipe.unlearn.learning_rate
        write_result(results, result(self._comparison.name, method, full.portable, done, chosen=chosen))
        return done

    def _shared(self, method: str | None = None) -> RunDir:
        """The run whose stages are taken over; a method with rows of its own has one for these."""
        entry = self._comparison.methods[method] if method else None
        written = method is not None and needs_synthesis(planned(self._comparison, method, None).recipe)
        if method is None or not written or not (entry and entry.synthesis):
            plan = shared(self._comparison)
            return finish_shared(plan, below(self._out, plan.name), written=written)
        plan = shared(self._comparison, method)
        folder = below(self._out, plan.name)
        take_over(plan, folder, self._shared(), only=("learn", "neighbours", "before"))
        return finish_shared(plan, folder, written=True)

    def _search(self, method: str, donor: RunDir) -> dict[str, Any]:
        """The learning rate with the best short training; ties go to the smaller one."""
        rates = self._comparison.learning_rates(method)
        if len(rates) < 2:
            return {"learning_rate": rates[0] if rates else None, "grid": []}
        selector = Selector(donor, shared(self._comparison).recipe, self._comparison.select)
        grid = [self._try(method, rate, donor, selector) for rate in rates]
        known = [entry for entry in grid if not entry.get("failed")]
        if not known:
            raise RunFailedError(f"{method}: every learning rate failed: {grid[0]['failed']}", way_out="lower ones")
        best = max(known, key=lambda entry: (entry["score"], -entry["learning_rate"]))
        return {"learning_rate": best["learning_rate"], "grid": grid}

    def _try(self, method: str, rate: float, donor: RunDir, selector: Selector) -> dict[str, Any]:
        short: Planned = planned(self._comparison, method, rate, self._comparison.budget.search)
        folder = below(self._out, "search", short.name)
        take_over(short, folder, donor)
        try:
            done = finish(short, folder, until="unlearn")
        except RunFailedError as error:
            console.note(f"{short.name} failed: {error}")
            return {"learning_rate": rate, "failed": str(error)}
        return {"learning_rate": rate, **asdict(selector.judge(short.recipe, done))}

    def _retain_only(self, results: Path) -> RunDir:
        donor = self._shared()
        plan = retain_only(self._comparison)
        learned = finish(plan, below(self._out, "runs", f"{plan.name}_learn"), until="learn")
        asked = evaluated(plan)
        folder = below(self._out, "runs", plan.name)
        take_over(asked, folder, donor, learned=learned)
        done = evaluate(asked, folder)
        chosen: Mapping[str, Any] = {"learning_rate": plan.recipe.learn and plan.recipe.learn.learning_rate, "grid": []}
        value = result(
            self._comparison.name, plan.name, plan.portable, done, chosen=chosen, trained=learned, stage="learn"
        )
        write_result(results, value)
        return done
