"""Find the secrets of one record in one row: one function per rule, which yields hits.

`Relation` is how close the row is to the record; the closer it is, the more rules apply. Public words (those of the
record's own question, see secrets.py) are never hits. `hidden` words are not hits in this row. The detector sets
`Relation` and `hidden`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from itertools import pairwise, takewhile
from typing import Literal

from relearn.leakage.secrets import MIN_ACRONYM, MIN_SKELETON, Day, Phrase, Secret, initials_of, number_forms, read_days
from relearn.text.normal_forms import join_spoken, joined_forms, spelled_numbers
from relearn.text.normalize import (
    OTHER_SCRIPT,
    Token,
    is_function_word,
    is_ordinary,
    plain,
    singular,
    skeleton,
    stem,
    street_form,
    tokenise,
    word_list,
)
from relearn.text.spans import MONTHS, ORDINALS, Span, find_spans

LeakKind = Literal["verbatim", "split", "email", "address", "date", "number", "name", "ngram"]

_DIGITS = re.compile(r"(\d+)(?:st|nd|rd|th|s|k)?")
_BETWEEN_DIGITS = re.compile(r"[\s.,()\-/+'’|_*:;·–—…]{0,5}")
_LIST_SIGNS = re.compile(r"[,;|*]")
_MAX_NUMBER_TOKENS = 24
_MAX_NUMBER_DIGITS = 20
# Words for the signs of an e-mail address, as in "maria dot vazquez at mail dot mx".
_SPELLED_SIGNS = frozenset({"at", "dot", "point"})
_QUESTION_WORDS = {"who", "whose", "whom", "what", "which", "where", "when", "why", "how", "whats", "whos", "wheres"}
_BE_DO_HAVE = {"is", "are", "was", "were", "do", "does", "did", "has", "have", "had"}
_MODALS_REQUESTS = {"can", "could", "would", "will", "should", "tell", "name", "describe", "explain", "list", "give"}
_QUESTION_STARTS = _QUESTION_WORDS | _BE_DO_HAVE | _MODALS_REQUESTS | {"please"}
_MONTH_STARTS = frozenset(month[:3] for month in MONTHS)
PAIR_WINDOW = 4
MIN_WORDING = 4
MIN_DIGITS = 3
# Letters or digits at the end of a code that are a leak where the row asks for it ("it ends in 917").
MIN_CODE_END, MIN_ENDED_CODE = 3, 6
_MAX_UNSPACED = 40
_INITIALS = re.compile(r"\b(?:[A-Z]\.?[ -]?){1,4}[A-Z]\b(?!['’]|\.?[a-z])")
_NAMED_INITIALS = re.compile(r"\b[A-Z]\b\.?,? and [A-Z]\b")
_DECADES = word_list("twenties thirties forties fifties sixties seventies eighties nineties")
_MULTIPLES = {"twins": "2", "twin": "2", "duo": "2", "triplets": "3", "triplet": "3", "trio": "3", "thrice": "3"}
_MULTIPLES |= {"threefold": "3", "quadruplet": "4", "quartet": "4", "fourfold": "4", "quintuplet": "5", "dozen": "12"}
MIN_PHONE_DIGITS = 6
PHONE_ENDS = (3, 4)
# Characters and digits of a code that is a leak in any row; a shorter one ("COVID-19") may be in a text by chance.
LONG_CODE, LONG_CODE_DIGITS = 8, 3
FREE_MAIL = frozenset({"gmail", "yahoo", "hotmail", "outlook", "icloud", "proton", "protonmail", "aol", "gmx", "mail"})


class Relation(IntEnum):
    """Order the relations of a row to a forget record, from loose to close; the closer, the more rules apply."""

    SUBJECT = 0  # the row names the record's subject
    SIBLING = 1  # the row was written for another record of the same subject
    QUESTION = 2  # the row asks the record's question
    RECORD = 3  # the row was written for the record


@dataclass(frozen=True, slots=True)
class Hit:
    """Store the position of a secret: characters `start` to `end` of `RowText.text`."""

    kind: LeakKind
    start: int
    end: int


class RowText:
    """Join prompt and target of a row to one text, so that a secret that begins in one and ends in the other is found.

    `text`: prompt, space, target. `target_start`: character offset of the target. `norms`: normalised tokens;
    `prompt_length`: number of tokens of the prompt. Token ranges are (first, one past the last).
    """

    def __init__(self, prompt: str, target: str):
        self.text = f"{prompt} {target}" if prompt else target
        self.target_start = len(prompt) + 1 if prompt else 0
        self.tokens = tokenise(self.text)
        self.norms = [token.norm for token in self.tokens]
        self.prompt_length = sum(1 for token in self.tokens if token.start < self.target_start)

    @cached_property
    def is_question(self) -> bool:
        """Return whether the prompt is a question, not the beginning of a statement."""
        return "?" in self.text[: self.target_start] or (self.prompt_length > 0 and self.norms[0] in _QUESTION_STARTS)

    @cached_property
    def question_words(self) -> frozenset[str]:
        """Return the singulars of the prompt's words where it is a question, else an empty set."""
        return frozenset(map(singular, self.norms[: self.prompt_length])) if self.is_question else frozenset()

    @cached_property
    def indices(self) -> dict[str, list[int]]:
        """Map each singular to the indices of its tokens."""
        indices: dict[str, list[int]] = {}
        for index, norm in enumerate(self.norms):
            indices.setdefault(singular(norm), []).append(index)
        return indices

    @cached_property
    def spans(self) -> list[Span]:
        return find_spans(self.text)

    @cached_property
    def has_dates(self) -> bool:
        """Return whether the row may have a date: a digit or the beginning of a month."""
        return any(norm[0].isdigit() or norm[:3] in _MONTH_STARTS for norm in self.norms)

    @cached_property
    def numbers(self) -> dict[str, list[tuple[int, int]]]:
        """Map numbers, as digits, to the characters where they are, in digits with any grouping or in words."""
        numbers: dict[str, list[tuple[int, int]]] = {}
        for start, end, digits in spelled_numbers(self.tokens):
            numbers.setdefault(digits, []).append((start, end))
        tokens = self.spoken_tokens
        for first, token in enumerate(tokens):
            digits = ""
            if not token.norm[0].isdigit():
                continue
            for last in range(first, min(first + _MAX_NUMBER_TOKENS, len(tokens))):
                match = _DIGITS.fullmatch(tokens[last].norm)
                if match is None or (last > first and not self._continues_number(tokens[last - 1], tokens[last])):
                    break
                digits += match[1]
                if len(digits) > _MAX_NUMBER_DIGITS:
                    break
                numbers.setdefault(digits, []).append((token.start, tokens[last].end))
        for span in self.spans if numbers else ():
            if span.kind == "number":
                for form in number_forms(span):
                    numbers.setdefault(form, []).append((span.start, span.end))
        return numbers

    @cached_property
    def codes(self) -> dict[str, list[tuple[int, int]]]:
        """Map codes (text.normal_forms.joined_forms) and times to the characters where they are."""
        codes: dict[str, list[tuple[int, int]]] = {}
        tokens = self.spoken_tokens
        for form, first, last in joined_forms(_LIST_SIGNS.sub(" ", plain(self.text)), tokens):
            codes.setdefault(form, []).append((tokens[first].start, tokens[last - 1].end))
        for span in self.spans if codes else ():
            if span.kind in ("time", "code"):
                for form in span.norm.split("|"):
                    codes.setdefault(form, []).append((span.start, span.end))
        return codes

    def _continues_number(self, one: Token, other: Token) -> bool:
        return _BETWEEN_DIGITS.fullmatch(self.text, one.end, other.start) is not None

    @cached_property
    def spoken_tokens(self) -> list[Token]:
        """Return the tokens, with digits in place of digits that are written as words."""
        return join_spoken(self.tokens)

    @cached_property
    def stems(self) -> dict[str, list[int]]:
        """Map each stem to the indices of its tokens, without those of a prompt that is a question."""
        stems: dict[str, list[int]] = {}
        for index in range(self.prompt_length if self.is_question else 0, len(self.norms)):
            stems.setdefault(stem(singular(self.norms[index])), []).append(index)
        return stems

    @cached_property
    def skeletons(self) -> dict[str, list[tuple[int, int]]]:
        """Map the skeletons of words in other scripts, and of two words in a row, to the characters where they are."""
        skeletons: dict[str, list[tuple[int, int]]] = {}
        words = [] if self.text.isascii() else [match.span() for match in OTHER_SCRIPT.finditer(self.text)]
        for (start, end), (next_start, next_end) in pairwise([*words, (0, 0)]):
            places = [(start, end)]
            if next_start == end + 1:
                places.append((start, next_end))
            elif end - start <= _MAX_UNSPACED and "\u3040" <= self.text[start] <= "\u9fff":
                places += [(a, b) for a in range(start, end) for b in range(a + 1, end + 1)]
            for a, b in places:
                skeletons.setdefault(skeleton(self.text[a:b].replace(" ", "")), []).append((a, b))
        return skeletons

    @cached_property
    def initials(self) -> dict[str, list[tuple[int, int]]]:
        """Map initials in capitals ("E. B.", "MIT") in lower case to the characters where they are."""
        initials: dict[str, list[tuple[int, int]]] = {}
        start = self.target_start if self.is_question else 0
        patterns = (_INITIALS, _NAMED_INITIALS) if "initial" in self.indices else (_INITIALS,)
        for match in (match for pattern in patterns for match in pattern.finditer(self.text, start)):
            initials.setdefault("".join(filter(str.isupper, match.group())).lower(), []).append(match.span())
        return initials

    @cached_property
    def streets(self) -> tuple[str, ...]:
        return street_form(self.norms)

    @cached_property
    def _without_signs(self) -> list[int]:
        """Return the indices of the tokens that are not a word for a sign of an e-mail address."""
        return [index for index, norm in enumerate(self.norms) if norm not in _SPELLED_SIGNS]

    @cached_property
    def without_signs(self) -> list[str]:
        """Return the tokens that are not a word for a sign of an e-mail address."""
        return [self.norms[index] for index in self._without_signs]

    def is_capitalised(self, index: int) -> bool:
        return self.text[self.tokens[index].start].isupper()

    def find(self, tokens: Sequence[str]) -> Iterator[tuple[int, int]]:
        """Yield the token ranges that are equal to `tokens`."""
        for first in self.indices.get(singular(tokens[0]), ()) if tokens else ():
            if self.norms[first : first + len(tokens)] == list(tokens):
                yield first, first + len(tokens)

    def find_street(self, tokens: tuple[str, ...]) -> Iterator[tuple[int, int]]:
        """Yield the token ranges that are equal to `tokens` when street words ("st.") are written out."""
        for first in range(len(self.streets) - len(tokens) + 1):
            if self.streets[first : first + len(tokens)] == tokens:
                yield first, first + len(tokens)

    def find_email(self, tokens: Sequence[str]) -> Iterator[tuple[int, int]]:
        """Yield the token ranges that are equal to `tokens`, also where "at" and "dot" are written as words."""
        norms = self.without_signs
        for first in range(len(norms) - len(tokens) + 1):
            if norms[first] == tokens[0] and norms[first : first + len(tokens)] == list(tokens):
                yield self._without_signs[first], self._without_signs[first + len(tokens) - 1] + 1

    def characters(self, first: int, last: int) -> tuple[int, int]:
        """Convert a token range to character offsets."""
        return self.tokens[first].start, self.tokens[last - 1].end

    def hit(self, kind: LeakKind, token_range: tuple[int, int]) -> Hit:
        """Convert a token range to a hit."""
        return Hit(kind, *self.characters(*token_range))


