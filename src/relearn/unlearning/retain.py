"""Compute the retain loss terms L_GDR and L_KLR, which are added to the forget loss of methods with these options.

    L_GDR = mean NLL of the retain rows
    L_KLR = mean KL(P_theta || P_theta0) on the retain rows ("forward", arXiv 2502.11190 eq. 8) or
            KL(P_theta0 || P_theta) ("reverse", as public code computes it); theta0 is the start model

`normaliser` "tokens" takes the mean of the KL over the answer tokens of the step. "legacy" divides its sum over answer
tokens by the divisor of public code: all positions of the rows, padded to `LEGACY_LENGTH`. An answer token then has
the same weight as in public code. Prompt and padding positions are left out (docs/papers.md describes the difference).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from relearn.unlearning.options import check_option, not_negative
from relearn.unlearning.token_loss import KL, AnswerLogits, Direction, TokenLoss, nll

LEGACY_LENGTH = 512
LossTerms = dict[str, torch.Tensor]
RetainLoss = tuple[torch.Tensor | float, LossTerms]
Normaliser = Literal["tokens", "legacy"]
RETAIN_DEFAULTS: dict[str, Any] = {"retain_nll": 0.0, "retain_kl": 0.0, "direction": "forward", "normaliser": "tokens"}


@dataclass(frozen=True)
class RetainWeights:
    """Hold the weights of the retain terms: `retain_nll` of L_GDR, `retain_kl` of L_KLR.

    At weight 0 a term is left out and its forward passes are not run. Raises ValueError for a value that is not
    allowed.
    """

    retain_nll: float = 1.0
    retain_kl: float = 1.0
    direction: Direction = "forward"
    normaliser: Normaliser = "tokens"

    def __post_init__(self) -> None:
        check_option("direction", self.direction, Direction)
        check_option("normaliser", self.normaliser, Normaliser)
        not_negative(retain_nll=self.retain_nll, retain_kl=self.retain_kl)

    @property
    def needs(self) -> frozenset[str]:
        """Return the names of the `Batch` fields that the terms are computed from."""
        if self.retain_kl:
            return frozenset({"retain", "retain_reference"})
        return frozenset({"retain"} if self.retain_nll else ())


def retain_terms(weights: RetainWeights, retain: AnswerLogits | None, reference: AnswerLogits | None) -> RetainLoss:
    """Compute the weighted sum of the retain terms, and the unweighted terms "gdr" and "klr"; 0.0 without terms."""
    if retain is None or not weights.needs:
        return 0.0, {}
    if not weights.retain_kl or reference is None:
        terms = {"gdr": retain.mean_nll()}
        return weights.retain_nll * terms["gdr"], terms
    # "legacy" has the same sum over answer tokens, but another divisor.
    scale = 1.0 if weights.normaliser == "tokens" else retain.step_tokens / _padded_positions(retain)
    losses: list[TokenLoss] = [nll, KL[weights.direction]]
    factors = [weights.retain_nll, weights.retain_kl * scale]
    if not weights.retain_nll:
        total, (divergence,) = retain.weighted_token_loss(losses[1:], factors[1:], reference)
        return retain.mean(total), {"klr": retain.mean(divergence) * scale}
    total, (token_nll, divergence) = retain.weighted_token_loss(losses, factors, reference)
    return retain.mean(total), {"gdr": retain.mean(token_nll), "klr": retain.mean(divergence) * scale}


def _padded_positions(retain: AnswerLogits) -> int:
    """Count the positions of the step's rows, each padded to `LEGACY_LENGTH`."""
    return (retain.step_rows or retain.rows) * LEGACY_LENGTH
