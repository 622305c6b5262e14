"""The methods of reverse optimisation: numbers worked by hand, and every formula a second time on padded batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from by_hand import about, run, scored
from torch.nn.functional import cross_entropy, kl_div, one_hot

from relearn.core.errors import InputError
from relearn.unlearning.method import METHODS, Batch
from relearn.unlearning.token_loss import AnswerLogits

LN2, LN3, LN4 = math.log(2), math.log(3), math.log(4)
NAMES = ["ga", "grad_diff", "ga_klr", "npo", "npo_gdr", "npo_klr", "simnpo", "wga", "satimp", "ceu", "pdu", "undial"]


# One row of two tokens with probabilities 3/4 and 1/4 for the true token; a retain token with probability 1/2.
FORGET = scored([[LN3, 0.0], [LN3, 0.0]], [0, 1], [0, 0])
RETAIN = scored([[0.0, 0.0]], [1], [0])
RETAIN_REFERENCE = scored([[LN3, 0.0]], [1], [0])
# -ln 3/4 and -ln 1/4
FIRST_NLL, SECOND_NLL = LN4 - LN3, LN4


def test_they_are_all_there_and_train_on_the_original_answers():
    methods = [METHODS.get(name) for name in NAMES]
    assert {method.family for method in methods} == {"reverse optimisation"}
    assert {method.data for method in methods} == {"original"}
    assert {method.procedure for method in methods} == {"train"}


@pytest.mark.parametrize(
    ("name", "needs"),
    {
        "ga": {"forget"},
        "grad_diff": {"forget", "retain"},
        "ga_klr": {"forget", "retain", "retain_reference"},
        "npo": {"forget", "forget_reference_nll"},
        "npo_gdr": {"forget", "forget_reference_nll", "retain"},
        "npo_klr": {"forget", "forget_reference_nll", "retain", "retain_reference"},
        "simnpo": {"forget", "retain"},
        "wga": {"forget", "retain"},
        "satimp": {"forget", "retain"},
        "ceu": {"forget"},
        "pdu": {"forget", "retain"},
        "undial": {"forget", "forget_reference"},
    }.items(),
)
def test_only_the_passes_that_count_are_asked_for(name, needs):
    assert METHODS.get(name).objective({}).needs == needs


def test_gradient_ascent_by_hand():
    mean = (FIRST_NLL + SECOND_NLL) / 2
    assert run("ga", forget=FORGET) == (about(-mean), {"ga": about(-mean)})
    loss, parts = run("grad_diff", forget=FORGET, retain=RETAIN)
    assert (loss, parts) == (about(-mean + LN2), {"ga": about(-mean), "gdr": about(LN2)})
    # KL((1/2, 1/2) || (3/4, 1/4)) = 1/2 ln(2/3) + 1/2 ln 2
    kl = 0.5 * math.log(2 / 3) + 0.5 * LN2
    loss, parts = run("ga_klr", forget=FORGET, retain=RETAIN, retain_reference=RETAIN_REFERENCE)
    assert (loss, parts) == (about(-mean + kl), {"ga": about(-mean), "klr": about(kl)})
    weights = {"forget_weight": 0.25, "retain_nll": 3.0}
    assert run("grad_diff", weights, forget=FORGET, retain=RETAIN)[0] == about(-0.25 * mean + 3 * LN2)


def test_npo_by_hand():
    """-(2/b) ln s(-b ln r) = (2/b) ln(1 + r^b), r how much likelier an answer is than under the start model."""
    # P(y) = 3/4 x 1/4 = 3/16, at the start 3/8: r = 1/2. With b 1: 2 ln(1 + 1/2).
    half = torch.tensor([math.log(8 / 3)])
    assert run("npo", {"beta": 1.0}, forget=FORGET, forget_reference_nll=half)[0] == about(2 * math.log(1.5))
    assert run("npo", forget=FORGET, forget_reference_nll=half)[0] == about(20 * math.log(1 + 0.5**0.1))
    loss, parts = run("npo_gdr", forget=FORGET, forget_reference_nll=half, retain=RETAIN)
    assert loss == about(20 * math.log(1 + 0.5**0.1) + LN2) and parts["gdr"] == about(LN2)
    # Two rows: the mean over rows, whatever their lengths. The second has one token of 1/2 and r = 1.
    two = scored([[LN3, 0.0], [LN3, 0.0], [0.0, 0.0]], [0, 1, 0], [0, 0, 1])
    references = torch.tensor([math.log(8 / 3), LN2])
    expected = (2 * math.log(1.5) + 2 * math.log(2)) / 2
    assert run("npo", {"beta": 1.0}, forget=two, forget_reference_nll=references)[0] == about(expected)


def test_simnpo_by_hand():
    """Mean NLL of the row ln(16/3) / 2, so s(-4.5 x mean) is of (3/16)^2.25: L = (2/4.5) ln(1 + (3/16)^2.25)."""
    term = 2 / 4.5 * math.log(1 + (3 / 16) ** 2.25)
    loss, parts = run("simnpo", forget=FORGET, retain=RETAIN)
    assert (loss, parts) == (about(term / 8 + LN2), {"simnpo": about(term), "gdr": about(LN2)})
    # b 2, delta 1: the paper's margin multiplies (3/16)^1 by e^1, the code's by e^(2 x 1)
    for margin, factor in (("paper", math.e), ("code", math.e**2)):
        options = {"beta": 2.0, "delta": 1.0, "margin": margin}
        _, parts = run("simnpo", options, forget=FORGET, retain=RETAIN)
        assert parts["simnpo"] == about(math.log(1 + factor * 3 / 16))


def test_weighted_ascent_by_hand():
    wga = -(3 / 4 * FIRST_NLL + 1 / 4 * SECOND_NLL) / 2
    assert run("wga", forget=FORGET, retain=RETAIN) == (about(wga + LN2), {"wga": about(wga), "gdr": about(LN2)})
    # p^5 (1 - p): (3/4)^5 1/4 = 243/4096 and (1/4)^5 3/4 = 3/4096
    satimp = -(243 * FIRST_NLL + 3 * SECOND_NLL) / 4096 / 2
    loss, parts = run("satimp", forget=FORGET, retain=RETAIN)
    assert (loss, parts) == (about(satimp + 0.1 * LN2), {"satimp": about(satimp), "gdr": about(LN2)})


def test_ceu_by_hand():
    """Vocabulary of three with probabilities (1/2, 1/4, 1/4) at every token; the first of each row does not count."""
    # True token 1: target (2/3, 0, 1/3), CE = 2/3 ln 2 + 1/3 ln 4 = 4/3 ln 2. True token 0: (0, 1/2, 1/2), CE = ln 4.
    forget = scored([[LN2, 0.0, 0.0]] * 4, [0, 1, 0, 2], [0, 0, 0, 1])
    assert run("ceu", forget=forget)[0] == about((4 / 3 * LN2 + LN4) / 2)
    every = (LN4 + 4 / 3 * LN2 + LN4 + 4 / 3 * LN2) / 4
    assert run("ceu", {"skip_first": False}, forget=forget)[0] == about(every)


def test_ceu_of_rows_of_one_token_is_zero():
    forget = scored([[LN2, 0.0, 0.0]] * 2, [0, 1], [0, 1])
    assert run("ceu", forget=forget)[0] == 0.0


def test_ceu_divides_by_the_later_tokens_of_the_whole_step():
    """A micro-batch of 2 rows and 4 tokens in a step of 5 rows and 13 tokens: 8 of them are not the first."""
    forget = replace(scored([[LN2, 0.0, 0.0]] * 4, [0, 1, 0, 2], [0, 0, 0, 1]), step_tokens=13, step_rows=5)
    assert run("ceu", forget=forget)[0] == about((4 / 3 * LN2 + LN4) / 8)


def test_pdu_by_hand():
    # (3 - mean(3, 0, 0))^2 = 4 and (1 - 1)^2 = 0
    forget = scored([[3.0, 0.0, 0.0], [1.0, 1.0, 1.0]], [0, 1], [0, 0])
    retain = scored([[0.0, 0.0, 0.0]], [1], [0])
    state = METHODS.get("pdu").objective({}).initial_state
    assert state == {"lam": 100.0, "steps": 0.0}
    loss, parts = run("pdu", forget=forget, retain=retain, state=state)
    assert parts == {"flat": about(2.0), "gdr": about(LN3)}
    assert loss == about(2 + 100 * (LN3 - 0.3))
    assert run("pdu", forget=forget, retain=retain, state={"lam": 0.0, "steps": 1.0})[0] == about(2)


def test_pdus_multiplier_follows_the_retain_loss():
    objective = METHODS.get("pdu").objective({})
    above = objective.next_state({"lam": 100.0, "steps": 0.0}, {"gdr": 0.5, "flat": 9.0})
    assert above == {"lam": pytest.approx(101.0), "steps": 1.0}  # 100 + 5 (0.5 - 0.3)
    below = objective.next_state(above, {"gdr": 0.1, "flat": 9.0})
    assert below == {"lam": pytest.approx(100.0), "steps": 2.0}
    assert objective.next_state({"lam": 0.5, "steps": 7.0}, {"gdr": 0.1}) == {"lam": 0.0, "steps": 8.0}


def test_pdus_multiplier_rests_while_it_warms_up():
    objective = METHODS.get("pdu").objective({"warmup_steps": 2})
    state, seen = {"lam": 100.0, "steps": 0.0}, []
    for _ in range(4):
        state = objective.next_state(state, {"gdr": 1.3})
        seen.append(state["lam"])
    assert seen == pytest.approx([100.0, 100.0, 105.0, 110.0])


def test_undial_by_hand():
    """Start (3/4, 1/4), b = ln 3 on the true token 0: odds 3:1 become 1:1, target (1/2, 1/2)."""
    forget, start = scored([[LN3, 0.0]], [0], [0]), scored([[LN3, 0.0]], [0], [0])
    loss, _ = run("undial", {"beta": LN3}, forget=forget, forget_reference=start)
    assert loss == about(0.5 * math.log(4 / 3) + 0.5 * LN4)
    # b 10: odds 3 : e^10
    low = 3 * math.exp(-10) / (1 + 3 * math.exp(-10))
    expected = low * math.log(4 / 3) + (1 - low) * LN4
    assert run("undial", forget=forget, forget_reference=start)[0] == about(expected)


# The same formulas once more, in the shape public code has: rows padded on the right, labels -100 on prompt and
# padding, prediction and label one place apart. The padding holds nonsense that must not count.
@dataclass(frozen=True)
class Padded:
    logits: torch.Tensor  # (rows, length, vocabulary)
    labels: torch.Tensor  # (rows, length), -100 where nothing is to be learned
    start: torch.Tensor  # logits of the start model

    @property
    def shifted(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.logits[:, :-1], self.labels[:, 1:], self.start[:, :-1]

    def nll(self, logits: torch.Tensor | None = None, reduction: str = "mean") -> torch.Tensor:
        own = (self.logits if logits is None else logits)[:, :-1]
        return cross_entropy(own.transpose(1, 2), self.labels[:, 1:], ignore_index=-100, reduction=reduction)

    def scored(self, logits: torch.Tensor) -> AnswerLogits:
        counts = self.labels[:, 1:] != -100
        targets = self.labels[:, 1:][counts]
        return AnswerLogits(
            logits[:, :-1][counts], targets, counts.nonzero()[:, 0], len(counts), len(targets), len(counts)
        )


def padded(seed: int, prompts: tuple[int, ...], answers: tuple[int, ...], vocabulary: int = 6) -> Padded:
    generator = torch.Generator().manual_seed(seed)
    length = max(p + a for p, a in zip(prompts, answers, strict=True)) + 2
    shape = (len(prompts), length, vocabulary)
    logits, start = (2 * torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(2))
    ids = torch.randint(0, vocabulary, shape[:2], generator=generator)
    labels = torch.full_like(ids, -100)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        labels[row, prompt : prompt + answer] = ids[row, prompt : prompt + answer]
        logits[row, prompt + answer :] *= 1e3
    return Padded(logits.requires_grad_(), labels, start)


def answer_probabilities(data: Padded, logits: torch.Tensor) -> list[list[torch.Tensor]]:
    """Of every row the probabilities of its answer's tokens, one at a time."""
    rows = []
    for row, labels in enumerate(data.labels.tolist()):
        places = [place for place, label in enumerate(labels) if label != -100]
        rows.append([logits[row, place - 1].softmax(0)[labels[place]] for place in places])
    return rows


