"""Compute negative preference losses: NPO, relative to the start model, and SimNPO, without a reference model."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn.functional import logsigmoid

from relearn.unlearning.method import AnswerLogits, method
from relearn.unlearning.options import NotNegative, Positive

FAMILY = "reverse optimisation"
NPO_PAPER = "Zhang et al. 2024, arXiv 2404.05868"
SIMNPO_PAPER = "Fan et al. 2024, arXiv 2410.07163"


def negative_preference(answers: AnswerLogits, reference_nll: Tensor, beta: float) -> Tensor:
    """Compute the NPO loss term of `answers`; `reference_nll` (rows,) is the start model's summed NLL of each row."""
    log_ratio = answers.sequence_nll() - reference_nll  # -log(P_theta / P_theta0)
    return answers.mean_rows(-2 / beta * logsigmoid(beta * log_ratio))


_DEFAULTS = dict(beta=0.1, forget_weight=1.0)


@method("npo", family=FAMILY, paper=NPO_PAPER, data="original", defaults=dict(**_DEFAULTS, retain_nll=0.0))
@method("npo_gdr", family=FAMILY, paper=NPO_PAPER, data="original", defaults=dict(**_DEFAULTS, retain_nll=1.0))
@method("npo_klr", family=FAMILY, paper=NPO_PAPER, data="original", defaults=dict(**_DEFAULTS, retain_kl=1.0))
def npo(forget: AnswerLogits, forget_reference_nll: Tensor, *, beta: Positive) -> Tensor:
    """Compute NPO, -(2/beta) E log sigmoid(-beta log(P_theta(y_f) / P_theta0(y_f))), the mean over the step's rows.

    log P(y) is the sum of the log-probabilities of the answer's tokens. (Some public code takes their mean, or
    subtracts raw logits.) At the start model the gradient is that of gradient ascent on sequence sums. It becomes
    smaller as an answer becomes less likely. npo_gdr adds L_GDR, npo_klr L_KLR. Reference:
    locuslab/open-unlearning@a3502bc, src/trainer/unlearn/npo.py. beta: 0.1 (0.05 to 0.5), as on TOFU.
    """
    return negative_preference(forget, forget_reference_nll, beta)


@method(
    "simnpo",
    family=FAMILY,
    paper=SIMNPO_PAPER,
    data="original",
    defaults=dict(beta=4.5, delta=0.0, margin="paper", forget_weight=0.125, retain_nll=1.0),
)
def simnpo(forget: AnswerLogits, *, beta: Positive, delta: NotNegative, margin: Literal["paper", "code"]) -> Tensor:
    """Compute SimNPO, -(2/beta) E log sigmoid((beta/|y_f|) NLL(y_f) - delta), the mean over the step's rows.

    NLL(y_f)/|y_f| is the mean over the answer's tokens. `margin` "paper" is the formula above. "code" is the formula of
    the authors' code and OpenUnlearning, sigmoid(beta (NLL/|y_f| - delta)); both are equal at delta 0. Reference:
    locuslab/open-unlearning@56b662e, src/trainer/unlearn/simnpo.py. beta: 4.5 on TOFU forget10 (0.7 to 4.5).
    """
    mean_nll = forget.sequence_nll() / forget.row_tokens()
    shift = delta if margin == "paper" else beta * delta
    return forget.mean_rows(-2 / beta * logsigmoid(beta * mean_nll - shift))
