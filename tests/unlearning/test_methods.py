"""Contract tests over every registered method, `check_method` itself, and ReLearn's own numbers."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from relearn.core.errors import InputError
from relearn.unlearning import losses, token_loss
from relearn.unlearning.check_method import VOCABULARY, Form, Step, check_method, draw, gradients
from relearn.unlearning.data.streams import StreamSource
from relearn.unlearning.method import INPUTS, METHODS, AnswerLogits, Batch, LossTerms, method
from relearn.unlearning.options import Positive

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
    assert method.name == name and method.paper and method.family and method.data in get_args(StreamSource)
    assert "forget" in objective.needs and objective.needs <= INPUTS.keys()
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
    loss, _ = objective(Batch(AnswerLogits(leaf, forget.targets, forget.row, 3, 8, 3)))
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
def test_every_method_passes_its_check(name, options):
    """Shape, gradient, row order, micro-batches, step means, states with a head: see check_method."""
    assert check_method(name, options, tolerance=1e-12) == []


@every_case
def test_micro_batches_add_up_to_the_step(name, options):
    """Once more without check_method, which the other contracts rest on."""
    objective = METHODS.get(name).objective(options)
    step = draw(objective)
    whole, terms = objective(step.batch())
    one, of_one = objective(step.batch((0, 1), (0,)))
    other, of_other = objective(step.batch((2,), (1, 2)))
    assert torch.allclose(whole, one + other, rtol=1e-12)
    assert_same(terms, {term: of_one[term] + of_other[term] for term in terms})
    assert_same(gradients(step, whole), gradients(step, one + other))


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


@of_cases([case for case in CASES if METHODS.get(case[0]).objective({}).initial_state])
def test_a_state_moves_on_and_keeps_its_shape(name, options):
    objective = METHODS.get(name).objective(options)
    state = objective.initial_state
    assert json.loads(json.dumps(state)) == state
    _, parts = objective(draw(objective).batch())
    after = objective.next_state(state, {part: float(value.detach()) for part, value in parts.items()})
    assert after.keys() == state.keys() and after != state
    assert all(isinstance(value, float) and math.isfinite(value) for value in after.values())


TOY = """
from torch import Tensor
from torch.nn.functional import logsigmoid

from relearn.unlearning.method import AnswerLogits, method


@method("toy", paper="nobody, never", data="original", defaults=dict(beta=0.1, forget_weight=1.0, retain_nll=1.0))
def toy(forget: AnswerLogits, forget_reference_nll: Tensor, *, beta: float) -> Tensor:
    log_ratio = forget.sequence_nll() - forget_reference_nll
    return forget.mean_rows(-2 / beta * logsigmoid(beta * log_ratio))