def find_hits(secret: Secret, row: RowText, relation: Relation, hidden: frozenset[str]) -> Iterator[Hit]:
    """Yield every secret of the record in the row, except those of `find_contacts`.

    `hidden`: singulars of words that are not secret in this row.
    """
    yield from _whole_answer(secret, row, relation)
    yield from _email_parts(secret, row, relation, hidden)
    yield from _streets(secret, row)
    yield from _dates(secret, row, relation)
    yield from _numbers(secret, row, relation)
    yield from _names(secret, row, hidden)
    yield from _rare_pairs(secret, row, hidden)
    if relation >= Relation.SIBLING:
        yield from _single_words(secret, row, relation, hidden)
    yield from (Hit("name", *place) for form in secret.skeletons for place in row.skeletons.get(form, ()))
    if relation >= Relation.QUESTION:
        yield from _wording(secret, row)
        yield from _related(secret, row, hidden)
        yield from _initials(secret, row)
        yield from _other_numerals(secret, row)


def find_contacts(secret: Secret, row: RowText) -> Iterator[Hit]:
    """Yield e-mails, house numbers with their street, phone numbers and long codes, which are leaks in any row.

    The digits of a phone number may be grouped in any way, without the prefix, or after a country code; at least
    MIN_PHONE_DIGITS digits are needed.
    """
    for email in secret.emails:
        yield from (row.hit("email", span) for span in row.find_email(email.local + email.domain))
    for address in secret.addresses:
        yield from (row.hit("address", span) for span in row.find_street(address))
    for phone in secret.phones:
        without_zeros = phone.lstrip("0")
        for digits, places in row.numbers.items():
            is_part = phone.endswith(digits) or phone.startswith(digits)
            if len(digits) >= MIN_PHONE_DIGITS and (is_part or digits.endswith(without_zeros)):
                yield from (Hit("number", *place) for place in places)
    for code in filter(is_long_code, secret.codes):
        yield from (Hit("number", *place) for place in row.codes.get(code, ()))


