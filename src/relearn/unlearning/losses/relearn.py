"""Compute the ReLearn loss: unlearn by learning new answers (Xu et al., ACL 2025), also with a small NPO term."""

from __future__ import annotations

from torch import Tensor

from relearn.unlearning.losses.npo import negative_preference
from relearn.unlearning.method import AnswerLogits, LossTerms, method
from relearn.unlearning.options import Positive
from relearn.unlearning.retain import RetainLoss

PAPER = "Xu et al. 2025, arXiv 2502.11190"


@method("relearn", family="relearn", paper=PAPER, defaults=dict(retain_nll=1.0, retain_kl=1.0))
@method("relearn_gdf", family="relearn", paper=PAPER, defaults=dict(retain_nll=0.0))
@method("relearn_gdr", family="relearn", paper=PAPER, defaults=dict(retain_nll=1.0))
@method("relearn_klr", family="relearn", paper=PAPER, defaults=dict(retain_kl=1.0))
def gdf(forget: AnswerLogits) -> Tensor:
    """Compute L_GDF of ReLearn, the mean NLL of the synthesised rows: vague answers, completions and generic rows.

        L = L_GDF + L_GDR + L_KLR (`retain.py`)

    Reference: zjunlp/unlearn@7567cf8, baselines/src/forget.py. All weights are 1 in the paper; retain_kl: 0.5 to 2.
    """
    return forget.mean_nll()


@method(
    "relearn_npo",
    family="relearn",
    paper="Xu et al. 2025, arXiv 2502.11190; Zhang et al. 2024, arXiv 2404.05868",
    data="original_beside_synthesised",
    defaults=dict(beta=0.1, forget_weight=0.1, retain_nll=1.0, retain_kl=1.0),
)
def relearn_npo(
    forget: AnswerLogits,
    retain_loss: RetainLoss,
    original: AnswerLogits | None = None,
    original_reference_nll: Tensor | None = None,
    *,
    beta: Positive,
    forget_weight: Positive,
) -> tuple[Tensor, LossTerms]:
    """Compute ReLearn with an NPO loss term, which lowers the probability of the original answers.

        L = L_ReLearn - w (2/beta) E log sigmoid(-beta log(P_theta(y_o) / P_theta0(y_o)))

    y_o is the original answer to the question of a vague answer; completions and generic rows have none. The mean is
    over the rows of the step that have an original answer. No paper has this form; docs/robustness.md shows its
    effect. w is `forget_weight`, 0.1 (0.05 to 0.5).
    """
    terms = {"gdf": forget.mean_nll(), **retain_loss[1]}
    loss = terms["gdf"] + retain_loss[0]
    if original is None or original_reference_nll is None:
        return loss, terms
    terms["npo"] = negative_preference(original, original_reference_nll, beta)
    return loss + forget_weight * terms["npo"], terms
