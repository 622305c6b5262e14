"""Reading a generator's reply strictly: every entry by its label, never by its place; what is doubtful is missing."""

from __future__ import annotations

import re
from collections.abc import Sequence

_QUOTES = {'"': '"', "“": "”", "'": "'", "‘": "’"}


def read_labelled(reply: str, labels: Sequence[str]) -> list[str | None]:
    """The entries of a reply of the form "label: text", one per label of `labels` and in their order; None if missing.

    Labels are "1", "2", ... or words. Missing is: a label that is absent or comes twice, an entry without text, and one
    that runs on over the next line (a remark after an empty line is passed over). A number that was not asked for makes
    the whole reply unreadable, because then nothing says which entry belongs to which question; a word is passed over.
    """
    numbered = all(label.isdigit() for label in labels)
    pattern = _entry_pattern(r"\d{1,3}" if numbered else "[a-z]{3,12}")
    found: dict[str, str | None] = {}
    open_label: str | None = None
    for line in reply.splitlines():
        line = line.strip()
        match = pattern.match(_without_emphasis(line))
        if match is not None:
            label = match["label"].lower()
            found[label] = None if label in found else _unquoted(match["text"])
            open_label = label
        elif not line:
            open_label = None
        elif open_label is not None:
            found[open_label] = None
    if numbered and not set(found) <= set(labels):
        return [None] * len(labels)
    return [found.get(label.lower()) or None for label in labels]


def read_passage(reply: str, prefix: str) -> str | None:
    """A reply that is one running text, without an echo of `prefix` at its head; None when nothing is left."""
    text = " ".join(reply.split())
    for echo in (" ".join(prefix.split()), "..."):
        if text.startswith(echo):
            text = text[len(echo) :].lstrip()
    return _unquoted(text) or None


def _entry_pattern(label: str) -> re.Pattern[str]:
    return re.compile(
        rf"[-\s]*(?:\*\*|__)?\(?(?P<label>{label})\)?(?:\*\*|__)?\s?[.):](?:\*\*|__)?\s+(?P<text>\S.*)", re.I
    )


def _without_emphasis(line: str) -> str:
    """A line set in bold as a whole, without the marks."""
    if len(line) > 4 and line.startswith("**") and line.endswith("**") and line.count("**") == 2:
        return line[2:-2]
    return line


def _unquoted(text: str) -> str:
    text = text.strip()
    closing = _QUOTES.get(text[:1])
    if closing and len(text) > 2 and text.endswith(closing) and closing not in text[1:-1] and text[0] not in text[1:-1]:
        return text[1:-1].strip()
    return text