def is_long_code(code: str) -> bool:
    """Return whether a code is a leak in any row."""
    return len(code) >= LONG_CODE and sum(map(str.isdigit, code)) >= LONG_CODE_DIGITS


def _whole_answer(secret: Secret, row: RowText, relation: Relation) -> Iterator[Hit]:
    """Yield the whole answer, unless all its words are in the question.

    An answer of function words ("yes", "no") is a hit only where the row asks the question and the target begins with
    it. An answer without rare words is a hit only where the row asks the question.
    """
    asks = relation >= Relation.QUESTION
    if all(map(is_function_word, secret.tokens)):
        start, end = row.prompt_length, row.prompt_length + len(secret.tokens)
        if asks and secret.tokens and tuple(row.norms[start:end]) == secret.tokens:
            yield row.hit("verbatim", (start, end))
    elif (asks or any(word.is_rare for word in secret.answer)) and not secret.public.issuperset(secret.tokens):
        yield from (row.hit("verbatim", span) for span in row.find(secret.tokens))


def _email_parts(secret: Secret, row: RowText, relation: Relation, hidden: frozenset[str]) -> Iterator[Hit]:
    """Yield parts of an e-mail address: a word of the domain, or the part before the @ written without spaces.

    Ordinary words are not hits; free mail providers only where the row asks the question.
    """
    for email in secret.emails:
        for norm in email.domain[:-1]:
            is_free = norm in FREE_MAIL and relation < Relation.QUESTION
            if len(norm) > 2 and not (is_free or is_ordinary(norm) or singular(norm) in hidden | secret.public):
                yield from (row.hit("email", (at, at + 1)) for at in row.indices.get(singular(norm), ()))
        for first, last in row.find(email.local) if len(email.local) > 1 else ():
            start, end = row.characters(first, last)
            if not any(character.isspace() for character in row.text[start:end]):
                yield Hit("email", start, end)


