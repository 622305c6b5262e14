"""One model looked into over a number of questions: numbers for JSON, to be set beside another model's."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from relearn.analysis.circuits import Circuits, trace
from relearn.analysis.hooks import Inside
from relearn.analysis.logit_lens import candidates, lens
from relearn.analysis.patching import by_layer, unpatched
from relearn.analysis.tuned_lens import Settings, Translators, Tuned, tuned_lens
from relearn.engine.forward import TokenRow
from relearn.models.load import Loaded

_DIGITS = 4


class Study:
    """`rows`: questions with their true answers, as the model reads them."""

    def __init__(self, loaded: Loaded, rows: Sequence[TokenRow]):
        self._tokenizer = loaded.tokenizer
        self._rows = rows
        self._inside = Inside(loaded.model)

    def layers(self, translators: Translators | None = None) -> dict[str, list[float]]:
        """Per layer, over all answer tokens: mean log-probability, median rank, mean KL(last layer || layer).

        `kl_first`: at the first answer token alone, as in the paper's Figure 6. With `translators` by the tuned lens.
        """
        moved = None if translators is None else translators.to(self._inside.device)
        seen = [lens(self._inside, row, moved) for row in self._rows]
        return {
            "logprob": _rounded(torch.cat([one.logprob for one in seen], 1).mean(1)),
            "rank": _rounded(torch.cat([one.rank for one in seen], 1).float().median(1).values),
            "kl": _rounded(torch.cat([one.kl for one in seen], 1).mean(1)),
            "kl_first": _rounded(torch.stack([one.kl[:, 0] for one in seen], 1).mean(1)),
        }

    def places(self) -> dict[str, list[dict[str, Any]]]:
        """By row id, every answer token: its probability and rank, and the five likeliest tokens in its place."""
        return {
            row.id: [
                {
                    "token": self._text(place.token),
                    "probability": round(place.probability, _DIGITS),
                    "rank": place.rank,
                    "top": [[self._text(token), round(value, _DIGITS)] for token, value in place.top],
                }
                for place in candidates(self._inside, row)
            ]
            for row in self._rows
        }

    def tuned(self, text: Sequence[TokenRow], folder: Path, seed: int, tick: Any = None) -> Tuned:
        """A lens fitted to this model on other `text`, or read from `folder` where that was done before."""
        return tuned_lens(self._inside, text, folder, Settings(seed=seed), tick=tick)

    def circuits(self, count: int) -> Circuits:
        """The circuits of the first `count` rows. Raises InputError for a model that is not built like Llama."""
        return trace(self._inside, self._rows[:count])

    def depth(self) -> int:
        return len(self._inside.layers)

    def tokens(self, count: int) -> dict[str, list[str]]:
        """By row id, the tokens of the first `count` rows as text."""
        return {row.id: [self._text(token) for token in row.ids] for row in self._rows[:count]}

    def states(self) -> dict[str, torch.Tensor]:
        """By row id, the states (L + 1, T, H) of every place, to be put into another model."""
        return {row.id: self._inside.states(row.ids) for row in self._rows}

    def answer_logprobs(self) -> dict[str, float]:
        """By row id, the mean log-probability of the true answer."""
        return {row.id: unpatched(self._inside, row) for row in self._rows}

    def restored(self, donor: Mapping[str, torch.Tensor], known: Mapping[str, float]) -> dict[str, Any]:
        """How much of the lost log-probability comes back with the donor's states at the prompt, place by place.

        0: nothing, 1: all that the donor knew more (`known`, by row id). Median over the rows on which at least 0.1
        nats a token were lost; `rows` counts them.
        """
        shares = []
        for row in self._rows:
            own = unpatched(self._inside, row)
            lost = known[row.id] - own
            if lost >= 0.1:
                shares.append([(value - own) / lost for value in by_layer(self._inside, row, donor[row.id])])
        columns = zip(*shares, strict=True)
        return {"rows": len(shares), "share": [round(statistics.median(column), _DIGITS) for column in columns]}

    def _text(self, token: int) -> str:
        return self._tokenizer.decode([token])


def _rounded(values: torch.Tensor) -> list[float]:
    return [round(value, _DIGITS) for value in values.tolist()]
