"""Attack the weights: number formats, quantisation, a weaker adapter, relearning.

Rounding can undo the small changes that unlearning made to large weights, which brings the old answer back
(arXiv 2502.11190 reports this for NPO; arXiv 2410.16454). "adapters" removes or halves the LoRA adapter. It decides no
verdict, because merged weights have no adapter to remove. "relearning" fine-tunes the merged weights for a few steps
(arXiv 2406.13356) on one of:

    forget rows     a few forget records, which are not asked about afterwards
    same subjects   retain records about the same subjects
    unrelated       generic questions and answers

The control model is trained in the same way; facts that it then states are guesses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import TrainerCallback

from relearn.audits.attack import AuditInputs, attack
from relearn.data import Record
from relearn.data.record import evenly
from relearn.models.load import Loaded
from relearn.models.lora import add_lora
from relearn.unlearning.data.batches import plan_batches
from relearn.unlearning.data.encode import encode, record_example
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


STEPS = (5, 10, 20)
BATCH_SIZE = 8
MAX_ROWS = 64
FORGET_SHARE = 0.1
LEARNING_RATE = 2e-4


def relearning_rows(inputs: AuditInputs) -> dict[str, Sequence[Record]]:
    """Select the training records of each kind of relearning; kinds without records are omitted."""
    few = max(1, min(BATCH_SIZE, int(len(inputs.facts) * FORGET_SHARE)))
    subjects = {record.subject for record in inputs.facts if record.subject}
    rows = {
        "forget rows": evenly(inputs.facts, few) if len(inputs.facts) > few else [],
        "same subjects": evenly([record for record in inputs.retain if record.subject in subjects], MAX_ROWS),
        "unrelated": evenly(inputs.generic, MAX_ROWS),
    }
    return {name: records for name, records in rows.items() if records}


class _AskAtSteps(TrainerCallback):
    """Call `ask(step)` in evaluation mode after every step of STEPS."""

    def __init__(self, ask: Callable[[int], None]):
        self._ask = ask

    def on_step_end(self, args, state, control, model=None, **_):
        if state.global_step in STEPS and model is not None:
            was_training = model.training
            model.eval()
            self._ask(state.global_step)
            model.train(was_training)


@attack(
    "relearning",
    label="Relearning",
    family="relearning",
    source="arXiv 2406.13356",
    description=f"{', '.join(map(str, STEPS))} steps of fine-tuning on a few forget rows, on kept facts, on unrelated "
    "text",
)
def relearning(load_model: Callable[[], Loaded], inputs: AuditInputs, ask: Callable[..., None]) -> None:
    for name, records in relearning_rows(inputs).items():
        _relearn(load_model(), inputs, name, records, ask)


def _relearn(
    loaded: Loaded, inputs: AuditInputs, name: str, records: Sequence[Record], ask: Callable[..., None]
) -> None:
    """Fine-tune a new adapter on `records` and ask the plain questions after each step of STEPS."""
    model = add_lora(loaded.model, inputs.recipe.unlearn.lora, seed=inputs.seed)
    trained = replace(loaded, model=model)
    trained_ids = [record.id for record in records] if name == "forget rows" else []
    rows = encode(loaded.chat, [record_example(record) for record in records])
    epochs = STEPS[-1] * BATCH_SIZE / len(rows)
    batches = plan_batches(rows, (), batch_size=BATCH_SIZE, accumulation=1, epochs=epochs, seed=inputs.seed)
    train(
        model,
        batches[: STEPS[-1]],
        METHODS.get("relearn_gdf").objective({}),
        loop=Loop(LEARNING_RATE, schedule="constant", warmup=0.0, seed=inputs.seed),
        checkpoints=inputs.folder / "audits" / "checkpoints",
        log=lambda **_: None,
        callbacks=[_AskAtSteps(lambda step: ask(f"{name}, {step} steps", trained, shown=trained_ids))],
    )
