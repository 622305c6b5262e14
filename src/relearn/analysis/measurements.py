"""Measure one model over a list of questions, as numbers for JSON that can be compared with another model's."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from relearn.analysis.circuits import Circuits, trace_circuits
from relearn.analysis.hooks import HookedModel
from relearn.analysis.logit_lens import lens, top_tokens
from relearn.analysis.patching import answer_logprob, patch_each_layer
from relearn.analysis.tuned_lens import FittedLens, LensSettings, Translators, load_or_fit
from relearn.engine.forward import TokenRow
from relearn.models.load import Loaded

_DIGITS = 4
# Nats per token that must be lost for a row to be in the patching numbers.
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
        """Apply the logit lens, or with `translators` the tuned lens.

        Per layer, over all answer tokens: mean log-probability, median rank, mean KL(last layer || layer); `kl_first`:
        at the first answer token alone, as in Figure 6 of arXiv 2502.11190.
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
        """Return by row id, for every answer token, its probability and rank and the five likeliest tokens."""
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
        """Fit a lens to this model on other `text`, or load it from `folder` where that was done before."""
        return load_or_fit(self._hooked, text, folder, LensSettings(seed=seed), tick=tick)

    def circuits(self, count: int) -> Circuits:
        """Trace the circuits of the first `count` rows. Raises InputError for a model not built like Llama."""
        return trace_circuits(self._hooked, self._rows[:count])

    def tokens(self, count: int) -> dict[str, list[str]]:
        """Return by row id the tokens of the first `count` rows as text."""
        return {row.id: [self._text(token) for token in row.ids] for row in self._rows[:count]}

    def states(self) -> dict[str, torch.Tensor]:
        """Return by row id the states (L + 1, T, H), to be patched into another model."""
        return {row.id: self._hooked.states(row.ids) for row in self._rows}

    def answer_logprobs(self) -> dict[str, float]:
        """Return by row id the mean log-probability of the true answer."""
        return {row.id: answer_logprob(self._hooked, row) for row in self._rows}

    def restored(self, donor: Mapping[str, torch.Tensor], donor_logprobs: Mapping[str, float]) -> dict[str, Any]:
        """Compute how much of the lost log-probability the donor's states at the prompt restore, state by state.

        0: nothing, 1: the donor's own log-probability. Median over the `rows` that lost at least MIN_LOSS.
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