def tokens_of(rows: list[list[torch.Tensor]]) -> torch.Tensor:
    return torch.stack([probability for row in rows for probability in row])


def npo(data: Padded, beta: float) -> torch.Tensor:
    own, start = answer_probabilities(data, data.logits), answer_probabilities(data, data.start)
    ratios = [torch.stack(mine).prod() / torch.stack(its).prod() for mine, its in zip(own, start, strict=True)]
    return torch.stack([2 / beta * torch.log(1 + ratio**beta) for ratio in ratios]).mean()


def simnpo(data: Padded, beta: float, delta: float) -> torch.Tensor:
    rows = [torch.stack(row) for row in answer_probabilities(data, data.logits)]
    typical = [row.prod() ** (1 / len(row)) for row in rows]
    return torch.stack([2 / beta * torch.log(1 + math.exp(delta) * mean**beta) for mean in typical]).mean()


def weighted(data: Padded, beta1: float, beta2: float) -> torch.Tensor:
    p = tokens_of(answer_probabilities(data, data.logits))
    return (p.detach() ** beta1 * (1 - p.detach()) ** beta2 * p.log()).mean()


def ceu(data: Padded) -> torch.Tensor:
    losses = []
    for row, labels in enumerate(data.labels.tolist()):
        places = [place for place, label in enumerate(labels) if label != -100]
        for place in places[1:]:
            wanted = data.logits[row, place - 1].detach().softmax(0).clone()
            wanted[labels[place]] = 0
            losses.append(cross_entropy(data.logits[row, place - 1], wanted / wanted.sum()))
    return torch.stack(losses).mean()


