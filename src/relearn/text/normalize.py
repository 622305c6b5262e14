"""Normalise texts for comparison: words, plurals, street names, numbers in words, entities.

plain                   a text of the same length with ASCII digits and without markup
fold, tokenise, norms   words without case, accents and compatibility forms; digits without thousands separators
words_only              a text without case and punctuation
singular, stem          the likely singular of a word; a word without its endings
romanise, skeleton      words of other scripts in Latin letters; the consonants of a word, to compare transliterations
is_function_word, is_ordinary   function words and general words, from ordinary.txt
other_language          the language of a text that is not English
street_form             abbreviations of street words written out
find_numerals           values of numbers written in words
entity_form             a named entity without article, possessive and plural
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from importlib import resources
from typing import NamedTuple

# Combining marks and invisible characters do not split a word; scripts without spaces are split into characters.
_INVISIBLE = r"\u0300-\u036f\u00ad\u200b-\u200f\u2060\ufeff"
_UNSPACED = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0e7f"
_SEPARATORS = r",’'\u00a0\u2009\u202f"
_GROUPED_DIGITS = rf"\d{{1,3}}(?:[{_SEPARATORS}]\d{{3}})+(?![^\W_])"
_TOKEN = re.compile(rf"{_GROUPED_DIGITS}|[{_UNSPACED}]|(?:[^\W_{_UNSPACED}]|[{_INVISIBLE}])+")
_ASCII_TOKEN = re.compile(rf"{_GROUPED_DIGITS}|[^\W_]+", re.ASCII)
_DROPPED = re.compile(rf"[{_INVISIBLE}]")
_THOUSANDS = re.compile(rf"[{_SEPARATORS}]")
_APOSTROPHES = "'’ʼ‘`´"
_LETTERS = str.maketrans({"ß": "ss", "ø": "o", "đ": "d", "ł": "l", "ı": "i", "æ": "ae", "œ": "oe", "ð": "d", "þ": "th"})


# Markup between the words of a value: HTML entities, emphasis, code marks and table lines; commands of LaTeX.
_MARKUP = re.compile(r"&(?:[a-zA-Z]{2,8}|#\d{2,6});|[*`|]")
_LATEX = re.compile(r"\\(?:text|math|emph|quad)\w*\{?|\\[ ,;]|[{}$]")
_OTHER_DIGITS = (sign for sign in map(chr, range(128, 0x1FBFA)) if sign.isdecimal())
_ASCII_SIGNS = {ord(sign): str(unicodedata.decimal(sign)) for sign in _OTHER_DIGITS}
_ASCII_SIGNS |= {ord(sign): ascii_sign for sign, ascii_sign in zip("－−＋（）", "--+()", strict=True)}


@lru_cache(maxsize=1 << 12)
def plain(text: str) -> str:
    """Replace digits and signs of other scripts by ASCII ones, and markup by spaces; offsets stay the same."""
    if not text.isascii():
        text = text.translate(_ASCII_SIGNS)
    if "\\" in text:
        text = _LATEX.sub(_blank, text)
    return _MARKUP.sub(_blank, text)


def _blank(match: re.Match[str]) -> str:
    return " " * len(match.group())


class Token(NamedTuple):
    """Store a word or number: `norm` is its normal form, `start` and `end` are character offsets into the text."""

    norm: str
    start: int
    end: int


@lru_cache(maxsize=1 << 16)
def fold(word: str) -> str:
    """Remove case, accents, compatibility forms and invisible characters from a word."""
    if word.isascii():
        return word.lower()
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", word).casefold()).translate(_LETTERS)
    return _DROPPED.sub("", folded)


def tokenise(text: str) -> list[Token]:
    """Split a text into words and numbers, in order, at all characters other than letters and digits.

    "48,200" has the norm "48200". An "s" after an apostrophe ("Anna's", "it's") is not a token.
    """
    tokens = []
    text = plain(text)
    for match in (_ASCII_TOKEN if text.isascii() else _TOKEN).finditer(text):
        word, start = match.group(), match.start()
        follows_sign = start > 1 and text[start - 1] in _APOSTROPHES
        if follows_sign and text[start - 2].isalnum() and fold(word) == "s":
            continue
        norm = fold(_THOUSANDS.sub("", word) if word[0].isdigit() else word)
        if norm:
            tokens.append(Token(norm, start, match.end()))
    return tokens


def norms(text: str) -> tuple[str, ...]:
    """Return the normal forms of the tokens of a text."""
    return tuple(token.norm for token in tokenise(text))


def contains(tokens: Sequence[str], part: Sequence[str]) -> bool:
    """Return whether `part` occurs in `tokens` without a gap; False where `part` is empty."""
    width = len(part)
    return width > 0 and any(tuple(tokens[at : at + width]) == tuple(part) for at in range(len(tokens) - width + 1))


def words_only(text: str) -> str:
    """Remove case and punctuation from a text; words are separated by single spaces, accents are kept."""
    return re.sub(r"[\W_]+", " ", text).strip().casefold()


@lru_cache(maxsize=1 << 16)
def singular(norm: str) -> str:
    """Return the likely singular of a plural ("goldsmith" for "goldsmiths"); other words unchanged."""
    if len(norm) > 4 and norm.endswith("ies"):
        return norm[:-3] + "y"
    if len(norm) > 4 and norm.endswith(("sses", "shes", "ches", "xes")):
        return norm[:-2]
    if len(norm) > 3 and norm.endswith("s") and not norm.endswith(("ss", "us", "is")):
        return norm[:-1]
    return norm


_ENDINGS = (
    *(
        "ibility",
        "ability",
        "ician",
        "ation",
        "ition",
        "ement",
        "ical",
        "ment",
        "istic",
        "ian",
        "ist",
        "ism",
        "ing",
        "ery",
        "ary",
        "ion",
    ),
    *(
        "ant",
        "ry",
        "ics",
        "ous",
        "er",
        "or",
        "ed",
        "es",
        "ity",
        "ible",
        "able",
        "ence",
        "ance",
        "ic",
        "al",
        "an",
        "y",
        "e",
        "s",
    ),
)
_SHORTEST_STEM, _MAX_ENDINGS = 4, 2


@lru_cache(maxsize=1 << 16)
def stem(norm: str) -> str:
    """Strip up to two endings from a word, so that "nurse" and "nursing", or "diabetes" and "diabetic" are equal."""
    for _ in range(_MAX_ENDINGS):
        ending = next((end for end in _ENDINGS if norm.endswith(end) and len(norm) - len(end) >= _SHORTEST_STEM), "")
        norm = norm[: len(norm) - len(ending)]
    return norm


OTHER_SCRIPT = re.compile(r"[^\W\d_\x00-\u036f\u1e00-\u1eff]+")
# Letters that transliterations write differently, and the letter that replaces them in a skeleton.
_ALIKE = (
    *(("(?<!^)(?:mp|mb)(?=[rl])|^mp|^mb", "p"), ("^k?h(?=[aeiouy])", "k"), ("^(?:y|j)?[aeiou]+|^[yj]", "a")),
    *(("shch|sch|dzh|zh|sh|ch|cz|ts|tz|dz|z", "s"), ("th|d", "t"), ("kh|gh|ck|q|c|g", "k"), ("x", "ks")),
    *(("ph|b|v|w|f", "p"), ("l", "r"), (r"(.)\1+", r"\1"), ("nt", "t"), ("(?<!^)[aeiouyhj]", "")),
)
_SIMILAR_LETTERS = tuple((re.compile(letters), letter) for letters, letter in _ALIKE)


@lru_cache(maxsize=1 << 14)
def romanise(text: str) -> str:
    """Write the letters of other scripts in Latin letters, in lower case ("Елена" is "elena"); others are folded."""
    return fold("".join(map(_roman_letter, unicodedata.normalize("NFC", text.casefold()))))


def _roman_letter(sign: str) -> str:
    if "\uac00" <= sign <= "\ud7a3":
        return unicodedata.name(sign).rpartition(" ")[2].lower()
    latin = _roman_letters().get(sign, sign)
    return "" if unicodedata.category(latin[0])[0] == "M" and sign > "\u036f" else latin


@lru_cache(maxsize=1)
def _roman_letters() -> dict[str, str]:
    lines = resources.files("relearn.text").joinpath("letters.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split() for line in lines if not line.startswith("#"))
    return {sign: latin for latin, signs in pairs for sign in signs}


@lru_cache(maxsize=1 << 14)
def skeleton(word: str) -> str:
    """Return the consonants of a word, similar ones as one letter; equal for most transliterations of a name.

    "Moscow" and "moskva" are both "mskp". A vowel at the beginning is "a".
    """
    letters = romanise(word)
    for pattern, letter in _SIMILAR_LETTERS:
        letters = pattern.sub(letter, letters)
    return letters


def word_list(text: str) -> tuple[str, ...]:
    """Split a text at white space into a tuple of words, to write word lists in code without quotation marks."""
    return tuple(text.split())


def word_set(text: str) -> frozenset[str]:
    """Split a text at white space into a set of words."""
    return frozenset(text.split())


def read_word_lists(package: str, *path: str) -> dict[str, frozenset[str]]:
    """Read a file of word lists in a package: name -> words.

    A line "[name]" begins a list; the lines below it contain its words; a line that begins with "#" is a comment.
    """
    lists: dict[str, set[str]] = {}
    current: set[str] = set()
    for line in resources.files(package).joinpath(*path).read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            current = lists.setdefault(line.strip("[] "), set())
        elif not line.startswith("#"):
            current.update(line.split())
    return {name: frozenset(words) for name, words in lists.items()}


def is_function_word(norm: str) -> bool:
    """Return whether a word is a function word ("of", "which") or a single letter."""
    return norm in _word_lists()[0] or (len(norm) == 1 and not norm.isdigit())


def is_ordinary(norm: str) -> bool:
    """Return whether a word is a function word, or so general that any vague answer may contain it."""
    words = _word_lists()[1]
    return norm in words or singular(norm) in words or is_function_word(norm)


@lru_cache(maxsize=1)
def _word_lists() -> tuple[frozenset[str], frozenset[str]]:
    """Return (function words, ordinary words) from ordinary.txt, each with the singulars of its words."""
    lists = read_word_lists("relearn.text", "ordinary.txt")
    forms = {name: words | set(map(singular, words)) for name, words in lists.items()}
    return forms["function"], forms["ordinary"] | forms["function"]


# English function words that are words of other languages as well.
SHARED_WORDS = word_set("a i in an am as so do no on me is of die was he she her all per at or over")
_SCRIPTS = {
    **dict.fromkeys(("HIRAGANA", "KATAKANA"), "Japanese"),
    **{"CJK": "Chinese", "HANGUL": "Korean", "DEVANAGARI": "Hindi", "CYRILLIC": "Cyrillic letters"},
}
_FOREIGN_LETTERS = 0.3  # share of letters of another script
_FOREIGN_WORDS = 0.12  # share of function words
_MIN_WORDS = 4
_LATIN_WORD = re.compile(r"(?<!['’])\b[^\W\d_]+\b(?!['’])")
_ADDRESS = re.compile(r"\S+(?:@|//)\S+")


@lru_cache(maxsize=1 << 14)
def other_language(text: str) -> str | None:
    """Return the language, or else the script, of a text that is not English; None for English and where it is unclear.

    A text is in another language by its letters, by the word that its question begins with, or by its function words.
    """
    letters = [sign for sign in text if sign.isalpha()]
    names = [unicodedata.name(sign, "LATIN").split()[0].split("-")[0] for sign in letters if sign > "\u024f"]
    scripts = [name for name in names if name not in ("LATIN", "MODIFIER", "MATHEMATICAL")]
    if len(scripts) > _FOREIGN_LETTERS * len(letters):
        kana = next((script for script in scripts if script in ("HIRAGANA", "KATAKANA")), None)
        script = kana or max(sorted(set(scripts)), key=scripts.count)
        return _SCRIPTS.get(script, script.capitalize())
    words = _LATIN_WORD.findall(_ADDRESS.sub(" ", text))
    small = [word for at, word in enumerate(words) if word.islower() and not _is_particle(words, at)]
    distinctive = [word for word in small if word not in SHARED_WORDS]
    english = sum(len(word) > 1 and is_ordinary(word.lower()) for word in distinctive + words[:1])
    counts = {name: sum(word in own for word in distinctive) for name, own in _function_words().items()}
    name = max(counts, key=lambda language: counts[language])
    if counts[name] >= max(2 if english else 1, _FOREIGN_WORDS * len(words)) and counts[name] > english:
        return name
    asks = next((name for name, own in _asking_words().items() if words and words[0].lower() in own), None)
    if asks and english <= counts[asks]:
        return asks
    is_accented = len(words) >= _MIN_WORDS and any(not word.isascii() for word in small)
    return "another language" if is_accented and not english else None


def _is_particle(words: Sequence[str], at: int) -> bool:
    """Return whether a word may be a part of a name ("van Pletzen"), and so tells no language."""
    return 0 < at < len(words) - 1 and words[at - 1][0].isupper() and words[at + 1][0].isupper()


@lru_cache(maxsize=1)
def _language_lists() -> dict[str, frozenset[str]]:
    return read_word_lists("relearn.text", "languages.txt")


@lru_cache(maxsize=1)
def _function_words() -> dict[str, frozenset[str]]:
    return {name: words for name, words in _language_lists().items() if not name.endswith("_asks")}


@lru_cache(maxsize=1)
def _asking_words() -> dict[str, frozenset[str]]:
    lists = _language_lists()
    return {name.removesuffix("_asks"): words for name, words in lists.items() if name.endswith("_asks")}


_SHORT_STREET = word_list("st rd ave av blvd ln dr ct sq hwy pl pkwy str")
_LONG_STREET = word_list("street road avenue avenue boulevard lane drive court square highway place parkway strasse")
_STREET_WORDS = dict(zip(_SHORT_STREET, _LONG_STREET, strict=True))


def street_form(tokens: Iterable[str]) -> tuple[str, ...]:
    """Write out abbreviations of street words, so that "elm st" becomes "elm street"."""
    return tuple(_STREET_WORDS.get(norm, norm) for norm in tokens)


_UNITS = word_list(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = word_list("twenty thirty forty fifty sixty seventy eighty ninety")
_SMALL = {word: value for value, word in enumerate(_UNITS)} | {word: 10 * ten for ten, word in enumerate(_TENS, 2)}
_LARGE = {"hundred": 100, "thousand": 1000, "million": 1_000_000, "billion": 1_000_000_000}


def find_numerals(norms: Sequence[str]) -> Iterator[tuple[int, int, int]]:
    """Find numbers written in words: yield (first token, one past the last, value) of each.

    "forty-eight thousand two hundred" is 48200, "nineteen eighty-seven" is 1987. "one" alone is not a number.
    """
    first = len(norms) if _SMALL.keys().isdisjoint(norms) else 0
    while first < len(norms):
        last = _end_of_numeral(norms, first)
        words = [norm for norm in norms[first:last] if norm != "and"]
        if words and words != ["one"]:
            yield first, last, _value(words)
        first = max(last, first + 1)


def _end_of_numeral(norms: Sequence[str], first: int) -> int:
    last = first
    while last < len(norms) and (norms[last] in _SMALL or (last > first and norms[last] in _LARGE)):
        last += 1
        joined = last + 1 < len(norms) and norms[last] == "and" and norms[last - 1] in _LARGE
        if joined and norms[last + 1] in _SMALL:
            last += 1
    return last


def _value(words: Sequence[str]) -> int:
    if (year := _year(words)) is not None:
        return year
    total = part = 0
    for word in words:
        if word == "hundred":
            part *= 100
        elif word in _LARGE:
            total, part = total + part * _LARGE[word], 0
        else:
            part += _SMALL[word]
    return total + part


def _year(words: Sequence[str]) -> int | None:
    """Parse a year written as two numbers, such as "nineteen eighty-seven" or "twenty nineteen"; None for others."""
    if any(word in _LARGE for word in words):
        return None
    head, tail = _SMALL[words[0]], [_SMALL[word] for word in words[1:]]
    two_digits = (len(tail) == 1 and tail[0] >= 10) or (len(tail) == 2 and tail[0] >= 20 and 0 < tail[1] < 10)
    return 100 * head + sum(tail) if 10 <= head <= 20 and two_digits else None


LEADING_ARTICLE = re.compile(r"^(?:the|a|an|about|around|nearly|almost)\s+", re.IGNORECASE)


@lru_cache(maxsize=1 << 16)
def entity_form(text: str) -> str:
    """Normalise an entity: its folded words in the singular, without a leading article and possessives."""
    words = norms(LEADING_ARTICLE.sub("", text.strip()))
    return " ".join(singular(word) if word.isalpha() else word for word in words)
