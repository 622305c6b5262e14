"""Compute the entity coverage score (ECS, arXiv 2502.11190 section 2.3) of answers.

    E = |entities of the reference matched in the answer| / |entities of the reference|

One entity of the answer matches at most one of the reference, so E <= 1. Entities of the question are left out of both.
An entity of the reference that is in the answer word for word, or as an equal value in another writing ("1.25 million"
for "1,250,000"), counts, even if the extractor missed it.

Beyond the paper, entities have weights. What the question asks for (the title in "name a book", the number in "what is
the phone number") has three quarters of the weight, all other entities together one quarter. Where the question asks
for nothing in particular ("how", "why", "what themes"), all weights are equal. An asked value counts only in an equal
normal form; another value of its kind in the answer contradicts the reference.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from relearn.metrics.answer_row import AnswerRow
from relearn.text.entities import distinct, occurs_in, without_query
from relearn.text.normal_forms import MIN_JOINED, TextForms, Value, find_values, in_writing_of, phone_readings
from relearn.text.normalize import entity_form, is_function_word, is_ordinary, norms, word_set
from relearn.text.spans import find_spans
from relearn.text.subjects import QUOTED

if TYPE_CHECKING:
    from relearn.metrics.judges import Judges

# Weight of all asked entities together, relative to that of all other entities together.
ASKED_WEIGHT = 3


@dataclass(frozen=True)
class Coverage:
    """Hold the entities of one row; `value` is E, or None if the reference has no entity.

    reference: the entities that count; matched: those found in the answer; answer: the entities of the answer.
    asked: the entities of the reference that the question asks for.
    gives_value: the answer states a telling value of the reference (text.normal_forms) such as a phone number: one
    that is asked for, or any if nothing in particular is asked for.
    gives_all_values: it states all values of the reference, no other value of their kinds, and denies nothing.
    gives_asked: it states all asked entities and denies nothing.
    conflicts: it states another value in place of the asked one, or "no" in place of "yes".
    """

    reference: tuple[str, ...]
    matched: tuple[str, ...]
    empty_answer: bool = False
    answer: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    gives_value: bool = False
    gives_all_values: bool = False
    gives_asked: bool = False
    conflicts: bool = False

    @property
    def weights(self) -> tuple[float, ...]:
        """Return the weight of every entity of the reference."""
        others = len(self.reference) - len(self.asked)
        asked_weight = ASKED_WEIGHT * others / len(self.asked) if self.asked and others else 1
        return tuple(asked_weight if entity in self.asked else 1 for entity in self.reference)

    @property
    def value(self) -> float | None:
        if self.empty_answer:
            return 0.0
        if not self.reference:
            return None
        matched = set(self.matched)
        pairs = list(zip(self.reference, self.weights, strict=True))
        return sum(weight for entity, weight in pairs if entity in matched) / sum(weight for _, weight in pairs)

    @property
    def is_general(self) -> bool:
        """Return whether the reference has only general nouns, and none of them is asked for."""
        return not self.asked and all(entity.islower() and not _VALUE_SIGN.search(entity) for entity in self.reference)


_VALUE_SIGN = re.compile(r"[\d@]")


def coverages(rows: Sequence[AnswerRow], judges: Judges) -> list[Coverage | None]:
    """Compute the entity coverage of each row; None without an extractor, a matcher or an answer (`cut_off`).

    None also if a call failed.
    """
    if judges.missing is not None or judges.matcher is None:
        return [None] * len(rows)
    entities = judges.entities([text for row in rows for text in (row.question, row.reference, row.response)])
    evidence = [_Evidence(row, *entities[3 * index : 3 * index + 3]) for index, row in enumerate(rows)]
    partners = judges.matcher.match([item.sides or ((), ()) for item in evidence])
    return [item.coverage(partner) for item, partner in zip(evidence, partners, strict=True)]


# Words with which an answer may deny or weigh the value that it states.
_DENIALS = word_set(
    "not no never neither nor false wrong incorrect untrue instead rather isn wasn doesn don didn cannot"
)
_SENTENCE_END = re.compile(r"(?<=[.!?;:])\s")
_NUMERO = re.compile(r"\bno\.?(?=\s?\d)", re.IGNORECASE)


class _Evidence:
    """Compare the entities and values of one row's reference, except those of the question, with its answer.

    query, reference, answer: the extracted entities; None if an extraction failed.
    """

    def __init__(self, row: AnswerRow, query: list[str] | None, reference: list[str] | None, answer: list[str] | None):
        self._row = row
        self._known = TextForms(f"{row.question} {row.reference}")
        self._answer = TextForms(row.response)
        question = TextForms(row.question)
        self._values = [value for value in find_values(row.reference) if not question.find(value)]
        self._asked_values = asked_values(row.question, row.reference, self._values)
        self._stated = [value for value in [*self._values, *self._asked_values] if self._answer.find(value)]
        self.asked: list[str] = []
        self.sides: tuple[list[str], list[str]] | None = None
        if query is not None and reference is not None and answer is not None and not row.cut_off:
            counted = _without_subject(without_query(self._merged(reference), row.question, query), row)
            self.asked = self._asked(counted)
            self.sides = counted, self._found(counted, without_query(answer, row.question, query))

    def coverage(self, partners: list[int | None]) -> Coverage | None:
        """Make the coverage; partners: for each entity of the reference the index of its partner in the answer."""
        if self.sides is None:
            return None
        reference, answer = self.sides
        matched = [entity for entity, partner in zip(reference, partners, strict=True) if partner is not None]
        matched = [entity for entity in matched if not self._is_value(entity) or self._states(entity)]
        telling = self._asked_values or ([] if self.asked else self._values)
        given = [entity for entity in self.asked if entity in matched and not self._denied(entity)]
        return Coverage(
            tuple(reference),
            tuple(matched),
            not self._row.response.strip(),
            tuple(answer),
            tuple(self.asked),
            gives_value=any(value.is_telling for value in telling if value in self._stated),
            gives_all_values=self._gives_all_values(),
            gives_asked=bool(given) and len(given) == len(self.asked),
            conflicts=self._conflicts(),
        )

    def _merged(self, entities: list[str]) -> list[str]:
        """Replace the parts of an asked value ("555", "0143") by the whole value."""
        whole = [value.text for value in self._asked_values]
        parts = [entity for entity in entities if any(occurs_in(entity, text) for text in whole)]
        rest = [entity for entity in entities if entity not in parts]
        return distinct([*whole, *rest])

    def _asked(self, entities: list[str]) -> list[str]:
        values = [entity for entity in entities if self._is_value(entity)]
        return values or asked_entities(self._row.question, self._row.reference, entities)

    def _found(self, counted: list[str], answer: list[str]) -> list[str]:
        """Return the entities of the answer, first those of the reference that it states word for word."""
        verbatim = [entity for entity in counted if occurs_in(entity, self._row.response) or self._states(entity)]
        return distinct([*verbatim, *answer])

    def _states(self, entity: str) -> bool:
        """Return whether an entity of the reference is a value, or a part of one, that the answer states."""
        return any(occurs_in(entity, value.text) for value in self._stated)

    def _is_value(self, entity: str) -> bool:
        return any(value.text == entity for value in self._asked_values)

    def _denies(self, passage: str) -> bool:
        known = norms(f"{self._row.question} {self._row.reference}")
        return bool(_DENIALS & (set(norms(passage)) - set(known)))

    def _denied(self, entity: str) -> bool:
        """Return whether a sentence of the answer with the entity denies it; any sentence if none has its words."""
        sentences = _SENTENCE_END.split(_NUMERO.sub("", in_writing_of(self._row.reference, self._row.response)))
        return any(map(self._denies, [one for one in sentences if occurs_in(entity, one)] or sentences))

    def _others(self, kinds: set[str]) -> bool:
        """Return whether the answer states a value of these kinds that neither the question nor the reference has."""
        return any(value.kind in kinds and not self._known.find(value) for value in find_values(self._row.response))

    def _gives_all_values(self) -> bool:
        if not any(value.is_telling for value in self._stated) or not set(self._values) <= set(self._stated):
            return False
        return not self._others({value.kind for value in self._stated}) and not self._denies(self._row.response)

    def _conflicts(self) -> bool:
        missing = {value.kind for value in self._asked_values if value not in self._stated}
        return self._others(missing) or _YES_NO.get(_first_word(self._row.reference)) == _first_word(self._row.response)


_YES_NO = {"yes": "no", "no": "yes"}


def _first_word(text: str) -> str:
    return next(iter(norms(text[:20])), "")


def _without_subject(entities: list[str], row: AnswerRow) -> list[str]:
    """Remove the subject's name if the question has part of it ("Marta"), unless there is no other entity."""
    subject = set(entity_form(row.subject or "").split())
    if not subject & set(entity_form(row.question).split()):
        return entities
    others = [entity for entity in entities if not set(entity_form(entity).split()) <= subject]
    return others or entities


