"""The wordings of the offline generator: what kind of thing a question asks for, and the sentences kept for each kind.

The sentences live in data/wordings/*.yaml. A kind has a `rank` (the lowest that matches wins), a pattern `when` it
applies, and lists of wordings; `exact` names the one form of question to which its `simple` rewordings apply.

Sentences with invented particulars, by the kind of thing a question asks for: what the offline generator writes as
alternate answers. They live in data/wordings/alternates.yaml and name nobody's real address, number or mailbox.

How people type in a hurry: lower case, missing apostrophes, a letter out of place. Names stay spelled right.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources

import yaml

from relearn.text.subjects import strip_quoted

_UNCERTAIN_RANK = 88  # from here on a kind is recognised by the form of the question alone


@dataclass(frozen=True)
class Kind:
    """One kind of thing asked for; each list holds sentences with {names} to fill in."""

    name: str
    rank: int
    when: re.Pattern[str]
    answers: tuple[str, ...]
    exact: re.Pattern[str] | None = None
    simple: tuple[str, ...] = ()
    contextual: tuple[str, ...] = ()
    logical: tuple[str, ...] = ()
    more: dict[str, tuple[str, ...]] = field(default_factory=dict)


@cache
def kinds() -> tuple[Kind, ...]:
    """All kinds, the most telling first."""
    found = [_kind(name, entry) for file in _FILES for name, entry in _read(file).items()]
    return tuple(sorted(found, key=lambda kind: kind.rank))


@cache
def passages() -> dict[str, tuple[str, ...]]:
    """Ways for a passage to go on, by the kind of its last word; under "neighbours" questions about public matters."""
    return {name: tuple(lines) for name, lines in _read("passages").items()}


def kind_named(name: str) -> Kind:
    return next(kind for kind in kinds() if kind.name == name)


def kind_of(question: str, subject: str | None) -> Kind:
    """The kind of thing `question` asks for; where words are misspelt, the nearest known words are read instead."""
    text = skeleton(question, subject)
    kind = _first(text)
    if kind.rank < _UNCERTAIN_RANK and question[:1].isupper():
        return kind
    mended = _first(" ".join(_mended(word) for word in text.split()))
    return min(kind, mended, key=lambda found: found.rank)


def skeleton(question: str, subject: str | None) -> str:
    """`question` in lower case without its end mark, its subject as SUBJ and quoted titles as QUOTED."""
    blanked = strip_quoted(" ".join(question.split())).replace("’", "'").lower()
    text = re.sub(r"\s{2,}", " QUOTED ", blanked)
    if subject:
        name = re.escape(subject.replace("’", "'").lower())
        text = re.sub(rf"(?<!\w){name}(?:'s|s'|(?<=s)'|s)(?!\w)", "SUBJ's", text)
        text = re.sub(rf"(?<!\w){name}(?!\w)", "SUBJ", text)
    return " ".join(text.split()).strip(" ?.!")


def in_order(options: Sequence[str], *keys: object) -> list[str]:
    """`options` in an order that depends on nothing but themselves and `keys`."""
    return sorted(options, key=lambda option: hashlib.sha256(repr((keys, option)).encode()).digest())


def fill(wording: str, **parts: str) -> str:
    """Put `parts` in place of the {names}; the first letter becomes a capital."""
    text = re.sub(r"\{(\w+)\}", lambda match: parts[match.group(1)], wording)
    return text[:1].upper() + text[1:]


def needs(wording: str) -> set[str]:
    """The names in braces of a wording."""
    return set(re.findall(r"\{(\w+)\}", wording))


_FILES = ("contact", "person", "work", "general")
_LISTS = ("simple", "contextual", "logical")
_OWN = {*_LISTS, "rank", "when", "exact", "answers"}


def _kind(name: str, entry: dict) -> Kind:
    return Kind(
        name=name,
        rank=entry["rank"],
        when=re.compile(entry["when"]),
        exact=re.compile(entry["exact"]) if "exact" in entry else None,
        answers=tuple(entry["answers"]),
        more={key: tuple(lines) for key, lines in entry.items() if key not in _OWN},
        **{key: tuple(entry.get(key, ())) for key in _LISTS},
    )


def _read(file: str) -> dict:
    path = resources.files("relearn.llm").joinpath("data", "wordings", f"{file}.yaml")
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _first(text: str) -> Kind:
    return next(kind for kind in kinds() if kind.when.search(text))


@cache
def _vocabulary() -> frozenset[str]:
    """The words by which a kind is recognised, apart from those that say little on their own."""
    certain = (kind.when.pattern for kind in kinds() if kind.rank < _UNCERTAIN_RANK)
    return frozenset(
        word for pattern in certain for word in re.findall(r"(?<![\\\w])[a-z]{4,}", pattern.replace("\\b", " "))
    )


@cache
def _known() -> frozenset[str]:
    """Words that are no misspelling: all that occur in the wordings themselves."""
    texts = (text for kind in kinds() for text in (*kind.answers, *kind.simple, *kind.contextual, *kind.logical))
    return frozenset(word for text in texts for word in re.findall(r"[a-z]+", text.lower())) | _vocabulary()


def _mended(word: str) -> str:
    if len(word) < 4 or not word.isalpha() or word in _known():
        return word
    return next((known for known in sorted(_vocabulary()) if _one_slip(word, known)), word)


def _one_slip(typed: str, meant: str) -> bool:
    """Whether one letter was left out or added, or two neighbours were swapped."""
    if abs(len(typed) - len(meant)) > 1:
        return False
    start = next(
        (at for at, (a, b) in enumerate(zip(typed, meant, strict=False)) if a != b), min(len(typed), len(meant))
    )
    a, b = typed[start:], meant[start:]
    return a[1:] == b or a == b[1:] or (a[:2] == b[:2][::-1] and a[2:] == b[2:])


_DIGITS = {"two": 2, "three": 3, "six": 6, "eight": 8}
_Lists = dict[str, tuple[str, ...]]


def invented_answers(kind: str, named: str | None, rng: random.Random, count: int) -> list[str]:
    """`count` sentences, perhaps with repetitions, about `named`; none for a kind without wordings."""
    kinds, lists = _wordings()
    fitting = [text for text in kinds.get(kind, ()) if named is not None or not needs(text) & {"S", "Ss"}]
    if not fitting:
        return []
    first = rng.randrange(len(fitting))
    return [
        fill(fitting[(first + number) % len(fitting)], S=named or "", Ss=f"{named}'s", **_drawn(lists, rng))
        for number in range(count)
    ]


@cache
def _wordings() -> tuple[_Lists, _Lists]:
    path = resources.files("relearn.llm").joinpath("data", "wordings", "alternates.yaml")
    read = yaml.safe_load(path.read_text(encoding="utf-8"))
    kinds, lists = ({name: tuple(lines) for name, lines in read[part].items()} for part in ("kinds", "lists"))
    return kinds, lists


def _drawn(lists: _Lists, rng: random.Random) -> dict[str, str]:
    """One draw from every list, another one under its name with a 2, and digits."""
    parts = {}
    for name, entries in lists.items():
        parts[name], parts[f"{name}2"] = rng.sample(entries, 2)
    parts |= {name: str(rng.randrange(10 ** (size - 1), 10**size)) for name, size in _DIGITS.items()}
    parts |= {"day": str(rng.randint(1, 28)), "house": str(rng.randint(1, 99)), "year": str(rng.randint(1931, 2009))}
    return parts


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
