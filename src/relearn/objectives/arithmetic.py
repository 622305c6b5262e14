"""Weight arithmetic: what is added to the start model's weights theta is worked out from finished trainings.

task_vector: negation of a task vector, Ilharco et al., ICLR 2023, arXiv 2212.04089.

    theta_u = theta - alpha (theta_ft - theta)

theta_ft is theta trained on the original answers of the forget records (NLL). With LoRA the difference is B A, so the
result is the same adapter with B times -alpha. Default alpha 1; the paper takes it on held-out data from 0 to 1, MUSE
(arXiv 2407.06460) 5.

ties: TIES merge of an over- and an under-forgetting adapter, Xu et al., SemEval-2025 task 4, arXiv 2503.21088.

    L = a NPO(beta) + b L_KLR + c L_GDR,    over: a, b, c = .4, .4, .2    under: a, b, c = .3, .3, .4

Of A and of B alike: the smallest 1 - density of each adapter's numbers are dropped, the sign with the greater sum is
elected for every number, and the mean of those that have it, times their weights, is kept (Yadav et al. 2023, arXiv
2306.01708). Defaults as published: beta 0.1, weights 1 and 1, density 0.8. The authors' code has
KL(P_theta0 || P_theta) (`direction: reverse` in `over` and `under`) and NPO on batch means; here it is that of npo.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from relearn.objectives.limits import not_negative, positive
from relearn.unlearning.losses.npo import NPO
from relearn.unlearning.method import METHODS, Batch, Method, Need, Parts

FAMILY = "weight arithmetic"
# The method whose objective both adapters are trained with.
TRAINED_WITH = "npo_klr"
OVER = {"beta": 0.1, "forget_weight": 0.4, "retain_kl": 0.4, "retain_nll": 0.2}
UNDER = {"beta": 0.1, "forget_weight": 0.3, "retain_kl": 0.3, "retain_nll": 0.4}


@dataclass(frozen=True)
class TaskVector:
    """The training that gives theta_ft."""

    alpha: float = 1.0
    needs: frozenset[Need] = field(default=frozenset({"forget"}), init=False)

    def __post_init__(self) -> None:
        positive(alpha=self.alpha)

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, Parts]:
        parts = {"nll": batch.forget.mean_nll()}
        return parts["nll"], parts


@dataclass(frozen=True)
class Ties:
    """`over` and `under` are the objectives of the two adapters; called, it is what both come to."""

    over: NPO
    under: NPO
    weights: tuple[float, float] = (1.0, 1.0)
    density: float = 0.8

    def __post_init__(self) -> None:
        if len(self.weights) != 2:
            raise ValueError(f"weights are {list(self.weights)!r}: give two, of the over- and the under-forgetting one")
        not_negative(**{f"weights[{place}]": weight for place, weight in enumerate(self.weights)})
        positive(density=self.density)
        if self.density >= 1:
            raise ValueError(f"density is {self.density!r}: give the share of numbers to keep, below 1")

    @property
    def needs(self) -> frozenset[Need]:
        return self.over.needs | self.under.needs

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, Parts]:
        parts = {"over": self.over(batch)[0], "under": self.under(batch)[0]}
        return parts["over"] + parts["under"], parts


def _ties(over: Mapping[str, Any], under: Mapping[str, Any], weights: Sequence[float], density: float) -> Ties:
    first, second = (
        METHODS.get(TRAINED_WITH).objective({**given, **own}) for given, own in ((OVER, over), (UNDER, under))
    )
    assert isinstance(first, NPO) and isinstance(second, NPO)
    return Ties(first, second, tuple(weights), density)  # pyright: ignore[reportArgumentType]


METHODS.add(
    "task_vector",
    Method(
        "task_vector", FAMILY, "Ilharco et al. 2023, arXiv 2212.04089", TaskVector, {"alpha": 1.0},
        "original", "task_vector",
    ),
)  # fmt: skip
METHODS.add(
    "ties",
    Method(
        "ties", FAMILY, "Xu et al. 2025, arXiv 2503.21088", _ties,
        {"over": OVER, "under": UNDER, "weights": [1.0, 1.0], "density": 0.8},
        "original", "ties",
    ),
)  # fmt: skip