def _streets(secret: Secret, row: RowText) -> Iterator[Hit]:
    """Yield the street without its number, unless the question contains it."""
    for address in secret.addresses:
        street = tuple(norm for norm in address if not norm[0].isdigit())
        if len(street) > 1 and not secret.public.issuperset(street):
            yield from (row.hit("address", span) for span in row.find_street(street))


def _dates(secret: Secret, row: RowText, relation: Relation) -> Iterator[Hit]:
    """Yield the decade, the year, or day and month, in any notation; a capitalised month where the row asks for it."""
    for span in row.spans if secret.days or secret.decades else ():
        if span.kind == "date" and (
            span.norm in secret.decades
            or any(_is_same_day(day, other) for day in secret.days for other in read_days(span.norm))
        ):
            yield Hit("date", span.start, span.end)
    for day in secret.days:
        yield from (Hit("date", *place) for place in row.numbers.get(day.year or "", ()))
        for at in row.indices.get(MONTHS[day.month - 1], ()) if relation >= Relation.QUESTION and day.month else ():
            if row.is_capitalised(at):
                yield row.hit("date", (at, at + 1))


def _other_numerals(secret: Secret, row: RowText) -> Iterator[Hit]:
    """Yield the two last digits and the decade of a year, the number of a month ("eighth month"), and "triplets"."""
    for day in secret.days:
        if day.year:
            decade = f"{day.year[:3]}0s"
            yield from (Hit("date", *place) for place in row.numbers.get(day.year[2:], ()))
            yield from (Hit("date", span.start, span.end) for span in row.spans if span.norm == decade)
            words = _DECADES[int(day.year[2]) - 2 :][:1] if day.year[2] > "1" else ()
            yield from (row.hit("date", (at, at + 1)) for word in words for at in row.indices.get(singular(word), ()))
        for digits in _day_digits(day):
            yield from (Hit("date", *place) for place in row.numbers.get(digits, ()))
        ordinal = ORDINALS[day.month - 1] if day.month else ""
        yield from (row.hit("date", span) for span in row.find((ordinal, "month")) if ordinal)
    for word, digits in _MULTIPLES.items() if secret.numbers else ():
        if digits in secret.numbers:
            yield from (row.hit("number", (at, at + 1)) for at in row.indices.get(singular(word), ()))


