"""ECO (arXiv 2406.07933): the prompt classifier and the strength of the corruption. The model itself is not trained.

The paper fine-tunes RoBERTa as classifier; ours is a logistic head on the sentence embeddings the metrics use already,
fitted in seconds. Its threshold, where none is given, is the one that parts forget questions from others best among
questions the head was not fitted on. The strength is the least at which a question tells nearly nothing about its
answer any more, found by doubling and halving, without gradients. Where nobody else has facts of the kind, corrupting a
name is not enough at any strength (the rest of the question says which salary is meant); then the whole question is.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from relearn.core import distributed
from relearn.core.config import Model, Unlearn
from relearn.core.errors import InputError
from relearn.core.files import replaced_dir
from relearn.data.record import evenly
from relearn.engine.forward import predict
from relearn.engine.packing import TokenRow
from relearn.synthesis.rows import load_generic
from relearn.unlearning.data.batches import Size
from relearn.unlearning.data.encode import encode
from relearn.unlearning.data.streams import Material, streams
from relearn.unlearning.inference_time.eco_model import (
    Corrupted,
    Corruption,
    PromptClassifier,
    probability,
    save_eco,
    sentence_encoder,
)
from relearn.unlearning.inference_time.methods import Eco
from relearn.unlearning.method import METHODS, Batch
from relearn.unlearning.procedures import Job, procedure
from relearn.unlearning.reference_model import scored
from relearn.unlearning.token_loss import Scored

RESULT = "eco"
FOLDS = 5
SEARCH_RECORDS = 32
SEARCH_BATCH = 8
GRID = {"rand_noise": [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0], "zero_out": [0.0625, 0.125, 0.25, 0.5, 1.0]}
HALVINGS = 3
# Of what a question told about its answer, the share that may be left.
LEFT = 0.05


@dataclass(frozen=True)
class Labelled:
    """A question for the classifier; `record` keeps the wordings of one record on one side of a split."""

    text: str
    record: str
    forget: bool


@dataclass(frozen=True)
class HeldOut:
    """How the classifier does on questions it was not fitted on: `recall` of forget questions, `passed` of others."""

    threshold: float
    recall: float
    passed: float
    forget_questions: int
    other_questions: int


def _check(model: Model, settings: Unlearn) -> None:
    chosen = METHODS.get(settings.method).objective(settings.options)
    assert isinstance(chosen, Eco)
    sentence_encoder(chosen.encoder)
    if settings.full or settings.mask:
        raise InputError(
            "eco trains nothing in the model", where="unlearn", way_out="leave full and mask out of the recipe"
        )


@procedure("eco", result=RESULT, check=_check)
def eco(job: Job) -> None:
    """Fit the classifier, find the strength, and write eco/ (classifier.safetensors, eco.json)."""
    distributed.on_main(lambda: _write(job))


def _write(job: Job) -> None:
    chosen = METHODS.get(job.settings.method).objective(job.settings.options)
    assert isinstance(chosen, Eco)
    questions = labelled(job.material)
    classifier, held_out = fit_classifier(questions, chosen, job.seed)
    numbers: dict[str, Any] = {"held_out": asdict(held_out) if held_out else None}
    corruption, numbers["search"] = find_corruption(job, chosen, classifier)
    with replaced_dir(job.folder / RESULT) as target:
        save_eco(target, classifier, corruption, **numbers)


def labelled(material: Material) -> list[Labelled]:
    """Forget questions in all their wordings, synthesised ones too, against retain and generic questions."""
    known = {record.id for record in material.records}
    found = [Labelled(text, record.id, True) for record in material.records for text in _wordings(record)]
    found += [
        Labelled(row.prompt, row.record_id, True)
        for row in material.rows
        if row.kind == "qa" and row.record_id in known
    ]
    found += [Labelled(text, record.id, False) for record in material.retain for text in _wordings(record)]
    generic = [Labelled(row.prompt, row.id, False) for row in material.rows if row.kind == "generic"]
    found += generic or [Labelled(record.question, record.id, False) for record in load_generic()]
    # Forget questions come first, so a question that stands on both sides is to be forgotten.
    return list({question.text: question for question in reversed(found)}.values())[::-1]


def _wordings(record: Any) -> tuple[str, ...]:
    return (record.question, *record.paraphrases)


def fit_classifier(questions: Sequence[Labelled], settings: Eco, seed: int) -> tuple[PromptClassifier, HeldOut | None]:
    """The classifier fitted on all questions, and how it does on held-out ones (None with fewer than two records)."""
    vectors = sentence_encoder(settings.encoder, batch_size=64).encode([question.text for question in questions])
    vectors = vectors.astype(np.float64)
    forget = np.array([question.forget for question in questions])
    logits = _out_of_fold(vectors, forget, _folds(questions, seed), settings.penalty)
    held_out = _held_out(probability(logits), forget, settings.threshold) if logits is not None else None
    threshold = settings.threshold or (held_out.threshold if held_out else 0.5)
    weight, bias = fit_logistic(vectors, forget, settings.penalty)
    return PromptClassifier(settings.encoder, weight, bias, threshold, sentence_encoder(settings.encoder)), held_out


def fit_logistic(vectors: np.ndarray, forget: np.ndarray, penalty: float) -> tuple[np.ndarray, float]:
    """Weights (width,) and bias of a logistic regression in which both sides weigh the same; in float64, from zero."""
    inputs = torch.from_numpy(np.ascontiguousarray(vectors))
    signs = torch.from_numpy(np.where(forget, 1.0, -1.0))
    share = torch.from_numpy(np.where(forget, 0.5 / forget.sum(), 0.5 / (~forget).sum()))
    weight = torch.zeros(inputs.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=500, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        losses = torch.nn.functional.softplus(-signs * (inputs @ weight + bias))
        value = (share * losses).sum() + penalty * weight.square().sum()
        value.backward()
        return value

    optimiser.step(loss)  # pyright: ignore[reportArgumentType]
    return weight.detach().numpy(), float(bias.detach())


def _folds(questions: Sequence[Labelled], seed: int) -> np.ndarray:
    """The fold of each question: records dealt out in turn, forget and other records apart; one fold: no split."""
    fold_of: dict[str, int] = {}
    for side in (True, False):
        records = sorted({question.record for question in questions if question.forget is side})
        random.Random(f"{seed}/eco/{side}").shuffle(records)
        if len(records) < 2:
            return np.zeros(len(questions), dtype=int)
        count = min(FOLDS, len(records))
        fold_of |= {f"{side}/{record}": place % count for place, record in enumerate(records)}
    return np.array([fold_of[f"{question.forget}/{question.record}"] for question in questions])


def _out_of_fold(vectors: np.ndarray, forget: np.ndarray, folds: np.ndarray, penalty: float) -> np.ndarray | None:
    if folds.max() == 0:
        return None
    logits = np.zeros(len(forget))
    for fold in range(folds.max() + 1):
        held = folds == fold
        weight, bias = fit_logistic(vectors[~held], forget[~held], penalty)
        logits[held] = vectors[held] @ weight + bias
    return logits


def _held_out(values: np.ndarray, forget: np.ndarray, threshold: float | None) -> HeldOut:
    """With `threshold` None, the one with the greatest recall + passed; of equally good ones the nearest to 1/2."""
    ordered = np.unique(values)
    candidates = [threshold] if threshold is not None else [*((ordered[1:] + ordered[:-1]) / 2), 0.5]
    rates = [(float((values[forget] > at).mean()), float((values[~forget] <= at).mean())) for at in candidates]
    best = max(range(len(candidates)), key=lambda place: (sum(rates[place]), -abs(candidates[place] - 0.5)))
    recall, passed = rates[best]
    return HeldOut(float(candidates[best]), round(recall, 4), round(passed, 4), int(forget.sum()), int((~forget).sum()))


@dataclass(frozen=True)
class Tried:
    """A corruption with the mean NLL of the original answers under it, `surrogate` with the question blanked out."""

    strength: float
    tokens: str
    nll: float
    surrogate: float

    @property
    def tells(self) -> float:
        """What the question still tells about its answer, in nats per token."""
        return self.surrogate - self.nll


class Search:
    """Corruptions tried on at most `SEARCH_RECORDS` forget records."""

    @torch.no_grad()
    def __init__(self, job: Job, criterion: Eco, classifier: PromptClassifier):
        self._job = job
        self._criterion = criterion
        # On these records every prompt is corrupted, whatever the classifier says.
        self._always = replace(classifier, threshold=-1.0)
        records = evenly(streams("original", job.material, job.seed).forget, SEARCH_RECORDS)
        self._rows = encode(job.loaded.chat, records, max_length=job.settings.max_length)
        blank = self._model(Corruption("zero_out", 1.0, "question"))
        self._unasked = [own.sequence_nll() for own in _scored(blank, self._rows)]
        self.tried: list[Tried] = []

    @torch.no_grad()
    def tell(self, tokens: Any, strength: float) -> Tried:
        changed = Corruption(self._criterion.mode, strength, tokens)  # pyright: ignore[reportArgumentType]
        pairs = zip(_scored(self._model(changed), self._rows), self._unasked, strict=True)
        found = [self._criterion(Batch(own, forget_reference_nll=unasked))[1] for own, unasked in pairs]
        parts = {name: sum(float(part[name]) for part in found) for name in ("nll", "surrogate")}
        tried = Tried(strength, tokens, round(parts["nll"], 6), round(parts["surrogate"], 6))
        self.tried.append(tried)
        self._job.log(step=len(self.tried), loss=round(tried.tells, 6), parts={"strength": strength, **parts})
        self._job.tick(len(self.tried), None)
        return tried

    def _model(self, corruption: Corruption) -> Corrupted:
        loaded = self._job.loaded
        return Corrupted(loaded.model, loaded.tokenizer, loaded.chat, self._always, corruption).eval()


def find_corruption(
    job: Job, chosen: Eco, classifier: PromptClassifier
) -> tuple[Corruption, list[dict[str, Any]] | None]:
    """The corruption with what the recipe leaves open found by search, and all that was tried (None: nothing open)."""
    orders = [chosen.tokens] if chosen.tokens else ["subject", "question"]
    if chosen.strength is not None and chosen.tokens:
        return Corruption(chosen.mode, chosen.strength, chosen.tokens), None  # pyright: ignore[reportArgumentType]
    search = Search(job, chosen, classifier)
    enough = LEFT * max(search.tell(orders[0], 0.0).tells, 0.0)
    grid = GRID[chosen.mode] if chosen.strength is None else [chosen.strength]
    best = search.tried[0]
    for tokens in orders:
        tried = climb(lambda strength, tokens=tokens: search.tell(tokens, strength), grid, enough)
        best = min(tried, key=lambda one: (max(one.tells, enough), one.strength))
        if best.tells <= enough:
            break
    found = [{**asdict(one), "tells": round(one.tells, 6)} for one in search.tried]
    return Corruption(chosen.mode, best.strength, best.tokens), found  # pyright: ignore[reportArgumentType]


def climb(tell: Callable[[float], Tried], grid: Sequence[float], enough: float) -> list[Tried]:
    """Try the grid upwards until a question tells no more than `enough`, then halve the last step some times."""
    tried: list[Tried] = []
    below = 0.0
    for above in grid:
        tried.append(tell(above))
        if tried[-1].tells <= enough:
            break
        below = above
    else:
        return tried
    for _ in range(HALVINGS if below else 0):
        middle = (below * above) ** 0.5
        tried.append(tell(middle))
        below, above = (middle, above) if tried[-1].tells > enough else (below, middle)
    return tried


def _scored(model: Any, rows: Sequence[TokenRow]) -> list[Scored]:
    """The predictions for `rows` in batches that add up to one step."""
    step = Size(sum(row.answer_tokens for row in rows), len(rows))
    parts = [rows[at : at + SEARCH_BATCH] for at in range(0, len(rows), SEARCH_BATCH)]
    return [scored(predict(model, part), part, step) for part in parts]
