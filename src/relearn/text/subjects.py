"""Find the person that a question is about (the subject), by rules on capital letters, possessives and function words.

`find_subject` uses one question, `find_subjects` all records of a set. Both work for English with capital letters; in a
lower-case question no subject is found. `common_words` and `lower_case_words` list words of a set that are too general
to identify a person.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from relearn.data import Record
from relearn.text.normalize import fold, norms, read_word_lists, singular

NameTokens = tuple[str, ...]

FEW_SUBJECTS = 20
COMMON_SHARE = 0.15
# An apostrophe inside of a title: 'Thieves' Paradise'.
_PLURAL_IN_TITLE = r"(?<=s)['’](?=\s+[A-Z][^'’]*['’](?:[\s,.;:?!)]|$))"
QUOTED = re.compile(
    r"\"[^\"]*\"|“[^”]*”"
    rf"|(?:(?<=\s)|(?<=\()|^)['‘](?=\w)(?:[^'’‘]|['’](?=\w)|{_PLURAL_IN_TITLE})*?"
    rf"(?!{_PLURAL_IN_TITLE})['’](?=[\s,.;:?!)]|$)"
)
_TOKEN = re.compile(r"[^\W\d_]\.(?:[^\W\d_]\.)*(?=\s)|[^\W\d_][\w+]*(?:[-'’][^\W\d_][\w]*)*['’]?|\d[\w/.,:-]*|\S")
_POSSESSIVE = re.compile(r"(?:['’]s|(?<=s)['’])$")
_LOWER_CASE_WORD = re.compile(r"\b[^\W\d_A-Z]\w+")

_WORDS = read_word_lists("relearn.text", "names.txt")
LEADING_WORDS = _WORDS["leading"]


def find_subject(question: str) -> str | None:
    """Find the first name of a person in `question`, without title or possessive; return None where there is none.

    A name of two or more words is preferred to a single word ("Rohani" in "How has Rohani's style changed?"). Quoted
    titles, awards, schools, streets and places after "in", "at" or "from" are not subjects.
    """
    names = [name for name in _names(question) if _is_person(name)]
    full = [name for name in names if len(name.words) > 1]
    chosen = full[0] if full else next((name for name in names if name.possessive or name.follows_verb), None)
    return " ".join(chosen.words) if chosen else None


def find_author_noun(question: str) -> str | None:
    """Find the noun for a person in a question without a name; return None where there is none.

    In "the female author born in Lima" it is "author".
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
    """Replace titles in quotation marks with spaces; all other characters keep their offsets."""
    return QUOTED.sub(lambda match: " " * len(match.group()), text)


def find_subjects(records: Sequence[Record]) -> list[NameTokens]:
    """Find the subject of each record: its name as folded words, () where it has none.

    A single name is replaced by the full name that contains it, where the set has only one. For a question without a
    name, the subject is the full name in the answer, where the answer has only one.
    """
    names = [norms(record.subject or find_subject(record.question) or "") for record in records]
    full = {name for name in names if len(name) > 1}
    with_word: dict[str, set[NameTokens]] = {}
    lengths: dict[str, set[int]] = {}  # by the first word
    for name in full:
        lengths.setdefault(name[0], set()).add(len(name))
        for word in name:
            with_word.setdefault(word, set()).add(name)
    return [
        _complete(name, with_word) or _only_name_in(norms(record.answer), full, lengths)
        for name, record in zip(names, records, strict=True)
    ]


def _complete(name: NameTokens, with_word: Mapping[str, Set[NameTokens]]) -> NameTokens:
    longer = with_word.get(name[0], frozenset()) if len(name) == 1 else frozenset()
    return next(iter(longer)) if len(longer) == 1 else name


def _only_name_in(answer: NameTokens, full: Set[NameTokens], lengths: Mapping[str, Set[int]]) -> NameTokens:
    named = {
        name
        for first, word in enumerate(answer)
        for length in lengths.get(word, ())
        if (name := answer[first : first + length]) in full
    }
    return named.pop() if len(named) == 1 else ()


def common_words(records: Sequence[Record], subjects: Sequence[NameTokens]) -> frozenset[str]:
    """Return the words, in the singular, that occur in answers about more than COMMON_SHARE of the subjects.

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
    """Return the words, in the singular, that occur in lower case in a question or answer of the set.

    They are not names: "Urban" in "Urban Fantasy" is not one where another answer contains "urban".
    """
    texts = [text for record in records for text in (record.question, record.answer)]
    return frozenset(singular(fold(word)) for text in texts for word in _LOWER_CASE_WORD.findall(text))


@dataclass(frozen=True)
class _CapitalisedName:
    """Store a run of capitalised words; `before`: the previous word, in lower case; `titled`: after a title ("Dr")."""

    words: list[str]
    before: str
    possessive: bool
    titled: bool

    @property
    def follows_verb(self) -> bool:
        """Return whether a single word is the name of a person: after a title, or after "did", "about", ..."""
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
    """Return whether a token is the full stop after a title, or a particle that the name continues after."""
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