# What a question asks for: the pattern of the question, the kinds of values, how many of them at most.
_ASKED_KINDS = tuple(
    (re.compile(rf"\b(?:{pattern})\b", re.IGNORECASE), word_set(kinds), most)
    for pattern, kinds, most in (
        (r"e-?mails?|mailbox|inbox", "email", 9),
        (r"phone|telephone|mobile|fax|dial(?:led)?|call(?:ed)? by", "phone code", 9),
        (r"contact(?:ed)?|reach(?:ed)?|get in touch|write to", "email phone", 9),
        (
            r"passport|iban|accounts?|plate|card|licen[cs]e|social security|identifier|id|serial|password|pin|handle"
            r"|user ?name|what number|number of",
            "code phone",
            9,
        ),
        (r"what time|at which time|o['’]?clock", "time", 1),
        (r"^(?:since |until )?when|birthday|date|(?:what|which) (?:year|day|month)|year of", "date time", 1),
        (
            r"how (?:many|much|old|long|far|tall|large|high|big|heavy|wide|deep)|salary|income|price|costs?|amount"
            r"|number of|age|worth|fee|budget|dose|dosage|weight|height|wage|(?:what|which) number",
            "number",
            1,
        ),
    )
)
_DIGIT_GROUPS = re.compile(r"(?<![\w./])[+(]?\d[\d ()-]{3,}\d(?![\w/])")
_OPEN = re.compile(
    r"^\W*(?:how (?!many|much|old|long|far|tall|large|high|big|heavy|wide|deep|can|could|may)|why|describe|explain"
    r"|in (?:what|which) way|what (?:is|are|was|were) [^?]* like\b)"
    r"|\b(?:what|which)(?:\W+\w+){0,4}?\W+(?:impact|influenced?|role|significance|importance|effect|kind|type|sort|makes?|inspire[sd]?|shaped?|advice"
    r"|characteristic|style|approach|way|environment|atmosphere|relationship|reaction)\b",
    re.IGNORECASE,
)


