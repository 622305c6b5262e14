"""What of a written text is whole, without thoughts aloud and without the piece the token limit cut; and its length."""

from __future__ import annotations

import re

_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_END = re.compile(r"[.!?][\"'”’)]*(?=\s|$)|\n")
_BARE_LABEL = re.compile(r"(?:^|\n)[^\S\n]*\(?\d{1,3}[.):]\Z")


def without_thoughts(text: str) -> str:
    """`text` without the <think> blocks of reasoning models."""
    return _THOUGHT.sub("", text).strip()


def whole_part(text: str) -> str:
    """`text`, cut by the token limit, up to its last whole sentence or line; "" when there is none."""
    ends = [match.end() for match in _END.finditer(text) if match.end() < len(text)]
    return _BARE_LABEL.sub("", text[: ends[-1]].strip()).strip() if ends else ""


def estimated_tokens(text: str) -> int:
    """Characters / 4, rounded up: for endpoints that do not count, and for plans without a tokenizer."""
    return (len(text) + 3) // 4
