"""What is set after training, on pairs that training did not see: how much evidence a call needs, and how sure it is.

A false contradiction reads as "forgotten" or as "lost", a false entailment as "still known", and a neutral pair taken
for neither costs nothing of the kind. So either call is made only where it is right as often as `PRECISION` says: a
constant is taken off its logit, the smallest with which that holds. One temperature (arXiv 1706.04599) then makes the
labels as likely as can be.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from relearn.metrics.nli import LABELS

PRECISION = 0.9
CALLS = ("entailment", "contradiction")


def deductions(logits: Tensor, labels: Tensor, precision: float = PRECISION) -> Tensor:
    """(3,), in the order of LABELS: what has to come off the logits (pairs, 3) so that, of the pairs called
    entailment, at least the share `precision` is that, and of those called contradiction likewise.

    What is taken off one call moves pairs to the other, so both are set in turns until neither moves.
    """
    found = torch.zeros(len(LABELS), dtype=logits.dtype)
    for _ in range(100):
        before = found.clone()
        for call in map(LABELS.index, CALLS):  # type: ignore[arg-type]
            found[call] = _deduction(logits - found, logits[:, call], labels == call, call, precision)
        if torch.equal(before, found):
            return found
    raise ValueError("the deductions do not settle")


def _deduction(shifted: Tensor, own: Tensor, is_it: Tensor, call: int, precision: float) -> float:
    """Off the logits `own`, while the others are what `shifted` has."""
    others = shifted.index_fill(1, torch.tensor([call]), -torch.inf).amax(1)
    margin, order = (own - others).sort(descending=True)
    called = int((margin > 0).sum())
    right = is_it[order][:called].double().cumsum(0) / torch.arange(1, called + 1)
    enough = (right >= precision).nonzero()[:, 0]
    if not len(enough):
        raise ValueError(f"no number of calls of {LABELS[call]} is right in {precision} of them")
    last = int(enough[-1])
    if last == called - 1:
        return 0.0
    return float((margin[last] + margin[last + 1]) / 2)


def fitted_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature at which the labels are likeliest."""
    log_temperature = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_temperature], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        found = F.cross_entropy(logits / log_temperature.exp(), labels)
        found.backward()
        return found

    optimizer.step(loss)
    return float(log_temperature.detach().exp())
