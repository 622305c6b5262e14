"""The entities of a text: names, places, dates, numbers, contacts, and the nouns that carry its content.

The paper (arXiv 2502.11190, appendix C.5) has a language model name them: names, e-mails, places, dates, organisations,
events, technical terms, each as a single core noun. Here rules and spaCy do it: free, repeatable and offline. The rules
come first, for what spaCy's small model misses or splits (e-mail and street addresses, phone numbers, rare names).

Which entities of one list say the same as entities of another: one-to-one, so that no entity counts twice.

Two entities may pair when they are the same text once normalised, or when the cosine of their sentence embeddings
reaches the threshold (0.8 in the paper, arXiv 2502.11190). Cosine alone takes "1977" for "1978" and one e-mail address
for the next, so two entities whose numbers contradict each other, and contacts that are not the same, never pair; that
is stricter than the paper. The pairs chosen are a maximum matching: as many as there can be.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from relearn.core.errors import InputError
from relearn.text.normalize import is_ordinary, norms, singular
from relearn.text.spans import find_spans

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc, Span, Token


class Extractor(Protocol):
    """Texts in, one list of entities each out, in the order of the texts; None where the extractor failed."""

    name: str

    def extract(self, texts: Sequence[str]) -> list[list[str] | None]: ...


# Labels that spaCy gives to dates and counts, loose ones ("years", "one", "first", "daily") included.
_TIMES_AND_COUNTS = frozenset(("DATE", "TIME", "CARDINAL", "ORDINAL", "QUANTITY", "PERCENT", "MONEY"))
_LOOSE_COUNTS = frozenset(("one", "first", "second", "third"))
_VALUES = frozenset(("phone", "date", "number"))
_LINK = re.compile(r"(?:https?://|www\.)[^\s,;)]+[\w/]")
_TITLE = re.compile(r"[\"“]([^\W\d_a-z][^\"“”]{2,80})[\"”]|(?<!\w)['‘]([^\W\d_a-z][^'‘’]{2,80})['’](?!\w)")
_POSSESSIVE = re.compile(r"(?:'s|’s|(?<=s)['’])$", re.IGNORECASE)
_ARTICLE = re.compile(r"^(?:the|a|an|about|around|nearly|almost)\s+", re.IGNORECASE)


@lru_cache(maxsize=1 << 16)
def normalise(text: str) -> str:
    """`text` as it is compared: folded words in the singular, without a leading article and possessives."""
    words = norms(_ARTICLE.sub("", text.strip()))
    return " ".join(singular(word) if word.isalpha() else word for word in words)


@lru_cache(maxsize=1 << 16)
def keys(entity: str) -> frozenset[str]:
    """What `entity` is the same as: its normalised text and, of a date, phone or number, every reading of it."""
    values = (span.norm.split("|") for span in find_spans(entity) if span.kind in _VALUES and span.text == entity)
    return frozenset(key for key in (normalise(entity), *(value for found in values for value in found)) if key)


def occurs_in(entity: str, text: str) -> bool:
    """Whether the words of `entity` stand in `text` one after the other."""
    wanted = normalise(entity)
    return bool(wanted) and f" {wanted} " in f" {normalise(text)} "


def without_query(entities: Iterable[str], query: str, query_entities: Iterable[str]) -> list[str]:
    """`entities` less those that the question itself gives, whole or as part of something longer in it."""
    given = frozenset().union(*map(keys, query_entities))
    return [entity for entity in entities if not keys(entity) & given and not occurs_in(entity, query)]


def distinct(entities: Iterable[str]) -> list[str]:
    """`entities` in order, each once (compared normalised), without those that hold no letter or digit."""
    found: list[str] = []
    seen: set[str] = set()
    for entity in entities:
        if (key := normalise(entity)) and key not in seen:
            seen.add(key)
            found.append(entity)
    return found


class SpacyEntities:
    """Entities by a spaCy pipeline (tagger, parser, named entities) loaded from `folder`."""

    def __init__(self, folder: Path, name: str = "spacy", batch_size: int = 64):
        self.name = name
        self._folder = Path(folder)
        self._batch_size = batch_size

    @cached_property
    def _pipeline(self) -> Language:
        import spacy

        return spacy.load(self._folder)

    def extract(self, texts: Sequence[str]) -> list[list[str] | None]:
        docs = self._pipeline.pipe(texts, batch_size=self._batch_size)
        return [distinct(_entities_of(doc)) for doc in docs]


def _entities_of(doc: Doc) -> list[str]:
    """In the order of the text: what the rules find, then spaCy's names, then core nouns, none overlapping."""
    found: list[tuple[int, str]] = []
    covered = bytearray(len(doc.text))
    for start, end, text in _candidates(doc):
        if text and not any(covered[start:end]):
            covered[start:end] = b"\1" * (end - start)
            found.append((start, text))
    return [text for _, text in sorted(found)]


