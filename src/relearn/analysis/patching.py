"""Patch activations: put states of one model into the forward pass of another and measure the answer's log-probability.

If the start model's states at a layer restore the secret, unlearning changed the model before that layer (Meng et al.
2022, arXiv 2202.05262). State indices as in `HookedModel.states`: 0 is the input of the first layer, n the output of
layer n. Shapes: T tokens, L layers, H width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from relearn.analysis.hooks import Edit, HookedModel
from relearn.engine.forward import TokenRow


def patched_logits(
    hooked: HookedModel, ids: Sequence[int], states: Mapping[int, torch.Tensor], positions: Sequence[int]
) -> torch.Tensor:
    """Compute the logits (T, V) of a text with `states` (state index -> (T, H)) patched in at the token `positions`."""
    where = torch.tensor(list(positions), dtype=torch.long, device=hooked.device)

    def replace_by(donor: torch.Tensor) -> Edit:
        def edit(own: torch.Tensor) -> torch.Tensor:
            changed = own.clone()
            changed[where] = donor[where.to(donor.device)].to(own)
            return changed

        return edit

    return hooked.run(ids, {index: replace_by(donor) for index, donor in states.items()})[1]


def patch_each_layer(hooked: HookedModel, row: TokenRow, donor: torch.Tensor) -> list[float]:
    """Compute the mean log-probability of the answer for each state of `donor` (L + 1, T, H), patched in one at a time.

    Only positions of the prompt are patched; states of the answer tokens stay those of the receiving model.
    """
    prompt = range(row.answer_start)
    patched = (patched_logits(hooked, row.ids, {index: state}, prompt) for index, state in enumerate(donor))
    return [_mean_logprob(logits, row) for logits in patched]


def answer_logprob(hooked: HookedModel, row: TokenRow) -> float:
    """Compute the mean log-probability of the answer without a patch."""
    return _mean_logprob(hooked.run(row.ids)[1], row)


def _mean_logprob(logits: torch.Tensor, row: TokenRow) -> float:
    targets = torch.tensor(row.ids[row.answer_start :], device=logits.device)
    logprobs = logits[row.answer_start - 1 : -1].log_softmax(-1)
    return float(logprobs.gather(1, targets[:, None]).mean())
