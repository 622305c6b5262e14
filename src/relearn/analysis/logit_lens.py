"""Apply the logit lens: decode the states of every layer with the final norm and output layer (nostalgebraist 2020).

The lens shows at which layer the secret becomes likely, and the KL of each layer to the last. The KL to the last layer
falls gradually in the vanilla model and after ReLearn, and abruptly after reverse optimisation (arXiv 2502.11190,
section 5.2 and Figure 6). With `translators` (tuned_lens.py) the states are first mapped into the last layer's space;
`lens_rows` loads the text on which these are fitted.

`top_tokens` lists the likeliest tokens per answer position (Figure 5). It shows the probability seesaw: lowering the
likeliest token raises the next one, which may be the secret in another form, and later noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from relearn.analysis.hooks import HookedModel
from relearn.analysis.tuned_lens import Translators
from relearn.core.config import DataSource
from relearn.core.errors import InputError
from relearn.data import Record
from relearn.data.columns import ColumnLayout, to_records
from relearn.data.loaders import read_records
from relearn.engine.forward import TokenRow
from relearn.models.chat import ChatFormat
from relearn.synthesis.rows import load_generic
from relearn.unlearning.data.encode import encode, record_example

# One row in six is for early stopping and one in six is held out, so 12 rows leave two for each.
LEAST_ROWS = 12
TOP = 5
_PLAIN_TEXT = (".txt", ".md", ".text")


@dataclass(frozen=True)
class LensValues:
    """Hold lens values per layer (L + 1, the embeddings first) and answer token (A), each of shape (L + 1, A).

    `logprob`, `rank`: of the true token; rank 1 is the likeliest. `kl`: KL(last layer || this layer) in nats.
    `likeliest`: id of the layer's likeliest token.
    """

    logprob: torch.Tensor
    rank: torch.Tensor
    kl: torch.Tensor
    likeliest: torch.Tensor


@torch.no_grad()
def lens(hooked: HookedModel, row: TokenRow, translators: Translators | None = None) -> LensValues:
    """Apply the lens at the positions that predict the answer tokens; `translators` must be on the model's device."""
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
    """Hold the prediction at one answer position: true token, its probability and rank, and the likeliest tokens.

    `top`: (token id, probability) of the likeliest tokens, in descending order.
    """

    token: int
    probability: float
    rank: int
    top: tuple[tuple[int, float], ...]


@torch.no_grad()
def top_tokens(hooked: HookedModel, row: TokenRow, top: int = TOP) -> list[TokenPrediction]:
    """Predict every answer token of a text, given the true answer before it."""
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
    """Encode the rows that a tuned lens is fitted on: from `path` (plain text or records), or built-in generic rows.

    Raises InputError for a file that cannot be read or has fewer than LEAST_ROWS rows.
    """
    records = load_generic() if path is None else _read_text(path)
    if len(records) < LEAST_ROWS:
        words = LEAST_ROWS * DataSource.model_fields["chunk_words"].default
        raise InputError(
            f"{len(records)} rows are too few to fit a lens on",
            where=f"--lens-text {path}",
            way_out=f"give {LEAST_ROWS} or more, or plain text of {words} words",
        )
    return encode(chat, [record_example(record) for record in records])


def _read_text(path: Path) -> list[Record]:
    source = DataSource(path=str(path))
    if path.suffix.lower() not in _PLAIN_TEXT:
        return [record for _, record in read_records(source, "generic")]
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8: byte {error.start}", where=str(path), way_out="save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", where=str(path)) from None
    chunks = to_records((str(path), {"text": text}), ColumnLayout(text="text"), "generic", source.chunk_words)
    return [record for _, record in chunks]
