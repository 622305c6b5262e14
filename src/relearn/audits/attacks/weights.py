"""Attack the weights: number formats, quantisation, a weaker adapter, relearning.

Rounding can undo the small changes that unlearning made to large weights, which brings the old answer back
(arXiv 2502.11190 reports this for NPO; arXiv 2410.16454). "adapters" removes or halves the LoRA adapter. It decides no
verdict, because merged weights have no adapter to remove. "checkpoints" has the model before unlearning as well, which
a removable adapter gives away; it decides no verdict either. "relearning" fine-tunes the merged weights for a few steps
(arXiv 2406.13356) on one of:

    facts           four fifths of the facts; only the fifth that was held out is asked, fold by fold (arXiv 2410.08827)
    same subjects   retain records about the same subjects
    unrelated       generic questions and answers

The control model is trained in the same way; facts that it then states are guesses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from transformers import LogitsProcessorList, TrainerCallback

from relearn.audits.attack import AuditInputs, attack
from relearn.audits.fact_matching import FactList
from relearn.audits.query_models import FACT
from relearn.audits.strength import FOLDS, Relearning, by_folds
from relearn.data import Record
from relearn.data.record import evenly
from relearn.models.load import Loaded
from relearn.models.lora import add_lora
from relearn.unlearning.data.batches import plan_batches
from relearn.unlearning.data.encode import encode, record_example
from relearn.unlearning.inference_time.offset import NextLogits
from relearn.unlearning.inference_time.wrapper import ModelWrapper
from relearn.unlearning.method import METHODS
from relearn.unlearning.trainer import Loop, train

FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@attack(
    "precision",
    label="Number formats",
    family="precision",
    source="arXiv 2410.16454",
    description="merged weights in float32, bfloat16, float16",
)
def precision(load_model: Callable[[], Loaded], _inputs: AuditInputs, ask: Callable[..., None]) -> None:
    for name, dtype in FORMATS.items():
        loaded = load_model()
        loaded.model.to(dtype)
        ask(name, loaded)


BITS = (8, 4)
GROUP = 32


def rounded(weight: torch.Tensor, bits: int, group: int = GROUP) -> torch.Tensor:
    """Round a weight (out, in) to `bits` bits between the minimum and maximum of every `group` inputs.

    A last group with fewer inputs is rounded on its own. The result has the dtype of `weight`, so that no quantised
    kernels are needed.
    """
    pieces = [_round_group(piece.float(), bits) for piece in weight.split(group, dim=1)]
    return torch.cat(pieces, dim=1).to(weight.dtype)


def _round_group(piece: torch.Tensor, bits: int) -> torch.Tensor:
    low = piece.amin(dim=1, keepdim=True)
    step = (piece.amax(dim=1, keepdim=True) - low) / (2**bits - 1)
    steps = torch.where(step > 0, (piece - low) / step.clamp_min(torch.finfo(torch.float32).tiny), 0.0)
    return low + steps.round() * step


@torch.no_grad()
def quantise(model: Any, bits: int) -> None:
    """Round the weights of every linear layer except the output layer, in place."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    for layer in model.modules():
        if isinstance(layer, torch.nn.Linear) and layer is not head:
            layer.weight.copy_(rounded(layer.weight, bits))


@attack(
    "quantise",
    label="Quantised weights",
    family="precision",
    source="arXiv 2410.16454",
    description="merged weights rounded to 8 and 4 bits in groups of 32",
)
def quantised_weights(load_model: Callable[[], Loaded], _inputs: AuditInputs, ask: Callable[..., None]) -> None:
    for bits in BITS:
        loaded = load_model()
        quantise(loaded.model, bits)
        ask(f"{bits} bit", loaded)


ADAPTER_SHARES = {"adapter off": 0.0, "adapter halved": 0.5}


@attack(
    "adapters",
    label="Adapter off and halved",
    family="adapters",
    source="relearn",
    description="the adapter removed, and at half its strength",
    counts=False,
)
def weaker_adapter(load_model: Callable[..., object], _inputs: AuditInputs, ask: Callable[..., None]) -> None:
    for name, share in ADAPTER_SHARES.items():
        ask(name, load_model(share=share))


