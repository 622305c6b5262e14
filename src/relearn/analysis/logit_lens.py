"""Knowledge memory: every layer read through the final norm and the output layer (logit lens, nostalgebraist 2020).

With `translators` (`tuned`) a layer's states are first brought into the last layer's terms.

Where in the depth of the model does the secret become likely, and how far is each layer from the last? The paper
(arXiv 2502.11190, section 5.2 and Figure 6) finds a gradual approach to the last layer in the vanilla model and after
ReLearn, and an abrupt one after reverse optimisation.

The text a tuned lens is fitted on: the generic rows that come with the project, or a file of the user's own.

Knowledge distribution: the likeliest tokens where an answer is given (arXiv 2502.11190, section 5.2 and Figure 5).

Pushing the likeliest token down lifts the next, which may be the secret in another form, and then noise: the paper
calls it a probability seesaw. Here it is seen token by token.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from relearn.analysis.hooks import Inside
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


# One row of six is kept to stop by and one to measure on.
LEAST_ROWS = 12
_PLAIN = (".txt", ".md", ".text")


def lens_rows(chat: ChatFormat, path: Path | None = None) -> list[TokenRow]:
    """The built-in generic rows, or those of `path`: plain text, or any file that records are read from.

    Raises InputError for a file that cannot be read, and for one with less than `LEAST_ROWS` rows.
    """
    records = load_generic() if path is None else _read(path)
    if len(records) < LEAST_ROWS:
        raise InputError(
            f"{len(records)} rows are too few to fit a lens on",
            where=f"--lens-text {path}",
            way_out=f"give {LEAST_ROWS} or more, or plain text of {LEAST_ROWS * DataSource(path='').chunk_words} words",
        )
    return encode(chat, [record_example(record) for record in records])


def _read(path: Path) -> list[Record]:
    source = DataSource(path=str(path))
    if path.suffix.lower() not in _PLAIN:
        return [record for _, record in read_records(source, "generic")]
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8: byte {error.start}", where=str(path), way_out="save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", where=str(path)) from None
    pieces = to_records((str(path), {"text": text}), ColumnLayout(text="text"), "generic", source.chunk_words)
    return [record for _, record in pieces]


TOP = 5


@dataclass(frozen=True)
class Place:
    """One position of an answer: the true token, its probability and rank, and the likeliest tokens with theirs."""

    token: int
    probability: float
    rank: int
    top: tuple[tuple[int, float], ...]


@torch.no_grad()
def candidates(inside: Inside, row: TokenRow, top: int = TOP) -> list[Place]:
    """Every answer token of a text under the model, the true answer before it."""
    _, logits = inside.run(row.ids)
    probabilities = logits[row.answer_start - 1 : -1].softmax(-1)
    found = probabilities.topk(min(top, probabilities.shape[-1]), dim=-1)
    places = []
    for at, token in enumerate(row.ids[row.answer_start :]):
        own = probabilities[at, token]
        likeliest = zip(found.indices[at].tolist(), found.values[at].tolist(), strict=True)
        places.append(Place(token, float(own), int((probabilities[at] > own).sum()) + 1, tuple(likeliest)))
    return places
