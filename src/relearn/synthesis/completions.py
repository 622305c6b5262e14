"""Stage 4a, diversification: a vague answer cut in two, so that forgetting does not hold in question form only
(arXiv 2502.11190, section 3; the paper and its code prompt with the first 25 % of the words).
"""

from __future__ import annotations

import re

MIN_WORDS = 4


def split_answer(text: str, share: float) -> tuple[str, str] | None:
    """(prefix, rest) with `share` of the words in the prefix and at least one on each side; the spaces at the cut are
    in neither. None for an answer of fewer than MIN_WORDS words.
    """
    words = list(re.finditer(r"\S+", text))
    if len(words) < MIN_WORDS:
        return None
    cut = min(max(1, round(len(words) * share)), len(words) - 1)
    return text[words[0].start() : words[cut - 1].end()], text[words[cut].start() : words[-1].end()]