def _candidates(doc: Doc) -> Iterator[tuple[int, int, str]]:
    """(start, end, entity), the surest kind first."""
    for match in _LINK.finditer(doc.text):
        yield match.start(), match.end(), match.group()
    for span in find_spans(doc.text):
        yield span.start, span.end, span.text
    for match in _TITLE.finditer(doc.text):
        yield match.start(), match.end(), _trimmed(match.group())
    for name in [*filter(_says_something, doc.ents), *_proper_runs(doc)]:
        yield name.start_char, name.end_char, _trimmed(name.text)
    for token in _core_words(doc):
        yield token.idx, token.idx + len(token), token.lemma_.lower()


def _says_something(name: Span) -> bool:
    """False for loose times and counts."""
    if name.label_ not in _TIMES_AND_COUNTS:
        return any(character.isalnum() for character in name.text)
    return any(token.pos_ == "PROPN" or (token.like_num and token.lower_ not in _LOOSE_COUNTS) for token in name)


def _proper_runs(doc: Doc) -> list[Span]:
    """Neighbouring proper nouns as one name each."""
    runs: list[Span] = []
    for token in doc:
        if token.pos_ != "PROPN" or not token.text[0].isalnum():
            continue
        if runs and runs[-1].end == token.i:
            runs[-1] = doc[runs[-1].start : token.i + 1]
        else:
            runs.append(doc[token.i : token.i + 1])
    return runs


def _core_words(doc: Doc) -> Iterator[Token]:
    """The head noun of every noun phrase; where that is a general one, the nouns that narrow it ("coeliac" disease)."""
    for chunk in doc.noun_chunks:
        if _is_core_noun(chunk.root):
            yield chunk.root
        if is_ordinary(normalise(chunk.root.lemma_)):
            narrowing = (token for token in chunk.root.lefts if token.dep_ == "compound")
            yield from (token for token in narrowing if _is_core_noun(token))


def _is_core_noun(token: Token) -> bool:
    lemma = token.lemma_.lower()
    return token.pos_ == "NOUN" and not token.is_stop and len(lemma) > 2 and lemma.isalpha()


def _trimmed(text: str) -> str:
    return _ARTICLE.sub("", _POSSESSIVE.sub("", text)).strip(" ,.;:'\"“”‘’()")


Pair = tuple[Sequence[str], Sequence[str]]
_DIGITS = re.compile(r"\d+")


# Cosines of unrelated entities lie below this (measured: docs/metrics.md, "Graded KFR and KRR"): nothing in common.
UNRELATED = 0.4


class Matcher(Protocol):
    """For each (reference, generated) pair of lists: for every reference entity its partner's index, or None.

    `closeness`: (reference, generated) arrays from 0 (nothing in common) to 1 (would pair). `related`: how near two
    whole texts are, as a cosine; None where the matcher cannot tell.
    """

    name: str

    def match(self, pairs: Sequence[Pair]) -> list[list[int | None]]: ...

    def closeness(self, pairs: Sequence[Pair]) -> list[np.ndarray]: ...

    def related(self, pairs: Sequence[tuple[str, str]]) -> list[float] | None: ...


class ExactMatcher:
    """Pairs entities that are the same text once normalised."""

    name = "exact"

    def match(self, pairs: Sequence[Pair]) -> list[list[int | None]]:
        return [_maximum_matching(_same(reference, generated)) for reference, generated in pairs]

    def closeness(self, pairs: Sequence[Pair]) -> list[np.ndarray]:
        return [_same(reference, generated).astype(float) for reference, generated in pairs]

    def related(self, pairs: Sequence[tuple[str, str]]) -> list[float] | None:
        return None


