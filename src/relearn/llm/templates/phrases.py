"""Classify questions by the kind of thing they ask for, and fill the wordings of the offline generator.

The wordings are in data/wordings/*.yaml. A question kind has a `rank` (the lowest that matches wins), a pattern `when`
it applies, and lists of wordings; `exact` is the one form of question to which its `simple` rewordings apply.
vague.yaml has the parts of vague answers, by kinds of its own; alternates.yaml has answers with invented particulars,
which name nobody's real address, number or mailbox.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

import yaml

from relearn.llm.templates.question_parser import VERB_FORMS, is_possessive
from relearn.text.normalize import read_word_lists
from relearn.text.subjects import strip_quoted

_LISTS = read_word_lists("relearn.llm", "data", "verbs.txt")
_DETERMINERS, _PRONOUNS = _LISTS["determiners"], _LISTS["pronouns"]
_UNCERTAIN_RANK = 88  # from this rank on a kind is recognised by the form of the question alone
_KIND_FILES = ("contact", "person", "work", "general")
_VARIANT_LISTS = ("simple", "contextual", "logical")


@dataclass(frozen=True)
class QuestionKind:
    """One kind of thing asked for; each list holds wordings with {placeholders}."""

    name: str
    rank: int
    when: re.Pattern[str]
    exact: re.Pattern[str] | None = None
    simple: tuple[str, ...] = ()
    contextual: tuple[str, ...] = ()
    logical: tuple[str, ...] = ()
    more: dict[str, tuple[str, ...]] = field(default_factory=dict)


def kind_of(question: str, subject: str | None) -> QuestionKind:
    """Return the kind of thing `question` asks for; misspelt words are read as the nearest word of a pattern."""
    text = skeleton(question, subject)
    kind = _first_match(text)
    if kind.rank < _UNCERTAIN_RANK and question[:1].isupper():
        return kind
    corrected = _first_match(" ".join(_corrected(word) for word in text.split()))
    return min(kind, corrected, key=lambda kind: kind.rank)


def kind_named(name: str) -> QuestionKind:
    """Return the kind of this name; StopIteration when there is none."""
    return next(kind for kind in question_kinds() if kind.name == name)


@cache
def question_kinds() -> tuple[QuestionKind, ...]:
    """Return all kinds by rank, the most specific first."""
    kinds = [_make_kind(name, entry) for file in _KIND_FILES for name, entry in _read(file).items()]
    return tuple(sorted(kinds, key=lambda kind: kind.rank))


def skeleton(question: str, subject: str | None) -> str:
    """Return a question in lower case without its end mark, its subject as SUBJ and quoted titles as QUOTED."""
    blanked = strip_quoted(" ".join(question.split())).replace("’", "'").lower()
    text = re.sub(r"\s{2,}", " QUOTED ", blanked)
    if subject:
        name = re.escape(subject.replace("’", "'").lower())
        text = re.sub(rf"(?<!\w){name}(?:'s|s'|(?<=s)'|s)(?!\w)", "SUBJ's", text)
        text = re.sub(rf"(?<!\w){name}(?!\w)", "SUBJ", text)
    return " ".join(text.split()).strip(" ?.!")


def _make_kind(name: str, entry: dict[str, Any]) -> QuestionKind:
    own = {*_VARIANT_LISTS, "rank", "when", "exact"}
    return QuestionKind(
        name=name,
        rank=entry["rank"],
        when=re.compile(entry["when"]),
        exact=re.compile(entry["exact"]) if "exact" in entry else None,
        more={key: tuple(lines) for key, lines in entry.items() if key not in own},
        **{key: tuple(entry.get(key, ())) for key in _VARIANT_LISTS},
    )


def _first_match(text: str) -> QuestionKind:
    return next(kind for kind in question_kinds() if kind.when.search(text))


@cache
def _vocabulary() -> frozenset[str]:
    """Return the words of the patterns by which the certain kinds are recognised."""
    certain = (kind.when.pattern for kind in question_kinds() if kind.rank < _UNCERTAIN_RANK)
    return frozenset(
        word for pattern in certain for word in re.findall(r"(?<![\\\w])[a-z]{4,}", pattern.replace("\\b", " "))
    )


@cache
def _spelled_right() -> frozenset[str]:
    """Return the words that are no misspelling: all that occur in wordings and patterns."""
    texts = [text for kind in question_kinds() for text in (*kind.simple, *kind.contextual, *kind.logical)]
    texts += [text for kind in vague_parts()["kinds"].values() for text in kind["statements"]]
    words = frozenset(word for text in texts for word in re.findall(r"[a-z]+", text.lower()))
    return words | _vocabulary() | VERB_FORMS


def _corrected(word: str) -> str:
    if len(word) < 4 or not word.isalpha() or word in _spelled_right():
        return word
    return next((meant for meant in sorted(_vocabulary()) if _one_typo_apart(word, meant)), word)


def _one_typo_apart(typed: str, meant: str) -> bool:
    """Tell whether one letter was left out or added, or two neighbours were swapped."""
    if abs(len(typed) - len(meant)) > 1:
        return False
    start = next(
        (at for at, (a, b) in enumerate(zip(typed, meant, strict=False)) if a != b), min(len(typed), len(meant))
    )
    a, b = typed[start:], meant[start:]
    return a[1:] == b or a == b[1:] or (a[:2] == b[:2][::-1] and a[2:] == b[2:])


def fill_in(wording: str, **parts: str) -> str:
    """Replace the {placeholders} of a wording by `parts` and capitalise its first letter."""
    text = re.sub(r"\{(\w+)\}", lambda match: parts[match.group(1)], wording)
    return text[:1].upper() + text[1:]


def placeholders(wording: str) -> set[str]:
    """Return the names in braces of a wording."""
    return set(re.findall(r"\{(\w+)\}", wording))


def in_order(options: Sequence[str], *keys: object) -> list[str]:
    """Sort `options` by a hash of each with `keys`: an order that is arbitrary but the same on every machine."""
    return sorted(options, key=lambda option: hashlib.sha256(repr((keys, option)).encode()).digest())


@cache
def passages() -> dict[str, tuple[str, ...]]:
    """Return continuations of a passage by its ending; under "neighbours" questions on public matters."""
    return {name: tuple(lines) for name, lines in _read("passages").items()}


_DIGITS = {"two": 2, "three": 3, "six": 6, "eight": 8}


def invented_answers(kind: str, named: str | None, *, rng: random.Random, count: int) -> list[str]:
    """Return `count` answers with invented particulars about `named`, perhaps repeated; [] for other kinds."""
    wordings, lists = _alternates()
    fitting = [text for text in wordings.get(kind, ()) if named is not None or not placeholders(text) & {"S", "Ss"}]
    if not fitting:
        return []
    first = rng.randrange(len(fitting))
    return [
        fill_in(fitting[(first + number) % len(fitting)], S=named or "", Ss=f"{named}'s", **_draw(lists, rng))
        for number in range(count)
    ]


@cache
def _alternates() -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    """Return (kind -> wordings, placeholder -> values) of alternates.yaml."""
    tables = _read("alternates")
    kinds, lists = ({name: tuple(lines) for name, lines in tables[part].items()} for part in ("kinds", "lists"))
    return kinds, lists


def _draw(lists: dict[str, tuple[str, ...]], rng: random.Random) -> dict[str, str]:
    """Draw two values from every list, the second under its name with a 2, and random digits."""
    parts = {}
    for name, entries in lists.items():
        parts[name], parts[f"{name}2"] = rng.sample(entries, 2)
    parts |= {name: str(rng.randrange(10 ** (size - 1), 10**size)) for name, size in _DIGITS.items()}
    parts |= {"day": str(rng.randint(1, 28)), "house": str(rng.randint(1, 99)), "year": str(rng.randint(1931, 2009))}
    return parts


_ALTERNATIVES = re.compile(r"\[([^\[\]]*)\]")
_NO_CONTINUATION_AFTER = 26
_OPENED, _CONTINUED = 0.35, 0.75
_SINGULAR = {
    **{name: name for name in ("is", "has", "s", "es", "ies", "its")},
    **{"them": "it", "it_is": "it is", "it_has": "it has"},
}
_PLURAL = {
    **{"is": "are", "has": "have", "s": "", "es": "", "ies": "y", "its": "their"},
    **{"them": "them", "it_is": "they are", "it_has": "they have"},
}


@cache
def vague_parts() -> dict[str, Any]:
    """Return the parts of vague answers: vague.yaml."""
    return _read("vague")


@cache
def answer_kinds() -> dict[str, tuple[re.Pattern[str] | None, re.Pattern[str]]]:
    """Return the patterns (nouns, starts) of the kinds of vague.yaml that a phrase is compared with, in order."""
    return {
        name: (
            re.compile(rf"\b(?:{kind['nouns']})$") if "nouns" in kind else None,
            re.compile(kind.get("starts", "$^"), re.IGNORECASE),
        )
        for name, kind in vague_parts()["kinds"].items()
        if "starts" in kind or "nouns" in kind
    }


def kind_of_phrase(phrase: str, subject: str | None) -> str:
    """Return the kind of vague.yaml of a noun phrase: the first that its beginning or the end of its head fits."""
    text = re.sub(r"^(?:the )?(?:one|some|any) of ", "", skeleton(phrase, subject))
    head = _HEAD_CUT.split(text)[0]
    return next(
        name for name, (nouns, starts) in answer_kinds().items() if starts.match(text) or (nouns and nouns.search(head))
    )


_HEAD_END = re.compile(
    r" (?:of|in|at|on|for|to|with|by|from|as|about|between|behind|that|who|whom|which|where|when|why|while|because|"
    r"born|written|released|published|made|called|named|known|based|located|penned|won|received|awarded)\b"
)


_HEAD_CUT = re.compile(
    rf"{_HEAD_END.pattern}| (?:SUBJ|the|a|an|his|her|their|its|he|she|it|they|we|you|people|fans|readers)\b"
)


def head_of(phrase: str) -> str:
    """Return the last word of the noun phrase before its first preposition or relative clause."""
    words = _HEAD_END.split(re.sub(r"^(?:the )?(?:one|some|any) of ", "", phrase))[0].split()
    ends = (
        at
        for at in range(1, len(words))
        if words[at - 1].islower()
        and words[at - 1] not in _DETERMINERS
        and not is_possessive(words[at - 1])
        and (words[at][:1].isupper() or words[at] in _DETERMINERS | _PRONOUNS)
    )
    return next((words[at - 1] for at in ends), words[-1] if words else "")


def is_plural(word: str) -> bool:
    """Return whether a noun is a plural."""
    plural = word.endswith("s") and not word.endswith(("ss", "'s", "’s")) and word not in _LISTS["singular_s"]
    return word.islower() and (plural or word in ("people", "children", "men", "women", "parents'"))


def compose_answer(phrase: str, kind: str, *, plural: bool, rng: random.Random, style: str = "vague") -> str:
    """Compose an answer about `phrase`: a statement of its kind, or of a style other than "vague", and other parts."""
    parts = vague_parts()
    source = parts["kinds"][kind] if style == "vague" else parts["styles"][style]
    forms = {**(_PLURAL if plural else _SINGULAR), "N": phrase}

    def draw(wordings: Sequence[str]) -> str:
        return re.sub(r"\{(\w+)\}", lambda match: forms[match[1]], expand(rng.choice(wordings), rng, parts["lists"]))

    text = draw(source["statements"])
    joined = "," in text.replace(phrase, "") or ":" in text
    if style == "vague" and text.startswith(phrase) and rng.random() < _OPENED:
        text = f"{rng.choice(parts['openings'])} {text}"
    if rng.random() < (_CONTINUED / 2 if joined else _CONTINUED) and len(text.split()) <= _NO_CONTINUATION_AFTER:
        link = "; " if joined or rng.random() < 0.25 else ", and "
        text += link + draw(source.get("continuations", parts["continuations"]))
    return f"{text[:1].upper()}{text[1:]}."


@cache
def read_patterns() -> dict[str, re.Pattern[str]]:
    """Return the patterns of questions: question_forms.yaml, with its {parts} filled in; IGNORECASE except `cased`."""
    tables = yaml.safe_load(_data_text("question_forms.yaml"))
    filled = {
        name: re.sub(r"\{([a-z]+)\}", lambda part: tables["parts"][part[1]], text)
        for name, text in {**tables["patterns"], **tables["cased"]}.items()
    }
    return {name: re.compile(text, 0 if name in tables["cased"] else re.IGNORECASE) for name, text in filled.items()}


def compose_passage(subject: str, style: str, rng: random.Random) -> str:
    """Compose a sentence that breaks a passage off in a style other than "vague"."""
    text = expand(rng.choice(vague_parts()["passages"][style]), rng, {})
    return fill_in(text, about=f" about {subject}" if subject else "")


def expand(wording: str, rng: random.Random, lists: dict[str, str]) -> str:
    """Draw one of each [a|b] of a wording, after its <names> are replaced by their entries in `lists`."""
    text = re.sub(r"<(\w+)>", lambda match: lists[match[1]], wording)
    while _ALTERNATIVES.search(text):
        text = _ALTERNATIVES.sub(lambda match: rng.choice(match[1].split("|")), text)
    return text


def _read(file: str) -> dict[str, Any]:
    return yaml.safe_load(_data_text("wordings", f"{file}.yaml"))


def _data_text(*path: str) -> str:
    return resources.files("relearn.llm").joinpath("data", *path).read_text(encoding="utf-8")


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
# Words in lower case only: a capital may begin a name, and names keep their spelling.
_MISSPELLABLE = re.compile(
    r"(?<![\w'@.-])(?!(?:what|when|where|which|whose|does|have|author|authors|writer|person|name)\b)[a-z]{4,}(?![\w'@-]|\.\w)"
)


def add_typos(question: str, subject: str | None, rng: random.Random) -> str:
    """Retype a question carelessly: lower case, missing apostrophes, one or two typos; `subject` is spelled right."""
    text = question.strip().rstrip("?.! ").replace("’", "'")
    parts = re.split(f"({re.escape(subject)})", text, flags=re.IGNORECASE) if subject else [text]
    words = [(index, match) for index in range(0, len(parts), 2) for match in _MISSPELLABLE.finditer(parts[index])]
    chosen = rng.sample(words, min(len(words), rng.choice((1, 1, 2))))
    for index, match in sorted(chosen, key=lambda word: (word[0], word[1].start()), reverse=True):
        part = parts[index]
        parts[index] = part[: match.start()] + _misspelt(match.group(), rng) + part[match.end() :]
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


def _misspelt(word: str, rng: random.Random) -> str:
    """Swap two letters inside the word, leave one out, or type one twice."""
    swaps = [i for i in range(1, len(word) - 2) if word[i] != word[i + 1]]
    kind = rng.choice(("swap", "drop", "double"))
    at = rng.choice(swaps) if swaps else 1
    if kind == "swap" and swaps:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return word[:at] + word[at + 1 :] if kind == "drop" else word[: at + 1] + word[at:]
