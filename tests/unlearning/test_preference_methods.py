"""Preference, refusal and mismatch methods: numbers worked by hand, and every formula once more on padded batches."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from by_hand import about, run, scored
from torch.nn.functional import cross_entropy, kl_div, log_softmax, logsigmoid, nll_loss, one_hot, pad, softmax

from relearn.core.errors import InputError
from relearn.unlearning.check_method import LENGTHS, Step, draw, gradients
from relearn.unlearning.losses.distillation import jsd, one_hot_jsd
from relearn.unlearning.method import METHODS

LN2, LN3, LN4 = math.log(2), math.log(3), math.log(4)
DPO = ["relearn_dpo", "relearn_dpo_gdr", "relearn_dpo_klr", "idk_dpo", "altpo"]
NAMES = [*DPO, "idk_nll", "jensun", "llmu", "relearn_npo"]
PUSHED = {"forget", "original", "original_reference_nll"}
PAIRS = {"forget", "rejected", "forget_reference_nll", "rejected_reference_nll"}


@pytest.mark.parametrize(
    ("name", "family", "data", "needs"),
    [
        ("relearn_dpo", "relearn", "preferred_synthesised", PAIRS),
        ("relearn_dpo_gdr", "relearn", "preferred_synthesised", PAIRS | {"retain"}),
        ("relearn_dpo_klr", "relearn", "preferred_synthesised", PAIRS | {"retain", "retain_reference"}),
        ("idk_dpo", "refusal", "preferred_refusals", PAIRS | {"retain"}),
        ("altpo", "preference", "preferred_alternates", PAIRS | {"retain"}),
        ("idk_nll", "refusal", "refusals", {"forget", "retain"}),
        ("jensun", "refusal", "refusals", {"forget", "retain", "retain_reference"}),
        ("llmu", "reverse optimisation", "mismatched", {"forget", "mismatched", "retain", "retain_reference"}),
        ("relearn_npo", "relearn", "original_beside_synthesised", PUSHED | {"retain", "retain_reference"}),
    ],
)
def test_what_they_are_made_of(name, family, data, needs):
    method = METHODS.get(name)
    assert (method.family, method.data, method.procedure) == (family, data, "train")
    assert method.objective({}).needs == needs


# The winner has two tokens with probabilities 3/4 and 1/4, the loser one with 1/2, the retain row one with 1/2.
WIN = scored([[LN3, 0.0], [LN3, 0.0]], [0, 1], [0, 0])
LOSE = scored([[0.0, 0.0]], [0], [0])
RETAIN = scored([[0.0, 0.0]], [1], [0])
RETAIN_REFERENCE = scored([[LN3, 0.0]], [1], [0])
# Start model: 3/8 for the winner, so 3/16 is half as likely; 1/4 for the loser, so 1/2 is twice as likely.
PAIR: dict[str, Any] = {
    "forget": WIN,
    "rejected": LOSE,
    "forget_reference_nll": torch.tensor([math.log(8 / 3)]),
    "rejected_reference_nll": torch.tensor([LN4]),
}


def test_dpo_by_hand():
    """win 1/2, lose 2: the difference of logs is ln 1/4, and -ln s(b ln 1/4) = ln(1 + 4^b)."""
    assert run("relearn_dpo", {"beta": 1.0}, **PAIR) == (about(2 * math.log(5)), {"dpo": about(2 * math.log(5))})
    assert run("relearn_dpo", **PAIR)[0] == about(20 * math.log(1 + 4**0.1))
    for factor in ("1", 1):
        assert run("relearn_dpo", {"factor": factor}, **PAIR)[0] == about(math.log(1 + 4**0.1))
    assert run("relearn_dpo", {"forget_weight": 0.5}, **PAIR)[0] == about(10 * math.log(1 + 4**0.1))


def test_dpos_retain_terms_by_hand():
    term = 20 * math.log(1 + 4**0.1)
    for name in ("relearn_dpo_gdr", "idk_dpo", "altpo"):
        loss, parts = run(name, **PAIR, retain=RETAIN)
        assert (loss, parts) == (about(term + LN2), {"dpo": about(term), "gdr": about(LN2)})
    # KL((1/2, 1/2) || (3/4, 1/4)) = 1/2 ln(2/3) + 1/2 ln 2
    kl = 0.5 * math.log(2 / 3) + 0.5 * LN2
    loss, parts = run("relearn_dpo_klr", **PAIR, retain=RETAIN, retain_reference=RETAIN_REFERENCE)
    assert (loss, parts) == (about(term + kl), {"dpo": about(term), "klr": about(kl)})


def test_dpo_at_the_start_model_is_ln_2():
    start = {"forget_reference_nll": WIN.sequence_nll(), "rejected_reference_nll": LOSE.sequence_nll()}
    assert run("relearn_dpo", **{**PAIR, **start})[0] == about(20 * LN2)


def test_dpo_sums_the_tokens_of_an_answer_and_means_over_pairs():
    """Two pairs; b 1. The first as above: 5. The second: P(win) = 1/2 x 1/2 = 1/4, 1/2 at the start: 1/2; P(lose) =
    3/4 x 1/4 = 3/16, as at the start: 1. Its difference is ln 1/2: 1 + 2 = 3.
    """
    win = scored([[LN3, 0.0], [LN3, 0.0], [0.0, 0.0], [0.0, 0.0]], [0, 1, 0, 1], [0, 0, 1, 1])
    lose = scored([[0.0, 0.0], [LN3, 0.0], [LN3, 0.0]], [0, 0, 1], [0, 1, 1])
    batch = {
        "forget": win,
        "rejected": lose,
        "forget_reference_nll": torch.tensor([math.log(8 / 3), LN2]),
        "rejected_reference_nll": torch.tensor([LN4, math.log(16 / 3)]),
    }
    both = run("relearn_dpo", {"beta": 1.0}, **batch)[0]
    assert both == about(2 * (math.log(5) + math.log(3)) / 2)
    # The first pair as a micro-batch of a step of two pairs is half of it.
    first = run("relearn_dpo", {"beta": 1.0}, **{**PAIR, "forget": replace(WIN, step_tokens=4, step_rows=2)})[0]
    assert first == about(math.log(5))


def test_idk_nll_by_hand():
    mean = (LN4 - LN3 + LN4) / 2
    assert run("idk_nll", forget=WIN, retain=RETAIN) == (about(mean + LN2), {"idk": about(mean), "gdr": about(LN2)})
    assert run("idk_nll", {"forget_weight": 2.0}, forget=WIN, retain=RETAIN)[0] == about(2 * mean + LN2)
    assert METHODS.get("idk_nll").objective({"retain_nll": 0.0}).needs == {"forget"}


def test_jensun_by_hand():
    """P = (3/4, 1/4) against (1, 0): M = (7/8, 1/8). JSD = 1/2 [3/4 ln 6/7 + 1/4 ln 2] + 1/2 ln 8/7.
    Against (0, 1): M = (3/8, 5/8). JSD = 1/2 [3/4 ln 2 + 1/4 ln 2/5] + 1/2 ln 8/5.
    Retain (1/2, 1/2) against (3/4, 1/4): M = (5/8, 3/8).
    """
    first = 0.5 * (0.75 * math.log(6 / 7) + 0.25 * LN2) + 0.5 * math.log(8 / 7)
    second = 0.5 * (0.75 * LN2 + 0.25 * math.log(2 / 5)) + 0.5 * math.log(8 / 5)
    held = 0.5 * (0.5 * math.log(4 / 5) + 0.5 * math.log(4 / 3))
    held += 0.5 * (0.75 * math.log(6 / 5) + 0.25 * math.log(2 / 3))
    batch = {"forget": WIN, "retain": RETAIN, "retain_reference": RETAIN_REFERENCE}
    loss, parts = run("jensun", **batch)
    assert parts == {"refusal_jsd": about((first + second) / 2), "retain_jsd": about(held)}
    assert loss == about((first + second) / 2 + held)
    weights = {"forget_weight": 0.5, "retain_jsd": 3.0}
    assert run("jensun", weights, **batch)[0] == about((first + second) / 4 + 3 * held)
    assert run("jensun", {"retain_jsd": 0.0}, forget=WIN)[0] == about((first + second) / 2)


@pytest.mark.parametrize("gap", [0.0, 30.0, 1e4, -30.0, -1e4])
def test_a_divergence_stays_between_0_and_ln_2_whatever_the_logits(gap):
    """Certain and right is 0, certain and wrong ln 2, and neither has a gradient that is not a number."""
    logits = torch.tensor([[gap, 0.0, 0.0]], requires_grad=True)
    reference = torch.tensor([[-gap, 0.0, 0.0]])
    for value in (one_hot_jsd(logits, torch.tensor([0])), jsd(logits, torch.tensor([0]), reference)):
        assert -1e-6 <= float(value.detach()) <= LN2 + 1e-6
        (gradient,) = torch.autograd.grad(value.sum(), logits)
        assert torch.isfinite(gradient).all()
    certain = {1e4: 0.0, -1e4: LN2}
    if gap in certain:
        assert float(one_hot_jsd(logits, torch.tensor([0])).detach()) == about(certain[gap])
        assert float(jsd(logits, torch.tensor([0]), reference).detach()) == about(LN2)


def test_llmu_by_hand():
    """0.5 x -mean(ln 4/3, ln 4) + mean over three random tokens of 1/2, 1/2, 3/4 + KL((3/4, 1/4) || (1/2, 1/2))."""
    mismatched = scored([[0.0, 0.0], [0.0, 0.0], [LN3, 0.0]], [0, 1, 0], [0, 1, 1])
    ga = -(LN4 - LN3 + LN4) / 2
    mismatch = (LN2 + LN2 + LN4 - LN3) / 3
    kl = 0.75 * math.log(3 / 2) + 0.25 * math.log(1 / 2)
    batch = {"forget": WIN, "mismatched": mismatched, "retain": RETAIN, "retain_reference": RETAIN_REFERENCE}
    loss, parts = run("llmu", **batch)
    assert parts == {"ga": about(ga), "mismatch": about(mismatch), "klr": about(kl)}
    assert loss == about(0.5 * ga + mismatch + kl)
    weights = {"forget_weight": 2.0, "mismatch_weight": 3.0, "retain_kl": 0.0, "retain_nll": 1.0}
    assert run("llmu", weights, **batch)[0] == about(2 * ga + 3 * mismatch + LN2)
    assert METHODS.get("llmu").objective({"mismatch_weight": 0}).needs == {"forget", "retain", "retain_reference"}


def test_relearn_npo_by_hand():
    """An original twice as likely as at the start: -(2/b) ln s(-b ln 2) with b 1 is 2 ln(1 + 2) = 2 ln 3."""
    gdf = (LN4 - LN3 + LN4) / 2
    kl = 0.5 * math.log(2 / 3) + 0.5 * math.log(2)
    batch = {"forget": WIN, "retain": RETAIN, "retain_reference": RETAIN_REFERENCE}
    pushed = {"original": LOSE, "original_reference_nll": torch.tensor([LN4])}
    loss, parts = run("relearn_npo", {"beta": 1.0, "forget_weight": 0.25}, **batch, **pushed)
    assert parts == {"gdf": about(gdf), "gdr": about(LN2), "klr": about(kl), "npo": about(2 * LN3)}
    assert loss == about(gdf + LN2 + kl + 0.5 * LN3)
    assert run("relearn_npo", **batch) == run("relearn", **batch)


# The same formulas once more in the shape public code has: rows padded on the right, labels -100 on the padding.
def padded(step: Step, stream: str, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, longest, V) logits with nonsense in the padding, and labels (rows, longest)."""
    pieces = (states @ step.weight).split(LENGTHS[stream])
    labels = step.targets[stream].split(LENGTHS[stream])
    longest = max(LENGTHS[stream])
    logits = [pad(piece, (0, 0, 0, longest - len(piece)), value=7.0) for piece in pieces]
    return torch.stack(logits), torch.stack([pad(row, (0, longest - len(row)), value=-100) for row in labels])