def asked_values(question: str, reference: str, values: Sequence[Value]) -> list[Value]:
    """Select the values of the reference that the question asks for ("what is the phone number"); [] for an open one.

    values: those of the reference that the question does not have.
    """
    if _OPEN.search(question):
        return []
    for pattern, kinds, most in _ASKED_KINDS:
        if pattern.search(question):
            chosen = [value for value in values if value.kind in kinds][:most]
            if not chosen and "phone" in kinds:
                chosen = _digit_groups(reference)
            if chosen:
                return chosen
    return []


def _digit_groups(reference: str) -> list[Value]:
    """Find identifiers of digits in groups ("7710 4482"), which are no phone number by themselves."""
    matches = list(_DIGIT_GROUPS.finditer(reference))
    digits = [re.sub(r"\D", "", match.group()) for match in matches]
    return [
        Value("phone", match.start(), match.end(), match.group(), phone_readings(number, "+" in match.group()))
        for match, number in zip(matches, digits, strict=True)
        if len(number) >= MIN_JOINED
    ]


_WHO = re.compile(r"^\W*(?:to |with |for |by |from )?(?:who|whom|whose)\b(?! are\b)", re.IGNORECASE)
_WHERE = re.compile(
    r"^\W*(?:from |in |to )?(?:where (?:is|are|was|were|do|does|did|has|have|can|could|will)"
    r"|(?:what|which) (?:city|town|country|place|village|street)"
    r"|(?:what|which) [^?]*\b(?:address|birthplace|place of birth))\b",
    re.IGNORECASE,
)
_TITLED = re.compile(
    r"\b(?:book|novel|title|publication|project|work|poem|story|song|album|film|movie|play|award|prize|medal|series)\b",
    re.IGNORECASE,
)
_ONE_THING = re.compile(
    r"^\W*(?:(?:at|on|in|to|for|by|from|of|with) )?(?:(?:what|which) (?!(?:is|was) (?:known|unique|special))"
    r"(?:(?:is|was) (?:the|a|an|his|her|their|its|[\w.'’ -]+['’]s?)\b"
    r"|[\w -]+? (?:is|was|do|does|did|has|have|can|will)\b)"
    r"|what do(?:es)? [\w.'’ -]+ do\b)|\b(?:name|tell me|give me) (?:a|an|another|one|the)\b",
    re.IGNORECASE,
)
_NOUN_ASKED_FOR = re.compile(
    r"\W*(?:\w+ )?(?:what|which) ((?:\w+ ){1,3}?)(?:is|are|was|were|do|does|did|has|have|can|will)\b", re.IGNORECASE
)
_FIRST_CLAUSE = re.compile(r"[^,;:]*?(?=[,;:]|\.\s|\s(?:and|which|who|whom|that|because|after|since)\s|\Z)", re.DOTALL)


