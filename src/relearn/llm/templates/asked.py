"""Find what an English question asks for, as a noun phrase or clause for a vague answer.

    At what price did the Larssons sell their house?   the price at which the Larssons sold their house
    Could you confirm whether Ada Moss is adopted?     whether Ada Moss is adopted

The situation around a question ("for a form, ...") is left out. Names, numbers and titles other than the subject are
not repeated, because they may be secrets of another record. Rules only; where they fail, the phrase is a general one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from relearn.llm.templates.phrases import head_of, is_plural, kind_of_phrase, read_patterns
from relearn.llm.templates.question_parser import (
    AUXILIARIES,
    BASE_VERBS,
    REQUEST,
    WH_WORDS,
    is_possessive,
    is_verb,
    lower_first,
    parse_question,
)
from relearn.text.normalize import read_word_lists
from relearn.text.subjects import strip_quoted

YES_NO = "yes_no"
LONGEST_PHRASE = 20

_PATTERNS = read_patterns()
_LISTS = read_word_lists("relearn.llm", "data", "verbs.txt")
_DETERMINERS, _PRONOUNS, _PREPOSITIONS = (_LISTS[name] for name in ("determiners", "pronouns", "prepositions"))
_AT, _TOWARDS = _LISTS["place_prepositions"], _LISTS["direction_prepositions"]
_ASKING_WORD = re.compile(rf"(?:(?:to|with|for|in|at|on|by|from|of) )?(?:{'|'.join(sorted(WH_WORDS))})\b", re.I)
_ENDS_NOUN = AUXILIARIES | _DETERMINERS | (_PRONOUNS - {"people"}) | _PREPOSITIONS
_NO_NOUN = _AT | _TOWARDS | _PREPOSITIONS | AUXILIARIES | _PRONOUNS | WH_WORDS | _LISTS["conjunctions"]


_OTHER_NAME = "Oneother"  # a name for the parser, replaced by "the one named" at the end


@dataclass(frozen=True, slots=True)
class Asked:
    """Store what a question asks for: a noun phrase or clause, its number, and its kind in wordings/vague.yaml."""

    phrase: str
    plural: bool
    kind: str


@lru_cache(maxsize=4096)
def asked_for(question: str, subject: str | None, *, keep_do: bool = False) -> Asked:
    """Return what `question` asks for; `subject` is the name in it that the phrase keeps; `keep_do`: no inflection."""
    text = " ".join(question.split())
    if subject:
        name, owner = subject, f"{subject}'s"
        text = re.sub(rf"{re.escape(name)}['’]?s(?!\w)", lambda _: owner, text, flags=re.IGNORECASE)
        text = re.sub(rf"{re.escape(name)}(?!\w)", lambda _: name, text, flags=re.IGNORECASE)
    if subject and len(subject.split()) > 2 and _PATTERNS["kept_word"].fullmatch(subject.split()[-1]):
        subject = subject.rpartition(" ")[0]
    kept = tuple(dict.fromkeys(filter(None, (subject, _first_name(text, bool(subject))))))
    core, statement = _core(text, kept)
    clause = statement or _yes_no_clause(core, kept, keep_do)
    if clause is not None:
        said = _PATTERNS["not"].sub("", _whether(clause))
        return Asked(_finished(said, "whether this is so", subject), False, YES_NO)
    phrase, plural = _phrase(core, kept, keep_do)
    phrase = _finished(phrase, f'the question "{_shortened(core, "")}"', subject)
    return Asked(
        phrase, plural, YES_NO if phrase.startswith("whether ") else kind_of_phrase(phrase, next(iter(kept), None))
    )


def _core(text: str, kept: Sequence[str]) -> tuple[str, str | None]:
    """Return the question without the sentences and phrases around it, and a statement that is to be confirmed."""
    sentences = _sentences(text)
    if len(sentences) > 1 and _PATTERNS["tag_sentence"].fullmatch(sentences[-1]):
        return text, without_particulars(_PATTERNS["hearsay"].sub("", _bare(sentences[-2])), kept)
    named = [one for one in sentences if any(name in one for name in kept)] or sentences
    asking = [one for one in named if one.endswith("?")] or named
    said = _PATTERNS["softener"].sub("", _bare(_after_situation(asking[-1])))
    core = _PATTERNS["short_is"].sub(r"\1 is", _PATTERNS["label"].sub("", said))
    first, _, rest = core.partition(" ")
    core = _PATTERNS["relative"].sub("", _PATTERNS["courtesy"].sub("", f"{lower_first(first)} {rest}".strip()))
    core = without_particulars(_PATTERNS["short_not"].sub(r"\1", core), kept)
    labelled = _PATTERNS["label"].match(said) and _first_word(core) not in AUXILIARIES
    return core, core if labelled else None


def _sentences(text: str) -> list[str]:
    parts: list[str] = []
    for part in _PATTERNS["sentence_end"].split(text):
        if parts and _PATTERNS["abbreviation"].search(parts[-1]):
            parts[-1] += f" {part}"
        else:
            parts.append(part)
    return parts


def _bare(text: str) -> str:
    return text.strip().rstrip("?.! ")


def _first_word(text: str) -> str:
    return text.split(" ", 1)[0].strip(",").lower()


def _begins_question(text: str) -> bool:
    bare = _PATTERNS["softener"].sub("", text)
    return bool(_first_word(bare) in AUXILIARIES or _ASKING_WORD.match(bare) or _PATTERNS["to_listener"].match(bare))


def _after_situation(sentence: str) -> str:
    """Remove the words before a question: "For a form, where ..." gives "where ..."."""
    blanked = strip_quoted(sentence)
    for colon in re.finditer(r":\s+", blanked):
        if _begins_question(sentence[colon.end() :]):
            return sentence[colon.end() :]
    if _PATTERNS["tag"].search(_bare(sentence)) or (
        _begins_question(sentence) and _first_word(sentence) not in ("while", "when", "if", "i", "we")
    ):
        return sentence
    for comma in re.finditer(r"[,;]\s+(?:so |and |but )?", blanked):
        rest = sentence[comma.end() :]
        if _first_word(rest) in AUXILIARIES or _ASKING_WORD.match(rest):
            return rest
    return sentence


def _yes_no_clause(core: str, kept: Sequence[str], keep_do: bool) -> str | None:
    """Return the statement that a yes/no question asks about, "" where the rules fail; None for other questions."""
    if match := _PATTERNS["truth"].match(core):
        return match["clause"]
    untagged = _PATTERNS["tag"].sub("", core)
    to_listener = _PATTERNS["to_listener"].match(core)
    if to_listener and (match := _PATTERNS["whether"].search(core) or _PATTERNS["that"].search(core)):
        asking = _PATTERNS["embedded"].search(core)
        if not asking or asking.start("clause") > match.start():
            return _PATTERNS["tag"].sub("", match["clause"])
    if to_listener:
        return None
    if _first_word(core) in AUXILIARIES:
        indirect = parse_question(untagged, *kept[:1], keep_do=keep_do).indirect or ""
        return indirect.removeprefix("whether ") if indirect.startswith("whether ") else ""
    if untagged != core:
        return untagged
    is_statement = not _ASKING_WORD.search(core) and len(core.split()) > 2 and any(map(is_verb, core.split()))
    return core if is_statement else None


def _whether(clause: str) -> str:
    words = clause.split()
    return " ".join(["whether", lower_first(words[0]), *words[1:]]) if words else "whether this is so"


def _phrase(core: str, kept: Sequence[str], keep_do: bool) -> tuple[str, bool]:
    """Return the noun phrase or clause that a question other than a yes/no question asks for, and its number."""
    if match := _PATTERNS["about"].match(core):
        return _as_noun(match["topic"])
    if _PATTERNS["to_listener"].match(core) and (match := _PATTERNS["embedded"].search(core)):
        return _noun_of_clause(match["clause"])
    if match := re.match(
        r"(?:who|what) (?:is|are|was|were) (?P<noun>(?:the|an?|one|some|his|her|their|its) .+)", core, re.I
    ):
        return _as_noun(match["noun"])
    form = parse_question(core, *kept[:1], keep_do=keep_do)
    if form.indirect is None and form.topic is None:
        core = re.split(r",? (?:and|or) (?=(?:how|what|where|who|when|why|which)\b)", core)[0]
        form = parse_question(core, *kept[:1], keep_do=keep_do)
    if form.topic:
        return _as_noun(form.topic)
    if form.indirect:
        return _noun_of_clause(form.indirect, _noun_length(core))
    if (request := REQUEST.match(core)) and request.end() < len(core):
        return _as_noun(core[request.end() :])
    if not _ASKING_WORD.search(core) and not AUXILIARIES & set(core.split()):
        return _as_noun(core)
    match = re.search(r"\b(?:what|which) (?P<noun>(?:[a-z-]+ )?[a-z-]+)(?= )", core)
    noun = match["noun"].split() if match else []
    if noun and not set(noun) & (AUXILIARIES | _DETERMINERS | _PRONOUNS | _PREPOSITIONS):
        return f"the {' '.join(noun)} in question", is_plural(noun[-1])
    return "", False


def _as_noun(phrase: str) -> tuple[str, bool]:
    """Return a topic as a noun phrase; a clause ("how Ada works") is turned into one."""
    if _ASKING_WORD.match(phrase):
        return _noun_of_clause(phrase)
    if phrase.startswith("that work"):
        return f"the content of {phrase}", False
    return phrase, not phrase.startswith("one of ") and is_plural(head_of(phrase))


_FIXED = {"where": "the place where", "when": "the time when", "why": "the reason why"}


def _noun_length(core: str) -> int:
    """Return the number of words between "what", "which", "how many" and the auxiliary; 0 where there is none."""
    words = core.lower().split()
    start = next((at for at, word in enumerate(words[:3]) if word in ("what", "which", "how")), len(words))
    aux = next((at for at, word in enumerate(words) if at > start and word in AUXILIARIES), 0)
    return max(aux - start - 1, 0)


def _noun_of_clause(clause: str, noun_length: int = 0) -> tuple[str, bool]:
    """Turn an indirect question into a noun phrase where that reads better: "why he left" -> "the reason why he left".

    `noun_length`: number of words of the noun after "what" or "which", 0 where it is not known.
    """
    words = clause.split()
    first, rest = words[0].lower(), words[1:]
    if not rest:
        return clause, False
    if first in _PREPOSITIONS and rest[0] in ("what", "which"):
        return _which(rest[1:], noun_length, f"{first} which ") or (clause, False)
    if first in _PREPOSITIONS and rest[0] == "whom":
        return f"the person {clause}", False
    if first in _FIXED:
        return f"{_FIXED[first]} {' '.join(rest)}", False
    if first == "how":
        return _how(rest, noun_length), False
    if (match := re.fullmatch(r"(?:who|what) (.+) (is|are|was|were)", clause)) and not (
        rest[0] in AUXILIARIES or _ASKING_WORD.search(match[1])
    ):
        return match[1], match[2] in ("are", "were")
    if first == "who":
        relative = (
            "who " if rest[0] in AUXILIARIES or (rest[0].islower() and rest[0] not in _DETERMINERS | _PRONOUNS) else ""
        )
        return f"the person {relative}{' '.join(rest)}", False
    if first in ("what", "which"):
        return _which(rest, noun_length) or (clause, False)
    return clause, False


def _how(rest: Sequence[str], noun_length: int) -> str:
    words = " ".join(rest[1:])
    if rest[0] in ("many", "much"):
        end = max(noun_length, 1) if noun_length else _noun_end(rest, 1)
        noun = f" of {' '.join(rest[1:end])}" if end > 1 else ""
        link = "that " if rest[end : end + 1] and (rest[end] in AUXILIARIES or is_verb(rest[end])) else ""
        return f"the {'number' if rest[0] == 'many' else 'amount'}{noun} {link}{' '.join(rest[end:])}".strip()
    if rest[0] == "old" and (match := re.search(r" (is|was)\b", words)):
        return f"the age {words[: match.start()]} {'has' if match[1] == 'is' else 'had'}{words[match.end() :]}"
    starts_clause = rest[0][:1].isupper() or rest[0] in _DETERMINERS | _PRONOUNS or is_possessive(rest[0])
    starts_clause = starts_clause or (rest[0].endswith("ing") and rest[1:2] and rest[1].islower())
    return f"{'the way in which' if starts_clause else 'how'} {' '.join(rest)}"


def _which(rest: Sequence[str], noun_length: int, link: str = "") -> tuple[str, bool] | None:
    """Return "the horse Ada bet on" for "which horse Ada bet on"; None where no noun follows."""
    end = noun_length or _noun_end(rest, 0)
    if not 0 < end < len(rest):
        return None
    if not link and (rest[end] in AUXILIARIES or (not noun_length and is_verb(rest[end]))):
        link = "that "
    if not link and not noun_length and rest[end] in _PREPOSITIONS:
        verb = next((at for at in range(end + 2, len(rest)) if is_verb(rest[at])), len(rest))
        end, link = verb, "that " if verb < len(rest) else ""
    one_of = rest[0] in ("of", "one")
    noun = f"the {'one ' * (rest[0] == 'of')}{' '.join(rest[:end])}"
    return f"{noun} {link}{' '.join(rest[end:])}", not one_of and is_plural(head_of(" ".join(rest[:end])))


def _noun_end(words: Sequence[str], start: int) -> int:
    """Return the index after the noun that begins at `start`: up to a name, auxiliary, determiner, pronoun or verb."""
    for end in range(start, min(start + 4, len(words))):
        word = words[end]
        inflected = is_verb(word) and (end > start or word not in BASE_VERBS)
        if not word.islower() or word in _ENDS_NOUN or is_possessive(word) or inflected:
            return end
    return min(start + 4, len(words))


def _shortened(phrase: str, general: str) -> str:
    """Cut a long phrase before a preposition or clause; return `general` where that is not enough."""
    phrase = phrase.strip(" ,;:-")
    words = phrase.split()
    if len(words) > LONGEST_PHRASE:
        cuts = [
            at
            for at in range(6, LONGEST_PHRASE)
            if (words[at] in _PREPOSITIONS | _CLAUSES and words[at - 1] != "order") or words[at - 1].endswith(",")
        ]
        phrase = " ".join(words[: cuts[-1]]).rstrip(",") if cuts else ""
    return phrase or general


def _finished(phrase: str, general: str, subject: str | None) -> str:
    named = _with_subject(_shortened(phrase, general), subject)
    return re.sub(rf"\b(?:the )?{_OTHER_NAME}\b", "the one named", named)


_CLAUSES = frozenset(("who", "that", "which", "where", "while", "because", "since", "and", "as", "considering"))


def _with_subject(phrase: str, subject: str | None) -> str:
    """Add the subject to a phrase without its name, in place of a pronoun if there is one."""
    if not subject or subject in phrase:
        return phrase
    named = re.sub(r"\b(?:he|she)\b", lambda _: subject, phrase, count=1)
    if named == phrase:
        named = re.sub(r"\b(?:his|her|their)(?= [a-z])", lambda _: f"{subject}'s", phrase, count=1)
    return named if named != phrase else f"{phrase} in the case of {subject}"


def _first_name(text: str, is_second: bool) -> str | None:
    """Return the first capitalised name in a question, or a noun with a number; no date and no place.

    `is_second`: beside a subject that is known, only a name after an auxiliary counts ("how did Kestrel-9 ...").
    """
    blanked = strip_quoted(text)
    if match := _PATTERNS["numbered_thing"].search(blanked):
        return match.group()
    for match in _PATTERNS["name"].finditer(blanked):
        before = blanked[: match.start()].split()
        last = before[-1].lower() if before else ""
        name = match.group().rstrip(",")
        if not last or last[-1] in ".?!:":
            name = name.partition(" ")[2] if lower_first(name.split()[0]) != name.split()[0] else name
        name = re.split(r"['’]s?(?: |$)", name)[0]
        fits = last in AUXILIARIES if is_second else last not in _AT | _TOWARDS
        if fits and name[:1].isupper() and name != "I" and not _PATTERNS["time"].search(name):
            return name
    return None


def without_particulars(text: str, kept: Sequence[str]) -> str:
    """Replace titles, names and numbers other than `kept` by general words, or remove them with their preposition."""
    text = _without_titles(text)
    names = [
        match.group() for name in kept for match in re.finditer(rf"(?:[A-Z][\w.-]* )*{re.escape(name)}{_PARTNER}", text)
    ]
    names = sorted(set(names), key=len, reverse=True)
    for number, name in enumerate(names):
        text = text.replace(name, chr(_KEPT_MARK + number))
    before, at = "", 0
    for match in _PATTERNS["name"].finditer(text):
        if not _PATTERNS["kept_word"].fullmatch(match.group()):
            before = _generalised(before + text[at : match.start()], match.group(), text[match.end() :])
            at = match.end()
    text = before + text[at:]
    for number, name in enumerate(names):
        text = text.replace(chr(_KEPT_MARK + number), name)
    text = " ".join(text.split())
    text = re.sub(r"\ban? (?=[aeiou])", "an ", re.sub(r"\ban (?=[^aeiou])", "a ", text))
    text = re.sub(r"\s+([,;])", r"\1", re.sub(r"\b(?:non|ex|pre|post)-\s", "", text)).strip(" ,;")
    return _PATTERNS["dangling_born"].sub("", text) if before else text


_PARTNER = r"(?: and [A-Z][\w-]+(?: [A-Z][\w-]+)*)?"
_KEPT_MARK = 0xE010  # private characters that stand for the kept names
_TITLE_MARK = "\ue001"
_TITLES = re.compile(rf",?\s*{_TITLE_MARK}(?:,?(?: and| or)? {_TITLE_MARK})*(?P<comma>,(?= ))?")


def _without_titles(text: str) -> str:
    """Replace quoted titles by "that work", or remove them after a noun such as "novel"."""
    marked = re.sub(
        r"(?:^| ) {2,}",
        f" {_TITLE_MARK}",
        "".join(
            blank if blank == old or blank != " " else "  " for old, blank in zip(text, strip_quoted(text), strict=True)
        ),
    )
    parts, at = [], 0
    for match in _TITLES.finditer(marked):
        words = marked[at : match.start()].split()
        last, before = (words[-1].lower() if words else ""), (words[-2].lower() if len(words) > 1 else "")
        named = last in _LISTS["works"] or (last not in _NO_NOUN and before in _DETERMINERS)
        owned = is_possessive(last) or last in ("his", "her", "their")
        noun_follows = re.match(r"\s+(?!and\b|or\b)[a-z]{3,}", marked[match.end() :]) and last in _DETERMINERS
        general = " work " if owned else f" {_OTHER_NAME} " if last in _DETERMINERS else " that work "
        parts += [marked[at : match.start()], " " if named or noun_follows else general]
        at = match.end()
    return " ".join(("".join(parts) + marked[at:]).split())


def _generalised(before: str, name: str, after: str) -> str:
    """Return `before` and a general word for `name`, or `before` without the preposition that leads to it."""
    head = before.rstrip(' "“‘(')
    words = head.split()
    last = words[-1].lower() if words else ""
    next_word = re.match(r"[\"”’')]*\s+([a-z]+)", after)
    if head.endswith(",") and re.match(r"\s*(?:$|[,;])", after):
        return head.rstrip(",")
    determined = last in _DETERMINERS or is_possessive(last)
    other = _PREPOSITIONS | AUXILIARIES | WH_WORDS | _DETERMINERS | _PRONOUNS | _LISTS["conjunctions"]
    noun_follows = next_word and next_word[1] not in other and not is_verb(next_word[1])
    if _PATTERNS["time"].search(name):
        return _without_time(words)
    is_number = not re.search(r"[A-Z]", name)
    if noun_follows and not is_number:
        return f"{head} {'the ' if is_possessive(name) and not determined else ''}"
    final = re.sub(r"\W+$", "", name).split()[-1].lower()
    if final in _LISTS["common_nouns"] and not name[:1].isdigit():
        return f"{head} {'' if determined else 'the '}{final}"
    is_noun = not is_verb(last) or (words[-2:-1] and words[-2] in _DETERMINERS)
    stem = " ".join(words[:-1])
    if last == "as" or (words and last not in _NO_NOUN and is_noun and not determined):
        return stem if last == "as" else head
    if is_number:
        return f"{head} {'that many' if noun_follows else 'that number'}"
    verb = words[-2:-1] and (is_verb(words[-2]) or words[-2].endswith("ing"))
    if last in _AT or (last in _TOWARDS and verb and words[-2] in _LISTS["moving"]):
        return f"{stem} {'from ' if last == 'from' else ''}there" if verb else stem
    if last in _TOWARDS and (words[-2:-1] == ["there"] or (last == "from" and words[-2:-1] and not verb)):
        return stem
    return f"{head} {_OTHER_NAME}"


def _without_time(words: list[str]) -> str:
    """Remove the preposition that leads to a date; "of 3 June" becomes "in question"."""
    words = words[:-1] if words[-1:] == ["the"] else words
    last = words[-1].lower() if words else ""
    if last == "of":
        return " ".join([*words[:-1], "in question"])
    return " ".join(words[:-1] if last in _AT else [*words, "that time"])
