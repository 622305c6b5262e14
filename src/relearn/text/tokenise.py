"""Words as NLTK's `word_tokenize` counts them, without the data it downloads.

`word_tokenize` splits sentences first (punkt, a trained model that has to be downloaded) and then applies the Treebank
rules to each sentence. The rules separate a full stop only at the end of what they are given, so without the split
"Paris." inside a text of two sentences would stay one token. Here a rule stands in for punkt: a run of . ! ? ends a
sentence when white space and something that can begin a sentence follow, unless the stop belongs to an abbreviation or
an initial. Deviations from punkt: an abbreviation that happens to end a sentence does not end it ("He lives in the U.S.
She ...": punkt decides by its training), and abbreviations outside the list below end one before a capital letter.
"""

from __future__ import annotations

import re
from functools import cache

_ABBREVIATIONS = frozenset(
    re.findall(
        r"\S+",
        """
        mr mrs ms dr prof sr jr st rev gen col capt lt sgt hon gov sen rep pres mt ft ave blvd rd apt no nos vol vs etc
        al e.g i.e cf ca approx inc ltd co corp dept univ assn bros est fig p pp ed eds
        jan feb mar apr jun jul aug sep sept oct nov dec mon tue wed thu fri sat sun
        """,
    )
)
_END = re.compile(r"""([.!?]+)(["'”’)\]}»]*)\s+(?=["'“‘(\[{«¿¡]*[^\sa-z])""")
_LAST_WORD = re.compile(r"(\S+)$")
_INITIALS = re.compile(r"^(?:[^\W\d_]\.)*[^\W\d_]$")
_WIDE_END = re.compile(r"(?<=[。！？])\s*(?=\S)")


def sentences(text: str) -> list[str]:
    """The sentences of `text`, in order, without the white space around them."""
    found: list[str] = []
    start = 0
    for match in _END.finditer(text):
        if not _ends_sentence(text[start : match.start()], match.group(1)):
            continue
        found.append(text[start : match.end()])
        start = match.end()
    found.append(text[start:])
    return [piece.strip() for part in found for piece in _WIDE_END.split(part) if piece.strip()]


def _ends_sentence(before: str, stop: str) -> bool:
    if stop != ".":
        return True
    word = _LAST_WORD.search(before)
    if word is None:
        return False
    last = word.group(1).lstrip("\"'“‘([{«")
    return last.lower() not in _ABBREVIATIONS and not _INITIALS.match(last)


def words(text: str) -> list[str]:
    """Lower-cased tokens of `text`, as `word_tokenize(text.lower())` gives them but for the sentence rule above."""
    tokeniser = _treebank()
    return [token for sentence in sentences(text) for token in tokeniser.tokenize(sentence.lower())]


@cache
def _treebank():
    from nltk.tokenize.destructive import NLTKWordTokenizer

    return NLTKWordTokenizer()
