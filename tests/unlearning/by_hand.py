"""What tests with numbers worked by hand have in common: predictions from written-out logits, a method run on them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from relearn.unlearning.method import METHODS, Batch
from relearn.unlearning.token_loss import AnswerLogits


def scored(logits: list[list[float]], targets: list[int], row: list[int]) -> AnswerLogits:
    rows = max(row) + 1
    return AnswerLogits(torch.tensor(logits), torch.tensor(targets), torch.tensor(row), rows, len(targets), rows)


def run(name: str, options: dict[str, Any] | None = None, **batch: Any) -> tuple[float, dict[str, float]]:
    loss, parts = METHODS.get(name).objective(options or {})(Batch(**batch))
    return float(loss), {part: float(value) for part, value in parts.items()}


def about(value: float) -> Any:
    return pytest.approx(value, rel=1e-5, abs=1e-6)
