"""Corrupt the embeddings of prompts that a classifier assigns to the forget set (ECO, arXiv 2406.07933).

    x -> corrupt(e(x); sigma)   if p(forget | x) > threshold,   else x

(Liu et al., NeurIPS 2024.) e(x) are the token embeddings of the prompt x, sigma is the strength. Only the prompt is
corrupted; the answer is generated as usual. The noise is keyed by the prompt, so a prompt always gets the same answer.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from relearn.core.errors import InputError
from relearn.core.files import read_json, write_json
from relearn.engine.forward import Predicted, TokenRow, predict
from relearn.models.builtin import builtin_path, is_builtin
from relearn.models.chat import ChatFormat
from relearn.models.load import Loaded
from relearn.text.entities import SentenceEncoder
from relearn.text.subjects import find_subject
from relearn.unlearning.inference_time.wrapper import ModelWrapper

Mode = Literal["rand_noise", "zero_out"]
Tokens = Literal["subject", "question"]
_WEIGHTS = "classifier.safetensors"
_SETTINGS = "eco.json"


@dataclass(frozen=True)
class Corruption:
    """Corrupt the embeddings of `tokens`: the name of the subject in the question, or the whole question.

    `mode` "rand_noise" adds normal noise to every dimension, with a standard deviation of `strength` times the root
    mean square of the embeddings. "zero_out" sets the dimensions of each token with the largest absolute values to 0;
    `strength` is their share, 0 to 1. The whole question is corrupted when it has no name.
    """

    mode: Mode = "rand_noise"
    strength: float = 1.0
    tokens: Tokens = "subject"

    def __call__(self, embeddings: torch.Tensor, key: bytes) -> torch.Tensor:
        """Corrupt embeddings (n, H) -> (n, H); the same `key` gives the same noise."""
        if self.mode == "zero_out":
            dropped = embeddings.abs().topk(round(self.strength * embeddings.shape[-1]), dim=-1).indices
            return embeddings.scatter(-1, dropped, 0.0)
        seed = int.from_bytes(hashlib.sha256(key).digest()[:8], "big") >> 1
        noise = torch.randn(embeddings.shape, generator=torch.Generator("cpu").manual_seed(seed), device="cpu")
        size = embeddings.float().pow(2).mean().sqrt()
        return embeddings + (noise.to(embeddings.device) * size * self.strength).to(embeddings.dtype)


@dataclass(frozen=True)
class PromptClassifier:
    """Classify prompts with logistic regression on sentence embeddings: p(forget | x) = s(w . e(x) + b).

    A prompt is corrupted when the probability is above `threshold`. `weight` is (width of the encoder,) float64,
    `encoder` the name of the encoder. Prompts are embedded one at a time, so that the result does not depend on other
    prompts.
    """

    encoder: str
    weight: np.ndarray
    bias: float
    threshold: float
    embed: SentenceEncoder

    def probabilities(self, questions: Sequence[str]) -> np.ndarray:
        """Compute p(forget | question): (questions,)."""
        if not questions:
            return np.zeros(0)
        return probability(self.embed.encode(questions).astype(np.float64) @ self.weight + self.bias)

    def flags(self, questions: Sequence[str]) -> list[bool]:
        """Return True for each question whose prompt has to be corrupted."""
        return [bool(value > self.threshold) for value in self.probabilities(questions)]


def probability(logit: np.ndarray) -> np.ndarray:
    """Compute the logistic function."""
    return 0.5 * (1 + np.tanh(logit / 2))


def sentence_encoder(name: str, *, batch_size: int = 1) -> SentenceEncoder:
    """Load a sentence encoder by built-in name, folder or name on the hub. Raises InputError when that fails."""
    encoder = SentenceEncoder(str(builtin_path(name)) if is_builtin(name) else name, batch_size)
    try:
        encoder.encode(["a question"])
    except InputError:
        raise InputError(
            f"cannot load the sentence encoder {name!r}",
            where="unlearn.options.encoder",
            way_out="all-minilm-l6-v2, a folder, or a name on the hub",
        ) from None
    return encoder


class EcoModel(ModelWrapper):
    """Run the model `inner` with corrupted embeddings for the prompts that the classifier selects.

    The weights of `inner` do not change. Predictions for other prompts are bit-identical to those of `inner`, for any
    other rows in the batch.
    """

    def __init__(
        self, inner: Any, *, tokenizer: Any, chat: ChatFormat, classifier: PromptClassifier, corruption: Corruption
    ):
        super().__init__(inner)
        self.classifier = classifier
        self.corruption = corruption
        self._reader = PromptReader(tokenizer, chat)

    def changed(self, rows: Sequence[TokenRow], layer: int | None) -> Predicted:
        flags = self._flags([row.ids[: row.answer_start] for row in rows])
        if not any(flags):
            return predict(self.inner, rows, layer=layer)
        flagged = [row for row, flag in zip(rows, flags, strict=True) if flag]
        corrupted = self._predict_corrupted(flagged, layer)
        if all(flags):
            return corrupted
        plain = predict(self.inner, rows, layer=layer)
        flagged_tokens = torch.tensor([flag for row, flag in zip(rows, flags, strict=True) for _ in row.answer_ids])
        pairs = {name: (getattr(plain, name), getattr(corrupted, name)) for name in ("logits", "states", "layer")}
        return replace(plain, **{name: _merged(*pair, flagged_tokens) for name, pair in pairs.items()})

    def generate_changed(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, settings: dict[str, Any]
    ) -> torch.Tensor:
        prompts = [tuple(ids[mask.bool()].tolist()) for ids, mask in zip(input_ids, attention_mask, strict=True)]
        flags = self._flags(prompts)
        if any(flags):
            embeddings = self.inner.get_input_embeddings()(input_ids).clone()
            for number, (prompt, flag) in enumerate(zip(prompts, flags, strict=True)):
                if flag:
                    places, vectors = self._corrupt(prompt)
                    padding = input_ids.shape[1] - len(prompt)
                    embeddings[number, [padding + place for place in places]] = vectors
            settings = {**settings, "inputs_embeds": embeddings}
        return self.inner.generate(input_ids=input_ids, attention_mask=attention_mask, **settings)

    def _flags(self, prompts: Sequence[tuple[int, ...]]) -> list[bool]:
        return self.classifier.flags([self._reader.question(prompt) for prompt in prompts])

    def _predict_corrupted(self, rows: Sequence[TokenRow], layer: int | None) -> Predicted:
        """Predict the answers of `rows` with corrupted prompts.

        For this pass each corrupted token gets a new id after the vocabulary. Rows can then be packed and share
        prefixes as usual, because equal ids have equal embeddings.
        """
        embedding = self.inner.get_input_embeddings()
        size = embedding.weight.shape[0]
        vectors: list[torch.Tensor] = []
        renamed: dict[tuple[int, ...], tuple[int, ...]] = {}
        for row in rows:
            prompt = row.ids[: row.answer_start]
            if prompt not in renamed:
                places, embeddings = self._corrupt(prompt)
                numbers = dict(zip(places, range(size + len(vectors), size + len(vectors) + len(places)), strict=True))
                renamed[prompt] = tuple(numbers.get(place, token) for place, token in enumerate(prompt))
                vectors += list(embeddings)
        renamed_rows = [replace(row, ids=renamed[row.ids[: row.answer_start]] + row.answer_ids) for row in rows]
        with _more_tokens(embedding, torch.stack(vectors)):
            return predict(self.inner, renamed_rows, layer=layer)

    @torch.no_grad()
    def _corrupt(self, prompt: tuple[int, ...]) -> tuple[list[int], torch.Tensor]:
        """Find the positions (n,) of the prompt to corrupt, and compute their corrupted embeddings (n, H)."""
        places = self._reader.places(prompt, self.corruption.tokens)
        embedding = self.inner.get_input_embeddings()
        ids = torch.tensor([[prompt[place] for place in places]], device=embedding.weight.device)
        return places, self.corruption(embedding(ids)[0], repr(prompt).encode())


def _merged(plain: torch.Tensor | None, corrupted: torch.Tensor | None, flags: torch.Tensor) -> torch.Tensor | None:
    """Take the values of `corrupted` (flagged tokens, ...) where `flags` (tokens,) is True, of `plain` elsewhere."""
    if plain is None or corrupted is None:
        return plain
    merged = plain.clone()
    merged[flags.to(plain.device)] = corrupted.to(plain.dtype)
    return merged


@contextmanager
def _more_tokens(embedding: Any, vectors: torch.Tensor) -> Iterator[None]:
    """Map the ids after the vocabulary of `embedding` to `vectors` (n, H) inside the block."""
    size, original = embedding.weight.shape[0], embedding.forward

    def forward(ids: torch.Tensor) -> torch.Tensor:
        added = ids >= size
        embeddings = original(ids.masked_fill(added, 0))
        return torch.where(added[..., None], vectors[(ids - size).clamp(min=0)].to(embeddings.dtype), embeddings)

    embedding.forward = forward
    try:
        yield
    finally:
        del embedding.forward


class PromptReader:
    """Find the tokens of the question, or of the name of its subject, in a tokenized prompt."""

    def __init__(self, tokenizer: Any, chat: ChatFormat):
        self._tokenizer = tokenizer
        prompts = (chat.answer_prompt, chat.prompt)
        self._frames = [self._frame(prompt, form) for form in ("chat", "text") for prompt in prompts]

    def question(self, prompt: tuple[int, ...]) -> str:
        """Return the question without the template around it."""
        text = self._text(prompt)
        return text[self._span(text)].strip()

    def places(self, prompt: tuple[int, ...], tokens: Tokens) -> list[int]:
        """List the positions of the question's tokens, or with `tokens` "subject" those of the subject's name.

        A question without a name gives all its positions.
        """
        text = self._text(prompt)
        span = self._span(text)
        start, stop = span.start, span.stop
        name = find_subject(text[span]) if tokens == "subject" else None
        at = text.find(name, start, stop) if name else -1
        if name and at >= 0:
            start, stop = at, at + len(name)
        ends = [len(self._text(prompt[: place + 1])) for place in range(len(prompt))]
        begins = [0, *ends[:-1]]
        return [
            place for place, (begin, end) in enumerate(zip(begins, ends, strict=True)) if begin < stop and end > start
        ]

    def _span(self, text: str) -> slice:
        for before, after in self._frames:
            if text.startswith(before) and text.endswith(after) and len(text) > len(before) + len(after):
                return slice(len(before), len(text) - len(after))
        return slice(0, len(text))

    def _frame(self, prompt: Callable[[str, Any], str], form: str) -> tuple[str, str]:
        """Find the template text before and after a question, by comparing the prompts of two different questions."""
        one, two = (
            self._text(self._tokenizer(prompt(question, form), add_special_tokens=False).input_ids)
            for question in ("Who was here?", "2 trees, 3 birds")
        )
        return _shared(one, two), _shared(one[::-1], two[::-1])[::-1]

    def _text(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def _shared(one: str, two: str) -> str:
    """Return the longest common prefix."""
    same = (a == b for a, b in zip(one, two, strict=False))
    return one[: len(list(itertools.takewhile(bool, same)))]


def save_eco(folder: Path, classifier: PromptClassifier, corruption: Corruption, **numbers: Any) -> None:
    """Write classifier.safetensors and eco.json to `folder`; `numbers` are measurements added to eco.json."""
    weights = {
        "weight": torch.from_numpy(np.ascontiguousarray(classifier.weight)),
        "bias": torch.tensor([classifier.bias], dtype=torch.float64),
    }
    save_file(weights, folder / _WEIGHTS)
    settings = {"encoder": classifier.encoder, "threshold": classifier.threshold, **asdict(corruption)}
    write_json(folder / _SETTINGS, {**settings, **numbers})


def load_eco(start: Loaded, folder: Path) -> Loaded:
    """Load the ECO model from the start model and a folder that `save_eco` wrote."""
    saved = read_json(folder / _SETTINGS)
    weights = load_file(folder / _WEIGHTS)
    classifier = PromptClassifier(
        saved["encoder"],
        weights["weight"].numpy(),
        float(weights["bias"][0]),
        saved["threshold"],
        sentence_encoder(saved["encoder"]),
    )
    corruption = Corruption(saved["mode"], saved["strength"], saved["tokens"])
    parts = {"tokenizer": start.tokenizer, "chat": start.chat, "classifier": classifier, "corruption": corruption}
    return replace(start, model=EcoModel(start.model, **parts).eval())
