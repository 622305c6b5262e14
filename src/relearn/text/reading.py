"""A row as the leak check reads it: prompt and target in one text, so that what is split over both is found."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property

from relearn.text.normalize import singular, street_form, tokenise
from relearn.text.numerals import find_numerals
from relearn.text.spans import Span, find_spans

_DIGITS = re.compile(r"(\d+)(?:st|nd|rd|th|s|k)?")
_BETWEEN_DIGITS = re.compile(r"[\s.,()\-/+'’]{0,3}")
_LONGEST_NUMBER = 6
_SPELLED_SIGNS = frozenset({"at", "dot", "point"})
_ASKING = frozenset(
    {
        "who", "whose", "whom", "what", "which", "where", "when", "why", "how", "whats", "whos", "wheres", "is", "are",
        "was", "were", "do", "does", "did", "has", "have", "had", "can", "could", "would", "will", "should", "tell",
        "name", "describe", "explain", "list", "give", "please",
    }
)  # fmt: skip


class Reading:
    """Tokens, typed spans and numbers of the joined text. Offsets point into `text`; the target begins at `cut`."""

    def __init__(self, prompt: str, target: str):
        self.text = f"{prompt} {target}" if prompt else target
        self.cut = len(prompt) + 1 if prompt else 0
        self.tokens = tokenise(self.text)
        self.norms = [token.norm for token in self.tokens]
        self.first_of_target = sum(1 for token in self.tokens if token.start < self.cut)

    @cached_property
    def asks(self) -> bool:
        """True when the prompt is a question, not the beginning of a statement."""
        return "?" in self.text[: self.cut] or (self.first_of_target > 0 and self.norms[0] in _ASKING)

    @cached_property
    def asked_words(self) -> frozenset[str]:
        """The singulars of the words of a prompt that is a question."""
        return frozenset(map(singular, self.norms[: self.first_of_target])) if self.asks else frozenset()

    @cached_property
    def places(self) -> dict[str, list[int]]:
        """singular -> the indices of the tokens that have it."""
        places: dict[str, list[int]] = {}
        for at, norm in enumerate(self.norms):
            places.setdefault(singular(norm), []).append(at)
        return places

    @cached_property
    def spans(self) -> list[Span]:
        return find_spans(self.text)

    @cached_property
    def numbers(self) -> dict[str, list[tuple[int, int]]]:
        """Digits -> the token ranges (first, one past the last) that spell them, in figures or words."""
        numbers: dict[str, list[tuple[int, int]]] = {}
        for first, last, value in find_numerals(self.norms):
            numbers.setdefault(str(value), []).append((first, last))
        for first in range(len(self.tokens)):
            digits = ""
            for last in range(first, min(first + _LONGEST_NUMBER, len(self.tokens))):
                found = _DIGITS.fullmatch(self.norms[last])
                if found is None or (last > first and not self._is_grouped(last)):
                    break
                digits += found[1]
                numbers.setdefault(digits, []).append((first, last + 1))
        return numbers

    def _is_grouped(self, at: int) -> bool:
        return _BETWEEN_DIGITS.fullmatch(self.text, self.tokens[at - 1].end, self.tokens[at].start) is not None

    @cached_property
    def _streets(self) -> tuple[str, ...]:
        return street_form(self.norms)

    @cached_property
    def _unsigned(self) -> list[int]:
        """Indices of the tokens without those that spell the signs of an email."""
        return [at for at, norm in enumerate(self.norms) if norm not in _SPELLED_SIGNS]

    def is_capital(self, at: int) -> bool:
        return self.text[self.tokens[at].start].isupper()

    def find(self, part: Sequence[str]) -> Iterator[tuple[int, int]]:
        """The token ranges at which `part` stands without a gap."""
        for first in self.places.get(singular(part[0]), ()) if part else ():
            if self.norms[first : first + len(part)] == list(part):
                yield first, first + len(part)

    def find_street(self, part: tuple[str, ...]) -> Iterator[tuple[int, int]]:
        """Like `find`, with the short forms of street words written out."""
        for first in range(len(self._streets) - len(part) + 1):
            if self._streets[first : first + len(part)] == part:
                yield first, first + len(part)

    def find_spelled(self, part: Sequence[str]) -> Iterator[tuple[int, int]]:
        """Like `find`, over "maria dot vazquez at mail dot mx" as well."""
        norms = [self.norms[at] for at in self._unsigned]
        for first in range(len(norms) - len(part) + 1):
            if norms[first] == part[0] and norms[first : first + len(part)] == list(part):
                yield self._unsigned[first], self._unsigned[first + len(part) - 1] + 1

    def range_of(self, first: int, last: int) -> tuple[int, int]:
        """Character offsets of the tokens from `first` up to, not including, `last`."""
        return self.tokens[first].start, self.tokens[last - 1].end
