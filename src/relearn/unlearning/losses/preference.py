"""Compute preference losses: DPO with vague answers, refusals or alternate answers as winners; and IdkNLL."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn.functional import logsigmoid

from relearn.unlearning.method import AnswerLogits, method
from relearn.unlearning.options import Positive

_DPO = "DPO: Rafailov et al. 2023, arXiv 2305.18290"
_RELEARN = f"Xu et al. 2025, arXiv 2502.11190 (public code only; {_DPO})"
_IDK = f"Maini et al. 2024, arXiv 2401.06121 ({_DPO})"
_ALTPO = f"Mekala et al. 2025, arXiv 2409.13474 ({_DPO})"
_VAGUE = "preferred_synthesised"
_DEFAULTS = dict(beta=0.1, factor="2/beta", forget_weight=1.0)
_GDR, _KLR = dict(**_DEFAULTS, retain_nll=1.0), dict(**_DEFAULTS, retain_kl=1.0)


@method("relearn_dpo", family="relearn", paper=_RELEARN, data=_VAGUE, defaults=dict(**_DEFAULTS, retain_nll=0.0))
@method("relearn_dpo_gdr", family="relearn", paper=_RELEARN, data=_VAGUE, defaults=_GDR)
@method("relearn_dpo_klr", family="relearn", paper=_RELEARN, data=_VAGUE, defaults=_KLR)
@method("idk_dpo", family="refusal", paper=_IDK, data="preferred_refusals", defaults=_GDR)
@method("altpo", family="preference", paper=_ALTPO, data="preferred_alternates", defaults=_GDR)
def dpo(
    forget: AnswerLogits,
    rejected: AnswerLogits,
    forget_reference_nll: Tensor,
    rejected_reference_nll: Tensor,
    *,
    beta: Positive,
    factor: Literal["2/beta", "1"],
) -> Tensor:
    """Compute DPO, -(2/beta) E log sigmoid(beta [log(P_theta/P_theta0)(win) - log(P_theta/P_theta0)(lose)]).

    `forget` are the winners. `rejected` are the losers in the same order: the original answers to the same questions.
    log P of an answer is the sum over its tokens; the mean is over the pairs of the step. The factor 2/beta is from
    OpenUnlearning (arXiv 2506.12618); DPO and TOFU have none (`factor: "1"`).

    | method | win | source |
    |---|---|---|
    | relearn_dpo, _gdr, _klr | vague answers | zjunlp/unlearn@7567cf8, which takes differences of token means instead |
    | idk_dpo | refusals | Maini et al. 2024, arXiv 2401.06121; Zhang et al. 2024, arXiv 2404.05868 |
    | altpo | alternate answers | molereddy/Alternate-Preference-Optimization@294ce3f, forget.py |

    Reference: locuslab/open-unlearning@afcd6b6, src/trainer/unlearn/dpo.py. beta: 0.1 (0.05 to 0.5).
    """
    win = forget_reference_nll - forget.sequence_nll()
    lose = rejected_reference_nll - rejected.sequence_nll()
    scale = 2 / beta if factor == "2/beta" else 1.0
    return forget.mean_rows(-scale * logsigmoid(beta * (win - lose)))


@method(
    "idk_nll",
    family="refusal",
    paper="Maini et al. 2024, arXiv 2401.06121",
    data="refusals",
    defaults=dict(forget_weight=1.0, retain_nll=1.0),
)
def idk(forget: AnswerLogits) -> Tensor:
    """Compute IdkNLL, the mean NLL of one refusal for each forget question ("idk" in TOFU); L_GDR is added.

    Reference: locuslab/tofu@8c49eee, dataloader.py. forget_weight: 1 (0.5 to 2).
    """
    return forget.mean_nll()
