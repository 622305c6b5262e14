"""How people type in a hurry: lower case, missing apostrophes, a letter out of place. Names stay spelled right."""

from __future__ import annotations

import random
import re

from relearn.text.subject import strip_quoted

_SHORT_FORMS = (
    (r"\bwhat is\b", "whats"),
    (r"\bwho is\b", "whos"),
    (r"\bwhere is\b", "wheres"),
    (r"\byou\b", "u"),
    (r"\bplease\b", "pls"),
    (r"\bbecause\b", "cos"),
)
_OPENINGS = ("", "", "", "hey, ", "so ", "ok ", "quick one: ")
_ENDINGS = ("?", "?", "", "??", " pls?")
# Words in lower case only: a capital begins a name, and names stay as they are.
_CAN_SLIP = re.compile(
    r"(?<![\w'@.-])(?!(?:what|when|where|which|whose|does|have|author|authors|writer|person|name)\b)[a-z]{4,}(?![\w'@-]|\.\w)"
)


def noisy(question: str, subject: str | None, rng: random.Random) -> str:
    """`question` as a hurried person would type it: one or two slips, `subject` spelled right."""
    text = question.strip().rstrip("?.! ").replace("’", "'")
    parts = re.split(f"({re.escape(subject)})", text, flags=re.IGNORECASE) if subject else [text]
    slips = [(index, match) for index in range(0, len(parts), 2) for match in _CAN_SLIP.finditer(parts[index])]
    chosen = rng.sample(slips, min(len(slips), rng.choice((1, 1, 2))))
    for index, match in sorted(chosen, key=lambda slip: (slip[0], slip[1].start()), reverse=True):
        part = parts[index]
        parts[index] = part[: match.start()] + _slip(match.group(), rng) + part[match.end() :]
    # Without its apostrophe a single name would become another one, and a title would lose a quotation mark.
    keep_quotes = strip_quoted(text) != text or (subject is not None and " " not in subject)
    lower_name = rng.random() < 0.6
    typed = [
        _informal(part, keep_quotes) if index % 2 == 0 else part.lower() if lower_name else part
        for index, part in enumerate(parts)
    ]
    return rng.choice(_OPENINGS) + "".join(typed).strip() + rng.choice(_ENDINGS)


def _informal(text: str, keep_quotes: bool) -> str:
    text = text.lower()
    if not keep_quotes:
        text = re.sub(r"(?<=\w)'(?=s\b)|(?<=s)'(?=\s|$)|^'(?=s\b)", "", text)
    for pattern, short in _SHORT_FORMS:
        text = re.sub(pattern, short, text)
    return text


def _slip(word: str, rng: random.Random) -> str:
    """One slip inside the word: two letters swapped, one left out, or one typed twice."""
    swaps = [i for i in range(1, len(word) - 2) if word[i] != word[i + 1]]
    kind = rng.choice(("swap", "drop", "double"))
    at = rng.choice(swaps) if swaps else 1
    if kind == "swap" and swaps:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return word[:at] + word[at + 1 :] if kind == "drop" else word[: at + 1] + word[at:]
