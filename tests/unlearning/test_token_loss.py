"""AnswerLogits against numbers worked by hand: vocabulary of two, logits (ln 3, 0) give probabilities (3/4, 1/4)."""

from __future__ import annotations

import math

import pytest
import torch

from relearn.unlearning import token_loss
from relearn.unlearning.token_loss import AnswerLogits

LN3, LN4 = math.log(3), math.log(4)


def made(step_tokens: int = 3) -> AnswerLogits:
    logits = torch.tensor([[LN3, 0.0], [LN3, 0.0], [0.0, 0.0]])
    return AnswerLogits(logits, torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), 2, step_tokens)


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
    assert float(made(6).mean(made(6).token_kl(reference))) == pytest.approx(2 * forward / 6, abs=1e-6)


def test_kl_in_chunks_is_the_same(monkeypatch):
    torch.manual_seed(0)
    one = AnswerLogits(torch.randn(11, 7), torch.zeros(11, dtype=torch.long), torch.zeros(11, dtype=torch.long), 1, 11)
    other = torch.randn(11, 7)
    whole = one.token_kl(other)
    monkeypatch.setattr(token_loss, "CHUNK_TOKENS", 4)
    assert torch.allclose(one.token_kl(other), whole)
    independent = torch.nn.functional.kl_div(
        other.log_softmax(-1), one.logits.log_softmax(-1), log_target=True, reduction="none"
    ).sum(-1)
    assert torch.allclose(whole, independent, atol=1e-6)


def twins() -> tuple[AnswerLogits, AnswerLogits, torch.Tensor, torch.nn.Linear]:
    """The same predictions as logits and as states with an output layer, and reference states."""
    torch.manual_seed(0)
    head = torch.nn.Linear(5, 7, bias=False, dtype=torch.float64).requires_grad_(False)
    states = torch.randn(11, 5, dtype=torch.float64).requires_grad_()
    targets, row = torch.randint(0, 7, (11,)), torch.arange(11) // 4
    one = AnswerLogits(head(states), targets, row, 3, 11)
    other = AnswerLogits(None, targets, row, 3, 11, 3, states, head)
    return one, other, torch.randn(11, 5, dtype=torch.float64), head


def squared_margin(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (logits.max(-1).values - logits.mean(-1)) ** 2 + logits.gather(1, targets[:, None])[:, 0]


BOTH = [token_loss.nll, token_loss.kl_forward]
VALUES = {
    "nll": lambda seen, reference: seen.token_nll(),
    "forward": lambda seen, reference: seen.token_kl(reference),
    "reverse": lambda seen, reference: seen.token_kl(reference, direction="reverse"),
    "any": lambda seen, reference: seen.token_loss(squared_margin),
    "weighted": lambda seen, reference: seen.weighted_token_loss(
        [token_loss.nll, token_loss.kl_forward], [0.5, 2.0], reference
    )[0],
}


@pytest.mark.parametrize("name", VALUES)
def test_states_with_a_head_give_the_values_and_gradients_of_logits(name, monkeypatch):
    monkeypatch.setattr(token_loss, "CHUNK_TOKENS", 4)
    one, other, kept, head = twins()
    found = []
    for seen in (one, other):
        reference = AnswerLogits(None, seen.targets, seen.row, 3, 11, 3, kept, head)
        values = VALUES[name](seen, reference)
        weights = torch.linspace(-1, 1, 11, dtype=torch.float64)
        (slope,) = torch.autograd.grad((values**2 * weights).sum(), other.states, retain_graph=True)
        found.append((values.detach(), slope))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-10)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-10)


@pytest.mark.parametrize("value", [token_loss.nll, token_loss.kl_forward, token_loss.kl_reverse])
def test_a_closed_form_gradient_is_the_gradient_of_its_value(value):
    torch.manual_seed(1)
    logits = torch.randn(6, 9, dtype=torch.float64).requires_grad_()
    targets, reference = torch.randint(0, 9, (6,)), torch.randn(6, 9, dtype=torch.float64)
    values = value(logits, targets, reference)
    (expected,) = torch.autograd.grad(values.sum(), logits)
    found, slope = value.with_gradient(logits.detach(), targets, reference)
    assert torch.allclose(found, values, atol=1e-12)
    assert torch.allclose(slope, expected, atol=1e-12)


def test_no_gradient_is_kept_where_none_is_asked_for():
    _, other, _, _ = twins()
    with torch.no_grad():
        assert not other.token_nll().requires_grad
    assert other.logits_chunk(0, 3).shape == (3, 7)
    assert not other.logits_chunk(0, 3).requires_grad


def test_weighted_values_are_those_of_each_and_carry_no_gradient_alone():
    one, other, kept, head = twins()
    reference = AnswerLogits(None, one.targets, one.row, 3, 11, 3, kept, head)
    for seen in (one, other):
        total, (losses, divergence) = seen.weighted_token_loss(
            [token_loss.nll, token_loss.kl_forward], [0.5, 2.0], reference
        )
        assert torch.allclose(losses, one.token_nll(), atol=1e-10)
        assert torch.allclose(divergence, one.token_kl(reference), atol=1e-10)
        assert torch.allclose(total, 0.5 * losses + 2 * divergence, atol=1e-10)
        assert total.requires_grad and not losses.requires_grad and not divergence.requires_grad


def test_chunks_are_of_like_size(monkeypatch):
    monkeypatch.setattr(token_loss, "CHUNK_TOKENS", 4)
    # 9 tokens in chunks of at most 4 are three of 3, not two of 4 and a single one
    assert token_loss._chunk_bounds(9) == [(0, 3), (3, 6), (6, 9)]
    assert token_loss._chunk_bounds(4) == [(0, 4)]
    assert token_loss._chunk_bounds(0) == []


def test_row_sums_and_means():
    assert made().sum_rows(torch.tensor([1.0, 2.0, 4.0])).tolist() == [3.0, 4.0]
    assert made().row_tokens().tolist() == [2.0, 1.0]
    # two rows here of five in the step
    part = AnswerLogits(made().logits, made().targets, made().row, 2, 9, 5)
    assert float(part.mean_rows(torch.tensor([1.0, 2.0]))) == pytest.approx(3 / 5)
    assert float(part.mean(torch.tensor([1.0, 2.0, 3.0]))) == pytest.approx(6 / 9)