class EmbeddingMatcher:
    """Pairs entities whose sentence embeddings have a cosine of at least `threshold`.

    `model`: a folder or a name on the hub of a sentence-transformers encoder with mean pooling (all-MiniLM-L6-v2,
    sentence-transformers/all-MiniLM-L12-v2); `label` is what it is called in notes. Embeddings are kept by string as
    long as the matcher lives.
    """

    def __init__(self, model: str, threshold: float = 0.8, batch_size: int = 256, label: str | None = None):
        self.name = f"{label or model}, cosine >= {threshold:g}"
        self._threshold = threshold
        self._encoder = SentenceEncoder(model, batch_size)

    def match(self, pairs: Sequence[Pair]) -> list[list[int | None]]:
        graphs = [_same(reference, generated) for reference, generated in pairs]
        open_pairs = [index for index, graph in enumerate(graphs) if _may_gain(graph)]
        self._encoder.encode([text for index in open_pairs for side in pairs[index] for text in side])
        for index in open_pairs:
            graphs[index] |= self._near(*pairs[index])
        return [_maximum_matching(graph) for graph in graphs]

    def closeness(self, pairs: Sequence[Pair]) -> list[np.ndarray]:
        """1 where two entities may pair, 0 where they must not or their cosine is at most UNRELATED; between the two
        it grows evenly with the cosine.
        """
        graphs = [_same(reference, generated).astype(float) for reference, generated in pairs]
        open_pairs = [index for index, graph in enumerate(graphs) if _may_gain(graph > 0)]
        self._encoder.encode([text for index in open_pairs for side in pairs[index] for text in side])
        for index in open_pairs:
            cosine = np.where(_allowed(*pairs[index]), self._cosine(*pairs[index]), 0.0)
            graphs[index] = np.maximum(graphs[index], self._graded(cosine))
        return graphs

    def related(self, pairs: Sequence[tuple[str, str]]) -> list[float] | None:
        self._encoder.encode([text for pair in pairs for text in pair])
        return [float(np.clip(self._cosine([left], [right])[0, 0], -1.0, 1.0)) for left, right in pairs]

    def _near(self, reference: Sequence[str], generated: Sequence[str]) -> np.ndarray:
        return (self._cosine(reference, generated) >= self._threshold) & _allowed(reference, generated)

    def _cosine(self, left: Sequence[str], right: Sequence[str]) -> np.ndarray:
        return self._encoder.encode(left) @ self._encoder.encode(right).T

    def _graded(self, cosine: np.ndarray) -> np.ndarray:
        floor = min(UNRELATED, self._threshold / 2)
        return np.clip((cosine - floor) / (self._threshold - floor), 0.0, 1.0)


def _same(reference: Sequence[str], generated: Sequence[str]) -> np.ndarray:
    pairs = [[bool(keys(left) & keys(right)) for right in generated] for left in reference]
    return np.array(pairs, dtype=bool).reshape(len(reference), len(generated))


def _may_gain(graph: np.ndarray) -> bool:
    """Whether embeddings could add a pair: neither side empty, and not every reference entity has its like already."""
    return graph.size > 0 and not bool(graph.any(axis=1).all())


def _allowed(reference: Sequence[str], generated: Sequence[str]) -> np.ndarray:
    return np.array([[_compatible(left, right) for right in generated] for left in reference], dtype=bool)


def _compatible(left: str, right: str) -> bool:
    """False when the numbers contradict each other, or when either is an e-mail address (one letter is another box)."""
    if "@" in left or "@" in right:
        return False
    a, b = set(_DIGITS.findall(left)), set(_DIGITS.findall(right))
    return a <= b or b <= a


def best_total(closeness: np.ndarray) -> float:
    """The largest sum that partners, one-to-one, can have in a (reference, generated) array."""
    if closeness.size == 0:
        return 0.0
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(closeness, maximize=True)
    return float(closeness[rows, columns].sum())


def _maximum_matching(graph: np.ndarray) -> list[int | None]:
    if graph.size == 0:
        return [None] * graph.shape[0]
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import maximum_bipartite_matching

    columns = maximum_bipartite_matching(csr_matrix(graph), perm_type="column")
    return [int(column) if column >= 0 else None for column in columns]


class SentenceEncoder:
    """Sentence embeddings by mean pooling over the tokens, of length 1, in float32, on the CPU."""

    def __init__(self, model: str, batch_size: int = 256):
        self._model_name = model
        self._batch_size = batch_size
        self._loaded: tuple | None = None
        self._known: dict[str, np.ndarray] = {}

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """(texts, width). A text seen before is not computed again."""
        new = sorted({text for text in texts if text not in self._known}, key=lambda text: (len(text), text))
        for start in range(0, len(new), self._batch_size):
            batch = new[start : start + self._batch_size]
            self._known.update(zip(batch, self._embed(batch), strict=True))
        return np.stack([self._known[text] for text in texts]) if len(texts) else np.zeros((0, 0), dtype=np.float32)

    def _embed(self, texts: list[str]) -> np.ndarray:
        import torch

        tokenizer, model, limit = self._load()
        inputs = tokenizer(texts, padding=True, truncation=True, max_length=limit, return_tensors="pt")
        with torch.inference_mode():
            hidden = model(**inputs).last_hidden_state
        mask = inputs["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        pooled = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
        return torch.nn.functional.normalize(pooled, dim=-1).numpy()

    def _load(self) -> tuple:
        if self._loaded is None:
            import torch
            from transformers import AutoModel, AutoTokenizer
            from transformers.utils import logging

            logging.disable_progress_bar()
            try:
                tokenizer = AutoTokenizer.from_pretrained(self._model_name)
                model = AutoModel.from_pretrained(self._model_name, dtype=torch.float32, use_safetensors=True)
            except (OSError, ValueError) as error:
                raise InputError(
                    f"cannot load the entity matcher {self._model_name!r}: {str(error).splitlines()[0]}",
                    where="metrics.matcher",
                    way_out="all-minilm-l6-v2, exact, a folder, or a name on the hub",
                ) from None
            limit = min(model.config.max_position_embeddings, tokenizer.model_max_length)
            self._loaded = (tokenizer, model.eval(), limit)
        return self._loaded
