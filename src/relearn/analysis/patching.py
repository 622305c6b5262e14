"""Activation patching: where in the model does the change act?

States of one model are put into a run of another, at one place, and the answer is read again. Where the start model's
states bring the secret back, the unlearned model has changed before that place (Meng et al. 2022, arXiv 2202.05262).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from relearn.analysis.hooks import Edit, Inside
from relearn.engine.forward import TokenRow


def patched(
    inside: Inside, ids: Sequence[int], states: Mapping[int, torch.Tensor], positions: Sequence[int]
) -> torch.Tensor:
    """Logits (T, V) of a text with `states` (place -> (T, H)) put in at `positions`.

    Places are those of `Inside.states`: 0 goes into the first layer, n comes out of layer n.
    """
    where = torch.tensor(list(positions), dtype=torch.long, device=inside.device)

    def put(given: torch.Tensor) -> Edit:
        def edit(own: torch.Tensor) -> torch.Tensor:
            changed = own.clone()
            changed[where] = given[where.to(given.device)].to(own)
            return changed

        return edit

    return inside.run(ids, {place: put(given) for place, given in states.items()})[1]


def by_layer(inside: Inside, row: TokenRow, donor: torch.Tensor) -> list[float]:
    """Mean log-probability of the answer with the donor's states (L + 1, T, H) put in, one place at a time.

    At the positions of the prompt alone, so the answer tokens themselves are the receiving model's.
    """
    prompt = range(row.answer_start)
    return [
        _answer_logprob(patched(inside, row.ids, {place: donor[place]}, prompt), row) for place in range(len(donor))
    ]


def by_position(inside: Inside, row: TokenRow, donor: torch.Tensor, place: int) -> list[float]:
    """The same for one place and each position of the prompt."""
    return [
        _answer_logprob(patched(inside, row.ids, {place: donor[place]}, [position]), row)
        for position in range(row.answer_start)
    ]


def unpatched(inside: Inside, row: TokenRow) -> float:
    """Mean log-probability of the answer as the model gives it."""
    return _answer_logprob(inside.run(row.ids)[1], row)


def _answer_logprob(logits: torch.Tensor, row: TokenRow) -> float:
    targets = torch.tensor(row.ids[row.answer_start :], device=logits.device)
    logprobs = logits[row.answer_start - 1 : -1].log_softmax(-1)
    return float(logprobs.gather(1, targets[:, None]).mean())
