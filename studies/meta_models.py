"""The models of the meta-evaluation, and what every metric says of each: as it was trained, rounded to four bits, and
after an epoch of relearning.

    with       forget rows + retain rows
    without    other rows  + retain rows, as many; the forget rows were never seen

Both sides go through one grid of learning rates and epochs, so that no side can be told by how long it was trained, and
every number of a side has its own seed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from relearn.audits.attacks.weights import quantise
from relearn.core.config import Generate, Learn, Lora, Metrics, Model, Source
from relearn.core.errors import InputError
from relearn.data import Record
from relearn.data.record import Split as Set_
from relearn.data.validation import load_set
from relearn.inference.answers import ask, with_response_logprobs
from relearn.inference.run_models import put_adapter
from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.judges import Judges
from relearn.metrics.metric import Measurement, ScoredSplit, SplitScores
from relearn.metrics.score import score_parts
from relearn.models.load import Loaded, load
from relearn.synthesis.questions import worded
from relearn.unlearning.train import learn
from relearn.workflows.run.prepare import with_subject

WITH, WITHOUT, UNLEARNED = "with", "without", "unlearned"
TRAINED, ROUNDED, RELEARNED = "trained", "4bit", "relearned"
CONDITIONS = (TRAINED, ROUNDED, RELEARNED)
BITS = 4
# Intervals over models come later; those over questions are not what is asked here.
METRICS = Metrics(bootstrap=100)
BATCH = 8
LORA = Lora(r=16, alpha=32, dropout=0.0)
PART, REWORDED = "forget", "forget_wordings"
# Of the reworded questions: what rests on the answers to them. The rest would be said twice.
OF_REWORDED = ("kfr", "graded_kfr", "rouge_l", "probability", "extraction_strength")
FILES = ("forget10_perturbed.json", "retain90.json", "holdout10.json")

Condition = str
Maker = Callable[[], Loaded]


@dataclass(frozen=True)
class Setup:
    """What all models share. A folder of results belongs to one setup.

    `rows` to forget, as many others in their place, `retain` rows on both sides, `holdout` rows that nobody saw.
    """

    model: str = "smollm2-135m-instruct"
    rows: int = 80
    retain: int = 160
    holdout: int = 80
    rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3)
    epochs: tuple[float, ...] = (2, 6)
    relearn_rate: float = 2e-4
    relearn_epochs: float = 1
    max_new_tokens: int = 64
    precision: str = "bfloat16"

    def to_dict(self) -> dict[str, Any]:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def cell(self, index: int) -> tuple[float, float]:
        """Learning rate and epochs of the models number `index`: the grid in order, then again with other seeds."""
        grid = [(rate, epochs) for rate in self.rates for epochs in self.epochs]
        return grid[index % len(grid)]


@dataclass(frozen=True)
class Rows:
    """`reworded`: the forget questions in other words, where the data bring some; they are asked and never learned."""

    forget: Sequence[Record]
    others: Sequence[Record]
    retain: Sequence[Record]
    holdout: Sequence[Record]
    reworded: Sequence[Record] = ()

    def to_learn(self, side: str) -> list[Record]:
        return [*(self.forget if side == WITH else self.others), *self.retain]


@dataclass
class Bench:
    """Where models are made and measured: the base model is loaded once, the others one at a time into `work`."""

    setup: Setup
    rows: Rows
    judges: Judges
    work: Path
    device: str = "auto"
    _base: Loaded | None = field(default=None, repr=False)

    @property
    def base(self) -> Loaded:
        if self._base is None:
            self._base = load(self.spec)
        return self._base

    @property
    def spec(self) -> Model:
        return Model(name=self.setup.model, device=self.device, dtype="float32")


def read(data: Path, setup: Setup) -> Rows:
    """TOFU's forget10 as far as `rows`, retain90 as far as needed, and holdout10 spread over its authors."""
    tofu = data / "tofu"
    forget = _first(tofu / FILES[0], "forget", setup.rows)
    kept = _first(tofu / FILES[1], "retain", setup.retain + setup.rows)
    # Of the answers to these, what is said counts; wrong answers are weighed at the questions themselves.
    bare = [replace(record, alternatives=(), paraphrased_answer=None) for record in forget]
    reworded = worded(bare, {record.id: record.paraphrases[:1] for record in bare})
    return Rows(
        forget, kept[setup.retain :], kept[: setup.retain], _first(tofu / FILES[2], "holdout", setup.holdout), reworded
    )


