"""Contract tests over every registered method, and ReLearn's own numbers."""

from __future__ import annotations

import json
import math
import sys
from typing import Any, get_args

import pytest
import relearn.objectives
import torch

from relearn.core.errors import InputError
from relearn.unlearning import token_loss
from relearn.unlearning.data.streams import Source
from relearn.unlearning.method import METHODS, Batch, Need, Stateful
from relearn.unlearning.token_loss import Scored
from unlearning.drawn import VOCABULARY, Form, Step, draw, gradients

NAMES = list(METHODS)
# Every method as it is, and those that compose retain terms with all of them in the less usual form.
ALL_TERMS = {"retain_nll": 0.5, "retain_kl": 2.0, "direction": "reverse", "normaliser": "legacy"}
CASES = [(name, {}) for name in NAMES]
CASES += [(name, ALL_TERMS) for name in NAMES if ALL_TERMS.keys() <= METHODS.get(name).defaults.keys()]


def of_cases(cases: list[tuple[str, dict[str, Any]]]) -> pytest.MarkDecorator:
    ids = [f"{name}{' all terms' if options else ''}" for name, options in cases]
    return pytest.mark.parametrize(("name", "options"), cases, ids=ids)


every_case = of_cases(CASES)
every_method = pytest.mark.parametrize("name", NAMES)


