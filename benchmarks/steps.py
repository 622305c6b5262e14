"""The training step four ways: gradients of ReLearn's loss for the same rows and the same adapter.

padded      what the public ReLearn code does: every row padded to 512 on the left, a second full model as reference,
            full-vocabulary logits everywhere, separate forwards, KL(P_theta0 || P_theta) averaged over all positions
dynamic     right padding to the longest row, full logits, separate forwards for forget and retain, the adapter switched
            off for the reference; the losses are taken at the answer positions alone
relearn     what `relearn run` does: `training.passes.observe` and the objective; the reference of its rows is computed
            inside the step, as if no row ever came up twice
planned     the same with the references computed beforehand, as in a real plan, where a retain row comes up every epoch
mixed       planned, with `unlearn.precision: bfloat16`
floor       the arithmetic alone, see floor.py
mixed_floor the same arithmetic in the precision of "mixed"

A step leaves its gradients in the model. The optimiser is the same for all and is left out.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax
from workload import Computed, Losses, Rows, Step, answer_tokens

from relearn.engine.forward import TokenRow
from relearn.models.lora import ready_for_autocast
from relearn.unlearning.data.batches import MicroBatch, with_step_sizes
from relearn.unlearning.method import METHODS
from relearn.unlearning.step import make_reference, step_loss

PADDED_LENGTH = 512
# More forget rows than this at once, with as many retain rows, would take public code tens of GB: micro-batches do.
PADDED_ROWS = 4


class Padded(Step):
    name = "padded"

    def __init__(self, model: Any, second: Any, rows: int = PADDED_ROWS):
        super().__init__(model)
        self.second = second
        self.rows = rows

    def __call__(self, rows: Rows) -> Losses:
        total: Losses = {}
        parts = list(zip(_cut(rows.forget, self.rows), _cut(rows.retain, self.rows), strict=True))
        for forget, retain in parts:
            for name, loss in self._micro(forget, retain, len(parts)).items():
                total[name] = total.get(name, 0) + loss
        return total

    def _micro(self, forget: Sequence[TokenRow], retain: Sequence[TokenRow], parts: int) -> Losses:
        device = next(self.model.parameters()).device
        loss_forget = self.model(**pad_left(forget, device), use_cache=False).loss
        inputs = pad_left(retain, device)
        output = self.model(**inputs, use_cache=False)
        with torch.no_grad():
            reference = self.second(**{**inputs, "labels": None}, use_cache=False).logits
        vocabulary = reference.shape[-1]
        divergence = kl_div(
            log_softmax(output.logits, -1).view(-1, vocabulary),
            log_softmax(reference, -1).view(-1, vocabulary),
            reduction="batchmean",
            log_target=True,
        )
        losses = {"gdf": loss_forget / parts, "gdr": output.loss / parts, "klr": divergence / parts}
        torch.stack(list(losses.values())).sum().backward()
        return {name: loss.detach() for name, loss in losses.items()}

    @torch.no_grad()
    def answers(self, model: Any, rows: Sequence[TokenRow]) -> torch.Tensor:
        """Logits of either model at the answer positions, for the check."""
        inputs = pad_left(rows, next(model.parameters()).device)
        labels = inputs.pop("labels")[:, 1:]
        return model(**inputs, use_cache=False).logits[:, :-1][labels != -100].float()

    def computed(self, rows: Rows) -> Computed:
        both, kept = PADDED_LENGTH * len(rows.all), PADDED_LENGTH * len(rows.retain)
        return Computed(both, kept, both, kept)


class Dynamic(Step):
    name = "dynamic"

    def __call__(self, rows: Rows) -> Losses:
        forget, targets = self.answers(rows.forget)
        losses = {"gdf": cross_entropy(forget, targets)}
        retain, targets = self.answers(rows.retain)
        losses["gdr"] = cross_entropy(retain, targets)
        reference = log_softmax(self.reference(rows.retain), -1)
        losses["klr"] = kl_div(reference, log_softmax(retain, -1), reduction="batchmean", log_target=True)
        torch.stack(list(losses.values())).sum().backward()
        return {name: loss.detach() for name, loss in losses.items()}

    def answers(self, rows: Sequence[TokenRow]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits at the answer positions, picked out of the full ones, and the answer tokens."""
        device = next(self.model.parameters()).device
        inputs = pad_right(rows, device)
        labels = inputs.pop("labels")[:, 1:]
        logits = self.model(**inputs, use_cache=False).logits
        return logits[:, :-1][labels != -100].float(), labels[labels != -100]

    @torch.no_grad()
    def reference(self, rows: Sequence[TokenRow]) -> torch.Tensor:
        with self.model.disable_adapter():
            return self.answers(rows)[0]

    def computed(self, rows: Rows) -> Computed:
        forget, retain = (len(part) * max(len(row.ids) for row in part) for part in (rows.forget, rows.retain))
        return Computed(forget + retain, retain, forget + retain, retain)


