"""Measure one model on a list of questions: lens, top tokens, circuits and patching, as numbers for JSON.

Activation patching puts states of one model into the forward pass of another. If the start model's states at a layer
restore the secret, unlearning changed the model before that layer (Meng et al. 2022, arXiv 2202.05262). State indices
as in `HookedModel.states`: 0 is the input of the first layer, n the output of layer n. Shapes: T tokens, L layers, H
width, V vocabulary.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from relearn.analysis.circuits import Circuits, trace_circuits
from relearn.analysis.hooks import Edit, HookedModel
from relearn.analysis.logit_lens import lens, top_tokens
from relearn.analysis.tuned_lens import FittedLens, LensSettings, Translators, load_or_fit
from relearn.engine.forward import TokenRow
from relearn.models.load import Loaded

_DIGITS = 4
# Rows that lost fewer nats per token are left out of the patching numbers.
MIN_LOSS = 0.1


class ModelMeasurements:
    """Measure a model on `rows`, encoded questions with their true answers."""

    def __init__(self, loaded: Loaded, rows: Sequence[TokenRow]):
        self._tokenizer = loaded.tokenizer
        self._rows = rows
        self._hooked = HookedModel(loaded.model)

    @property
    def layer_count(self) -> int:
        return len(self._hooked.layers)

    def lens(self, translators: Translators | None = None) -> dict[str, list[float]]:
        """Apply the logit lens, or with `translators` the tuned lens, and average over the rows.

        Returns per layer, over all answer tokens: `logprob` (mean log-probability), `rank` (median rank), `kl` (mean
        KL(last layer || layer)). `kl_first`: mean KL at the first answer token, as in Figure 6 of arXiv 2502.11190.
        """
        on_device = None if translators is None else translators.to(self._hooked.device)
        values = [lens(self._hooked, row, on_device) for row in self._rows]
        return {
            "logprob": _rounded(torch.cat([one.logprob for one in values], 1).mean(1)),
            "rank": _rounded(torch.cat([one.rank for one in values], 1).float().median(1).values),
            "kl": _rounded(torch.cat([one.kl for one in values], 1).mean(1)),
            "kl_first": _rounded(torch.stack([one.kl[:, 0] for one in values], 1).mean(1)),
        }

    def top_tokens(self) -> dict[str, list[dict[str, Any]]]:
        """Return, by row id, probability, rank and the five likeliest tokens at every answer token."""
        return {
            row.id: [
                {
                    "token": self._text(prediction.token),
                    "probability": round(prediction.probability, _DIGITS),
                    "rank": prediction.rank,
                    "top": [[self._text(token), round(value, _DIGITS)] for token, value in prediction.top],
                }
                for prediction in top_tokens(self._hooked, row)
            ]
            for row in self._rows
        }

    def tuned_lens(self, text: Sequence[TokenRow], folder: Path, seed: int, tick: Any = None) -> FittedLens:
        """Fit a tuned lens to this model on the rows `text`, or load an earlier one from `folder`."""
        return load_or_fit(self._hooked, text, folder, LensSettings(seed=seed), tick=tick)

    def circuits(self, count: int) -> Circuits:
        """Trace the circuits of the first `count` rows. Raises InputError for a model not built like Llama."""
        return trace_circuits(self._hooked, self._rows[:count])

    def tokens(self, count: int) -> dict[str, list[str]]:
        """Decode the tokens of the first `count` rows to text, by row id."""
        return {row.id: [self._text(token) for token in row.ids] for row in self._rows[:count]}

    def states(self) -> dict[str, torch.Tensor]:
        """Compute the states (L + 1, T, H) by row id, for patching into another model."""
        return {row.id: self._hooked.states(row.ids) for row in self._rows}

    def answer_logprobs(self) -> dict[str, float]:
        """Compute the mean log-probability of the true answer, by row id."""
        return {row.id: answer_logprob(self._hooked, row) for row in self._rows}

    def restored(self, donor: Mapping[str, torch.Tensor], donor_logprobs: Mapping[str, float]) -> dict[str, Any]:
        """Compute the share of the lost log-probability that the donor's states at the prompt restore, for each state.

        0: nothing is restored; 1: the donor's own log-probability. `share`: median over the rows that lost at least
        MIN_LOSS; `rows`: their number.
        """
        shares = []
        for row in self._rows:
            own = answer_logprob(self._hooked, row)
            lost = donor_logprobs[row.id] - own
            if lost >= MIN_LOSS:
                patched = patch_each_layer(self._hooked, row, donor[row.id])
                shares.append([(value - own) / lost for value in patched])
        columns = zip(*shares, strict=True)
        return {"rows": len(shares), "share": [round(statistics.median(column), _DIGITS) for column in columns]}

    def _text(self, token: int) -> str:
        return self._tokenizer.decode([token])


def _rounded(values: torch.Tensor) -> list[float]:
    return [round(value, _DIGITS) for value in values.tolist()]


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
