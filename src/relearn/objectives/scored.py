"""What an objective sees of a model: its predictions at the answer tokens, and nothing else.

No padding, no -100, no shift: those were settled before. Letters: A answer tokens of all rows together, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

CHUNK_TOKENS = 1024


@dataclass(frozen=True)
class Scored:
    """Predictions for `rows` rows.

    logits (A, V) float32, targets (A,) the true tokens, row (A,) the row each token belongs to. `step_tokens` is the
    number of answer tokens in the whole optimiser step: means are taken over it, so that micro-batches add up to a
    step.
    """

    logits: torch.Tensor
    targets: torch.Tensor
    row: torch.Tensor
    rows: int
    step_tokens: int

    def token_nll(self) -> torch.Tensor:
        """Negative log-likelihood of every answer token, in nats: (A,)."""
        picked = self.logits.gather(1, self.targets[:, None])[:, 0]
        return self.logits.logsumexp(-1) - picked

    def sequence_nll(self) -> torch.Tensor:
        """Sum of the token NLL of each row: (rows,)."""
        nll = self.token_nll()
        return nll.new_zeros(self.rows).index_add(0, self.row, nll)

    def mean_nll(self) -> torch.Tensor:
        """Token mean over the optimiser step: this micro-batch's share of it. Scalar."""
        return self.token_nll().sum() / self.step_tokens

    def token_kl(self, reference: torch.Tensor, *, direction: str = "forward") -> torch.Tensor:
        """KL divergence at every answer token against reference logits (A, V): (A,).

        "forward": KL(P_theta || P_reference), the paper's; "reverse": KL(P_reference || P_theta), the public code's.
        """
        pieces = []
        for start in range(0, len(self.targets), CHUNK_TOKENS):
            own = self.logits[start : start + CHUNK_TOKENS].log_softmax(-1)
            other = reference[start : start + CHUNK_TOKENS].float().log_softmax(-1)
            first, second = (own, other) if direction == "forward" else (other, own)
            pieces.append((first.exp() * (first - second)).sum(-1))
        return torch.cat(pieces)

    def mean_kl(self, reference: torch.Tensor, *, direction: str = "forward") -> torch.Tensor:
        """Token mean of `token_kl` over the optimiser step: this micro-batch's share of it. Scalar."""
        return self.token_kl(reference, direction=direction).sum() / self.step_tokens