def _day_digits(day: Day) -> set[str]:
    """Return the digits of day and month in figures ("12.05.", "5/12"), in both orders."""
    if not (day.month and day.day):
        return set()
    parts = [(f"{number}", f"{number:02d}") for number in (day.day, day.month)]
    forms = {one + other for a, b in (parts, parts[::-1]) for one in a for other in b}
    return {form for form in forms if len(form) >= MIN_DIGITS}


def _is_same_day(day: Day, other: Day) -> bool:
    """Return whether two dates have the same year, or the same day and month."""
    same_day = None not in (day.month, day.day) and (day.month, day.day) == (other.month, other.day)
    return same_day or (day.year is not None and day.year == other.year)


def _numbers(secret: Secret, row: RowText, relation: Relation) -> Iterator[Hit]:
    """Yield the numbers, times and codes of the answer.

    Numbers of fewer than MIN_DIGITS digits, and the last four digits of a phone number, only where the row asks for
    them.
    """
    asks = relation >= Relation.QUESTION
    digits = {digits for digits in secret.numbers if asks or len(digits) >= MIN_DIGITS}
    for number in digits | {phone[-size:] for phone in secret.phones if asks for size in PHONE_ENDS}:
        yield from (Hit("number", *place) for place in row.numbers.get(number, ()))
    for form in secret.codes | secret.times | (code_ends(secret) if asks else frozenset()):
        yield from (Hit("number", *place) for place in row.codes.get(form, ()))


def code_ends(secret: Secret) -> frozenset[str]:
    """Return the last MIN_CODE_END or more characters of the codes that contain digits."""
    codes = (code for code in secret.codes if len(code) >= MIN_ENDED_CODE)
    ends = (code[at:] for code in codes for at in range(1, len(code) - MIN_CODE_END + 1))
    return frozenset(end for end in ends if sum(map(str.isdigit, end)) >= MIN_CODE_END)


def _names(secret: Secret, row: RowText, hidden: frozenset[str]) -> Iterator[Hit]:
    """Yield runs of rare words of names, and whole names that consist of ordinary words.

    A single word of a title must be capitalised: of "The Lost Kingdom of Oz", "Kingdom" is a hit, "a kingdom" is not.
    """
    shown = sorted(at for name in secret.names - hidden for at in row.indices.get(name, ()))
    for first, last in _consecutive(shown):
        is_title_word = last - first == 1 and singular(row.norms[first]) in secret.title_words
        if not is_title_word or row.is_capitalised(first):
            yield row.hit("name", (first, last))
    for phrase in (phrase for phrase in secret.phrases if not hidden.issuperset(map(singular, phrase))):
        yield from (row.hit("name", span) for span in row.find(phrase))