def sums(step: Step, stream: str) -> torch.Tensor:
    """log P of every whole answer."""
    logits, labels = padded(step, stream, step.trained[stream])
    return -cross_entropy(logits.transpose(1, 2), labels, ignore_index=-100, reduction="none").sum(1)


def mean_nll(step: Step, stream: str) -> torch.Tensor:
    logits, labels = padded(step, stream, step.trained[stream])
    return nll_loss(log_softmax(logits.flatten(0, 1), -1), labels.flatten(), ignore_index=-100)


def retain_kl(step: Step, *, reference_first: bool) -> torch.Tensor:
    own, start = step.trained["retain"] @ step.weight, step.fixed["retain_reference"] @ step.weight
    p, q = (start, own) if reference_first else (own, start)
    divergence = kl_div(log_softmax(q, -1), log_softmax(p, -1), log_target=True, reduction="none")
    return divergence.sum() / sum(LENGTHS["retain"])


def mixed(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """JSD of probabilities, summed over everything."""
    middle = ((p + q) / 2).log()
    return (kl_div(middle, p, reduction="sum") + kl_div(middle, q, reduction="sum")) / 2


def independent(name: str, step: Step) -> torch.Tensor:
    if name == "idk_nll":
        return mean_nll(step, "forget") + mean_nll(step, "retain")
    if name == "llmu":
        kept = retain_kl(step, reference_first=True)
        return -0.5 * mean_nll(step, "forget") + mean_nll(step, "mismatched") + kept
    if name == "jensun":
        logits, labels = padded(step, "forget", step.trained["forget"])
        counts = labels != -100
        refusal = mixed(softmax(logits[counts], -1), one_hot(labels[counts], logits.shape[-1]).to(logits))
        retain = softmax(step.trained["retain"] @ step.weight, -1)
        held = mixed(retain, softmax(step.fixed["retain_reference"] @ step.weight, -1))
        return refusal / int(counts.sum()) + held / len(retain)
    if name == "relearn_npo":
        changed = sums(step, "original") + step.fixed["original_reference_nll"]
        kept = mean_nll(step, "retain") + retain_kl(step, reference_first=False)
        return mean_nll(step, "forget") + kept - 2 * logsigmoid(-0.1 * changed).mean()
    ratio = sums(step, "forget") + step.fixed["forget_reference_nll"]
    ratio = ratio - sums(step, "rejected") - step.fixed["rejected_reference_nll"]
    loss = -20 * logsigmoid(0.1 * ratio).mean()
    if name == "relearn_dpo":
        return loss
    return loss + (retain_kl(step, reference_first=False) if name == "relearn_dpo_klr" else mean_nll(step, "retain"))


@pytest.mark.parametrize("form", ["logits", "head"])
@pytest.mark.parametrize("name", NAMES)
def test_an_independent_implementation_agrees(name, form):
    objective = METHODS.get(name).objective({})
    step = draw(objective, seed=3)
    loss, _ = objective(step.batch(form=form))
    expected = independent(name, step)
    assert torch.allclose(loss, expected, rtol=1e-10)
    own, other = gradients(step, loss), gradients(step, expected)
    assert own.keys() == other.keys()
    for stream in own:
        assert torch.allclose(own[stream], other[stream], rtol=1e-8, atol=1e-12), stream
        assert own[stream].abs().sum() > 0, stream


@pytest.mark.parametrize("name", NAMES)
def test_micro_batches_add_up_to_the_step(name):
    objective = METHODS.get(name).objective({})
    step = draw(objective, seed=5)
    whole, whole_parts = objective(step.batch())
    cut = [objective(step.batch((1,), (2, 0))), objective(step.batch((2, 0), (1,)))]
    assert torch.allclose(sum(loss for loss, _ in cut), whole, rtol=1e-12)
    for part, value in whole_parts.items():
        assert torch.allclose(sum(parts[part] for _, parts in cut), value, rtol=1e-12), part


def test_no_gradient_reaches_the_start_model():
    """References are constants: nothing flows into them, however they came about."""
    step = draw(METHODS.get("jensun").objective({}), seed=1)
    batch = step.batch(form="logits")
    assert batch.retain_reference is not None and batch.retain_reference.logits is not None
    start = batch.retain_reference.logits.requires_grad_()
    loss, _ = METHODS.get("jensun").objective({})(batch)
    assert torch.autograd.grad(loss, start, allow_unused=True) == (None,)


@pytest.mark.parametrize("name", DPO)
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"beta": 0}, "beta is 0: give a number above 0"),
        ({"beta": "0.1"}, "beta is '0.1': give a number above 0"),
        ({"factor": "2"}, "factor is '2': give"),
        ({"forget_weight": -1.0}, "forget_weight is -1.0"),
        ({"retain_nll": -1.0}, "retain_nll is -1.0"),
    ],
)
def test_impossible_options_of_dpo_are_refused(name, options, said):
    with pytest.raises(InputError, match=said):
        METHODS.get(name).objective(options)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("idk_nll", {"forget_weight": 0}, "forget_weight is 0: give a number above 0"),
        ("jensun", {"forget_weight": 0}, "forget_weight is 0: give a number above 0"),
        ("jensun", {"retain_jsd": -0.5}, "retain_jsd is -0.5: give a number of 0 or more"),
        ("llmu", {"mismatch_weight": -1}, "mismatch_weight is -1: give a number of 0 or more"),
        ("llmu", {"direction": "yonder"}, "direction is 'yonder'"),
    ],
)
def test_impossible_options_are_refused(name, options, said):
    with pytest.raises(InputError, match=said):
        METHODS.get(name).objective(options)
