"""Whom each record of a set is about, and which words the set uses so freely that they tell nothing about anybody.

Whom a question is about: the first person's name in it, found by rules on capitals, possessives and small words.

No model is needed, so the offline generator and the leak check can both use it. It reads English questions written with
capitals; a question in lower case has no subject it can see.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from relearn.data import Record
from relearn.text.normalize import (
    COMMON_CAPITALISED,
    LEADING,
    NEVER_IN_A_NAME,
    NOT_A_PERSON,
    PARTICLES,
    PLACE_PREPOSITIONS,
    TITLES,
    contains,
    fold,
    norms,
    singular,
    word_set,
)

_QUOTED = re.compile(
    r"\"[^\"]*\"|“[^”]*”"
    r"|(?:(?<=\s)|(?<=\()|^)['‘](?=\w)(?:[^'’‘]|['’](?=\w)|['’](?=\s+\w[^'’]*['’](?:[\s,.;:?!)]|$)))*?['’](?=[\s,.;:?!)]|$)"
)
_TOKEN = re.compile(r"[^\W\d_]\.(?:[^\W\d_]\.)*(?=\s)|[^\W\d_][\w+]*(?:[-'’][^\W\d_][\w]*)*['’]?|\d[\w/.,:-]*|\S")
_POSSESSIVE = re.compile(r"(?:['’]s|(?<=s)['’])$")


def strip_quoted(text: str) -> str:
    """`text` with titles in quotation marks blanked out, every other character in its place."""
    return _QUOTED.sub(lambda match: " " * len(match.group()), text)


def find_subject(question: str) -> str | None:
    """The first person's name in `question` as it is written there, without title or possessive; None without one.

    Names of two or more words win over a single one ("Rohani" in "How has Rohani's style changed?"). Quoted titles,
    awards, schools, streets and places after "in", "at" or "from" are no subject.
    """
    names = [name for name in _names(question) if _is_person(name)]
    full = [name for name in names if len(name.words) > 1]
    chosen = full[0] if full else next((name for name in names if name.possessive or name.stands_alone), None)
    return " ".join(chosen.words) if chosen else None


def find_author_noun(question: str) -> str | None:
    """ "author" in "the female author born in Lima": the noun by which a question without a name calls its subject."""
    match = re.search(
        r"\b(?:the|this|that|an?)\s+(?:[\w+'’-]+\s+){0,4}?"
        r"(author|writer|novelist|poet|person|individual|man|woman|artist|scientist|employee|customer|patient|student|user|"
        r"client|member|player|actor|actress|singer|teacher|doctor|lawyer|journalist|director|composer|researcher)\b",
        question,
        re.IGNORECASE,
    )
    return match.group(1).lower() if match else None


class _Name:
    """A run of capitalised words with what stands around it."""

    def __init__(self, words: list[str], before: str, possessive: bool, titled: bool):
        self.words = words
        self.before = before
        self.possessive = possessive
        self.titled = titled

    @property
    def stands_alone(self) -> bool:
        """A single word that the sentence treats as a person: after a title, a form of "do", "be", "have", a modal."""
        return self.titled or self.before in _PERSON_FOLLOWS


_PERSON_FOLLOWS = word_set(
    "does do did is was are were has have had can could will would should may might to of about by with for "
    "contact reach visit call author writer novelist poet and"
)


def _names(question: str) -> list[_Name]:
    tokens = [match.group() for match in _TOKEN.finditer(strip_quoted(question))]
    names: list[_Name] = []
    index = 0
    first_word = True
    while index < len(tokens):
        token = tokens[index]
        if first_word and token[0].isalpha():
            first_word = False
            if token.split("'")[0].split("’")[0].lower() in LEADING:
                index += 1
                continue
        if not _capitalised(token):
            index += 1
            continue
        start, index = index, _end_of_name(tokens, index)
        names.append(_make_name(tokens, start, index))
    return [name for name in names if name.words]


def _end_of_name(tokens: list[str], index: int) -> int:
    """The index after the run of name words that starts at `index`; a possessive ends the run."""
    while index < len(tokens):
        token = tokens[index]
        if _capitalised(token) or (token.endswith(".") and token[0].isupper()):
            index += 1
            if _POSSESSIVE.search(token):
                break
        elif _inside_name(tokens, index):
            index += 1
        else:
            break
    return index


def _inside_name(tokens: list[str], index: int) -> bool:
    """The full stop after a title, or a particle with more of the name after it."""
    if tokens[index] == ".":
        return tokens[index - 1].lower() in TITLES
    return tokens[index].lower() in PARTICLES and _name_goes_on(tokens, index)


def _name_goes_on(tokens: list[str], index: int) -> bool:
    while index < len(tokens) and tokens[index].lower() in PARTICLES:
        index += 1
    return index < len(tokens) and _capitalised(tokens[index])


def _make_name(tokens: list[str], start: int, end: int) -> _Name:
    words = [token for token in tokens[start:end] if token != "."]
    titled = False
    while words and words[0].rstrip(".").lower() in TITLES:
        words, titled = words[1:], True
    possessive = bool(words and _POSSESSIVE.search(words[-1]))
    if possessive:
        words[-1] = _POSSESSIVE.sub("", words[-1])
    while words and words[0] in COMMON_CAPITALISED and len(words) > 2:
        words = words[1:]
    before = tokens[start - 1].lower() if start else ""
    return _Name(words, before, possessive, titled)


def _is_person(name: _Name) -> bool:
    if any(word.lower() in NEVER_IN_A_NAME or "+" in word for word in name.words):
        return False
    if all(word in COMMON_CAPITALISED for word in name.words) or " ".join(name.words) in NOT_A_PERSON:
        return False
    place = name.before in PLACE_PREPOSITIONS and not name.possessive
    return name.titled or not (place or name.before == "the" or name.before[:1].isdigit())


def _capitalised(token: str) -> bool:
    acronym = 1 < len(token) <= 4 and token.isupper() and "." not in token
    return token[0].isupper() and not acronym


Name = tuple[str, ...]
FEW_SUBJECTS = 20
COMMON_SHARE = 0.15
_SMALL = re.compile(r"\b[^\W\d_A-Z]\w+")


def find_subjects(records: Sequence[Record]) -> list[Name]:
    """The folded name of each record's subject, () where it has none.

    A last name alone stands for the one full name in the set that has it; a question without a name is about the one
    subject whom the answer names.
    """
    found = [norms(record.subject or find_subject(record.question) or "") for record in records]
    full = sorted({name for name in found if len(name) > 1})
    return [
        _complete(name, full) or _only_name_in(norms(record.answer), full)
        for name, record in zip(found, records, strict=True)
    ]


def _complete(name: Name, full: Iterable[Name]) -> Name:
    longer = [other for other in full if len(name) == 1 and name[0] in other]
    return longer[0] if len(longer) == 1 else name


def _only_name_in(answer: Name, full: Iterable[Name]) -> Name:
    named = [name for name in full if contains(answer, name)]
    return named[0] if len(named) == 1 else ()


def common_words(records: Sequence[Record], subjects: Sequence[Name]) -> frozenset[str]:
    """Singulars that the answers of a large set use of many subjects."""
    said_of: dict[str, set[Name]] = {}
    for record, subject in zip(records, subjects, strict=True):
        for norm in norms(record.answer):
            said_of.setdefault(singular(norm), set()).add(subject)
    everybody = len(set(subjects))
    if everybody < FEW_SUBJECTS:
        return frozenset()
    return frozenset(word for word, about in said_of.items() if len(about) > COMMON_SHARE * everybody)


def lower_case_words(records: Sequence[Record]) -> frozenset[str]:
    """Singulars that the set writes small: "Urban Fantasy" in one answer is no name where another has "urban"."""
    texts = [text for record in records for text in (record.question, record.answer)]
    return frozenset(singular(fold(word)) for text in texts for word in _SMALL.findall(text))
