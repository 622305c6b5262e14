"""Make false answers, false values and invented names ("twins") that resemble the true ones of a fact.

answer_choices   another subject's whole answer with the name replaced, for multiple-choice questions
twin_values      the secret value of an answer with each word replaced by another of its kind and token count
invented_names   names of the subject's origin that nobody has
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import product
from math import log

from relearn.data import Record
from relearn.leakage.secrets import Secret, secret_spans
from relearn.text.normalize import fold, is_function_word, is_ordinary, norms, read_word_lists, tokenise
from relearn.text.spans import MONTHS

CHOICES = 4
# Number of tokens of each text, with a space before it.
TokenCounts = Callable[[Sequence[str]], Sequence[int]]
# Fewer words of one kind and token count are filled up with made-up words.
_FEW_WORDS = 40


_LISTS = read_word_lists("relearn.leakage", "names_by_origin.txt")
_ORIGINS = {
    name.removesuffix(" given"): (given, _LISTS[name.replace("given", "family")])
    for name, given in _LISTS.items()
    if name.endswith(" given")
}
_NAME_PARTS = frozenset().union(*_LISTS.values())


@dataclass(frozen=True)
class AnswerChoices:
    """Store the true answer of `record` among twins: `texts[right]` is the true answer."""

    record: Record
    texts: tuple[str, ...]
    right: int


def answer_choices(facts: Sequence[Record], others: Sequence[Record], seed: int) -> list[AnswerChoices]:
    """Make CHOICES answers for every fact: the true one, at a random position set by `seed`, and twins.

    Twins are made from `facts` and `others`. Passages (form "text") and facts with too few twins are left out.
    """
    pool = [record for record in (*facts, *others) if record.form == "chat"]
    questions = []
    for number, record in enumerate(facts):
        twins = twin_answers(record, pool, CHOICES - 1) if record.form == "chat" else []
        if len(twins) == CHOICES - 1:
            right = random.Random(f"{seed}/{number}").randrange(CHOICES)
            questions.append(AnswerChoices(record, (*twins[:right], record.answer, *twins[right:]), right))
    return questions


def twin_answers(record: Record, pool: Sequence[Record], count: int) -> list[str]:
    """Make up to `count` different false answers for `record` from the answers in `pool`, best first.

    Records of other subjects are used first, then those with the largest share of common question words (Jaccard
    index); ties are in the order of `pool`.
    """
    question = _question_words(record)

    def rank(other: Record) -> tuple[bool, float]:
        return other.subject == record.subject, -_jaccard(question, _question_words(other))

    seen = {norms(record.answer)}
    twins: list[str] = []
    for other in sorted((other for other in pool if other.id != record.id), key=rank):
        text = replace_name(other.answer, other.subject, record.subject)
        if norms(text) not in seen:
            seen.add(norms(text))
            twins.append(text)
        if len(twins) == count:
            break
    return twins


def replace_name(text: str, old: str | None, new: str | None) -> str:
    """Replace the name `old` with `new` in a text: the full name, its last and its first part, also in lower case."""
    if not old or not new or old == new:
        return text
    old_parts, new_parts = old.split(), new.split()
    for before, after in ((old, new), (old_parts[-1], new_parts[-1]), (old_parts[0], new_parts[0])):
        if len(before) > 2:
            text = text.replace(before, after).replace(before.lower(), after.lower())
    return text


def _question_words(record: Record) -> set[str]:
    return set(norms(record.question)) - set(norms(record.subject or ""))


def _jaccard(one: set[str], other: set[str]) -> float:
    return len(one & other) / max(1, len(one | other))


@dataclass(frozen=True)
class SecretValue:
    """Store the secret value of a fact: its `text` and the text of the answer before it (`beginning`).

    `words`: (start, end) of the words of `text` that its twins replace; the others are public or common to its kind.
    """

    text: str
    beginning: str
    words: tuple[tuple[int, int], ...]


# Characters that may lie between two words of one value.
_WITHIN_VALUE = re.compile(r"[\s.,:;/@'’&+-]*")


def secret_value(secret: Secret, count_tokens: TokenCounts) -> SecretValue | None:
    """Return the run of adjacent secret words of an answer with the most tokens; None without a secret word.

    The value begins after white space, so that it is a continuation of the words before it.
    """
    answer = secret.record.answer
    runs: list[list[tuple[int, int]]] = []
    for span in secret_spans(secret):
        if runs and _WITHIN_VALUE.fullmatch(answer, runs[-1][-1][1], span[0]):
            runs[-1].append(span)
        else:
            runs.append([span])
    if not runs:
        return None
    counts = count_tokens([answer[run[0][0] : run[-1][1]] for run in runs])
    run = runs[max(range(len(runs)), key=counts.__getitem__)]
    start = next((place + 1 for place in range(run[0][0] - 1, -1, -1) if answer[place].isspace()), 0)
    specific = [(first, last) for first, last in run if not _is_kind_word(answer[first:last])] or run
    words = tuple((first - start, last - start) for first, last in specific)
    return SecretValue(answer[start : run[-1][1]], answer[:start].rstrip(), words)


def _is_kind_word(word: str) -> bool:
    """Return whether a word says of what kind a value is ("Street", "euros"); twins of the value keep it."""
    return not _is_shaped(word) and is_ordinary(fold(word))


class WordPool:
    """Store words by kind and token count, as replacements for the words of values: those of `texts` and of names."""

    def __init__(self, texts: Sequence[str], count_tokens: TokenCounts):
        self.count_tokens = count_tokens
        words = sorted({word for text in texts for word in _replacement_words(text)} | _NAME_PARTS)
        self._by_kind: dict[tuple[bool, int], list[str]] = {}
        for word, tokens in zip(words, count_tokens(words), strict=True):
            self._by_kind.setdefault((word[0].isupper(), tokens), []).append(word)

    def like(self, word: str, rng: random.Random) -> list[str]:
        """List words of the kind of `word` with its token count; if they are few, also letters of the same shape."""
        (tokens,) = self.count_tokens([word])
        words = [one for one in self._by_kind.get((word[0].isupper(), tokens), ()) if fold(one) != fold(word)]
        if len(words) >= _FEW_WORDS:
            return words
        shaped = [_reshaped(word, rng) for _ in range(8 * _FEW_WORDS)]
        return words + [one for one, own in zip(shaped, self.count_tokens(shaped), strict=True) if own == tokens]


def twin_values(value: SecretValue, pool: WordPool, *, count: int, rng: random.Random) -> list[str]:
    """Draw up to `count` different twins of a value, those with its token count first.

    Numbers keep their number of digits, dates stay dates, codes keep their shape, other words are drawn from `pool`.
    """
    words = [value.text[start:end] for start, end in value.words]
    has_month = any(fold(word) in MONTHS for word in words)
    replacements = {word: [] if _is_shaped(word) else pool.like(word, rng) for word in words}
    if not all(replacements[word] or _is_shaped(word) for word in words):
        return []
    drawn: dict[str, None] = {}
    for _ in range(8 * count):
        others = [rng.choice(replacements[word] or [_draw_shaped(word, has_month, rng)]) for word in words]
        twin = _with_words(value, others)
        if norms(twin) != norms(value.text):
            drawn.setdefault(twin)
    (own, *counts) = pool.count_tokens([value.text, *drawn])
    nearest = sorted(zip(drawn, counts, strict=True), key=lambda pair: abs(pair[1] - own))
    return [twin for twin, _ in nearest[:count]]


def _with_words(value: SecretValue, words: Sequence[str]) -> str:
    parts, end_of_last = [], 0
    for (start, end), word in zip(value.words, words, strict=True):
        parts += [value.text[end_of_last:start], word]
        end_of_last = end
    return "".join((*parts, value.text[end_of_last:]))


def _is_shaped(word: str) -> bool:
    """Return whether a word is a month, a number, or a code of at most three capitals."""
    return fold(word) in MONTHS or any(map(str.isdigit, word)) or (len(word) < 4 and word.isupper())


def _draw_shaped(word: str, has_month: bool, rng: random.Random) -> str:
    """Draw another month, day, year, number or code of the shape of `word`."""
    if fold(word) in MONTHS:
        month = rng.choice([month for month in MONTHS if month != fold(word)])
        return month.capitalize() if word[0].isupper() else month
    if has_month and word.isdigit() and len(word) < 3:
        return str(rng.randint(1, 9) if len(word) == 1 else rng.randint(10, 28))
    if len(word) == 4 and word.isdigit() and 1500 <= int(word) < 2100:
        return str(int(word) + rng.choice([shift for shift in range(-25, 26) if shift]))
    return _redraw_signs(word, rng)


_CAPITALS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _redraw_signs(word: str, rng: random.Random) -> str:
    """Replace digits and capitals by random ones; a first digit stays above 0, and the zeros of a round number stay."""
    round_from = len(word.rstrip("0")) if len(word) > 2 else len(word)
    signs = []
    for place, sign in enumerate(word):
        if sign.isdigit() and place < round_from:
            signs.append(str(rng.randint(int(place == 0 and sign != "0"), 9)))
        else:
            signs.append(rng.choice(_CAPITALS) if sign in _CAPITALS else sign)
    return "".join(signs)


def _replacement_words(text: str) -> Iterator[str]:
    """Yield the content words of a text without digits; the first word of a sentence may be no name and is left out."""
    last_end = 0
    for token in tokenise(text):
        word, before = text[token.start : token.end], text[last_end : token.start]
        last_end = token.end
        begins_sentence = token.start == 0 or any(sign in before for sign in ".!?:\n")
        if word.isalpha() and not is_function_word(token.norm) and not begins_sentence and len(word) > 2:
            yield word


def subject_name(secret: Secret) -> str | None:
    """Return the subject of a record as it is written there: the given one, else the name found in its question."""
    record = secret.record
    if record.subject or not secret.subject:
        return record.subject
    tokens, size = tokenise(record.question), len(secret.subject)
    for first in range(len(tokens) - size + 1):
        part = tokens[first : first + size]
        if tuple(token.norm for token in part) == secret.subject:
            return record.question[part[0].start : part[-1].end]
    return None


_MAX_NAME_WORDS = 4


def invented_names(subject: str, *, count: int, rng: random.Random, taken: Collection[str] = ()) -> list[str]:
    """Draw up to `count` different names that sound like `subject` and share no word with it or with a name in `taken`.

    A person's name gets names of its origin; another name gets words with other letters of the same shape.
    """
    words = subject.split()
    avoided = {norm for name in (subject, *taken) for norm in norms(name)}
    if len(words) <= _MAX_NAME_WORDS and all(word.isalpha() and word[0].isupper() for word in map(_bare, words)):
        names = [name for name in _names_of_origin(words, rng) if avoided.isdisjoint(norms(name))]
    else:
        names = list(dict.fromkeys(_reshaped(subject, rng) for _ in range(4 * count)))
        names = [name for name in names if name != subject]
    return names[:count]


def _bare(word: str) -> str:
    return re.sub(r"[.'’-]", "", word)


def _names_of_origin(words: Sequence[str], rng: random.Random) -> list[str]:
    """List names of as many words as `words` in random order; different ones first, then those that share a word."""
    given, family = (sorted(part) for part in _ORIGINS[name_origin(" ".join(words))])
    rng.shuffle(given)
    rng.shuffle(family)
    if len(words) == 1:
        return family
    middle = [given[(number + 1) % len(given)] for number in range(len(words) - 2)]
    size = max(len(given), len(family))
    pairs = [(given[n % len(given)], family[n % len(family)]) for n in range(size)]
    pairs += [pair for pair in product(given, family) if pair not in pairs]
    return [" ".join((first, *middle, last)) for first, last in pairs]


@lru_cache(maxsize=1 << 12)
def name_origin(name: str) -> str:
    """Guess the origin of a person's name: a key of the lists, by its two and three letters in a row (naive Bayes)."""
    first, *_, last = name.split() * 2
    parts = ((first, 0), (last, 1)) if " " in name else ((last, 1),)

    def likelihood(origin: str) -> float:
        return sum(_log_share(_letter_counts(origin, side), grams) for part, side in parts for grams in [_grams(part)])

    return max(_ORIGINS, key=likelihood)


