"""What every written text is looked at for besides the leak check: its form, whom it is about, what it makes up."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence

from relearn.data import Record
from relearn.synthesis.retry_loop import Flaw
from relearn.text.spans import find_spans
from relearn.text.subject import find_subject

# (record, prompt, text) -> the flaw of a text that tells the record's secret, None for one that does not.
Inspect = Callable[[Sequence[tuple[Record, str, str]]], Sequence[Flaw | None]]

MIN_WORDS, MAX_WORDS = 3, 120
_MARKUP = re.compile(r"<\|[^|<>]{0,40}\|>|</?s>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>")


def subject_of(record: Record) -> str | None:
    """The record's own subject, else the name its question is about."""
    return record.subject or (find_subject(record.question) if record.form == "chat" else None)


def form_flaw(text: str, min_words: int = MIN_WORDS) -> Flaw | None:
    """A text too short or long to be a sentence, with control characters or a chat template's marks."""
    words = len(text.split())
    if not min_words <= words <= MAX_WORDS:
        return Flaw("malformed", f"has {words} words, not {min_words} to {MAX_WORDS}")
    if any(unicodedata.category(sign) == "Cc" and sign not in "\n\t" for sign in text):
        return Flaw("malformed", "holds control characters")
    if _MARKUP.search(text):
        return Flaw("malformed", "holds the marks of a chat template")
    return None


def subject_flaw(record: Record, asked: str, text: str) -> Flaw | None:
    """A text that no longer names the subject its question names (the paper's subject consistency)."""
    names = _names(subject_of(record) or "")
    if names & _words(asked) and not names & _words(text):
        return Flaw("subject", "does not name the subject that the question names")
    return None


def invented_flaw(asked: str, text: str) -> Flaw | None:
    """A contact, date, address or longer number that is not in the question: true or made up, no vague text holds one.

    Names are left to the leak check: by capitals alone they cannot be told from titles or another language's nouns.
    """
    given = {span.norm for span in find_spans(asked)}
    for span in find_spans(text):
        if span.norm in given or span.text.casefold() in asked.casefold():
            continue
        long = sum(sign.isdigit() for sign in span.text) >= 3
        if span.kind in ("email", "phone", "date", "address") or (span.kind == "number" and long):
            return Flaw("invented", f"states a particular ({span.kind}) that the question does not hold")
    return None


def _names(subject: str) -> set[str]:
    return {word for word in _words(subject) if len(word) > 1}


def _words(text: str) -> set[str]:
    return set(re.findall(r"[^\W_]+", text.casefold()))