class Relearn(Step):
    name = "relearn"
    autocast = False

    def __init__(self, model: Any):
        super().__init__(model)
        self.objective = METHODS.get("relearn").objective({})

    def __call__(self, rows: Rows) -> Losses:
        micro = self.micro(rows)
        return self.train(micro, self.reference(micro))

    def reference(self, micro: MicroBatch) -> Any:
        return make_reference(self.model, [micro], self.objective, autocast=self.autocast)

    def train(self, micro: MicroBatch, reference: Any) -> Losses:
        loss, losses = step_loss(self.model, micro, self.objective, reference, autocast=self.autocast)
        loss.backward()
        return {name: loss.detach() for name, loss in losses.items()}

    def micro(self, rows: Rows) -> MicroBatch:
        return with_step_sizes([MicroBatch(rows.forget, rows.retain)])[0]

    def computed(self, rows: Rows) -> Computed:
        from relearn.engine.packing import pack

        return Computed(
            pack(rows.all, "cpu").ids.numel(),
            pack(rows.retain, "cpu").ids.numel(),
            answer_tokens(rows.all),
            answer_tokens(rows.retain),
        )


class Planned(Relearn):
    name = "planned"

    def __init__(self, model: Any):
        super().__init__(model)
        self._references: dict[Rows, Any] = {}

    def prepare(self, rows: Rows) -> None:
        if rows not in self._references:
            self._references[rows] = self.reference(self.micro(rows))

    def __call__(self, rows: Rows) -> Losses:
        return self.train(self.micro(rows), self._references[rows])

    def computed(self, rows: Rows) -> Computed:
        inside = super().computed(rows)
        return Computed(inside.trained, 0, inside.head_trained, inside.head_reference)


class Mixed(Planned):
    name = "mixed"
    autocast = True

    @contextmanager
    def around(self) -> Iterator[None]:
        """The other steps share the model, so it is made ready for mixed precision here alone."""
        ready_for_autocast(self.model)
        try:
            yield
        finally:
            ready_for_autocast(self.model, False)


NAMES = ("padded", "dynamic", "relearn", "planned", "mixed", "floor", "mixed_floor")


def make(name: str, model: Any, second: Any = None, rows: int = PADDED_ROWS) -> Step:
    """A step by name; "padded" needs the other copy of the model, `second`, and takes `rows` of each kind at once."""
    from floor import Floor, MixedFloor

    if name == "padded":
        return Padded(model, second, rows)
    kinds = {
        "dynamic": Dynamic,
        "relearn": Relearn,
        "planned": Planned,
        "mixed": Mixed,
        "floor": Floor,
        "mixed_floor": MixedFloor,
    }
    return kinds[name](model)


def second_copy(bare: Any) -> Any:
    """A second model with weights of its own, as public code loads one."""
    return copy.deepcopy(bare)


def padded_rows(model: Any) -> int:
    """How many rows of each kind public code can take at once here: 4, fewer where memory is short.

    By a generous estimate: activations of both forwards, and what the losses make of the logits.
    """
    import psutil

    weight, shape = next(model.parameters()), model.config
    if weight.device.type == "cuda":
        return PADDED_ROWS
    layers = 2 * shape.num_hidden_layers * (20 * shape.hidden_size + 6 * shape.intermediate_size)
    pair = PADDED_LENGTH * (layers + 14 * shape.vocab_size) * weight.element_size()
    fits = int(0.9 * psutil.virtual_memory().available / pair)
    return next((rows for rows in (4, 2) if rows <= fits), 1)


def pad_left(rows: Sequence[TokenRow], device: torch.device) -> dict[str, torch.Tensor]:
    """ids, mask and labels (B, 512); prompts and padding have the label -100."""
    return _padded(rows, PADDED_LENGTH, left=True, device=device)


def pad_right(rows: Sequence[TokenRow], device: torch.device) -> dict[str, torch.Tensor]:
    """ids, mask and labels (B, longest row)."""
    return _padded(rows, max(len(row.ids) for row in rows), left=False, device=device)


def _padded(rows: Sequence[TokenRow], length: int, *, left: bool, device: torch.device) -> dict[str, torch.Tensor]:
    shape = (len(rows), length)
    ids, mask = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, -100)
    for number, row in enumerate(rows):
        start = length - len(row.ids) if left else 0
        stop = start + len(row.ids)
        ids[number, start:stop] = torch.tensor(row.ids)
        mask[number, start:stop] = 1
        labels[number, start + row.answer_start : stop] = torch.tensor(row.answer_ids)
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device), "labels": labels.to(device)}


def _cut(rows: Sequence[TokenRow], size: int) -> list[Sequence[TokenRow]]:
    return [rows[at : at + size] for at in range(0, len(rows), size)]