def _first(path: Path, split: Set_, count: int) -> list[Record]:
    if not path.is_file():
        raise InputError("no such file", where=str(path), way_out="RELEARN_DATA names the folder that has tofu/")
    records, _ = load_set((Source(path=str(path), limit=count),), split, path.name)
    if len(records) < count:
        raise InputError(f"has {len(records)} rows and {count} are wanted", where=str(path), way_out="ask for fewer")
    return [with_subject(record) for record in records]


def train_start(bench: Bench, side: str, index: int) -> Maker:
    """Train model `index` of a side, unless it is there; returns what loads it, merged, as often as asked."""
    folder = bench.work / f"{side}-{index}"
    rate, epochs = bench.setup.cell(index)
    if not (folder / "start").exists():
        _learn(bench, load(bench.spec), bench.rows.to_learn(side), folder, rate, epochs, seed=index)
    return lambda: load(bench.spec, adapters=(folder / "start",))


def _learn(
    bench: Bench, loaded: Loaded, records: Sequence[Record], folder: Path, rate: float, epochs: float, seed: int
) -> None:
    settings = Learn(
        data=(Source(path="rows in memory"),),
        epochs=epochs,
        learning_rate=rate,
        batch_size=BATCH,
        lora=LORA,
        precision=bench.setup.precision,  # pyright: ignore[reportArgumentType]
    )
    learn(loaded, records, settings, folder=folder, seed=seed, log=lambda **_: None)


def under(bench: Bench, condition: Condition, fresh: Maker, name: str, seed: int) -> Loaded:
    """The model that `fresh` makes, as it is, rounded, or after relearning the forget rows."""
    if condition == RELEARNED:
        return _relearned(bench, fresh, bench.work / f"{name}-relearned", seed)
    loaded = fresh()
    if condition == ROUNDED:
        quantise(loaded.model, BITS)
    return loaded


def _relearned(bench: Bench, fresh: Maker, folder: Path, seed: int) -> Loaded:
    setup = bench.setup
    if not (folder / "start").exists():
        _learn(bench, fresh(), bench.rows.forget, folder, setup.relearn_rate, setup.relearn_epochs, seed)
    loaded = put_adapter(fresh(), folder / "start")
    loaded.model = loaded.model.merge_and_unload().eval()
    return loaded


def clean(bench: Bench, name: str) -> None:
    """Adapters and checkpoints of a model that has been measured under all conditions."""
    for folder in (bench.work / name, bench.work / f"{name}-relearned"):
        shutil.rmtree(folder, ignore_errors=True)


def measure(bench: Bench, loaded: Loaded) -> dict[str, dict[str, Any]]:
    """Metric -> its measurement on the forget rows, with the base model for what rests on it."""
    asked: list[tuple[str, ScoredSplit, Sequence[Record]]] = [
        (PART, "forget", bench.rows.forget),
        ("holdout", "holdout", bench.rows.holdout),
    ]
    if bench.rows.reworded:
        asked.append((REWORDED, "forget", bench.rows.reworded))
    settings = Generate(max_new_tokens=bench.setup.max_new_tokens)
    parts: dict[str, tuple[ScoredSplit, list[AnswerRow]]] = {}
    for name, split, records in asked:
        said = ask(loaded, records, settings, membership=name != REWORDED)
        [known] = with_response_logprobs(bench.base, said)
        parts[name] = (split, [AnswerRow.from_dict(row) for row in known.rows])
    return collected(score_parts(parts, METRICS, judges=bench.judges))


def collected(found: Mapping[str, SplitScores]) -> dict[str, dict[str, Any]]:
    """All measurements of the forget part, some of the reworded one, and of every membership attack the mean score."""
    metrics: dict[str, dict[str, Any]] = {}
    for name, measured in found[PART].measurements.items():
        metrics[name] = measured.to_dict()
        if name.startswith("mia_"):
            metrics[f"score_{name.removeprefix('mia_')}"] = _mean_score(measured)
    if REWORDED in found:
        for name in OF_REWORDED:
            if name in found[REWORDED].measurements:
                metrics[f"reworded_{name}"] = found[REWORDED].measurements[name].to_dict()
    return metrics


def _mean_score(measured: Measurement) -> dict[str, Any]:
    """What the attack thinks of the forget rows by themselves; the AUC sets it against the holdout rows."""
    known = [score for score in measured.per_record.values() if score is not None]
    mean = sum(known) / len(known) if known else None
    return replace(measured, value=mean, low=None, high=None, note="mean score of a row").to_dict()
