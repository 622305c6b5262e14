"""What the tests of training share: rows of random tokens, a fresh tiny model, and one training of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from relearn.core.config import Lora
from relearn.engine.forward import TokenRow
from relearn.models.lora import add_lora
from relearn.unlearning.data.batches import MicroBatch, plan_batches
from relearn.unlearning.method import METHODS
from relearn.unlearning.trainer import Loop, train
from tiny import VOCABULARY

LORA = Lora(r=4, alpha=8, dropout=0.0)
PROMPT = 9


def rows(prefix: str, count: int, seed: int) -> list[TokenRow]:
    """Rows of 12 to 24 tokens that begin alike, as with a chat template, so that their prompts are shared."""
    generator = torch.Generator().manual_seed(seed)
    begin = tuple(range(40, 40 + PROMPT - 2))
    lengths = torch.randint(3, 15, (count,), generator=generator).tolist()
    own = [torch.randint(0, VOCABULARY, (length + 2,), generator=generator).tolist() for length in lengths]
    return [TokenRow(f"{prefix}{n}", (*begin, *ids), PROMPT) for n, ids in enumerate(own)]


FORGET, RETAIN = rows("f", 24, 1), rows("r", 10, 2)
REJECTED = {row.id: [TokenRow(f"{row.id}-no", (*row.ids[:PROMPT], 7, 8, 9), PROMPT)] for row in FORGET}


def fresh(folder: Path, *, lora: bool = True, attention: str | None = None) -> Any:
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention)
    model.requires_grad_(not lora)
    return add_lora(model, LORA, seed=0) if lora else model


def plan(method: str = "relearn", *, batch_size: int = 4, accumulation: int = 1, forget=FORGET) -> list[MicroBatch]:
    paired = {"rejected": REJECTED} if "rejected" in METHODS.get(method).objective({}).needs else None
    return plan_batches(
        forget, RETAIN, batch_size=batch_size, accumulation=accumulation, epochs=1, seed=0, paired=paired
    )


def trained(model: Any, batches: list[MicroBatch], folder: Path, *, method="relearn", options=None, rate=1e-2, **loop):
    """(trained weights by name, logged rows) after one training of `model`."""
    callbacks = loop.pop("callbacks", ())
    logged: list[dict[str, Any]] = []
    train(
        model,
        batches,
        METHODS.get(method).objective(options or {}),
        loop=Loop(rate, **loop),
        checkpoints=folder / "checkpoints",
        log=lambda **row: logged.append(row),
        callbacks=callbacks,
    )
    return weights(model), logged


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}


def agree(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], rate: float) -> None:
    """Two trainings at learning rate `rate` ended alike but for rounding, which is small and has no direction.

    Adam divides by the gradient's own size, so a weight whose gradient is rounding alone may differ by part of a step.
    """
    assert one.keys() == other.keys()
    apart = torch.cat([(one[name] - other[name]).flatten() for name in one]).double()
    assert apart.square().mean().sqrt() < 5e-3 * rate
    assert apart.abs().max() < rate
    assert apart.mean().abs() <= 0.2 * apart.std()


def farthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)
