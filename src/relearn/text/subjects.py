"""Find the person that a question is about, by rules on capitals, possessives and small words; no model is needed.

`find_subject` reads one question, `find_subjects` the records of a set together. Both read English written with
capitals: a question in lower case has no subject. `common_words` and `lower_case_words` list the words that identify
nobody in a set.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from relearn.data import Record
from relearn.text.normalize import contains, fold, norms, read_word_lists, singular

NameTokens = tuple[str, ...]

FEW_SUBJECTS = 20
COMMON_SHARE = 0.15
_QUOTED = re.compile(
    r"\"[^\"]*\"|“[^”]*”"
    r"|(?:(?<=\s)|(?<=\()|^)['‘](?=\w)(?:[^'’‘]|['’](?=\w)|['’](?=\s+\w[^'’]*['’](?:[\s,.;:?!)]|$)))*?['’](?=[\s,.;:?!)]|$)"
)
_TOKEN = re.compile(r"[^\W\d_]\.(?:[^\W\d_]\.)*(?=\s)|[^\W\d_][\w+]*(?:[-'’][^\W\d_][\w]*)*['’]?|\d[\w/.,:-]*|\S")
_POSSESSIVE = re.compile(r"(?:['’]s|(?<=s)['’])$")
_LOWER_CASE_WORD = re.compile(r"\b[^\W\d_A-Z]\w+")

_WORDS = read_word_lists("relearn.text", "names.txt")
LEADING_WORDS = _WORDS["leading"]


def find_subject(question: str) -> str | None:
    """Return the first person's name in `question` as written there, without title or possessive; None without one.

    Names of two or more words win over a single one ("Rohani" in "How has Rohani's style changed?"). Quoted titles,
    awards, schools, streets and places after "in", "at" or "from" are no subject.
    """
    names = [name for name in _names(question) if _is_person(name)]
    full = [name for name in names if len(name.words) > 1]
    chosen = full[0] if full else next((name for name in names if name.possessive or name.follows_verb), None)
    return " ".join(chosen.words) if chosen else None


def find_author_noun(question: str) -> str | None:
    """Return the noun by which a question without a name calls its subject: "author" in "the female author born in
    Lima"; None without one.
    """
    match = re.search(
        r"\b(?:the|this|that|an?)\s+(?:[\w+'’-]+\s+){0,4}?"
        r"(author|writer|novelist|poet|person|individual|man|woman|artist|scientist|employee|customer|patient|student|user|"
        r"client|member|player|actor|actress|singer|teacher|doctor|lawyer|journalist|director|composer|researcher)\b",
        question,
        re.IGNORECASE,
    )
    return match.group(1).lower() if match else None


def strip_quoted(text: str) -> str:
    """Blank out titles in quotation marks; every other character keeps its offset."""
    return _QUOTED.sub(lambda match: " " * len(match.group()), text)


def find_subjects(records: Sequence[Record]) -> list[NameTokens]:
    """Return the folded name of each record's subject, () where it has none.

    A last name alone is completed to the one full name in the set that has it. A question without a name gets the one
    subject whom the answer names.
    """
    names = [norms(record.subject or find_subject(record.question) or "") for record in records]
    full = sorted({name for name in names if len(name) > 1})
    return [
        _complete(name, full) or _only_name_in(norms(record.answer), full)
        for name, record in zip(names, records, strict=True)
    ]


def _complete(name: NameTokens, full: Iterable[NameTokens]) -> NameTokens:
    longer = [other for other in full if len(name) == 1 and name[0] in other]
    return longer[0] if len(longer) == 1 else name


def _only_name_in(answer: NameTokens, full: Iterable[NameTokens]) -> NameTokens:
    named = [name for name in full if contains(answer, name)]
    return named[0] if len(named) == 1 else ()


def common_words(records: Sequence[Record], subjects: Sequence[NameTokens]) -> frozenset[str]:
    """Return the singulars that the answers use of more than COMMON_SHARE of the subjects.

    Empty for a set with fewer than FEW_SUBJECTS subjects.
    """
    number_of_subjects = len(set(subjects))
    if number_of_subjects < FEW_SUBJECTS:
        return frozenset()
    subjects_of_word: dict[str, set[NameTokens]] = {}
    for record, subject in zip(records, subjects, strict=True):
        for norm in norms(record.answer):
            subjects_of_word.setdefault(singular(norm), set()).add(subject)
    limit = COMMON_SHARE * number_of_subjects
    return frozenset(word for word, subjects_with_it in subjects_of_word.items() if len(subjects_with_it) > limit)


def lower_case_words(records: Sequence[Record]) -> frozenset[str]:
    """Return the singulars that the set writes in lower case somewhere.

    "Urban Fantasy" in one answer is no name where another answer has "urban".
    """
    texts = [text for record in records for text in (record.question, record.answer)]
    return frozenset(singular(fold(word)) for text in texts for word in _LOWER_CASE_WORD.findall(text))


@dataclass(frozen=True)
class _CapitalisedName:
    """A run of capitalised words; `before` is the word in front of it, in lower case."""

    words: list[str]
    before: str
    possessive: bool
    titled: bool

    @property
    def follows_verb(self) -> bool:
        """Whether a single word is used as a person: after a title, or after "did", "about", ...."""
        return self.titled or self.before in _WORDS["before_a_person"]


def _names(question: str) -> list[_CapitalisedName]:
    tokens = [match.group() for match in _TOKEN.finditer(strip_quoted(question))]
    names: list[_CapitalisedName] = []
    index = 0
    first_word = True
    while index < len(tokens):
        token = tokens[index]
        if first_word and token[0].isalpha():
            first_word = False
            if token.split("'")[0].split("’")[0].lower() in LEADING_WORDS:
                index += 1
                continue
        if not _capitalised(token):
            index += 1
            continue
        start, index = index, _end_of_name(tokens, index)
        names.append(_make_name(tokens, start, index))
    return [name for name in names if name.words]


def _end_of_name(tokens: list[str], index: int) -> int:
    """Return the index after the run of name words that starts at `index`; a possessive ends the run."""
    while index < len(tokens):
        token = tokens[index]
        if _capitalised(token) or (token.endswith(".") and token[0].isupper()):
            index += 1
            if _POSSESSIVE.search(token):
                break
        elif _joins_name(tokens, index):
            index += 1
        else:
            break
    return index


def _joins_name(tokens: list[str], index: int) -> bool:
    """Tell whether a token is the full stop after a title, or a particle with more of the name after it."""
    if tokens[index] == ".":
        return tokens[index - 1].lower() in _WORDS["titles"]
    return tokens[index].lower() in _WORDS["particles"] and _name_continues(tokens, index)


def _name_continues(tokens: list[str], index: int) -> bool:
    while index < len(tokens) and tokens[index].lower() in _WORDS["particles"]:
        index += 1
    return index < len(tokens) and _capitalised(tokens[index])


def _make_name(tokens: list[str], start: int, end: int) -> _CapitalisedName:
    words = [token for token in tokens[start:end] if token != "."]
    titled = False
    while words and words[0].rstrip(".").lower() in _WORDS["titles"]:
        words, titled = words[1:], True
    possessive = bool(words and _POSSESSIVE.search(words[-1]))
    if possessive:
        words[-1] = _POSSESSIVE.sub("", words[-1])
    while words and words[0] in _WORDS["common_capitalised"] and len(words) > 2:
        words = words[1:]
    before = tokens[start - 1].lower() if start else ""
    return _CapitalisedName(words, before, possessive, titled)


def _is_person(name: _CapitalisedName) -> bool:
    if any(word.lower() in _WORDS["never_in_a_name"] or "+" in word for word in name.words):
        return False
    if (
        all(word in _WORDS["common_capitalised"] for word in name.words)
        or "_".join(name.words) in _WORDS["not_a_person"]
    ):
        return False
    place = name.before in _WORDS["place_prepositions"] and not name.possessive
    return name.titled or not (place or name.before == "the" or name.before[:1].isdigit())


def _capitalised(token: str) -> bool:
    acronym = 1 < len(token) <= 4 and token.isupper() and "." not in token
    return token[0].isupper() and not acronym
