"""The first-order change of a step: by hand on a softmax of two tokens, and told against measured on a tiny model."""

from __future__ import annotations

import math

import pytest
import torch
from learning_dynamics import agreement, descent, kernel_step, logprobs, moved, norm, predicted, runners_up, trained
from transformers import AutoModelForCausalLM

from relearn.engine.forward import predict
from relearn.unlearning.data.batches import Size
from relearn.unlearning.method import METHODS, Batch
from relearn.unlearning.reference_model import to_answer_logits
from relearn.unlearning.token_loss import AnswerLogits
from unlearning.toy import FORGET, RETAIN

TWO = torch.tensor([math.log(3.0), 0.0], dtype=torch.float64)  # p = (3/4, 1/4); the true token is the first


def residual(method: str, logits: torch.Tensor, reference_nll: float = 0.0) -> torch.Tensor:
    """d L / d logits of one answer of one token."""
    leaf = logits.clone()[None].requires_grad_()
    rows = AnswerLogits(leaf, torch.tensor([0]), torch.tensor([0]), 1, 1, 1)
    objective = METHODS.get(method).objective({})
    loss, _ = objective(Batch(rows, forget_reference_nll=torch.tensor([reference_nll], dtype=torch.float64)))
    return torch.autograd.grad(loss, leaf)[0][0]


def test_gradient_ascent_by_hand():
    """Residual -(p - e) = (1/4, -1/4): with the identity for a kernel, the logits move by rate (-1/4, +1/4)."""
    slope = residual("ga", TWO)
    assert slope.tolist() == pytest.approx([0.25, -0.25])
    # mean change of the logits under p: 3/4 x -1/4 + 1/4 x 1/4 = -1/8, taken off each
    assert kernel_step(TWO, slope, 0.1).tolist() == pytest.approx([0.1 * (-1 / 4 + 1 / 8), 0.1 * (1 / 4 + 1 / 8)])


def test_npo_is_gradient_ascent_at_the_start_and_dies_down_with_forgetting():
    """d/d nll of -(2/b) log s(b d) is -2 s(-b d): -1 at d = 0; with b = 0.1 and d = 10, -2 / (1 + e) = -0.53788."""
    now = math.log(4 / 3)
    assert residual("npo", TWO, now).tolist() == pytest.approx([0.25, -0.25])
    assert residual("npo", TWO, now - 10).tolist() == pytest.approx([0.25 * 0.5378828, -0.25 * 0.5378828])


def test_cross_entropy_leaves_nothing_to_do_at_its_optimum():
    """On a new answer the residual p - e vanishes as it is learned, that of ascent on an old one nears -(p - e) = e."""
    sure = torch.tensor([20.0, 0.0], dtype=torch.float64)
    assert residual("idk_nll", sure).abs().max() < 1e-8
    gone = -sure
    assert residual("ga", gone).tolist() == pytest.approx([1.0, -1.0], abs=1e-8)


def test_mass_of_a_token_pushed_down_goes_to_the_next_likeliest():
    """Squeezing: among the others the likeliest gains most of its own log-probability, and gains for certain."""
    logits = torch.tensor([4.0, 2.0, 1.0, -1.0, -3.0], dtype=torch.float64)
    change = kernel_step(logits, residual("ga", logits))
    p = logits.softmax(-1)
    by_hand = p - p.square().sum() + p[0]
    assert change[1:].tolist() == pytest.approx(by_hand[1:].tolist())
    assert float(change[0]) == pytest.approx(float(2 * p[0] - 1 - p.square().sum()))
    assert change[1:].argmax() == 0 and change[0] < 0 < change[1]


@pytest.fixture(scope="module")
def model(tiny_model_dir):
    loaded = AutoModelForCausalLM.from_pretrained(tiny_model_dir, attn_implementation="eager", dtype=torch.float64)
    return loaded.eval()


@pytest.mark.parametrize("sign", [1, -1])
def test_told_is_measured_to_first_order(model, sign):
    """The remainder is of second order: a tenth of the step leaves a hundredth of it (first order: a tenth)."""
    rows, other = FORGET[:3], RETAIN[0]
    size = Size(sum(row.answer_tokens for row in rows), len(rows))
    direction = descent(model, sign * to_answer_logits(predict(model, rows), rows, size).mean_nll())
    assert norm(direction) > 0
    for row in (rows[0], other):
        beside = runners_up(model, row)
        assert not (beside == torch.tensor(row.ids[row.answer_start :])).any()
        start, told = logprobs(model, row, beside), predicted(model, row, beside, direction)
        rest = []
        # Normalisation rounds to float32 inside the model: a remainder of a smaller step is rounding alone (5e-8).
        for scale in (3e-3, 3e-4):
            with moved(model, direction, scale):
                rest.append(float((logprobs(model, row, beside) - start - scale * told).abs().max()))
        assert float(told.abs().max()) > 1e-3
        assert rest[0] < 0.05 * 3e-3 * float(told.abs().max())
        assert 50 < rest[0] / rest[1] < 200
    assert logprobs(model, rows[0], runners_up(model, rows[0])).dtype == torch.float64


def test_a_moved_model_is_put_back_to_the_bit(model):
    before = {name: weight.detach().clone() for name, weight in trained(model).items()}
    with moved(model, {name: torch.ones_like(weight) for name, weight in before.items()}, 0.1):
        assert not torch.equal(next(iter(trained(model).values())), next(iter(before.values())))
    assert all(torch.equal(before[name], weight) for name, weight in trained(model).items())


def test_agreement_by_hand():
    found = agreement([1, 2, -3], [2, 4, -6])
    assert found == {"pairs": 3, "correlation": 1.0, "same_sign": 1.0}
    assert agreement([1, -1], [1, 1])["same_sign"] == 0.5
    assert agreement([1.0], [1.0]) == {"pairs": 1, "correlation": None, "same_sign": None}
    assert agreement([0.1, 1, -1], [-0.1, 1, -1], least=0.5)["pairs"] == 2
