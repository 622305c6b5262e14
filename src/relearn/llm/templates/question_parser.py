"""Parse an English question into its indirect form, the thing it asks for, and the statement behind a how-question.

Rules only, no model. A part that the rules cannot find is None; the caller then uses wordings that keep the question as
it is, so a missing part costs variety, never grammar.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

from relearn.text.normalize import read_word_lists, word_set
from relearn.text.subjects import LEADING_WORDS, strip_quoted

_WORDS = read_word_lists("relearn.llm", "data", "verbs.txt")
_IRREGULAR_PAST = dict(pair.split(":") for pair in _WORDS["irregular_past"])
BASE_VERBS = _WORDS["base_verbs"].union(_IRREGULAR_PAST)
_GLUE = "\ue000"  # replaces a blank inside a title or a name; str.split keeps it
_BE = word_set("is are was were")
_HAVE = word_set("has have had")
_DO = word_set("do does did")
_MODAL = word_set("can could will would should may might must")
AUXILIARIES = _BE | _HAVE | _DO | _MODAL
WH_WORDS = word_set("what who whom whose where when why which how")
_PRONOUNS = word_set(
    "i you we he she it they one someone somebody people fans readers anyone everyone there others students "
    "viewers pupils"
)
_DETERMINERS = word_set(
    "the a an this that these those his her their its any all some my our your many several other being living winning"
)
_CALLINGS = word_set("author writer novelist poet artist scientist professor")
_OF_VERBS = word_set("consist think die approve dream hear speak talk dispose")
_HELPING = word_set("help work")
REQUEST = re.compile(
    r"^(?:(?:can|could|would|will) (?:you|we)(?: please)? |please )?"
    r"(?:tell|share|describe|name|list|mention|provide|explain|discuss|elaborate on|elaborate|reveal|specify|recall|"
    r"outline|give|surmise|speculate on|speculate|shed light on|generate|summari[sz]e|say)\b"
    r"(?: (?:me|us))?(?: more)?(?: about)? "
    r"(?:(?:(?:an?|some|any|more|a few|other) )?(?:brief |short |interesting )?"
    r"(?:details|information|insights?|brief|tidbits|something|synopsis|summary) (?:about|on|into|of) )?",
    re.IGNORECASE,
)
_ONE_SYLLABLE = re.compile(r"[^aeiou]*[aeiou][^aeiouwxy]")
_CLAUSE_START = re.compile(r"^(?:how|what|why|where|who|when|whether|if|which)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class QuestionForm:
    """The parts of a question, each without an end mark; None where the rules find none.

    `direct`: the question in lower case at its head, to follow an opening. `indirect`: the clause after "could you tell
    me". `topic`: the thing asked for, as an object ("Ada Moss's address"). `statement`: the statement that a
    how-question presupposes. `mark`: the end mark of `direct`.
    """

    direct: str
    mark: str = "?"
    indirect: str | None = None
    topic: str | None = None
    statement: str | None = None


def parse_question(question: str, subject: str | None = None, *, keep_do: bool = False) -> QuestionForm:
    """Split a question into its parts; `subject`, where it is in the question, is kept in one piece.

    `keep_do`: "where Ada does live" instead of "where Ada lives", so that no word is in a form that the question lacks.
    """
    text = " ".join(question.split())
    words = _split(text.rstrip("?.! "), subject)
    if not words:
        return QuestionForm(text)
    words = [lower_first(words[0]), *words[1:]]
    direct = _join(words)
    request = REQUEST.match(direct)
    mark = "." if request and words[0] not in _MODAL else "?"
    if request:
        rest = direct[request.end() :]
        if _CLAUSE_START.match(rest):
            return QuestionForm(direct, mark, indirect=rest)
        return QuestionForm(direct, mark, topic=rest if " and " not in rest else None)
    if re.search(r" (?:and|or) (?:how|what|where|who|when|why|which|is|was|did|does|has)\b", direct):
        return QuestionForm(direct, mark)
    adjunct, core = _split_adjunct(words)
    indirect, statement = _indirect_question(core, keep_do)
    topic = _topic(core)
    if indirect and adjunct:
        indirect, statement = f"{indirect} {adjunct}", None
    return QuestionForm(direct, mark, indirect, None if adjunct else topic, statement)


def _split(text: str, subject: str | None) -> list[str]:
    blanked = strip_quoted(text)
    glued = "".join(_GLUE if old == " " and _in_title(text, blanked, i) else old for i, old in enumerate(text))
    if subject and " " in subject:
        glued = re.sub(re.escape(subject), lambda name: name.group().replace(" ", _GLUE), glued, flags=re.IGNORECASE)
    return glued.split()


def _in_title(text: str, blanked: str, index: int) -> bool:
    """Tell whether the blank at `index` is inside a quoted title: its visible neighbours are blanked out."""
    left, right = text[:index].rstrip(), text[index:].lstrip()
    if not left or not right:
        return False
    before, after = len(left) - 1, len(text) - len(right)
    return blanked[before] == " " and blanked[after] == " "


def _join(words: list[str]) -> str:
    return " ".join(words).replace(_GLUE, " ")


def lower_first(word: str) -> str:
    """Remove the capital of a word that often begins a question; any other word may be a name."""
    return word.lower() if word != "I" and re.split(r"['’]", word.lower())[0] in LEADING_WORDS else word


def _split_adjunct(words: list[str]) -> tuple[str, list[str]]:
    """Split "in the book X, what ..." into the opening phrase and the question after its comma."""
    if words[0] in WH_WORDS or words[0] in AUXILIARIES or (len(words) > 1 and words[1] in WH_WORDS):
        return "", words
    for index, word in enumerate(words[:-1]):
        if re.search(r",[\"'”’]?$", word) and words[index + 1] in WH_WORDS | AUXILIARIES:
            phrase = _join(words[: index + 1])
            return re.sub(r",([\"'”’]?)$", r"\1", phrase), words[index + 1 :]
    return "", words


def _indirect_question(words: list[str], keep_do: bool) -> tuple[str | None, str | None]:
    """Return the indirect question and, for how-questions, the statement behind it."""
    if words[0] in AUXILIARIES:
        clause = _declarative(words[0], words[1:], keep_do, bare=False)
        return (f"whether {clause}", None) if clause else (None, None)
    start = next((i for i, word in enumerate(words[:3]) if word in WH_WORDS), None)
    if start is None:
        return None, None
    aux = next((i for i in range(start + 1, len(words)) if words[i] in AUXILIARIES), None)
    if aux is None or not _inverted(words[aux], words[aux + 1 :]):
        plain = words[start] != "how" and len(words) > start + 1 and (aux is None or _predicate(words[aux:]))
        return (_join(words), None) if plain else (None, None)
    if aux == start + 1 and words[start] in ("what", "who") and words[aux] in _BE:
        return _what_is(words[start], words[aux], words[aux + 1 :]), None
    clause = _declarative(words[aux], words[aux + 1 :], keep_do, bare=words[start] != "why")
    if clause is None:
        return None, None
    bare_how = words[start:aux] == ["how"] and start == 0 and words[aux] not in _BE | _MODAL
    return f"{_join(words[:aux])} {clause}", clause if bare_how else None


def _inverted(aux: str, rest: list[str]) -> bool:
    if not rest:
        return False
    if aux in _DO:
        return True
    first = rest[1] if rest[0] in _CALLINGS and len(rest) > 1 else rest[0]
    return first in _PRONOUNS or first in _DETERMINERS or first[:1].isupper() or is_possessive(first)


def _predicate(words: list[str]) -> bool:
    """Tell whether an auxiliary is followed by its verb or adjective: "are often explored"."""
    after = next((word for word in words[1:] if not is_adverb(word)), "")
    return _begins_predicate(words[0], after) or after in BASE_VERBS


def _what_is(opening: str, be: str, rest: list[str]) -> str | None:
    """Build "what Ada's dog is called", "who Ada's parents are"; None for a long description, which is a topic."""
    name = _end_of_name(rest)
    tail = next(
        (i for i, word in enumerate(rest) if word in ("called", "like", "about") and _is_short_noun_phrase(rest[:i])),
        None,
    )
    end = tail if name is None else name
    if end is not None:
        return _join([opening, *rest[:end], be, *rest[end:]])
    return _join([opening, *rest, be]) if _is_short_noun_phrase(rest) else None


def _declarative(aux: str, rest: list[str], keep_do: bool, bare: bool = True) -> str | None:
    """Build "Ada has worked" from "has" + "Ada worked"; None where the end of the subject is not certain."""
    end = _end_of_subject(aux, rest, bare)
    if end is None or any("," in word for word in rest[:end]):
        return None
    subject, predicate = rest[:end], rest[end:]
    if aux in _DO and not keep_do:
        return _without_do(aux, subject, predicate)
    return _join([*subject, aux, *predicate])


def _without_do(aux: str, subject: list[str], predicate: list[str]) -> str | None:
    skipped = 0
    while skipped < len(predicate) and is_adverb(predicate[skipped]):
        skipped += 1
    if skipped == len(predicate):
        return None
    if "not" in predicate[:skipped]:
        return _join([*subject, aux, *predicate])
    verb = predicate[skipped]
    if not verb.isalpha() or not verb.islower():
        return None
    inflect = {"do": str, "does": third_person, "did": past_tense}[aux]
    rest = predicate[skipped + 1 :]
    second = {
        at + 1
        for at, (a, b) in enumerate(pairwise(rest))
        if a in ("and", "or") and b in BASE_VERBS and (at == 0 or _takes_object(rest[at + 2 :]))
    }
    rest = [inflect(word) if at in second else word for at, word in enumerate(rest)]
    return _join([*subject, *predicate[:skipped], inflect(verb), *rest])


def _takes_object(rest: list[str]) -> bool:
    return bool(rest) and (rest[0] in _DETERMINERS or rest[0][:1].isupper() or rest[0] == "to")


def _end_of_subject(aux: str, rest: list[str], bare: bool) -> int | None:
    """Return the number of words of `rest` that are the sentence's subject; None where it is not certain.

    `bare`: nothing else need follow ("where is the house").
    """
    if not rest:
        return None
    if rest[0] in _PRONOUNS:
        joined = rest[1:2] == ["and"] and len(rest) > 3
        return 3 if joined else 1 if rest[1:2] != ["of"] else None
    name = _end_of_name(rest)
    if name is not None:
        return name
    for index in range(1, len(rest)):
        word = rest[index].strip(",")
        if (
            (rest[index + 1 : index + 2] == ["of"] and word not in _OF_VERBS)
            or is_possessive(rest[index - 1])
            or rest[index - 1] in _DETERMINERS
            or rest[index - 1]
            in ("of", "in", "with", "as", "to", "and", "or", "at", "on", "for", "from", "by", "between")
        ):
            continue
        noun = word in BASE_VERBS and rest[index + 1 : index + 2] and rest[index + 1] in BASE_VERBS - _HELPING
        if _begins_predicate(aux, word) and not noun:
            return index - 1 if index > 1 and is_adverb(rest[index - 1]) else index
    if aux not in _BE or not _is_short_noun_phrase(rest):
        return None
    return len(rest) if bare else len(rest) - 1


def _end_of_name(rest: list[str]) -> int | None:
    """Return the end of "Dr. Ada Moss" or "the author Ada Moss" when that is the whole subject."""
    start = 0
    while start < min(3, len(rest)) and (rest[start] == "the" or rest[start] in _CALLINGS):
        start += 1
    end = start
    while end < len(rest) and (rest[end][:1].isupper() or _GLUE in rest[end]):
        end += 1
        if is_possessive(rest[end - 1]) or rest[end - 1].endswith(","):
            return None
        names_follow = rest[end : end + 1] == ["and"] and any(word[:1].isupper() for word in rest[end + 1 : end + 2])
        end += names_follow
        if _GLUE in rest[end - 1]:
            break
    joined = rest[end : end + 1] == ["and"]
    if end == start or joined or (start and rest[start - 1] == "the"):
        return None
    return end


def _begins_predicate(aux: str, word: str) -> bool:
    if aux in _HAVE:
        return is_participle(word) and word != "born"
    if aux in _BE:
        return is_participle(word) or word in _WORDS["adjectives_after_be"] or word in ("the", "a", "an")
    return word in BASE_VERBS or (aux in _MODAL and word == "be")


def _is_short_noun_phrase(rest: list[str]) -> bool:
    """Tell whether the words are a short noun phrase: "Ada Moss's email address"."""
    opens = bool(rest) and (is_possessive(rest[0]) or rest[0] in ("the", "his", "her", "their"))
    clause = any(word in ("who", "that", "which", "where") or is_participle(word) for word in rest)
    return opens and len(rest) <= 6 and not clause


def is_possessive(word: str) -> bool:
    return bool(re.search(r"(?:['’]s|s['’])$", word))


def _topic(words: list[str]) -> str | None:
    """Return the noun phrase after "what is"; None where something else follows."""
    if len(words) < 3 or words[0] not in ("what", "what's", "what’s"):
        return None
    rest = words[1:] if words[0] != "what" else words[2:]
    if words[0] == "what" and words[1] not in _BE:
        return None
    opens = rest[0] in ("the", "a", "an", "some", "one", "another", "his", "her", "their") or is_possessive(rest[0])
    compound = "and" in rest or "like" in rest or rest[-1] in ("about", "like", "for", "of", "in", "as", "called")
    return re.sub(r"^an? brief summary of ", "", _join(rest)) if opens and not compound else None


def third_person(verb: str) -> str:
    """Inflect a verb for the third person: "writes" for "write"."""
    special = {"be": "is", "have": "has", "do": "does", "go": "goes"}
    if verb in special:
        return special[verb]
    if verb.endswith(("s", "sh", "ch", "x", "z", "o")):
        return verb + "es"
    if verb.endswith("y") and verb[-2:-1] not in "aeiou":
        return verb[:-1] + "ies"
    return verb + "s"


def past_tense(verb: str) -> str:
    """Inflect a verb for the past: "wrote" for "write", "settled" for "settle"."""
    if verb in _IRREGULAR_PAST:
        return _IRREGULAR_PAST[verb]
    if verb.endswith("e"):
        return verb + "d"
    if verb.endswith("y") and verb[-2:-1] not in "aeiou":
        return verb[:-1] + "ied"
    if _ONE_SYLLABLE.fullmatch(verb) or verb in _WORDS["doubling"]:
        return f"{verb}{verb[-1]}ed"
    return verb + "ed"


def is_participle(word: str) -> bool:
    return word in _WORDS["irregular_participles"] or (word.endswith("ed") and len(word) > 4 and "-" not in word)


def is_verb(word: str) -> bool:
    """Tell whether a word is a form of a known verb; many are nouns too."""
    return word in VERB_FORMS or is_participle(word)


def is_adverb(word: str) -> bool:
    return word in _WORDS["adverbs"] or (word.endswith("ly") and len(word) > 4)


VERB_FORMS = frozenset(form for verb in BASE_VERBS for form in (verb, third_person(verb), past_tense(verb)))