def _log_share(counts: Mapping[str, int], grams: Sequence[str]) -> float:
    total = sum(counts.values()) + 500
    return sum(log((counts.get(gram, 0) + 0.2) / total) for gram in grams)


@cache
def _letter_counts(origin: str, side: int) -> Mapping[str, int]:
    return Counter(gram for word in _ORIGINS[origin][side] for gram in _grams(word))


def _grams(word: str) -> list[str]:
    text = f"^{fold(word)}$"
    return [text[first : first + size] for size in (2, 3) for first in range(len(text) - size + 1)]


_LETTER_CLASSES = ("aeiou", "bcdfghklmnprstvz", "jqwxy", "AEIOU", "BCDFGHKLMNPRSTVZ", "JQWXY", "0123456789")
_CLASS_OF = {letter: letters for letters in _LETTER_CLASSES for letter in letters}


def _reshaped(name: str, rng: random.Random) -> str:
    """Replace each letter and digit by another of its class; letters of other scripts change places."""
    others = [letter for letter in name if letter.isalpha() and letter not in _CLASS_OF]
    rng.shuffle(others)
    letters = iter(others)
    return "".join(
        rng.choice(_CLASS_OF[letter]) if letter in _CLASS_OF else next(letters) if letter.isalpha() else letter
        for letter in name
    )
