"""Knowledge memory: every layer read through the final norm and the output layer (logit lens, nostalgebraist 2020).

With `translators` (`tuned`) a layer's states are first brought into the last layer's terms.

Where in the depth of the model does the secret become likely, and how far is each layer from the last? The paper
(arXiv 2502.11190, section 5.2 and Figure 6) finds a gradual approach to the last layer in the vanilla model and after
ReLearn, and an abrupt one after reverse optimisation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from relearn.analysis.hooks import Inside
from relearn.analysis.tuned_lens import Translators
from relearn.engine.forward import TokenRow


@dataclass(frozen=True)
class Lens:
    """Of every layer (L + 1, the embeddings first) at every answer token (A):

    `logprob`, `rank` (1 is the likeliest) of the true token; `kl`: KL(last layer || this layer) in nats; `likeliest`:
    the token that the layer would say.
    """

    logprob: torch.Tensor
    rank: torch.Tensor
    kl: torch.Tensor
    likeliest: torch.Tensor


@torch.no_grad()
def lens(inside: Inside, row: TokenRow, translators: Translators | None = None) -> Lens:
    """The lens on one text, at the positions that predict its answer tokens; `translators` on the model's device."""
    states, logits = inside.run(row.ids)
    places = range(row.answer_start - 1, len(row.ids) - 1)
    targets = torch.tensor(row.ids[row.answer_start :], device=states.device)
    last = logits[places.start : places.stop].log_softmax(-1)
    per_layer = []
    for place, layer in enumerate(states[:, places.start : places.stop]):
        translated = layer if translators is None else translators(place, layer)
        per_layer.append(_layer(inside.read(translated), targets, last))
    return Lens(*(torch.stack(values) for values in zip(*per_layer, strict=True)))


def _layer(logits: torch.Tensor, targets: torch.Tensor, last: torch.Tensor) -> tuple[torch.Tensor, ...]:
    logprobs = logits.log_softmax(-1)
    own = logprobs.gather(1, targets[:, None])
    kl = (last.exp() * (last - logprobs)).sum(-1)
    return own[:, 0], (logprobs > own).sum(-1) + 1, kl.clamp_min(0), logprobs.argmax(-1)