def flat(data: Padded) -> torch.Tensor:
    logits, labels, _ = data.shifted
    kept = logits[labels != -100]
    return torch.stack([(token.sort().values[-1] - token.sum() / len(token)) ** 2 for token in kept]).mean()


def undial(data: Padded, beta: float) -> torch.Tensor:
    logits, labels, start = data.shifted
    counts = labels != -100
    lowered = start[counts].softmax(-1) * torch.exp(-beta * one_hot(labels[counts], 6).double())
    return cross_entropy(logits[counts], lowered / lowered.sum(-1, keepdim=True))


def klr(data: Padded, direction: str = "forward") -> torch.Tensor:
    """kl_div(input, target) is KL(target || input)."""
    logits, labels, start = data.shifted
    own, its = logits.log_softmax(-1)[labels != -100], start.log_softmax(-1)[labels != -100]
    first, second = (its, own) if direction == "forward" else (own, its)
    return kl_div(first, second, log_target=True, reduction="sum") / len(own)


Second = Callable[[Padded, Padded], torch.Tensor]
AGAIN: list[tuple[str, dict[str, Any], Second]] = [
    ("ga", {}, lambda f, r: -f.nll()),
    ("grad_diff", {}, lambda f, r: -f.nll() + r.nll()),
    ("grad_diff", {"forget_weight": 0.3, "retain_nll": 2.0}, lambda f, r: -0.3 * f.nll() + 2 * r.nll()),
    ("ga_klr", {}, lambda f, r: -f.nll() + klr(r)),
    ("ga_klr", {"direction": "reverse"}, lambda f, r: -f.nll() + klr(r, "reverse")),
    ("npo", {}, lambda f, r: npo(f, 0.1)),
    ("npo", {"beta": 0.7, "forget_weight": 0.5}, lambda f, r: 0.5 * npo(f, 0.7)),
    ("npo_gdr", {}, lambda f, r: npo(f, 0.1) + r.nll()),
    ("npo_klr", {}, lambda f, r: npo(f, 0.1) + klr(r)),
    ("npo_klr", {"retain_nll": 0.5}, lambda f, r: npo(f, 0.1) + klr(r) + 0.5 * r.nll()),
    ("simnpo", {}, lambda f, r: 0.125 * simnpo(f, 4.5, 0.0) + r.nll()),
    ("simnpo", {"beta": 2.0, "delta": 0.5}, lambda f, r: 0.125 * simnpo(f, 2.0, 0.5) + r.nll()),
    ("wga", {}, lambda f, r: weighted(f, 1.0, 0.0) + r.nll()),
    ("wga", {"beta": 0.5}, lambda f, r: weighted(f, 0.5, 0.0) + r.nll()),
    ("satimp", {}, lambda f, r: weighted(f, 5.0, 1.0) + 0.1 * r.nll()),
    ("satimp", {"beta1": 0.3, "beta2": 0.3}, lambda f, r: weighted(f, 0.3, 0.3) + 0.1 * r.nll()),
    ("ceu", {}, lambda f, r: ceu(f)),
    ("pdu", {}, lambda f, r: flat(f) + 100 * (r.nll() - 0.3)),
    ("pdu", {"lam": 2.0, "eps": 0.1, "forget_weight": 3.0}, lambda f, r: 3 * flat(f) + 2 * (r.nll() - 0.1)),
    ("undial", {}, lambda f, r: undial(f, 10.0)),
    ("undial", {"beta": 1.5, "retain_nll": 1.0}, lambda f, r: undial(f, 1.5) + r.nll()),
]


