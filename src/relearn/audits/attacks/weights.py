"""Number formats: the merged weights in float32, bfloat16 and float16.

A small change that unlearning made to a large weight may be lost in rounding, and the old answer is back
(arXiv 2502.11190 reports this for NPO; arXiv 2410.16454).

Quantised weights: every linear layer but the output layer rounded to 8 and to 4 bits, group by group.

Round to nearest between the smallest and the largest weight of a group of 32 along the input, as the usual formats do
it. The rounded weights are kept as ordinary numbers, so the attack needs no kernels and runs on any machine; what comes
out is what a model with such weights says (arXiv 2410.16454: unlearning by small changes is undone by 4 bits).

The adapter taken off and halved: what remains of the forgetting.

A LoRA adapter that can be removed is not deletion. The answers without it are the start model's own; this audit says
so with numbers, and `relearn export` is the way out. It decides no verdict, since whoever holds the merged weights has
no adapter to remove.

Relearning: a little fine-tuning, and the forgotten may be back (arXiv 2406.13356).

Three trainings, each from the merged weights, none of which shows the facts that are asked for afterwards:

    forget rows     a few of the forget set; they do not count in the answers
    same subjects   kept facts about the same people
    unrelated       generic questions and answers

The plain questions are asked at several steps, which gives a curve. A control model is trained the same way: what it
then says it guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import TrainerCallback

from relearn.audits.attack import AUDITS, AskAgain, Audit, Material
from relearn.data import Record
from relearn.data.record import evenly
from relearn.models.load import Loaded
from relearn.models.lora import add_lora
from relearn.unlearning.data.batches import plan_batches
from relearn.unlearning.data.encode import encode, record_example
from relearn.unlearning.method import METHODS
from relearn.unlearning.trainer import Loop, train

FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def _changes(fresh: Callable[[], Loaded], _material: Material, ask: AskAgain) -> None:
    for name, dtype in FORMATS.items():
        loaded = fresh()
        loaded.model.to(dtype)
        ask(name, loaded)


AUDITS.add(
    "precision",
    Audit(
        "precision",
        "Number formats",
        "precision",
        "arXiv 2410.16454",
        "merged weights in float32, bfloat16, float16",
        changes=_changes,
    ),
)


BITS = (8, 4)
GROUP = 32


def rounded(weight: torch.Tensor, bits: int, group: int = GROUP) -> torch.Tensor:
    """The weight (out, in) as `bits`-bit numbers would hold it, with one scale and one offset per `group` inputs.

    A last group that is not full is rounded on its own.
    """
    pieces = [_rounded(piece.float(), bits) for piece in weight.split(group, dim=1)]
    return torch.cat(pieces, dim=1).to(weight.dtype)


def _rounded(piece: torch.Tensor, bits: int) -> torch.Tensor:
    low = piece.amin(dim=1, keepdim=True)
    step = (piece.amax(dim=1, keepdim=True) - low) / (2**bits - 1)
    steps = torch.where(step > 0, (piece - low) / step.clamp_min(torch.finfo(torch.float32).tiny), 0.0)
    return low + steps.round() * step


@torch.no_grad()
def quantise(model: Any, bits: int) -> None:
    """Round every linear layer in place, the output layer left out."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    for layer in model.modules():
        if isinstance(layer, torch.nn.Linear) and layer is not head:
            layer.weight.copy_(rounded(layer.weight, bits))


def _changes_quantise(fresh: Callable[[], Loaded], _material: Material, ask: AskAgain) -> None:
    for bits in BITS:
        loaded = fresh()
        quantise(loaded.model, bits)
        ask(f"{bits} bit", loaded)


AUDITS.add(
    "quantise",
    Audit(
        "quantise",
        "Quantised weights",
        "precision",
        "arXiv 2410.16454",
        "merged weights rounded to 8 and 4 bits in groups of 32",
        changes=_changes_quantise,
    ),
)


SHARES = {"adapter off": 0.0, "adapter halved": 0.5}


def _changes_adapters(fresh: Callable[..., object], _material: Material, ask: AskAgain) -> None:
    for name, share in SHARES.items():
        ask(name, fresh(share=share))


AUDITS.add(
    "adapters",
    Audit(
        "adapters",
        "Adapter off and halved",
        "adapters",
        "relearn",
        "the adapter removed, and at half its strength",
        counts=False,
        changes=_changes_adapters,
    ),
)


STEPS = (5, 10, 20)
BATCH = 8
ROWS = 64
FORGET_SHARE = 0.1
LEARNING_RATE = 2e-4


def trainings(material: Material) -> dict[str, Sequence[Record]]:
    """The rows of each training; one without rows is left out."""
    few = max(1, min(BATCH, int(len(material.facts) * FORGET_SHARE)))
    subjects = {record.subject for record in material.facts if record.subject}
    found = {
        "forget rows": evenly(material.facts, few) if len(material.facts) > few else [],
        "same subjects": evenly([record for record in material.kept if record.subject in subjects], ROWS),
        "unrelated": evenly(material.generic, ROWS),
    }
    return {name: rows for name, rows in found.items() if rows}


class _AskAtSteps(TrainerCallback):
    def __init__(self, ask: Callable[[int], None]):
        self._ask = ask

    def on_step_end(self, args, state, control, model=None, **_):
        if state.global_step in STEPS and model is not None:
            training = model.training
            model.eval()
            self._ask(state.global_step)
            model.train(training)


def _changes_relearning(fresh: Callable[[], Loaded], material: Material, ask: AskAgain) -> None:
    for name, records in trainings(material).items():
        shown = [record.id for record in records] if name == "forget rows" else []
        loaded = fresh()
        model = add_lora(loaded.model, material.lora, seed=material.seed)
        changed = replace(loaded, model=model)
        rows = encode(loaded.chat, [record_example(record) for record in records])
        epochs = STEPS[-1] * BATCH / len(rows)
        batches = plan_batches(rows, (), batch_size=BATCH, accumulation=1, epochs=epochs, seed=material.seed)
        again = _AskAtSteps(
            lambda step, name=name, changed=changed, shown=shown: ask(f"{name}, {step} steps", changed, shown=shown)
        )
        train(
            model,
            batches[: STEPS[-1]],
            METHODS.get("relearn_gdf").objective({}),
            loop=Loop(LEARNING_RATE, schedule="constant", warmup=0.0, seed=material.seed),
            checkpoints=material.folder / "audits" / "checkpoints",
            log=lambda **_: None,
            callbacks=[again],
        )


AUDITS.add(
    "relearning",
    Audit(
        "relearning",
        "Relearning",
        "relearning",
        "arXiv 2406.13356",
        f"{', '.join(map(str, STEPS))} steps of fine-tuning on a few forget rows, on kept facts, on unrelated text",
        changes=_changes_relearning,
    ),
)
