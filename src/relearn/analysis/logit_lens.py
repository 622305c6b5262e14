"""Logit lens: read every layer through the final norm and the output layer (nostalgebraist 2020).

It shows at which depth the secret becomes likely, and how far each layer is from the last. The ReLearn paper
(arXiv 2502.11190, section 5.2 and Figure 6) finds a gradual approach to the last layer in the vanilla model and after
ReLearn, and an abrupt one after reverse optimisation. With `translators` (tuned_lens.py) the states of a layer are
first mapped into the last layer's space; `lens_rows` loads the text they are fitted on.

`top_tokens` lists the likeliest tokens per answer position (Figure 5): pushing the likeliest token down lifts the next,
which may be the secret in another form, and then noise (the probability seesaw).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from relearn.analysis.hooks import HookedModel
from relearn.analysis.tuned_lens import Translators
from relearn.core.config import Source
from relearn.core.errors import InputError
from relearn.data import Record
from relearn.data.columns import Layout, to_records
from relearn.data.loaders import read_records
from relearn.engine.forward import TokenRow
from relearn.models.chat import ChatFormat
from relearn.synthesis.rows import load_generic
from relearn.unlearning.data.encode import encode, record_example

# Of six rows one is for early stopping and one is held out, so fewer would leave too little of each.
LEAST_ROWS = 12
TOP = 5
_PLAIN_TEXT = (".txt", ".md", ".text")


@dataclass(frozen=True)
class LensValues:
    """Values per layer (L + 1, the embeddings first) and answer token (A), each of shape (L + 1, A).

    `logprob`, `rank` (1 is the likeliest) of the true token; `kl`: KL(last layer || this layer) in nats; `likeliest`:
    the layer's likeliest token.
    """

    logprob: torch.Tensor
    rank: torch.Tensor
    kl: torch.Tensor
    likeliest: torch.Tensor


@torch.no_grad()
def lens(hooked: HookedModel, row: TokenRow, translators: Translators | None = None) -> LensValues:
    """Apply the lens at the positions that predict the answer tokens; `translators` on the model's device."""
    states, logits = hooked.run(row.ids)
    positions = slice(row.answer_start - 1, len(row.ids) - 1)
    targets = torch.tensor(row.ids[row.answer_start :], device=states.device)
    last = logits[positions].log_softmax(-1)
    per_layer = []
    for index, layer in enumerate(states[:, positions]):
        translated = layer if translators is None else translators(index, layer)
        per_layer.append(_layer_values(hooked.read(translated), targets, last))
    return LensValues(*(torch.stack(values) for values in zip(*per_layer, strict=True)))


def _layer_values(logits: torch.Tensor, targets: torch.Tensor, last: torch.Tensor) -> tuple[torch.Tensor, ...]:
    logprobs = logits.log_softmax(-1)
    own = logprobs.gather(1, targets[:, None])
    kl = (last.exp() * (last - logprobs)).sum(-1)
    return own[:, 0], (logprobs > own).sum(-1) + 1, kl.clamp_min(0), logprobs.argmax(-1)


@dataclass(frozen=True)
class TokenPrediction:
    """One answer position: the true token, its probability and rank, and the likeliest tokens with theirs."""

    token: int
    probability: float
    rank: int
    top: tuple[tuple[int, float], ...]


@torch.no_grad()
def top_tokens(hooked: HookedModel, row: TokenRow, top: int = TOP) -> list[TokenPrediction]:
    """Predict every answer token of a text, given the true answer up to it."""
    _, logits = hooked.run(row.ids)
    probabilities = logits[row.answer_start - 1 : -1].softmax(-1)
    best = probabilities.topk(min(top, probabilities.shape[-1]), dim=-1)
    predictions = []
    for at, token in enumerate(row.ids[row.answer_start :]):
        own = probabilities[at, token]
        likeliest = zip(best.indices[at].tolist(), best.values[at].tolist(), strict=True)
        rank = int((probabilities[at] > own).sum()) + 1
        predictions.append(TokenPrediction(token, float(own), rank, tuple(likeliest)))
    return predictions


def lens_rows(chat: ChatFormat, path: Path | None = None) -> list[TokenRow]:
    """Encode the built-in generic rows, or those of `path`: plain text, or any file of records.

    Raises InputError for a file that cannot be read, and for one with fewer than LEAST_ROWS rows.
    """
    records = load_generic() if path is None else _read_text(path)
    if len(records) < LEAST_ROWS:
        raise InputError(
            f"{len(records)} rows are too few to fit a lens on",
            where=f"--lens-text {path}",
            way_out=f"give {LEAST_ROWS} or more, or plain text of {LEAST_ROWS * Source(path='').chunk_words} words",
        )
    return encode(chat, [record_example(record) for record in records])


def _read_text(path: Path) -> list[Record]:
    source = Source(path=str(path))
    if path.suffix.lower() not in _PLAIN_TEXT:
        return [record for _, record in read_records(source, "generic")]
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8: byte {error.start}", where=str(path), way_out="save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", where=str(path)) from None
    chunks = to_records((str(path), {"text": text}), Layout(text="text"), "generic", source.chunk_words)
    return [record for _, record in chunks]