@pytest.mark.parametrize(("name", "options", "again"), AGAIN, ids=[f"{name} {options}" for name, options, _ in AGAIN])
@pytest.mark.parametrize("seed", range(3))
def test_value_and_gradient_are_those_of_an_independent_implementation(name, options, again, seed):
    forget, retain = padded(seed, (2, 1, 4), (3, 1, 5)), padded(seed + 10, (1, 3), (4, 2))
    objective = METHODS.get(name).objective(options)
    batch = Batch(
        forget=forget.scored(forget.logits),
        retain=retain.scored(retain.logits) if "retain" in objective.needs else None,
        retain_reference=retain.scored(retain.start) if "retain_reference" in objective.needs else None,
        forget_reference=forget.scored(forget.start) if "forget_reference" in objective.needs else None,
        forget_reference_nll=forget.nll(forget.start, "none").sum(1),
        state=objective.initial_state,
    )
    ours, theirs = objective(batch)[0], again(forget, retain)
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=1e-9)
    leaves = [forget.logits, retain.logits]
    for mine, other in zip(slopes(ours, leaves), slopes(theirs, leaves), strict=True):
        assert torch.allclose(mine, other, rtol=1e-7, atol=1e-12)


def slopes(loss: torch.Tensor, leaves: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)


def test_npo_starts_as_gradient_ascent_on_whole_answers():
    forget = padded(3, (2, 1), (3, 4))
    own = forget.scored(forget.logits)
    here = Batch(forget=own, forget_reference_nll=own.sequence_nll().detach())
    loss, _ = METHODS.get("npo").objective({})(here)
    ascent = -forget.nll(reduction="none").sum(1).mean()
    (mine,), (other,) = slopes(loss, [forget.logits]), slopes(ascent, [forget.logits])
    assert torch.allclose(mine, other, atol=1e-12)


