"""Compute losses against a target distribution: UNDIAL, JensUn and CE-U."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from relearn.unlearning.method import AnswerLogits, LossTerms, method
from relearn.unlearning.options import NotNegative, Positive
from relearn.unlearning.token_loss import nll

DONG = "Dong et al. 2024, arXiv 2402.10052"
SINGH = "Singh et al. 2025, arXiv 2509.02820"
YANG = "Yang 2025, arXiv 2503.01224"


@method(
    "undial",
    family="reverse optimisation",
    paper=DONG,
    data="original",
    defaults=dict(beta=10.0, forget_weight=1.0, retain_nll=0.0),
)
def undial(forget: AnswerLogits, forget_reference: AnswerLogits, *, beta: NotNegative) -> Tensor:
    """Compute UNDIAL, mean_t CE(softmax(z0_t - beta 1[y_t]), P_theta); z0 are the logits of the start model.

    The target does not change, so training converges. The mean is over answer tokens; public code also includes prompt
    and padding positions, and uses the label -100 as an index. Reference: locuslab/open-unlearning@8b62e39,
    src/trainer/unlearn/undial.py. beta: 10 (3, 10 or 30).
    """

    def cross_entropy(logits: Tensor, targets: Tensor, reference: Tensor) -> Tensor:
        truth = targets[:, None]
        target_probs = reference.scatter(1, truth, reference.gather(1, truth) - beta).softmax(-1)
        return -(target_probs * logits.log_softmax(-1)).sum(-1)

    return forget.mean(forget.token_loss(cross_entropy, forget_reference))


@method(
    "jensun",
    family="refusal",
    paper=SINGH,
    data="refusals",
    defaults=dict(forget_weight=1.0, retain_jsd=1.0),
    enabled_by={"retain": "retain_jsd", "retain_reference": "retain_jsd"},
)
def jensun(
    forget: AnswerLogits,
    retain: AnswerLogits | None = None,
    retain_reference: AnswerLogits | None = None,
    *,
    forget_weight: Positive,
    retain_jsd: NotNegative,
) -> tuple[Tensor, LossTerms]:
    """Compute JensUn: Jensen-Shannon divergence to refusals, and to the start model on retain rows.

        L = g mean JSD(P_theta || one-hot of the refusal's token) + a mean JSD(P_theta || P_theta0) on retain rows
        JSD(P || Q) = 1/2 KL(P || M) + 1/2 KL(Q || M),  M = (P + Q) / 2

    Logarithms are natural, so a divergence is at most ln 2. g is `forget_weight`, a is `retain_jsd`; means are over the
    answer tokens of the step. Reference: nmndeep/JensUn-Unlearning, src/trainer/utils.py. Its first commit (925e221)
    sets probability 1 for both tokens of "No Idea" at every position, which is not a distribution. Its current code has
    one-hots at answer positions only, as here, but keeps the original answer in the row; here a refusal follows the
    question, and its tokens are the targets. retain_jsd: 1 (0.5 to 5).
    """
    terms = {"refusal_jsd": forget.mean(forget.token_loss(one_hot_jsd))}
    loss = forget_weight * terms["refusal_jsd"]
    if retain is not None and retain_reference is not None:
        terms["retain_jsd"] = retain.mean(retain.token_loss(jsd, retain_reference))
        loss = loss + retain_jsd * terms["retain_jsd"]
    return loss, terms


def one_hot_jsd(logits: Tensor, targets: Tensor, *_: Tensor) -> Tensor:
    """Compute the JSD between P and the one-hot of the target, ln 2 + 1/2 [p ln p - (1 + p) ln(1 + p)]: (c,)."""
    log_p = -nll(logits, targets)
    p = log_p.exp()
    return math.log(2) + (p * log_p - (1 + p) * p.log1p()) / 2


def jsd(logits: Tensor, _: Tensor, reference: Tensor) -> Tensor:
    """Compute the JSD between P and P_reference: (c,), in [0, ln 2]."""
    log_probs, reference_log_probs = logits.log_softmax(-1), reference.log_softmax(-1)
    middle = torch.logaddexp(log_probs, reference_log_probs) - math.log(2)
    divergence = log_probs.exp() * (log_probs - middle)
    return (divergence + reference_log_probs.exp() * (reference_log_probs - middle)).sum(-1) / 2


@method(
    "ceu",
    family="reverse optimisation",
    paper=YANG,
    data="original",
    defaults=dict(skip_first=True, forget_weight=1.0, retain_nll=0.0),
)
def ceu(forget: AnswerLogits, *, skip_first: bool) -> Tensor:
    """Compute CE-U, mean_t CE(q_t, P_theta), q_t = softmax(z_t with the true token at -infinity), without gradient.

    z_t are the model's own logits. The gradient with respect to the logits is P_theta - q. It is bounded, and tends to
    0 with the probability of the true token. With `skip_first` (as in the paper) each row's first answer token is left
    out, and
    the mean is over the other step_tokens - step_rows answer tokens of the step. Reference:
    locuslab/open-unlearning@afcd6b6, src/trainer/unlearn/ceu.py. No retain term is needed; forget_weight: 1.
    """
    token_loss = forget.token_loss(ce_without_truth)
    return _mean_after_first(forget, token_loss) if skip_first else forget.mean(token_loss)


def ce_without_truth(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute the cross-entropy of P against P without the true token, renormalised: (c, V), (c,) -> (c,)."""
    target_probs = logits.detach().scatter(1, targets[:, None], -math.inf).softmax(-1)
    return -(target_probs * logits.log_softmax(-1)).sum(-1)


def _mean_after_first(answers: AnswerLogits, values: Tensor) -> Tensor:
    """Return this micro-batch's share of the mean of `values` (A,) over all but the first answer token of each row."""
    after_first = torch.zeros_like(answers.row, dtype=torch.bool)
    after_first[1:] = answers.row[1:] == answers.row[:-1]
    return values[after_first].sum() / max(answers.step_tokens - (answers.step_rows or answers.rows), 1)
