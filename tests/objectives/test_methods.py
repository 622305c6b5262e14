"""Contract tests over every registered method, and ReLearn's own numbers."""

from __future__ import annotations

import math

import pytest
import torch

from relearn.errors import InputError
from relearn.objectives.base import METHODS, Batch
from relearn.objectives.scored import Scored


def random_scored(tokens: int, rows: int, seed: int, step: int | None = None) -> Scored:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(tokens, 9, generator=generator, dtype=torch.float64).requires_grad_()
    targets = torch.randint(0, 9, (tokens,), generator=generator)
    owner = torch.arange(tokens) * rows // tokens
    return Scored(logits, targets, owner, rows, step or tokens)


def offered(needs) -> Batch:
    reference = torch.randn(8, 9, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return Batch(
        random_scored(10, 3, 1),
        random_scored(8, 2, 2) if "retain" in needs else None,
        reference if "retain_reference" in needs else None,
    )


@pytest.mark.parametrize("name", list(METHODS))
def test_contract(name):
    method = METHODS.get(name)
    objective = method.objective({})
    assert method.name == name and method.paper and method.family
    assert "forget" in objective.needs
    batch = offered(objective.needs)
    loss, parts = objective(batch)
    assert torch.isfinite(loss) and parts and all(torch.isfinite(part) for part in parts.values())
    loss.backward()
    assert batch.forget.logits.grad is not None and batch.forget.logits.grad.abs().sum() > 0
    rebuilt = method.objective(dict(method.defaults))
    assert rebuilt == objective


@pytest.mark.parametrize("name", list(METHODS))
def test_gradient_equals_finite_differences(name):
    objective = METHODS.get(name).objective({})
    batch = offered(objective.needs)

    def value(logits: torch.Tensor) -> torch.Tensor:
        forget = Scored(logits, batch.forget.targets, batch.forget.row, batch.forget.rows, batch.forget.step_tokens)
        return objective(Batch(forget, batch.retain, batch.retain_reference))[0]

    assert torch.autograd.gradcheck(value, (batch.forget.logits,), fast_mode=True)


@pytest.mark.parametrize("name", list(METHODS))
def test_unknown_option_is_refused(name):
    with pytest.raises(InputError, match="no option 'retain_knl'"):
        METHODS.get(name).objective({"retain_knl": 1})


def test_relearn_is_the_sum_of_its_three_terms():
    """Vocabulary of two, forget (3/4, 1/4) on the true token, retain uniform, reference (3/4, 1/4)."""
    ln3 = math.log(3)
    forget = Scored(torch.tensor([[ln3, 0.0]]), torch.tensor([0]), torch.tensor([0]), 1, 1)
    retain = Scored(torch.zeros(1, 2), torch.tensor([1]), torch.tensor([0]), 1, 1)
    batch = Batch(forget, retain, torch.tensor([[ln3, 0.0]]))
    loss, parts = METHODS.get("relearn").objective({})(batch)
    gdf, gdr = math.log(4 / 3), math.log(2)
    klr = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert float(parts["gdf"]) == pytest.approx(gdf, abs=1e-6)
    assert float(parts["gdr"]) == pytest.approx(gdr, abs=1e-6)
    assert float(parts["klr"]) == pytest.approx(klr, abs=1e-6)
    assert float(loss) == pytest.approx(gdf + gdr + klr, abs=1e-6)


def test_variants_leave_terms_out():
    needs = {name: METHODS.get(name).objective({}).needs for name in METHODS}
    assert needs["relearn"] == {"forget", "retain", "retain_reference"}
    assert needs["relearn_gdf"] == {"forget"}
    assert needs["relearn_gdr"] == {"forget", "retain"}


@pytest.mark.parametrize("options", [{"direction": "sideways"}, {"retain_nll": -1.0}])
def test_impossible_options_are_refused(options):
    with pytest.raises(InputError):
        METHODS.get("relearn").objective(options)