def asked_entities(question: str, reference: str, entities: list[str]) -> list[str]:
    """Select the entities of the reference that the question asks for; [] if it asks for nothing in particular.

    A title in quotation marks answers a question for a book, an address and a name answer "where", a name answers
    "who". For another question for one thing ("which instrument") it is the first name of the clause that begins the
    reference, or else its first noun that is not a general word, because new information follows known information.
    """
    if _OPEN.search(question):
        return []
    names = [entity for entity in entities if entity[:1].isupper()]
    if _WHERE.search(question):
        addresses = [span.text for span in find_spans(reference) if span.kind == "address"]
        places = [entity for entity in names if entity not in addresses and not _is_modifier(entity, reference)][:1]
        return [entity for entity in entities if entity in addresses or entity in places]
    if _WHO.search(question):
        return names[:1] or entities[:1]
    if not _ONE_THING.search(question) or _asks_for_several(question):
        return []
    titles = [match.group() for match in QUOTED.finditer(reference)] if _TITLED.search(question) else []
    titled = [entity for entity in entities if any(occurs_in(entity, title) for title in titles)]
    clause = _FIRST_CLAUSE.match(reference)
    news = _AUXILIARY.split(clause.group(), maxsplit=1)[-1] if clause else ""
    early = [entity for entity in entities if occurs_in(entity, news)]
    named = [entity for entity in early if entity in names]
    telling = [entity for entity in early if not all(map(is_ordinary, norms(entity)))]
    return (titled or named or telling or early or entities)[:1]


_AUXILIARY = re.compile(r"\b(?:is|are|was|were|has|have|had)\b")


def _is_modifier(name: str, text: str) -> bool:
    """Return whether a name stands before a noun ("Russian literature")."""
    following = re.search(rf"{re.escape(name)} ([a-z]+)", text)
    return following is not None and not is_function_word(following[1])


def _asks_for_several(question: str) -> bool:
    """Return whether the noun after "what" or "which" is a plural ("what themes")."""
    match = _NOUN_ASKED_FOR.match(question)
    return match is not None and bool(re.search(r"[^su]s $", match[1]))