def test_npo_and_ceu_stop_pushing_once_an_answer_is_gone_and_ascent_does_not():
    known = torch.tensor([[0.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    gone = torch.tensor([[-200.0, 0.0], [-200.0, 0.0]], dtype=torch.float64)
    pushes = {}
    for name in ("ga", "npo", "ceu"):
        for state, logits in (("known", known), ("gone", gone)):
            leaf = logits.clone().requires_grad_()
            row = torch.tensor([0, 0])
            forget = AnswerLogits(leaf, torch.tensor([0, 0]), row, 1, 2, 1)
            batch = Batch(forget=forget, forget_reference_nll=torch.tensor([2 * LN2], dtype=torch.float64))
            loss, _ = METHODS.get(name).objective({})(batch)
            pushes[name, state] = float(slopes(loss, [leaf])[0].abs().max())
    assert pushes["npo", "gone"] < 1e-6 < pushes["npo", "known"]
    assert pushes["ceu", "gone"] < 1e-6 < pushes["ceu", "known"]
    assert pushes["ga", "gone"] >= pushes["ga", "known"]


def test_weights_stay_numbers_where_a_token_is_certain_or_impossible():
    forget = scored([[200.0, 0.0], [200.0, 0.0]], [0, 1], [0, 0])
    for name, options in (("wga", {}), ("satimp", {"beta2": 0.3}), ("satimp", {"beta2": 0.0})):
        assert math.isfinite(run(name, options, forget=forget, retain=RETAIN)[0])


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("ga", {"forget_weight": 0.0}, "forget_weight is 0.0"),
        ("npo", {"beta": 0}, "beta is 0"),
        ("npo", {"beta": "1e-1"}, "beta is '1e-1': give a number above 0"),
        ("npo_klr", {"direction": "back"}, "direction is 'back'"),
        ("simnpo", {"delta": -1.0}, "delta is -1.0"),
        ("simnpo", {"margin": "wide"}, "margin is 'wide': give paper or code"),
        ("wga", {"beta": -1.0}, "beta is -1.0"),
        ("satimp", {"beta2": math.nan}, "beta2 is nan"),
        ("ceu", {"skip_first": "perhaps"}, "skip_first is 'perhaps'"),
        ("pdu", {"step_size": -5.0}, "step_size is -5.0"),
        ("undial", {"beta": None}, "beta is None"),
    ],
)
def test_impossible_options_are_refused(name, options, said):
    with pytest.raises(InputError, match=said):
        METHODS.get(name).objective(options)
