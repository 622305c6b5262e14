"""Another answer preferred to the original one: DPO (Rafailov et al. 2023, arXiv 2305.18290).

    L = -w (2/b) mean log s( b [ log(p/ref)(win) - log(p/ref)(lose) ] ) + retain terms

p/ref is the ratio of a whole answer's probabilities under the model and the start model: sums over the answer's tokens,
never means. The mean is over the pairs of the optimiser step; lose is always the original answer to the same question.
The factor 2/b is OpenUnlearning's (arXiv 2506.12618); DPO itself and TOFU have none, which is `factor: "1"`, a gradient
2/b times smaller. b is `beta`, 0.1 everywhere; w is `forget_weight`, 1.

| method | win | source |
|---|---|---|
| relearn_dpo, _gdr, _klr | vague answers | public code of Xu et al. 2025, arXiv 2502.11190 |
| idk_dpo | refusals | Maini et al. 2024, arXiv 2401.06121; Zhang et al. 2024, arXiv 2404.05868 |
| altpo | alternate answers | Mekala et al. 2025, arXiv 2409.13474 |

The public relearn_dpo takes differences of token means for log-ratios; here, as everywhere, they are sums.

IdkNLL: learn to decline (Maini et al. 2024, TOFU, arXiv 2401.06121, there "preference optimisation" or "idk").

    L = w mean NLL of refusals + mean NLL of retain rows

Means are over the answer tokens of the optimiser step, forget and retain apart; w is `forget_weight`, 1. Each forget
question gets one refusal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch.nn.functional import logsigmoid

from relearn.unlearning.data.streams import Source
from relearn.unlearning.losses.retain import RETAIN_DEFAULTS, Retain, retain_terms
from relearn.unlearning.method import METHODS, Batch, Method, Need, Parts, positive

_DPO = "DPO: Rafailov et al. 2023, arXiv 2305.18290"
_RELEARN = f"Xu et al. 2025, arXiv 2502.11190 (public code only; {_DPO})"
_IDK = f"Maini et al. 2024, arXiv 2401.06121 ({_DPO})"
_ALTPO = f"Mekala et al. 2025, arXiv 2409.13474 ({_DPO})"


@dataclass(frozen=True)
class Preference:
    """`forget` holds the winners, `rejected` the losers, row for row."""

    beta: float = 0.1
    factor: Literal["2/beta", "1"] = "2/beta"
    forget_weight: float = 1.0
    retain: Retain = field(default_factory=Retain)

    def __post_init__(self) -> None:
        positive(beta=self.beta, forget_weight=self.forget_weight)
        if self.factor not in ("2/beta", "1"):
            raise ValueError(f'factor is {self.factor!r}: give "2/beta" or "1"')

    @property
    def needs(self) -> frozenset[Need]:
        pairs: set[Need] = {"forget", "rejected", "forget_reference_nll", "rejected_reference_nll"}
        return self.retain.needs | pairs

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, Parts]:
        assert batch.rejected is not None
        assert batch.forget_reference_nll is not None and batch.rejected_reference_nll is not None
        win = batch.forget_reference_nll - batch.forget.sequence_nll()
        lose = batch.rejected_reference_nll - batch.rejected.sequence_nll()
        factor = 2 / self.beta if self.factor == "2/beta" else 1.0
        parts = {"dpo": batch.forget.mean_rows(-factor * logsigmoid(self.beta * (win - lose)))}
        kept, kept_parts = retain_terms(self.retain, batch)
        return self.forget_weight * parts["dpo"] + kept, parts | kept_parts


def _build(beta: float, factor: str | int, forget_weight: float, **retain: Any) -> Preference:
    return Preference(beta, str(factor), forget_weight, Retain(**retain))  # pyright: ignore[reportArgumentType]


def _add(name: str, family: str, paper: str, data: Source, *, retain_nll: float = 0.0, retain_kl: float = 0.0) -> None:
    retain = {**RETAIN_DEFAULTS, "retain_nll": retain_nll, "retain_kl": retain_kl}
    defaults = {"beta": 0.1, "factor": "2/beta", "forget_weight": 1.0, **retain}
    METHODS.add(name, Method(name, family, paper, _build, defaults, data))


_add("relearn_dpo", "relearn", _RELEARN, "preferred_synthesised")
_add("relearn_dpo_gdr", "relearn", _RELEARN, "preferred_synthesised", retain_nll=1.0)
_add("relearn_dpo_klr", "relearn", _RELEARN, "preferred_synthesised", retain_kl=1.0)
_add("idk_dpo", "refusal", _IDK, "preferred_refusals", retain_nll=1.0)
_add("altpo", "preference", _ALTPO, "preferred_alternates", retain_nll=1.0)


_NEEDS: frozenset[Need] = frozenset({"forget"})


@dataclass(frozen=True)
class Idk:
    forget_weight: float = 1.0
    retain: Retain = field(default_factory=Retain)

    def __post_init__(self) -> None:
        positive(forget_weight=self.forget_weight)

    @property
    def needs(self) -> frozenset[Need]:
        return self.retain.needs | _NEEDS

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, Parts]:
        parts = {"idk": batch.forget.mean_nll()}
        kept, kept_parts = retain_terms(self.retain, batch)
        return self.forget_weight * parts["idk"] + kept, parts | kept_parts


def _build_idk(forget_weight: float, **retain: Any) -> Idk:
    return Idk(forget_weight, Retain(**retain))


METHODS.add(
    "idk_nll",
    Method(
        "idk_nll",
        "refusal",
        "Maini et al. 2024, arXiv 2401.06121",
        _build_idk,
        {"forget_weight": 1.0, **RETAIN_DEFAULTS},
        "refusals",
    ),
)
