"""Extract the entities of a text and match two lists of entities one-to-one.

Extraction: the paper (arXiv 2502.11190, appendix C.5) asks a language model for names, e-mails, places, dates,
organisations, events and technical terms, each as a single core noun. This module uses rules and spaCy, which need no
paid service and no network and give the same result each time. Rules are applied first, because spaCy's small model
misses or splits addresses, phone numbers and rare names.

Matching: two entities can be paired when their normal forms are equal, or when the cosine similarity of their sentence
embeddings reaches the threshold (0.8 in the paper). Stricter than the paper, entities with contradicting numbers and
different e-mail addresses are never paired, although "1977" and "1978" have similar embeddings. The result is a maximum
bipartite matching: each entity has at most one partner, and the number of pairs is as large as possible.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from relearn.core.errors import loading
from relearn.text.normalize import LEADING_ARTICLE, entity_form
from relearn.text.spans import find_spans
from relearn.text.subjects import QUOTED

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc, Span, Token

EntityLists = tuple[Sequence[str], Sequence[str]]  # (reference, generated)

# Cosine similarity up to which entities have closeness 0: unrelated entities were measured to be below it
# (docs/metrics.md, "Graded KFR and KRR").
UNRELATED = 0.4


class Extractor(Protocol):
    """Extract the entities of texts: one list per text, in order; None for a text on which extraction failed."""

    name: str

    def extract(self, texts: Sequence[str]) -> list[list[str] | None]: ...


class SpacyEntities:
    """Extract entities by rules and with a spaCy pipeline (tagger, parser, named entities) loaded from `folder`."""

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


# spaCy labels of dates and counts; spaCy also gives them to vague ones ("years", "one", "first", "daily").
_TIMES_AND_COUNTS = frozenset(("DATE", "TIME", "CARDINAL", "ORDINAL", "QUANTITY", "PERCENT", "MONEY"))
_LOOSE_COUNTS = frozenset(("one", "first", "second", "third"))
_VALUES = frozenset(("phone", "date", "number"))
_DIGITS = re.compile(r"\d+")
_LINK = re.compile(r"(?:https?://|www\.)[^\s,;)]+[\w/]")
_TITLE = re.compile(r"\W[^\W\d_a-z].{2,80}\W", re.DOTALL)
_AGENT = re.compile(r"(?:ist|eer|ician)$")
_POSSESSIVE = re.compile(r"(?:'s|’s|(?<=s)['’])$", re.IGNORECASE)


def _entities_of(doc: Doc) -> list[str]:
    """Return non-overlapping entities in text order.

    Where candidates overlap, spans found by rules win over spaCy's names, and names over core nouns.
    """
    entities: list[tuple[int, str]] = []
    covered = bytearray(len(doc.text))
    for start, end, text in _candidates(doc):
        if text and not any(covered[start:end]):
            covered[start:end] = b"\1" * (end - start)
            entities.append((start, text))
    return [text for _, text in sorted(entities)]


def _candidates(doc: Doc) -> Iterator[tuple[int, int, str]]:
    """Yield (start, end, entity) of all candidates, the most reliable kind first."""
    for match in _LINK.finditer(doc.text):
        yield match.start(), match.end(), match.group()
    for match in QUOTED.finditer(doc.text):
        if _TITLE.fullmatch(match.group()):
            yield match.start(), match.end(), _trimmed(match.group())
    for span in find_spans(doc.text):
        yield span.start, span.end, span.text
    for name in [*filter(_is_specific, doc.ents), *_proper_runs(doc)]:
        yield name.start_char, name.end_char, _trimmed(name.text)
    for nouns in _common_nouns(doc):
        yield nouns[0].idx, nouns[-1].idx + len(nouns[-1]), " ".join([*map(str, nouns[:-1]), nouns[-1].lemma_]).lower()


def _is_specific(name: Span) -> bool:
    """Return whether a named entity is specific, not a vague time or count ("years", "one")."""
    if name.label_ not in _TIMES_AND_COUNTS:
        return any(character.isalnum() for character in name.text)
    return any(token.pos_ == "PROPN" or (token.like_num and token.lower_ not in _LOOSE_COUNTS) for token in name)


def _proper_runs(doc: Doc) -> list[Span]:
    """Join each run of neighbouring proper nouns to one name."""
    runs: list[Span] = []
    for token in doc:
        if token.pos_ != "PROPN" or not token.text[0].isalnum() or token.text.islower():
            continue
        if runs and runs[-1].end == token.i:
            runs[-1] = doc[runs[-1].start : token.i + 1]
        else:
            runs.append(doc[token.i : token.i + 1])
    return runs


def _common_nouns(doc: Doc) -> Iterator[list[Token]]:
    """Yield the head noun of every noun phrase, and its noun modifiers as one compound.

    "biologist mother and park ranger father" gives "mother", "biologist", "father" and "park ranger".
    """
    for chunk in doc.noun_chunks:
        runs: list[list[Token]] = [[]]
        for token in chunk:
            if not _is_common_noun(token):
                runs.append([])
            elif token == chunk.root:
                runs += [[token], []]
            else:
                runs[-1].append(token)
        yield from filter(None, runs)


def _is_common_noun(token: Token) -> bool:
    # The tagger takes "ranger" in "park ranger father" for a name, and "biologist" before "mother" for an adjective.
    is_noun = token.pos_ == "NOUN" or (
        token.text.islower() and (token.pos_ == "PROPN" or _AGENT.search(token.text) is not None)
    )
    return is_noun and not token.is_stop and len(token.lemma_) > 2 and token.lemma_.isalpha()


def _trimmed(text: str) -> str:
    return LEADING_ARTICLE.sub("", _POSSESSIVE.sub("", text.strip(" ,.;:'\"“”‘’()")))


def distinct(entities: Iterable[str]) -> list[str]:
    """Remove duplicates (compared by `entity_form`) and entities of punctuation only; keep the order."""
    by_form: dict[str, str] = {}
    for entity in entities:
        if form := entity_form(entity):
            by_form.setdefault(form, entity)
    return list(by_form.values())


def occurs_in(entity: str, text: str) -> bool:
    """Return whether the words of `entity` occur in `text` one after the other, in the normal form."""
    form = entity_form(entity)
    return bool(form) and f" {form} " in f" {entity_form(text)} "


def without_query(entities: Iterable[str], query: str, query_entities: Iterable[str]) -> list[str]:
    """Remove the entities that occur in the question, as one of its entities or as part of its text."""
    query_keys = frozenset().union(*map(entity_keys, query_entities))
    return [entity for entity in entities if not entity_keys(entity) & query_keys and not occurs_in(entity, query)]


@lru_cache(maxsize=1 << 16)
def entity_keys(entity: str) -> frozenset[str]:
    """Return the forms in which an entity is compared: `entity_form`, and the values of a date, phone or number."""
    values = (span.norm.split("|") for span in find_spans(entity) if span.kind in _VALUES and span.text == entity)
    return frozenset(key for key in (entity_form(entity), *(value for forms in values for value in forms)) if key)


class Matcher(Protocol):
    """Match (reference, generated) lists of entities one-to-one.

    `match`: for every reference entity the index of the generated entity paired with it, or None. `closeness`: arrays
    of shape (reference, generated) from 0 (unrelated) to 1 (can be paired). `related`: cosine similarity of two whole
    texts, one per pair; None for a matcher without embeddings.
    """

    name: str

    def match(self, pairs: Sequence[EntityLists]) -> list[list[int | None]]: ...

    def closeness(self, pairs: Sequence[EntityLists]) -> list[np.ndarray]: ...

    def related(self, pairs: Sequence[tuple[str, str]]) -> list[float] | None: ...


class ExactMatcher:
    """Pair entities whose normal forms are equal."""

    name = "exact"

    def match(self, pairs: Sequence[EntityLists]) -> list[list[int | None]]:
        return [_maximum_matching(_same(reference, generated)) for reference, generated in pairs]

    def closeness(self, pairs: Sequence[EntityLists]) -> list[np.ndarray]:
        return [_same(reference, generated).astype(float) for reference, generated in pairs]

    def related(self, pairs: Sequence[tuple[str, str]]) -> list[float] | None:
        return None


class EmbeddingMatcher:
    """Pair entities whose sentence embeddings have a cosine similarity of at least `threshold`.

    `model`: a folder or a name on the hub of a sentence-transformers encoder with mean pooling (all-MiniLM-L6-v2,
    sentence-transformers/all-MiniLM-L12-v2). `label`: name of the model in notes. Embeddings are cached by string.
    """

    def __init__(self, model: str, threshold: float = 0.8, batch_size: int = 256, label: str | None = None):
        self.name = f"{label or model}, cosine >= {threshold:g}"
        self._threshold = threshold
        self._encoder = SentenceEncoder(model, batch_size)

    def match(self, pairs: Sequence[EntityLists]) -> list[list[int | None]]:
        graphs = [_same(reference, generated) for reference, generated in pairs]
        open_pairs = [index for index, graph in enumerate(graphs) if _may_gain(graph)]
        self._encoder.encode([text for index in open_pairs for side in pairs[index] for text in side])
        for index in open_pairs:
            graphs[index] |= self._near(*pairs[index])
        return [_maximum_matching(graph) for graph in graphs]

    def closeness(self, pairs: Sequence[EntityLists]) -> list[np.ndarray]:
        """Compute the closeness of entities: arrays of shape (reference, generated), one per pair of lists.

        1 where two entities can be paired; 0 where they must not be, or their cosine similarity is at most UNRELATED;
        linear in the cosine similarity between UNRELATED and the threshold.
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
    pairs = [[bool(entity_keys(left) & entity_keys(right)) for right in generated] for left in reference]
    return np.array(pairs, dtype=bool).reshape(len(reference), len(generated))


