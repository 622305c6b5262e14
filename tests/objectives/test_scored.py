"""Scored against numbers worked by hand: vocabulary of two, logits (ln 3, 0) give probabilities (3/4, 1/4)."""

from __future__ import annotations

import math

import pytest
import torch

from relearn.objectives import scored
from relearn.objectives.scored import Scored

LN3, LN4 = math.log(3), math.log(4)


def made(step_tokens: int = 3) -> Scored:
    logits = torch.tensor([[LN3, 0.0], [LN3, 0.0], [0.0, 0.0]])
    return Scored(logits, torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), 2, step_tokens)


def test_token_and_sequence_nll():
    # -ln 3/4, -ln 1/4, -ln 1/2
    expected = [LN4 - LN3, LN4, math.log(2)]
    assert made().token_nll().tolist() == pytest.approx(expected, abs=1e-6)
    assert made().sequence_nll().tolist() == pytest.approx([expected[0] + expected[1], expected[2]], abs=1e-6)


def test_means_are_shares_of_the_step():
    total = (LN4 - LN3) + LN4 + math.log(2)
    assert float(made(3).mean_nll()) == pytest.approx(total / 3, abs=1e-6)
    assert float(made(12).mean_nll()) == pytest.approx(total / 12, abs=1e-6)


def test_kl_in_both_directions():
    reference = torch.zeros(3, 2)
    # KL((3/4,1/4) || (1/2,1/2)) = 3/4 ln(3/2) + 1/4 ln(1/2); the other way 1/2 ln(2/3) + 1/2 ln 2
    forward = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    reverse = 0.5 * math.log(2 / 3) + 0.5 * math.log(2)
    assert made().token_kl(reference).tolist() == pytest.approx([forward, forward, 0.0], abs=1e-6)
    assert made().token_kl(reference, direction="reverse").tolist() == pytest.approx([reverse, reverse, 0.0], abs=1e-6)
    assert float(made(6).mean_kl(reference)) == pytest.approx(2 * forward / 6, abs=1e-6)


def test_kl_in_chunks_is_the_same(monkeypatch):
    torch.manual_seed(0)
    one = Scored(torch.randn(11, 7), torch.zeros(11, dtype=torch.long), torch.zeros(11, dtype=torch.long), 1, 11)
    other = torch.randn(11, 7)
    whole = one.token_kl(other)
    monkeypatch.setattr(scored, "CHUNK_TOKENS", 4)
    assert torch.allclose(one.token_kl(other), whole)
    independent = torch.nn.functional.kl_div(
        other.log_softmax(-1), one.logits.log_softmax(-1), log_target=True, reduction="none"
    ).sum(-1)
    assert torch.allclose(whole, independent, atol=1e-6)