# Factor of the difference between the logits before and after; at 1 the model before unlearning answers alone.
CONTRASTS = (0.5, 2.0)
# Tokens that the model before unlearning gives less than this share of its highest probability are never generated.
MIN_PROB_SHARE = 0.1


class Contrast(ModelWrapper):
    """Generate with logits_after + alpha (logits_before - logits_after); `inner` is the model after unlearning."""

    def __init__(self, after: Any, before: Any, alpha: float):
        super().__init__(after)
        self._before = before
        self._alpha = alpha

    def generate_changed(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, settings: dict[str, Any]
    ) -> torch.Tensor:
        next_logits = NextLogits(self._before, attention_mask)

        def contrast(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            before = next_logits(ids)
            unlikely = before < before.amax(-1, keepdim=True) + math.log(MIN_PROB_SHARE)
            return (scores + self._alpha * (before - scores)).masked_fill(unlikely, -torch.inf)

        processors = LogitsProcessorList([contrast, *settings.pop("logits_processor", [])])
        masked = {"input_ids": input_ids, "attention_mask": attention_mask}
        return self.inner.generate(**masked, logits_processor=processors, **settings)


@attack(
    "checkpoints",
    label="Both checkpoints",
    family="checkpoints",
    source="arXiv 2505.24379",
    description="the logits before unlearning, half as far away and twice as far as the model without its adapter",
    counts=False,
)
def both_checkpoints(load_model: Callable[[str], Loaded], _inputs: AuditInputs, ask: Callable[..., Any]) -> None:
    """Decode from the contrast of the two models: alpha 2 amplifies what unlearning removed."""
    before, after = load_model("start"), load_model("after")
    for alpha in CONTRASTS:
        ask(f"alpha {alpha:g}", replace(after, model=Contrast(after.model, before.model, alpha)), with_retain=False)


BENIGN_STEPS = (5, 10, 20)
BENIGN_RATE = 2e-4
BATCH_SIZE = 8
MAX_ROWS = 64


@attack(
    "relearning",
    label="Relearning",
    family="relearning",
    source="arXiv 2406.13356; arXiv 2410.08827",
    description="fine-tuning on four fifths of the facts, then the others are asked; on kept facts; on unrelated text",
)
def relearning(load_model: Callable[[], Loaded], inputs: AuditInputs, ask: Callable[..., Any]) -> None:
    """Fine-tune on facts, fold by fold as `inputs.strength` sets it, then on records that state no fact."""
    for training in inputs.strength.relearning:
        for fold, train_records in enumerate(relearning_folds(inputs.facts, training.folds)):
            curve = _Curve(inputs, training, train_records, ask, with_retain=fold == 0)
            _fine_tune(load_model(), inputs, train_records, curve, rate=curve.rate, full=training.full)
    for name, records in benign_rows(inputs).items() if inputs.strength.benign_relearning else ():
        _fine_tune(load_model(), inputs, records, _BenignCurve(name, ask), rate=BENIGN_RATE)


def relearning_folds(facts: Sequence[Record], folds: int) -> list[list[Record]]:
    """Return the records to train on, for the first `folds` of FOLDS folds; nothing for fewer than two facts."""
    held_out = by_folds(len(facts), FOLDS)[:folds] if len(facts) > 1 else []
    return [[fact for number, fact in enumerate(facts) if number not in fold] for fold in held_out]


def benign_rows(inputs: AuditInputs) -> dict[str, Sequence[Record]]:
    """Select the training records of the two kinds of relearning without facts; kinds without records are omitted."""
    subjects = {record.subject for record in inputs.facts if record.subject}
    rows = {
        "same subjects": evenly([record for record in inputs.retain if record.subject in subjects], MAX_ROWS),
        "unrelated": evenly(inputs.generic, MAX_ROWS),
    }
    return {name: records for name, records in rows.items() if records}


@dataclass(frozen=True, kw_only=True)
class AuditWork:
    """Count prompts to answer, fine-tunings, and their steps of BATCH_SIZE rows."""

    prompts: int
    trainings: int
    steps: int

    def line(self) -> str:
        return f"{self.prompts:,} prompts, {self.trainings:,} trainings of {self.steps:,} steps in all"


def training_work(inputs: AuditInputs, retain: int) -> AuditWork:
    """Count the work of `relearning` on one model, with `retain` retain records; a curve can end earlier."""
    plans = [
        (training.steps, len(inputs.facts) - len(records), retain if fold == 0 else 0)
        for training in inputs.strength.relearning
        for fold, records in enumerate(relearning_folds(inputs.facts, training.folds))
    ]
    if inputs.strength.benign_relearning:
        plans += [(BENIGN_STEPS, len(inputs.facts), retain)] * len(benign_rows(inputs))
    prompts = sum(len(steps) * (facts + kept) for steps, facts, kept in plans)
    return AuditWork(prompts=prompts, trainings=len(plans), steps=sum(steps[-1] for steps, _, _ in plans))


class _Curve:
    """Ask the facts of one fold after each number of steps; end the curve when all of them are stated.

    After the end, the last answers stand for the steps that are left, so that every step has an answer per fact.
    """

    def __init__(
        self,
        inputs: AuditInputs,
        training: Relearning,
        train_records: Sequence[Record],
        ask: Callable[..., Any],
        *,
        with_retain: bool,
    ):
        own_rate = inputs.recipe.unlearn.learning_rate
        self.steps = training.steps
        self.rate = own_rate if training.rate is None else training.rate
        self._name = f"{'own rate' if training.rate is None else f'{training.rate:g}'}{', all weights' * training.full}"
        self._trained = {record.id for record in train_records}
        self._held_out = {record.id for record in inputs.facts} - self._trained
        self._facts = FactList(inputs.facts)
        self._ask = partial(ask, shown=self._trained, with_retain=with_retain)

    def ask(self, step: int, loaded: Loaded) -> bool:
        """Ask after `step` steps; return whether the training can stop."""
        rows = self._ask(f"{self._name}, {step} steps", loaded)
        stated = {row["id"] for row in rows if row["part"] == FACT and self._facts.match_row(row)}
        if stated != self._held_out:
            return False
        for later in self.steps[self.steps.index(step) + 1 :]:
            self._ask(f"{self._name}, {later} steps", loaded, answered=rows)
        return True


class _BenignCurve:
    """Ask all facts after each number of steps."""

    steps = BENIGN_STEPS

    def __init__(self, name: str, ask: Callable[..., Any]):
        self._name, self._ask = name, ask

    def ask(self, step: int, loaded: Loaded) -> bool:
        self._ask(f"{self._name}, {step} steps", loaded)
        return False


class _AskAtSteps(TrainerCallback):
    """Ask in evaluation mode after every step of a curve, and stop the training when the curve has ended."""

    def __init__(self, curve: _Curve | _BenignCurve, loaded: Loaded):
        self._curve, self._loaded = curve, loaded

    def on_step_end(self, args, state, control, model=None, **_):
        if state.global_step in self._curve.steps and model is not None:
            was_training = model.training
            model.eval()
            control.should_training_stop |= self._curve.ask(state.global_step, self._loaded)
            model.train(was_training)


def _fine_tune(
    loaded: Loaded,
    inputs: AuditInputs,
    records: Sequence[Record],
    curve: _Curve | _BenignCurve,
    *,
    rate: float,
    full: bool = False,
) -> None:
    """Train a new LoRA adapter, or all weights, on the NLL of `records`, and ask at the steps of the curve."""
    model = loaded.model if full else add_lora(loaded.model, inputs.recipe.unlearn.lora, seed=inputs.seed)
    if full:
        model.requires_grad_(True)
    rows = encode(loaded.chat, [record_example(record) for record in records])
    last = curve.steps[-1]
    epochs = last * BATCH_SIZE / len(rows)
    batches = plan_batches(rows, (), batch_size=BATCH_SIZE, accumulation=1, epochs=epochs, seed=inputs.seed)
    train(
        model,
        batches[:last],
        METHODS.get("relearn_gdf").objective({}),
        loop=Loop(rate, schedule="constant", warmup=0.0, checkpoint_every=last + 1, seed=inputs.seed),
        checkpoints=inputs.folder / "audits" / "checkpoints",
        log=lambda **_: None,
        callbacks=[_AskAtSteps(curve, replace(loaded, model=model))],
    )
