"""Fit ECO (arXiv 2406.07933): the prompt classifier and the strength sigma of the corruption; the model is not trained.

    sigma = the least with  v - m(sigma) <= 0.05 (v - m(0))

m(sigma) is the mean NLL of the original answers after corrupted prompts. v is the mean NLL with the embeddings of the
question set to zero. v - m(sigma) is the information of the question about its answer, in nats per token. (The paper
takes v from other data, and the sigma with m(sigma) nearest to v.) The search doubles the strength, then halves its
last step. If corrupting the name is not enough at any strength, the whole question is corrupted.

The classifier is a logistic regression on sentence embeddings (RoBERTa in the paper). Its threshold, unless given, is
the one that best separates held-out forget questions from other held-out questions.
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
from relearn.core.registry import suggest
from relearn.data.record import evenly
from relearn.engine.forward import predict
from relearn.engine.packing import TokenRow
from relearn.synthesis.rows import load_generic
from relearn.unlearning.data.batches import Size
from relearn.unlearning.data.encode import encode
from relearn.unlearning.data.streams import TrainingData, streams
from relearn.unlearning.inference_time.eco_model import (
    Corruption,
    EcoModel,
    PromptClassifier,
    probability,
    save_eco,
    sentence_encoder,
)
from relearn.unlearning.method import METHODS, AnswerLogits, Batch, LossTerms, Objective, method
from relearn.unlearning.options import not_negative, positive
from relearn.unlearning.procedures import Job, procedure
from relearn.unlearning.reference_model import to_answer_logits

RESULT = "eco"
FOLDS = 5
SEARCH_RECORDS = 32
SEARCH_BATCH = 8
GRID = {"rand_noise": [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0], "zero_out": [0.0625, 0.125, 0.25, 0.5, 1.0]}
HALVINGS = 3
# The largest allowed ratio (v - m(sigma)) / (v - m(0)).
REMAINING = 0.05
_DEFAULTS = dict(
    encoder="all-minilm-l6-v2", threshold=None, mode="rand_noise", tokens=None, strength=None, penalty=1e-4
)


@method(
    "eco",
    family="inference-time",
    paper="Liu et al. 2024, arXiv 2406.07933",
    data="original",
    procedure="eco",
    defaults=_DEFAULTS,
)
@dataclass(frozen=True)
class Eco(Objective):
    """Compute v - m, the information of questions about their answers, and hold the options of ECO.

    `encoder`: the sentence encoder of the prompt classifier; `penalty`: the weight of the squared norm of its weights.
    `mode`: rand_noise or zero_out; `tokens`: subject or question, see `eco_model.py`. An option that is None is
    found: `threshold` on held-out questions, `strength` (0.25 to 16) by search, `tokens` as subject where that is
    enough.
    """

    encoder: str = "all-minilm-l6-v2"
    threshold: float | None = None
    mode: str = "rand_noise"
    tokens: str | None = None
    strength: float | None = None
    penalty: float = 1e-4

    def __post_init__(self) -> None:
        for name, choices in (("mode", ["rand_noise", "zero_out"]), ("tokens", ["subject", "question"])):
            value = getattr(self, name)
            if value not in choices and not (name == "tokens" and value is None):
                raise ValueError(f"{name} is {value!r}: {suggest(str(value), choices)}")
        positive(penalty=self.penalty)
        if self.threshold is not None:
            positive(threshold=self.threshold)
            if self.threshold >= 1:
                raise ValueError(f"threshold is {self.threshold!r}: give a probability below 1")
        if self.strength is not None:
            not_negative(strength=self.strength)
            if self.mode == "zero_out" and self.strength > 1:
                raise ValueError(f"strength is {self.strength!r}: zero_out takes a share of the dimensions, 0 to 1")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"forget", "forget_reference_nll"})

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, LossTerms]:
        """Compute v - m in nats per token, and its terms m ("nll") and v ("surrogate").

        `forget` are the predictions after corrupted prompts, `forget_reference_nll` the NLL without the question.
        """
        assert batch.forget_reference_nll is not None
        surrogate = batch.forget_reference_nll.sum() / batch.forget.step_tokens
        terms = {"nll": batch.forget.mean_nll(), "surrogate": surrogate}
        return terms["surrogate"] - terms["nll"], terms


@dataclass(frozen=True)
class Labelled:
    """Hold a labelled question for the classifier; all wordings with the same `record` id are in the same fold."""

    text: str
    record: str
    forget: bool


@dataclass(frozen=True)
class HeldOut:
    """Hold the classifier's results on held-out questions.

    `recall` is the share of forget questions above the threshold, `passed` the share of other questions not above it.
    """

    threshold: float
    recall: float
    passed: float
    forget_questions: int
    other_questions: int


def _eco(settings: Unlearn) -> Eco:
    objective = METHODS.get(settings.method).objective(settings.options)
    assert isinstance(objective, Eco)
    return objective


def _check(_model: Model, settings: Unlearn) -> None:
    sentence_encoder(_eco(settings).encoder)
    if settings.full or settings.mask:
        raise InputError(
            "eco trains nothing in the model", where="unlearn", way_out="leave full and mask out of the recipe"
        )


@procedure("eco", result=RESULT, check=_check)
def eco(job: Job) -> None:
    """Run ECO: fit the classifier, find the strength, and write eco/ (classifier.safetensors, eco.json)."""
    distributed.on_main(lambda: _write(job))


def _write(job: Job) -> None:
    settings = _eco(job.settings)
    classifier, held_out = fit_classifier(labelled(job.data), settings, job.seed)
    numbers: dict[str, Any] = {"held_out": asdict(held_out) if held_out else None}
    corruption, numbers["search"] = find_corruption(job, settings, classifier)
    with replaced_dir(job.folder / RESULT) as target:
        save_eco(target, classifier, corruption, **numbers)


def labelled(data: TrainingData) -> list[Labelled]:
    """List the labelled questions: all wordings of forget questions (synthesised too), retain and generic questions."""
    ids = {record.id for record in data.records}
    questions = [Labelled(text, record.id, True) for record in data.records for text in _wordings(record)]
    questions += [
        Labelled(row.prompt, row.record_id, True) for row in data.rows if row.kind == "qa" and row.record_id in ids
    ]
    questions += [Labelled(text, record.id, False) for record in data.retain for text in _wordings(record)]
    generic = [Labelled(row.prompt, row.id, False) for row in data.rows if row.kind == "generic"]
    questions += generic or [Labelled(record.question, record.id, False) for record in load_generic()]
    # Forget questions come first, so a question in both sets is labelled as a forget question.
    return list({question.text: question for question in reversed(questions)}.values())[::-1]


def _wordings(record: Any) -> tuple[str, ...]:
    return (record.question, *record.paraphrases)


def fit_classifier(questions: Sequence[Labelled], settings: Eco, seed: int) -> tuple[PromptClassifier, HeldOut | None]:
    """Fit the prompt classifier on all questions, and measure it by cross-validation.

    The measurement is None with fewer than two forget records or fewer than two other records.
    """
    vectors = sentence_encoder(settings.encoder, batch_size=64).encode([question.text for question in questions])
    vectors = vectors.astype(np.float64)
    forget = np.array([question.forget for question in questions])
    logits = _out_of_fold(vectors, forget, _folds(questions, seed), settings.penalty)
    held_out = _held_out(probability(logits), forget, settings.threshold) if logits is not None else None
    threshold = settings.threshold or (held_out.threshold if held_out else 0.5)
    weight, bias = fit_logistic(vectors, forget, settings.penalty)
    return PromptClassifier(settings.encoder, weight, bias, threshold, sentence_encoder(settings.encoder)), held_out


def fit_logistic(vectors: np.ndarray, forget: np.ndarray, penalty: float) -> tuple[np.ndarray, float]:
    """Fit a logistic regression to embeddings (questions, width) and labels `forget` (questions,) bool.

    Both classes have the same total weight; `penalty` is the weight of the squared norm. Returns weights (width,)
    float64 and the bias. The fit starts from zero, so it is deterministic.
    """
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
    """Assign a fold number to each question, (questions,), by record and separately for the two classes.

    All are in fold 0 when a class has fewer than two records.
    """
    fold_of: dict[str, int] = {}
    for side in (True, False):
        records = sorted({question.record for question in questions if question.forget is side})
        random.Random(f"{seed}/eco/{side}").shuffle(records)
        if len(records) < 2:
            return np.zeros(len(questions), dtype=int)
        count = min(FOLDS, len(records))
        fold_of |= {f"{side}/{record}": index % count for index, record in enumerate(records)}
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


def _held_out(probabilities: np.ndarray, forget: np.ndarray, threshold: float | None) -> HeldOut:
    """Measure the given threshold, or the one with the greatest recall + passed (among equals, nearest to 1/2)."""
    ordered = np.unique(probabilities)
    candidates = [threshold] if threshold is not None else [*((ordered[1:] + ordered[:-1]) / 2), 0.5]
    rates = [
        (float((probabilities[forget] > at).mean()), float((probabilities[~forget] <= at).mean())) for at in candidates
    ]
    best = max(range(len(candidates)), key=lambda index: (sum(rates[index]), -abs(candidates[index] - 0.5)))
    recall, passed = rates[best]
    return HeldOut(float(candidates[best]), round(recall, 4), round(passed, 4), int(forget.sum()), int((~forget).sum()))


@dataclass(frozen=True)
class Tried:
    """Hold a corruption and the mean NLL of the original answers with it.

    `surrogate` is the mean NLL with the question's embeddings set to zero.
    """

    strength: float
    tokens: str
    nll: float
    surrogate: float

    @property
    def information(self) -> float:
        """Compute `surrogate` - `nll`, the information of the question about its answer, in nats per token."""
        return self.surrogate - self.nll


class Search:
    """Measure corruptions on at most `SEARCH_RECORDS` forget records."""

    @torch.no_grad()
    def __init__(self, job: Job, criterion: Eco, classifier: PromptClassifier):
        self._job = job
        self._criterion = criterion
        # A threshold below 0 corrupts every prompt.
        self._always = replace(classifier, threshold=-1.0)
        records = evenly(streams("original", job.data, job.seed).forget, SEARCH_RECORDS)
        self._rows = encode(job.loaded.chat, records, max_length=job.settings.max_length)
        blank = self._model(Corruption("zero_out", 1.0, "question"))
        self._blank_nll = [answers.sequence_nll() for answers in _predicted(blank, self._rows)]
        self.tried: list[Tried] = []

    @torch.no_grad()
    def measure(self, tokens: Any, strength: float) -> Tried:
        """Measure one corruption, and log its numbers as one step."""
        corruption = Corruption(self._criterion.mode, strength, tokens)  # pyright: ignore[reportArgumentType]
        pairs = zip(_predicted(self._model(corruption), self._rows), self._blank_nll, strict=True)
        batches = [self._criterion(Batch(answers, forget_reference_nll=blank))[1] for answers, blank in pairs]
        parts = {name: sum(float(terms[name]) for terms in batches) for name in ("nll", "surrogate")}
        tried = Tried(strength, tokens, round(parts["nll"], 6), round(parts["surrogate"], 6))
        self.tried.append(tried)
        loss = round(tried.information, 6)
        self._job.log(step=len(self.tried), loss=loss, parts={"strength": strength, **parts})
        self._job.tick(len(self.tried), None)
        return tried

    def _model(self, corruption: Corruption) -> EcoModel:
        loaded = self._job.loaded
        parts = {"tokenizer": loaded.tokenizer, "chat": loaded.chat, "corruption": corruption}
        return EcoModel(loaded.model, classifier=self._always, **parts).eval()


def find_corruption(
    job: Job, settings: Eco, classifier: PromptClassifier
) -> tuple[Corruption, list[dict[str, Any]] | None]:
    """Find the `strength` and the `tokens` of the corruption that the options do not give.

    Also returns the measurements of the search, or None when the options give both.
    """
    orders = [settings.tokens] if settings.tokens else ["subject", "question"]
    if settings.strength is not None and settings.tokens:
        return Corruption(settings.mode, settings.strength, settings.tokens), None  # pyright: ignore[reportArgumentType]
    search = Search(job, settings, classifier)
    enough = REMAINING * max(search.measure(orders[0], 0.0).information, 0.0)
    grid = GRID[settings.mode] if settings.strength is None else [settings.strength]
    best = search.tried[0]
    for tokens in orders:
        tried = climb(lambda strength, tokens=tokens: search.measure(tokens, strength), grid, enough)
        best = min(tried, key=lambda one: (max(one.information, enough), one.strength))
        if best.information <= enough:
            break
    rows = [{**asdict(one), "tells": round(one.information, 6)} for one in search.tried]
    return Corruption(settings.mode, best.strength, best.tokens), rows  # pyright: ignore[reportArgumentType]


def climb(measure: Callable[[float], Tried], grid: Sequence[float], enough: float) -> list[Tried]:
    """Measure the strengths of `grid` in ascending order until the information is at most `enough`; then bisect.

    The interval below the first sufficient strength is bisected `HALVINGS` times at its geometric mean. Returns all
    measurements.
    """
    tried: list[Tried] = []
    below = 0.0
    for above in grid:
        tried.append(measure(above))
        if tried[-1].information <= enough:
            break
        below = above
    else:
        return tried
    for _ in range(HALVINGS if below else 0):
        middle = (below * above) ** 0.5
        tried.append(measure(middle))
        below, above = (middle, above) if tried[-1].information > enough else (below, middle)
    return tried


def _predicted(model: Any, rows: Sequence[TokenRow]) -> list[AnswerLogits]:
    """Predict `rows` in batches whose step sizes are those of all rows together."""
    step = Size(sum(row.answer_tokens for row in rows), len(rows))
    batches = [rows[at : at + SEARCH_BATCH] for at in range(0, len(rows), SEARCH_BATCH)]
    return [to_answer_logits(predict(model, batch), batch, step) for batch in batches]