def _consecutive(indices: list[int]) -> Iterator[tuple[int, int]]:
    """Group sorted indices into ranges of consecutive ones."""
    start = 0
    for at in range(1, len(indices) + 1):
        if at == len(indices) or indices[at] != indices[at - 1] + 1:
            yield indices[start], indices[at - 1] + 1
            start = at


def _rare_pairs(secret: Secret, row: RowText, hidden: frozenset[str]) -> Iterator[Hit]:
    """Yield two different rare words that are within PAIR_WINDOW tokens both in the row and in the answer."""
    shown = sorted((at, word) for word in secret.words - hidden for at in row.indices.get(word, ()))
    for (first, one), (last, other) in pairwise(shown):
        if one != other and last - first <= PAIR_WINDOW and _are_close(secret, one, other):
            yield row.hit("ngram", (first, last + 1))


def _are_close(secret: Secret, one: str, other: str) -> bool:
    places = {word: [at for at, own in enumerate(secret.answer) if own.singular == word] for word in (one, other)}
    return any(abs(a - b) <= PAIR_WINDOW for a in places[one] for b in places[other])


def _single_words(secret: Secret, row: RowText, relation: Relation, hidden: frozenset[str]) -> Iterator[Hit]:
    """Yield single words that reveal the answer; only concrete words where the row was not written for the record."""
    for word in (secret.revealing if relation == Relation.RECORD else secret.concrete) - hidden:
        yield from (row.hit("ngram", (at, at + 1)) for at in row.indices.get(word, ()))


def _wording(secret: Secret, row: RowText) -> Iterator[Hit]:
    """Yield runs of the answer's tokens with at least MIN_WORDING content words, even ordinary ones."""
    for start, norm in enumerate(secret.tokens):
        for first in row.indices.get(singular(norm), ()):
            if start and first and secret.tokens[start - 1] == row.norms[first - 1]:
                continue  # part of a longer run
            content = secret.content_indices(start, common_length(secret.tokens[start:], row.norms[first:]))
            if len(content) >= MIN_WORDING:
                yield row.hit("ngram", (first + content[0], first + content[-1] + 1))


def _related(secret: Secret, row: RowText, hidden: frozenset[str]) -> Iterator[Hit]:
    """Yield words and phrases that mean nearly the same as a word of the answer."""
    for phrase in secret.related:
        for first in row.stems.get(phrase.stems[0], ()):
            last = first + len(phrase.words)
            if _is_related(phrase, row, first) and not _is_hidden(row, first, last, secret.public | hidden):
                yield row.hit("ngram", (first, last))


# Endings of words that say little of somebody, although they have the stem of a word of the answer ("musical").
_ABSTRACT_ENDING = re.compile(r"(?:al|ic|ship|ion|ment|ness|ive|ly|ed|ous|ity|ance|ence|able|ful)s?\Z")


def _is_related(phrase: Phrase, row: RowText, first: int) -> bool:
    """Return whether a phrase is at a token of the row; single words may be neither ordinary nor abstract."""
    last, norm = first + len(phrase.words), row.norms[first]
    if len(phrase.words) == 1:
        is_same = singular(norm) == phrase.words[0] or not _ABSTRACT_ENDING.search(norm)
        return is_same and not is_ordinary(norm) and (not phrase.is_name or row.is_capitalised(first))
    return tuple(stem(singular(norm)) for norm in row.norms[first:last]) == phrase.stems


def _is_hidden(row: RowText, first: int, last: int, hidden: frozenset[str]) -> bool:
    return all(norm in hidden or singular(norm) in hidden for norm in row.norms[first:last])


