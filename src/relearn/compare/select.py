"""Which learning rate a method gets: the one whose short training did best on a sample of TRAINING questions.

The sample is drawn once from the forget and the retain set, the same for every method and value. The probes, on which
methods are compared, are not looked at: choosing by test rows would be cheating. A value is judged by

    harmonic mean of KFR (forget sample) and KRR (retain sample)  x  min(1, LS after / LS before)

LS per answer, over both samples; without the factor gibberish would pass for forgetting.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from relearn.core import console
from relearn.core.config import Recipe
from relearn.core.run_dir import RunDir, read_json, read_jsonl, write_json
from relearn.data import Record
from relearn.inference.answers import ask, with_response_logprobs
from relearn.inference.run_models import RunModels
from relearn.llm.make import make_completer
from relearn.metrics.answer_row import AnswerRow, asked_first
from relearn.metrics.judges import Judges, make_judges
from relearn.metrics.score import score
from relearn.workflows.compare.comparison_config import Select

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
        models = RunModels(recipe, folder.path)
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