# Methods with factors that no gradient flows through: the forget term (mean over its tokens) of logits (A, V) with
# the factors taken from `start`. Written from the formulas, so it is an implementation of its own.
def _wga(logits: torch.Tensor, start: torch.Tensor, truth: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    return (start.softmax(-1)[truth] * logits.softmax(-1)[truth].log()).mean()


def _satimp(logits: torch.Tensor, start: torch.Tensor, truth: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    p = start.softmax(-1)[truth]
    return (p**5 * (1 - p) * logits.softmax(-1)[truth].log()).mean()


def _ceu(logits: torch.Tensor, start: torch.Tensor, truth: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    others = start.softmax(-1) * ~truth
    wanted = others / others.sum(-1, keepdim=True)
    return -(wanted * logits.softmax(-1).log()).sum(-1)[~first].mean()


HELD_FIXED = {"wga": _wga, "satimp": _satimp, "ceu": _ceu}


@every_case
def test_contract(name, options):
    method = METHODS.get(name)
    objective = method.objective(options)
    assert method.name == name and method.paper and method.family and method.data in get_args(Source)
    assert "forget" in objective.needs and objective.needs <= set(get_args(Need))
    step = draw(objective)
    loss, parts = objective(step.batch())
    assert loss.shape == () and torch.isfinite(loss)
    assert parts and all(part.shape == () and torch.isfinite(part) for part in parts.values())
    reached = {stream.split("_")[0] for stream, slope in gradients(step, loss).items() if slope.abs().sum() > 0}
    assert reached == {stream.split("_")[0] for stream in step.trained}


@of_cases([case for case in CASES if case[0] not in HELD_FIXED])
def test_gradient_equals_finite_differences(name, options):
    objective = METHODS.get(name).objective(options)
    step = draw(objective)

    slopes = gradients(step, objective(step.batch())[0])
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        ways = {
            name: torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype) for name, leaf in step.trained.items()
        }
        up, down = (
            objective(
                step.batch(trained={name: leaf.detach() + sign * ways[name] for name, leaf in step.trained.items()})
            )
            for sign in (1e-6, -1e-6)
        )
        expected = float(sum((slopes[name] * ways[name]).sum() for name in ways))
        assert float(up[0] - down[0]) / 2e-6 == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("name", HELD_FIXED)
def test_gradient_equals_finite_differences_with_detached_factors_held_fixed(name):
    objective = METHODS.get(name).objective({"retain_nll": 0.0})
    forget = draw(objective).batch(form="logits").forget
    assert forget.logits is not None
    start = forget.logits.detach()
    truth = torch.nn.functional.one_hot(forget.targets, VOCABULARY).bool()
    first = torch.tensor([True, *(forget.row[1:] != forget.row[:-1])])

    def value(logits: torch.Tensor) -> torch.Tensor:
        return HELD_FIXED[name](logits, start, truth, first)

    leaf = start.clone().requires_grad_()
    loss, _ = objective(Batch(Scored(leaf, forget.targets, forget.row, 3, 8, 3)))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(value(start)), rel=1e-9)
    numeric = torch.zeros_like(start)
    for place in range(start.numel()):
        nudge = torch.zeros(start.numel(), dtype=start.dtype)
        nudge[place] = 1e-6
        nudge = nudge.view_as(start)
        numeric.view(-1)[place] = (value(start + nudge) - value(start - nudge)) / 2e-6
    assert torch.allclose(leaf.grad, numeric, atol=1e-8)


@every_case
def test_row_order_changes_nothing(name, options):
    objective = METHODS.get(name).objective(options)
    step = draw(objective)
    loss, _ = objective(step.batch())
    other, _ = objective(step.batch((2, 0, 1), (1, 2, 0)))
    assert torch.allclose(loss, other, rtol=1e-12)
    assert_same(gradients(step, loss), gradients(step, other))


@every_case
def test_micro_batches_add_up_to_the_step(name, options):
    objective = METHODS.get(name).objective(options)
    step = draw(objective)
    whole, parts = objective(step.batch())
    one, of_one = objective(step.batch((0, 1), (0,)))
    other, of_other = objective(step.batch((2,), (1, 2)))
    assert torch.allclose(whole, one + other, rtol=1e-12)
    assert_same(parts, {part: of_one[part] + of_other[part] for part in parts})
    assert_same(gradients(step, whole), gradients(step, one + other))


@every_case
def test_states_with_a_head_are_the_same_as_logits(name, options, monkeypatch):
    monkeypatch.setattr(token_loss, "CHUNK_TOKENS", 3)
    objective = METHODS.get(name).objective(options)
    step = draw(objective)
    by_logits, parts = objective(step.batch(form="logits"))
    by_head, of_head = objective(step.batch(form="head"))
    assert torch.allclose(by_logits, by_head, rtol=1e-12)
    assert_same(parts, of_head)
    assert_same(gradients(step, by_logits), gradients(step, by_head))


@every_case
def test_no_full_vocabulary_is_kept_for_the_backward_pass(name, options, monkeypatch):
    """Memory grows with answer tokens, not with answer tokens x vocabulary."""
    monkeypatch.setattr(token_loss, "CHUNK_TOKENS", 1)
    step = draw(METHODS.get(name).objective(options))
    assert not full_vocabularies(name, options, step, "head")


def test_a_full_vocabulary_would_be_noticed():
    step = draw(METHODS.get("ga").objective({}))
    assert full_vocabularies("ga", {}, step, "logits")


def full_vocabularies(name: str, options: dict[str, Any], step: Step, form: Form) -> list[torch.Size]:
    """Shapes of what autograd keeps of a loss that are tokens x vocabulary, for more than a chunk of one token."""
    kept: list[torch.Tensor] = []

    def look(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(look, lambda tensor: tensor):
        METHODS.get(name).objective(options)(step.batch(form=form))
    assert kept
    shapes = [tensor.shape for tensor in kept if tensor.data_ptr() != step.weight.data_ptr()]
    return [shape for shape in shapes if len(shape) == 2 and shape[1] == VOCABULARY and shape[0] > 1]


@every_method
def test_trap_10_raw_logits_do_not_count_only_their_differences(name):
    objective = METHODS.get(name).objective({})
    step = draw(objective)
    assert torch.allclose(objective(step.batch())[0], objective(step.batch(shift=7.0))[0], rtol=1e-9)


@every_method
def test_a_method_can_be_listed_and_rebuilt_from_its_defaults(name):
    method = METHODS.get(name)
    assert json.loads(json.dumps(dict(method.defaults))) == dict(method.defaults)
    assert method.objective(dict(method.defaults)) == method.objective({})


@every_method
def test_unknown_option_is_refused_with_the_nearest_name(name):
    method = METHODS.get(name)
    for known in method.defaults:
        with pytest.raises(InputError, match=f"no option '{known}x'") as refused:
            method.objective({f"{known}x": 1})
        assert repr(known) in str(refused.value)


@of_cases([case for case in CASES if isinstance(METHODS.get(case[0]).objective({}), Stateful)])
def test_a_state_moves_on_and_keeps_its_shape(name, options):
    objective: Any = METHODS.get(name).objective(options)
    state = objective.initial_state
    assert json.loads(json.dumps(state)) == state
    _, parts = objective(draw(objective).batch())
    after = objective.next_state(state, {part: float(value.detach()) for part, value in parts.items()})
    assert after.keys() == state.keys() and after != state
    assert all(isinstance(value, float) and math.isfinite(value) for value in after.values())


TOY = '''
"""A toy: ascent on half of the NLL."""

from dataclasses import dataclass

from relearn.unlearning.method import METHODS, Method


@dataclass(frozen=True)
class Toy:
    weight: float = 0.5
    needs = frozenset({"forget"})

    def __call__(self, batch):
        parts = {"toy": -batch.forget.mean_nll()}
        return self.weight * parts["toy"], parts


METHODS.add("toy", Method("toy", "toys", "nobody, never", Toy, {"weight": 0.5}, "original"))
'''


def test_a_method_is_one_file_that_nothing_else_names(tmp_path, monkeypatch):
    (tmp_path / "toy.py").write_text(TOY, encoding="utf-8")
    assert len(TOY.splitlines()) < 30
    monkeypatch.setattr(relearn.objectives, "__path__", [*relearn.objectives.__path__, str(tmp_path)])
    monkeypatch.setattr(METHODS, "_discovered", False)
    monkeypatch.setattr(METHODS, "_items", dict(METHODS._items))
    try:
        assert "toy" in METHODS
        objective = METHODS.get("toy").objective({"weight": 2.0})
        loss, parts = objective(draw(objective).batch())
        assert loss == 2 * parts["toy"] < 0
    finally:
        sys.modules.pop("relearn.objectives.toy", None)


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.allclose(one[name], other[name], rtol=1e-9, atol=1e-12), name


def test_relearn_is_the_sum_of_its_three_terms():
    """Vocabulary of two, forget (3/4, 1/4) on the true token, retain uniform, reference (3/4, 1/4)."""
    ln3, zero = math.log(3), torch.tensor([0])
    forget = Scored(torch.tensor([[ln3, 0.0]]), torch.tensor([0]), zero, 1, 1, 1)
    retain = Scored(torch.zeros(1, 2), torch.tensor([1]), zero, 1, 1, 1)
    reference = Scored(torch.tensor([[ln3, 0.0]]), torch.tensor([1]), zero, 1, 1, 1)
    loss, parts = METHODS.get("relearn").objective({})(Batch(forget=forget, retain=retain, retain_reference=reference))
    gdf, gdr = math.log(4 / 3), math.log(2)
    klr = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert float(parts["gdf"]) == pytest.approx(gdf, abs=1e-6)
    assert float(parts["gdr"]) == pytest.approx(gdr, abs=1e-6)
    assert float(parts["klr"]) == pytest.approx(klr, abs=1e-6)
    assert float(loss) == pytest.approx(gdf + gdr + klr, abs=1e-6)


def test_legacy_divides_by_all_positions_of_rows_padded_to_512():
    ln3, zero = math.log(3), torch.tensor([0])
    kept = Scored(torch.zeros(1, 2), torch.tensor([1]), zero, 1, 1, 1)
    reference = Scored(torch.tensor([[ln3, 0.0]]), torch.tensor([1]), zero, 1, 1, 1)
    options = {"direction": "reverse", "normaliser": "legacy"}
    _, parts = METHODS.get("relearn").objective(options)(Batch(forget=kept, retain=kept, retain_reference=reference))
    # KL((3/4, 1/4) || (1/2, 1/2)) at one of 512 positions
    assert float(parts["klr"]) == pytest.approx((0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 512, rel=1e-5)


def test_variants_leave_terms_out():
    needs = {name: METHODS.get(name).objective({}).needs for name in METHODS}
    assert needs["relearn"] == {"forget", "retain", "retain_reference"}
    assert needs["relearn_gdf"] == {"forget"}
    assert needs["relearn_gdr"] == {"forget", "retain"}
    assert needs["relearn_klr"] == {"forget", "retain", "retain_reference"}


@pytest.mark.parametrize("options", [{"direction": "sideways"}, {"retain_nll": -1.0}, {"normaliser": "rows"}])
def test_impossible_options_are_refused(options):
    with pytest.raises(InputError):
        METHODS.get("relearn").objective(options)
