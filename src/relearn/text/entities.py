"""The entities of a text: names, places, dates, numbers, contacts, and the nouns that carry its content.

The paper (arXiv 2502.11190, appendix C.5) has a language model name them: names, e-mails, places, dates, organisations,
events, technical terms, each as a single core noun. Here rules and spaCy do it: free, repeatable and offline. The rules
come first, for what spaCy's small model misses or splits (e-mail and street addresses, phone numbers, rare names).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

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