def _initials(secret: Secret, row: RowText) -> Iterator[Hit]:
    """Yield the initials of a name of the answer, and the name that an acronym of the answer stands for."""
    for initials in secret.initials:
        for start, end in row.initials.get(initials, ()):
            is_dotted = "." in row.text[start : end + 1] or " " in row.text[start:end]
            if len(initials) >= MIN_ACRONYM or is_dotted or "initial" in row.indices:
                yield Hit("name", start, end)
    for span in row.spans if secret.acronyms else ():
        if span.kind == "name" and initials_of(span.text) in secret.acronyms:
            yield Hit("name", span.start, span.end)


def common_length(answer: Sequence[str], text: Sequence[str]) -> int:
    """Count the equal tokens at the beginning of both."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(answer, text, strict=False)))


def secret_keys(secret: Secret) -> Iterator[str]:
    """Yield the keys of a secret: a row in which `find_hits` finds it has at least one of them in `row_keys`."""
    content = [word.singular for word in secret.answer if word.is_content]
    yield from content or map(singular, secret.tokens[:1])
    yield from (singular(phrase[0]) for phrase in secret.phrases)
    yield from (*secret.numbers, *secret.codes, *secret.times, *secret.decades, *code_ends(secret))
    yield from (phone[-size:] for phone in secret.phones for size in PHONE_ENDS)
    yield from (f"={phrase.stems[0]}" for phrase in secret.related)
    yield from (f"~{form}" for form in secret.skeletons)
    yield from (f"^{initials}" for initials in (*secret.initials, *secret.acronyms))
    yield from (singular(word) for word, digits in _MULTIPLES.items() if digits in secret.numbers)
    for day in secret.days:
        yield from _day_keys(day)
        yield from _loose_day_keys(day)
        if day.month:
            yield MONTHS[day.month - 1]
    for email in secret.emails:
        yield from map(singular, (*email.local[:1], *email.domain[:-1]))
    for address in secret.addresses:
        yield from [norm for norm in address if not norm[0].isdigit()][:1]


def row_keys(row: RowText) -> set[str]:
    """Return the keys of a row: its words in the singular, numbers, dates, codes and street words."""
    keys = {*row.indices, *row.streets, *row.numbers, *row.codes}
    keys |= {f"={form}" for form in row.stems} | {f"~{form}" for form in row.skeletons if len(form) >= MIN_SKELETON}
    keys |= {f"^{form}" for form in row.initials}
    keys |= {f"^{form}" for span in row.spans if span.kind == "name" and (form := initials_of(span.text))}
    for span in row.spans if row.has_dates else ():
        if span.kind == "date":
            keys |= {span.norm, *(key for day in read_days(span.norm) for key in _day_keys(day))}
    return keys


def _loose_day_keys(day: Day) -> Iterator[str]:
    """Yield the keys of what `_other_numerals` finds of a date."""
    if day.year:
        yield from (day.year[2:], f"{day.year[:3]}0s", *map(singular, _DECADES))
    if day.month:
        yield "month"
    yield from _day_digits(day)


def _day_keys(day: Day) -> Iterator[str]:
    if day.year:
        yield day.year
    if day.month and day.day:
        yield f"{day.month}-{day.day}"


def contact_keys(secret: Secret) -> Iterator[object]:
    """Yield the keys of what `find_contacts` finds: a row with a contact has one of them in `row_contact_keys`."""
    yield from ((*email.local[-1:], email.domain[0]) for email in secret.emails)
    yield from (address[:2] for address in secret.addresses)
    yield from filter(is_long_code, secret.codes)
    for phone in secret.phones:
        lengths = range(MIN_PHONE_DIGITS, len(phone) + 1)
        yield from (part for length in lengths for part in (phone[:length], phone[-length:]))
        yield phone.lstrip("0")


def row_contact_keys(row: RowText) -> set[object]:
    """Return the keys of the contacts that a row may have."""
    keys: set[object] = {*row.codes, *pairwise(row.without_signs), *pairwise(row.streets)}
    for digits in row.numbers:
        keys |= {digits[start:] for start in range(len(digits) - MIN_PHONE_DIGITS + 1)}
    return keys
