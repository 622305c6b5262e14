"""The terms that hold the rest of the model in place, composed by weight with any forget term.

    L_GDR = mean NLL of retain rows
    L_KLR = mean KL(P_theta || P_theta0) on retain rows ("forward", arXiv 2502.11190 eq. 8) or
            KL(P_theta0 || P_theta) ("reverse", what public code computes); theta0 is the start model

`normaliser` "tokens" takes the mean over answer tokens. "legacy" divides their sum by what public code divides by, all
positions of rows padded to `LEGACY_LENGTH`: an answer token then weighs what it weighs there. The addends that public
code has at prompt and padding positions are left out (docs/papers.md says what that changes).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from relearn.unlearning.method import Batch, Need, Parts, not_negative
from relearn.unlearning.token_loss import KL, Direction, Scored, TokenValue, nll

LEGACY_LENGTH = 512


@dataclass(frozen=True)
class Retain:
    """`retain_nll` weighs L_GDR, `retain_kl` L_KLR; a weight of 0 leaves the term, and its passes, out."""

    retain_nll: float = 1.0
    retain_kl: float = 1.0
    direction: Direction = "forward"
    normaliser: Literal["tokens", "legacy"] = "tokens"

    def __post_init__(self) -> None:
        if self.direction not in ("forward", "reverse"):
            raise ValueError(f"direction is {self.direction!r}: give forward or reverse")
        if self.normaliser not in ("tokens", "legacy"):
            raise ValueError(f"normaliser is {self.normaliser!r}: give tokens or legacy")
        not_negative(retain_nll=self.retain_nll, retain_kl=self.retain_kl)

    @property
    def needs(self) -> frozenset[Need]:
        needs: set[Need] = set()
        if self.retain_nll or self.retain_kl:
            needs.add("retain")
        if self.retain_kl:
            needs.add("retain_reference")
        return frozenset(needs)


RETAIN_DEFAULTS: dict[str, Any] = {"retain_nll": 1.0, "retain_kl": 0.0, "direction": "forward", "normaliser": "tokens"}


def retain_terms(settings: Retain, batch: Batch) -> tuple[torch.Tensor | float, Parts]:
    """The weighted sum of the retain terms, and each of them unweighted as "gdr" and "klr"; 0.0 when there are none."""
    retain, reference = batch.retain, batch.retain_reference
    if retain is None:
        return 0.0, {}
    if not settings.retain_kl or reference is None:
        parts = {"gdr": retain.mean_nll()}
        return settings.retain_nll * parts["gdr"], parts
    # A mean over answer tokens is what `mean` takes; the legacy one is the same sum over another number.
    scale = 1.0 if settings.normaliser == "tokens" else retain.step_tokens / _legacy_places(retain)
    values: list[TokenValue] = [nll, KL[settings.direction]]
    weights = [settings.retain_nll, settings.retain_kl * scale]
    if not settings.retain_nll:
        total, (divergence,) = retain.weighed(values[1:], weights[1:], reference)
        return retain.mean(total), {"klr": retain.mean(divergence) * scale}
    total, (losses, divergence) = retain.weighed(values, weights, reference)
    return retain.mean(total), {"gdr": retain.mean(losses), "klr": retain.mean(divergence) * scale}


def _legacy_places(retain: Scored) -> int:
    """What public code divides by: all positions of the step's rows, padded."""
    return (retain.step_rows or retain.rows) * LEGACY_LENGTH
