"""Relearning: a little fine-tuning, and the forgotten may be back (arXiv 2406.13356).

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

from transformers import TrainerCallback

from relearn.audits.attack import AUDITS, AskAgain, Audit
from relearn.audits.material import Material
from relearn.data import Record
from relearn.models.load import Loaded
from relearn.models.lora import add_lora
from relearn.records.sample import evenly
from relearn.unlearning.data.batches import plan_batches
from relearn.unlearning.data.encode import encode, record_example
from relearn.unlearning.method import METHODS
from relearn.unlearning.trainer import Loop, train

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


def _changes(fresh: Callable[[], Loaded], material: Material, ask: AskAgain) -> None:
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
            model, batches[: STEPS[-1]], METHODS.get("relearn_gdf").objective({}),
            Loop(LEARNING_RATE, schedule="constant", warmup=0.0, seed=material.seed),
            checkpoints=material.folder / "audits" / "checkpoints", log=lambda **_: None, callbacks=[again],
        )  # fmt: skip


AUDITS.add(
    "relearning",
    Audit(
        "relearning", "Relearning", "relearning", "arXiv 2406.13356",
        f"{', '.join(map(str, STEPS))} steps of fine-tuning on a few forget rows, on kept facts, on unrelated text",
        changes=_changes,
    ),
)  # fmt: skip
