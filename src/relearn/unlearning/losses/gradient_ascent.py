"""Compute gradient ascent losses on original answers: GA, with token weights (WGA, SatImp), random answers (LLMU)."""

from __future__ import annotations

import torch
from torch import Tensor

from relearn.unlearning.method import AnswerLogits, LossTerms, method
from relearn.unlearning.options import NotNegative, Positive

FAMILY = "reverse optimisation"
JANG = "Jang et al. 2023, arXiv 2210.01504"
LIU = "Liu et al. 2022, arXiv 2203.12817"
TOFU = "Maini et al. 2024, arXiv 2401.06121"
WANG = "Wang et al. 2025, arXiv 2502.19301"
YANG = "Yang et al. 2025, arXiv 2505.11953"
YAO = "Yao et al. 2023, arXiv 2310.10683; Gundavarapu et al. 2024, arXiv 2405.15152"


@method("ga", family=FAMILY, paper=JANG, data="original", defaults=dict(forget_weight=1.0, retain_nll=0.0))
@method("grad_diff", family=FAMILY, paper=LIU, data="original", defaults=dict(forget_weight=1.0, retain_nll=1.0))
@method("ga_klr", family=FAMILY, paper=TOFU, data="original", defaults=dict(forget_weight=1.0, retain_kl=1.0))
def ga(forget: AnswerLogits) -> Tensor:
    """Compute GA (gradient ascent), -NLL_f, the negative mean NLL of the original answers.

    grad_diff adds L_GDR (GA_GDR of arXiv 2502.11190; also in TOFU, arXiv 2401.06121), ga_klr L_KLR (GA_KLR there, "KL"
    in TOFU). Reference: locuslab/open-unlearning@a50f1e2, src/trainer/unlearn/grad_ascent.py. All weights are 1. The
    loss has no lower bound, so the learning rate (1e-6 to 1e-4) and the number of steps limit the change of the model.
    """
    return -forget.mean_nll()


def _weighted_ascent(forget: AnswerLogits, saturation: float, importance: float) -> Tensor:
    """Compute -mean_t[ p_t^saturation (1 - p_t)^importance NLL_t ]; no gradient flows through the weights."""
    token_nll = forget.token_nll()
    detached = token_nll.detach()
    weights = torch.exp(-saturation * detached) * (-torch.expm1(-detached)) ** importance
    return -forget.mean(weights * token_nll)


@method("wga", family=FAMILY, paper=WANG, data="original", defaults=dict(beta=1.0, forget_weight=1.0, retain_nll=1.0))
def wga(forget: AnswerLogits, *, beta: NotNegative) -> Tensor:
    """Compute WGA, -mean_t[ p_t^beta NLL_t ]; tokens that are already improbable get a small weight.

    p_t is the probability of the true token. Reference: locuslab/open-unlearning@afcd6b6, src/trainer/unlearn/wga.py,
    with L_GDR at weight 1; the authors' code has only the forget term. beta: 1, usually 0.1 to 5.
    """
    return _weighted_ascent(forget, beta, 0.0)


@method(
    "satimp",
    family=FAMILY,
    paper=YANG,
    data="original",
    defaults=dict(beta1=5.0, beta2=1.0, forget_weight=1.0, retain_nll=0.1),
)
def satimp(forget: AnswerLogits, *, beta1: NotNegative, beta2: NotNegative) -> Tensor:
    """Compute SatImp, -mean_t[ p_t^beta1 (1 - p_t)^beta2 NLL_t ], with weights for saturation and importance.

    Reference: locuslab/open-unlearning@423c6f2, src/trainer/unlearn/satimp.py, whose configuration weights the forget
    term by 0.1 and L_GDR by 1; the authors' code, followed here, weights L_GDR by 0.1. beta1: 5 (1 to 10); beta2: 1
    (0.1 to 1).
    """
    return _weighted_ascent(forget, beta1, beta2)


@method(
    "llmu",
    family=FAMILY,
    paper=YAO,
    data="mismatched",
    defaults=dict(forget_weight=0.5, mismatch_weight=1.0, retain_kl=1.0, direction="reverse"),
    enabled_by={"mismatched": "mismatch_weight"},
)
def llmu(
    forget: AnswerLogits,
    mismatched: AnswerLogits | None = None,
    *,
    forget_weight: Positive,
    mismatch_weight: NotNegative,
) -> tuple[Tensor, LossTerms]:
    """Compute LLMU: gradient ascent on the original answers, and the NLL of random answers to the same questions.

        L = 0.5 * -NLL(original answers) + 1 * NLL(random answers) + 1 * KL(P_theta0 || P_theta) on retain rows

    Reference: kevinyaobytedance/llm_unlearn@1143a5b, unlearn_harm.py. The authors' "forward KL" is `direction: reverse`
    here; they leave out the entropy of P_theta0, which has no gradient. Each question has five random answers, drawn
    once from the retain records. The authors stop when the NLL of the original answers reaches 100; here
    `unlearn.runaway_loss` and the epochs limit a run. forget_weight: 0.5 (0.1 to 2).
    """
    terms = {"ga": -forget.mean_nll()}
    loss = forget_weight * terms["ga"]
    if mismatched is not None:
        terms["mismatch"] = mismatched.mean_nll()
        loss = loss + mismatch_weight * terms["mismatch"]
    return loss, terms