def _may_gain(graph: np.ndarray) -> bool:
    """Return whether embeddings could add a pair: no list is empty, and a reference entity has no equal entity."""
    return graph.size > 0 and not bool(graph.any(axis=1).all())


def _allowed(reference: Sequence[str], generated: Sequence[str]) -> np.ndarray:
    return np.array([[_compatible(left, right) for right in generated] for left in reference], dtype=bool)


def _compatible(left: str, right: str) -> bool:
    """Return whether two entities may be paired by their embeddings.

    False for contradicting numbers, and for e-mail addresses, which differ if a single letter differs.
    """
    if "@" in left or "@" in right:
        return False
    numbers_left, numbers_right = set(_DIGITS.findall(left)), set(_DIGITS.findall(right))
    return numbers_left <= numbers_right or numbers_right <= numbers_left


def best_total(closeness: np.ndarray) -> float:
    """Compute the largest sum of a one-to-one assignment in an array of shape (reference, generated)."""
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
    """Compute sentence embeddings by mean pooling over the tokens: L2 norm 1, float32, on the CPU.

    Raises InputError on first use when `model` cannot be loaded.
    """

    def __init__(self, model: str, batch_size: int = 256):
        self._model_name = model
        self._batch_size = batch_size
        self._loaded: tuple[Any, Any, int] | None = None
        self._cache: dict[str, np.ndarray] = {}

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Compute the embeddings of texts: an array of shape (texts, width). Embeddings are cached by text."""
        new = sorted({text for text in texts if text not in self._cache}, key=lambda text: (len(text), text))
        for start in range(0, len(new), self._batch_size):
            batch = new[start : start + self._batch_size]
            self._cache.update(zip(batch, self._embed(batch), strict=True))
        return np.stack([self._cache[text] for text in texts]) if len(texts) else np.zeros((0, 0), dtype=np.float32)

    def _embed(self, texts: list[str]) -> np.ndarray:
        import torch

        tokenizer, model, limit = self._load()
        inputs = tokenizer(texts, padding=True, truncation=True, max_length=limit, return_tensors="pt")
        with torch.inference_mode():
            hidden = model(**inputs).last_hidden_state
        mask = inputs["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        pooled = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
        return torch.nn.functional.normalize(pooled, dim=-1).numpy()

    def _load(self) -> tuple[Any, Any, int]:
        if self._loaded is None:
            import torch
            from transformers import AutoModel, AutoTokenizer
            from transformers.utils import logging

            logging.disable_progress_bar()
            way_out = "all-minilm-l6-v2, exact, a folder, or a name on the hub"
            with loading(f"the entity matcher {self._model_name!r}", where="metrics.matcher", way_out=way_out):
                tokenizer = AutoTokenizer.from_pretrained(self._model_name, trust_remote_code=False)
                model = AutoModel.from_pretrained(
                    self._model_name, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
                )
            limit = min(model.config.max_position_embeddings, tokenizer.model_max_length)
            self._loaded = (tokenizer, model.eval(), limit)
        return self._loaded
