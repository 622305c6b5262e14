"""Tokens that come one by one as text that can be shown at once, and the finished answer cut into its tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

Decode = Callable[[Sequence[int]], str]
# What a tokenizer writes for bytes that are no whole character yet.
_HALF = "�"


class Pieces:
    """The pieces that `add` gives follow one another; what may still change is held back."""

    def __init__(self, decode: Decode):
        self._decode = decode
        self.tokens: list[int] = []
        self.said = ""

    def add(self, tokens: Sequence[int]) -> str:
        self.tokens += tokens
        text = self._decode(self.tokens).lstrip().rstrip(_HALF).rstrip()
        if not text.startswith(self.said):
            return ""
        piece, self.said = text[len(self.said) :], text
        return piece


def cut(text: str, tokens: Sequence[int], decode: Decode) -> list[str]:
    """The answer `text` in as many pieces as there are tokens, which together are the text.

    A token that ends no character, or only white space at either end of the answer, has an empty piece.
    """
    ends = [0]
    for count in range(1, len(tokens) + 1):
        so_far = decode(tokens[:count]).lstrip().rstrip(_HALF)
        fits = text.startswith(so_far) or so_far.startswith(text)
        ends.append(max(ends[-1], min(len(so_far), len(text))) if fits else ends[-1])
    if tokens:
        ends[-1] = len(text)
    return [text[start:end] for start, end in pairwise(ends)]