"""


@pytest.fixture
def registry(monkeypatch):
    """The registry, which forgets afterwards what a test adds."""
    assert "npo" in METHODS
    monkeypatch.setattr(METHODS, "_items", dict(METHODS._items))
    return METHODS


def test_a_method_is_one_file_that_nothing_else_names(tmp_path, monkeypatch, registry):
    (tmp_path / "toy_loss.py").write_text(TOY, encoding="utf-8")
    monkeypatch.setattr(losses, "__path__", [*losses.__path__, str(tmp_path)])
    monkeypatch.setattr(METHODS, "_discovered", False)
    assert "toy" in METHODS and check_method("toy") == []
    objective, npo = METHODS.get("toy").objective({"forget_weight": 0.5}), METHODS.get("npo_gdr").objective({})
    assert objective.needs == npo.needs
    batch = draw(objective).batch()
    loss, terms = objective(batch)
    same, npo_terms = npo(batch)
    assert list(terms) == ["toy", "gdr"] and torch.equal(terms["toy"], npo_terms["npo"])
    assert torch.equal(loss, 0.5 * npo_terms["npo"] + npo_terms["gdr"]) and not torch.equal(loss, same)
    importlib.import_module("relearn.unlearning.losses.toy_loss")


def test_a_loss_may_take_retain_rows_itself_and_name_its_terms(registry):
    @method("mine", paper="nobody", data="original", defaults=dict(beta=0.5))
    def mine(forget: AnswerLogits, retain: AnswerLogits | None = None, *, beta: float) -> tuple[Tensor, LossTerms]:
        terms = {"ascent": -forget.mean_nll()}
        loss = beta * terms["ascent"]
        if retain is None:
            return loss, terms
        terms["kept"] = retain.mean_nll()
        return loss + terms["kept"], terms

    assert METHODS.get("mine").defaults == {"beta": 0.5} and METHODS.get("mine").family == "custom"
    objective = METHODS.get("mine").objective({})
    assert objective.needs == {"forget", "retain"} and check_method("mine") == []
    assert list(objective(Batch(draw(objective).batch().forget))[1]) == ["ascent"]


def test_the_defaults_of_parameters_are_options_and_types_are_checked(registry):
    @method("mine", paper="nobody")
    def mine(forget: AnswerLogits, *, beta: Positive = 0.5, steps: int = 3, exact: bool = True) -> Tensor:
        return beta * forget.mean_nll()

    assert METHODS.get("mine").defaults == {"beta": 0.5, "steps": 3, "exact": True}
    for options, message in (
        ({"beta": 0}, "beta is 0: give a number above 0"),
        ({"steps": 1.5}, "steps is 1.5: give a whole number"),
        ({"exact": "no"}, "exact is 'no': give true or false"),
    ):
        with pytest.raises(InputError, match=message):
            METHODS.get("mine").objective(options)


def test_signatures_that_do_not_fit_are_refused(registry):
    def unknown(forget: AnswerLogits, forget_refrence: AnswerLogits) -> Tensor: ...
    def without_forget(retain: AnswerLogits) -> Tensor: ...
    def without_layer(forget: AnswerLogits, forget_states: Tensor) -> Tensor: ...
    def with_option(forget: AnswerLogits, *, beta: float) -> Tensor: ...
    def plain(forget: AnswerLogits) -> Tensor: ...

    for function, defaults, message in (
        (unknown, {}, "forget_refrence.*did you mean 'forget_reference'"),
        (without_forget, {}, "does not take `forget`"),
        (without_layer, {}, "needs an option `layer`"),
        (with_option, {}, "takes the option 'beta', which has no default"),
        (plain, {"beta": 0.1}, "`defaults` has 'beta', which plain does not take"),
    ):
        with pytest.raises(TypeError, match=message):
            method("wrong", paper="nobody", defaults=defaults)(function)


def _summed(forget: AnswerLogits) -> Tensor:
    return forget.token_nll().sum()


def _summed_rows(forget: AnswerLogits) -> Tensor:
    return forget.sequence_nll().sum()


def _mean_of_the_micro_batch(forget: AnswerLogits) -> Tensor:
    return forget.token_nll().mean()


def _per_row(forget: AnswerLogits) -> Tensor:
    return forget.sequence_nll()


def _per_token(forget: AnswerLogits) -> Tensor:
    return -forget.token_nll()


def _number(forget: AnswerLogits) -> Tensor:
    return forget.mean_nll().item()  # pyright: ignore[reportReturnType]


def _detached(forget: AnswerLogits) -> Tensor:
    return forget.mean_nll().detach()


def _infinite(forget: AnswerLogits) -> Tensor:
    return (forget.mean_nll() * 0).log()


def _logits_only(forget: AnswerLogits) -> Tensor:
    assert forget.logits is not None
    return forget.mean(forget.logits.log_softmax(-1)[:, 0])


def _raw_logits(forget: AnswerLogits) -> Tensor:
    return forget.mean(forget.token_loss(lambda logits, targets: logits.gather(1, targets[:, None])[:, 0]))


def _across_tokens(forget: AnswerLogits) -> Tensor:
    return forget.mean(
        forget.token_loss(lambda logits, _: logits.log_softmax(-1)[:, 0] * logits.log_softmax(-1).amax())
    )


def _first_row(forget: AnswerLogits) -> Tensor:
    weights = torch.linspace(1, 2, forget.rows)
    return forget.mean_rows(weights * forget.sequence_nll())


def _in_place(forget: AnswerLogits) -> Tensor:
    def value(logits: Tensor, targets: Tensor) -> Tensor:
        logits.data.sub_(1.0)
        return token_loss.nll(logits, targets)

    return forget.mean(forget.token_loss(value))


def _unused_retain(forget: AnswerLogits, retain: AnswerLogits) -> Tensor:
    return forget.mean_nll()


def _other_rows(forget: AnswerLogits) -> Tensor:
    nll = forget.sequence_nll()
    return forget.mean_rows(nll * nll.max().detach())


def _raises(forget: AnswerLogits) -> Tensor:
    raise ValueError("no such thing")


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (_summed, "a sum, not a mean over the optimiser step: take `forget.mean(values)`"),
        (_summed_rows, "a sum, not a mean"),
        (_mean_of_the_micro_batch, "a mean over the micro-batch"),
        (_per_row, "the loss has shape (3,): return one number"),
        (_per_token, "the loss has shape (8,): return one number"),
        (_number, "the loss is of type float: return a tensor"),
        (_detached, "no gradient: compute it without .detach()"),
        (_infinite, "the loss is -inf"),
        (_logits_only, "when a batch holds states and a head instead of logits: take `forget.token_nll()`"),
        (_raw_logits, "constant is added to all logits"),
        (_across_tokens, "must treat every token on its own"),
        (_first_row, "depends on the order of the rows"),
        (_in_place, "changes `forget.logits` in place"),
        (_unused_retain, "no gradient reaches `retain`"),
        (_other_rows, "must not depend on other rows"),
        (_raises, "raises ValueError (no such thing)"),
    ],
)
def test_check_method_finds_what_is_wrong_and_says_how_to_mend_it(
    function: Callable[..., Tensor], problem: str, registry
):
    method("wrong", paper="nobody", data="original", defaults=dict(forget_weight=1.0))(function)
    problems = check_method("wrong")
    assert any(problem in line for line in problems), problems
    assert all("\n" not in line for line in problems)


def test_check_method_reports_defaults_that_are_refused(registry):
    @method("wrong", paper="nobody", defaults=dict(beta=-1.0))
    def wrong(forget: AnswerLogits, *, beta: Positive) -> Tensor:
        return beta * forget.mean_nll()

    (problem,) = check_method("wrong")
    assert "beta is -1.0: give a number above 0" in problem
    with pytest.raises(InputError, match="unknown method"):
        check_method("nothing_like_it")


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.allclose(one[name], other[name], rtol=1e-9, atol=1e-12), name


def test_relearn_is_the_sum_of_its_three_terms():
    """Vocabulary of two, forget (3/4, 1/4) on the true token, retain uniform, reference (3/4, 1/4)."""
    ln3, zero = math.log(3), torch.tensor([0])
    forget = AnswerLogits(torch.tensor([[ln3, 0.0]]), torch.tensor([0]), zero, 1, 1, 1)
    retain = AnswerLogits(torch.zeros(1, 2), torch.tensor([1]), zero, 1, 1, 1)
    reference = AnswerLogits(torch.tensor([[ln3, 0.0]]), torch.tensor([1]), zero, 1, 1, 1)
    loss, parts = METHODS.get("relearn").objective({})(Batch(forget=forget, retain=retain, retain_reference=reference))
    gdf, gdr = math.log(4 / 3), math.log(2)
    klr = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert float(parts["gdf"]) == pytest.approx(gdf, abs=1e-6)
    assert float(parts["gdr"]) == pytest.approx(gdr, abs=1e-6)
    assert float(parts["klr"]) == pytest.approx(klr, abs=1e-6)
    assert float(loss) == pytest.approx(gdf + gdr + klr, abs=1e-6)


def test_legacy_divides_by_all_positions_of_rows_padded_to_512():
    ln3, zero = math.log(3), torch.tensor([0])
    kept = AnswerLogits(torch.zeros(1, 2), torch.tensor([1]), zero, 1, 1, 1)
    reference = AnswerLogits(torch.tensor([[ln3, 0.0]]), torch.tensor([1]), zero, 1, 1, 1)
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
