"""Do the words of an English text stand in an order, or would any order have done as well? Without a language model.

Words become classes: a function word stays itself, any other is its ending or its kind (a name, a number, a sign). A
table of class pairs and triples says how likely each class is after the two before it. What counts is the gain: the
mean log-probability per word less what a random order of the very same words would have on average, so neither names
nor rare words nor length make a text suspect; only its order does. Word salad has a gain near 0, prose of 1 and more.

The commonest function words of languages that share English's alphabet, to tell that a text is not English.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources
from itertools import pairwise

import numpy as np

from relearn.text.normalize import is_function_word, word_set
from relearn.text.spans import find_spans

# Words that are English words too ("in", "an", "as") are left out.
OTHER_LANGUAGES: dict[str, frozenset[str]] = {
    "Spanish": word_set("el la los las de del que y en un una es por con para se su al lo como más pero fue nació"),
    "French": word_set("le la les des du de et est une un dans pour que qui sur au aux avec il elle ne pas sa son l"),
    "German": word_set("der das und ist ein eine einer den dem des mit von zu für auf nicht sich sie er im ihr am als"),
    "Italian": word_set("il lo la gli di che e un una è per con del della nel nella si sono da al come ha suo sua"),
    "Portuguese": word_set("o os as da do das dos de que e em um uma para com não por na ao se é sua seu mais foi"),
    "Dutch": word_set("de het een en van ik te dat die niet zijn op aan met voor hij zij er maar om werd haar"),
    "Swedish": word_set("och att det en ett som på är av för med den till han hon inte var sig hans hennes född"),
    "Norwegian": word_set("og det en et som på er av for med den til han hun ikke var seg hans hennes født i"),
    "Finnish": word_set("ja on ei se hän että oli joka kun mutta niin myös ovat hänen vuonna sekä tai kuin"),
    "Polish": word_set("i w z na do się nie że jest jak o po od za przez który jego jej oraz był była się"),
    "Czech": word_set("a v se na je že z s do o i to jako ve za po pro byl byla který její jeho"),
    "Turkish": word_set("ve bir bu için ile olarak çok da de gibi daha olan sonra kadar ama onun olan en"),
    "Indonesian": word_set("dan yang di dengan untuk dari pada adalah ini itu tidak ke dalam sebagai oleh juga ia"),
    "Vietnamese": word_set("và là của có một cho các được trong với không người những đã này từ ở tại"),
    "Hungarian": word_set("a az és hogy nem egy is volt meg ez már csak mint volt aki amely született el"),
    "Romanian": word_set("și de la în cu este pe un o care din pentru nu sa se că mai a fost al ale"),
    "Swahili": word_set("na ya wa kwa ni katika la za cha kama yake au ambayo hii huyo alikuwa yeye"),
}


# Fewer words have too few orders to tell one from the other.
FEWEST = 6
START = "<"
_PART = re.compile(r"(?:https?://|www\.)\S+|[^\W\d_]+(?:['’-][^\W\d_]+)*|\d+(?:[.,:/-]\d+)*|\.{2,}|[^\w\s]|_")
# What the rules of text.spans find as one thing is one part.
_WHOLE = {"email": "Contact", "address": "Address", "phone": "0", "date": "0000"}
_ENDINGS = ("ing", "ed", "ly", "tion", "s", "er", "al", "ic", "ous", "ive", "ble")
_SHORT_FORM = re.compile(r"['’](?:s|t|re|ll|ve|d|m)$")
_SIGNS = frozenset(".,;:!?()\"'-–—&/%$“”‘’")
_SHORT_LINE = 3
_HANGING = 0.3
_PUNCTUATION = ".,;:!?()\"'“”‘’"
# Words run together, or with a capital inside ("eldogeneticTag"): what random pieces of a vocabulary look like.
GLUED = "Glued"
_PIECES = re.compile(r"['’-]")
_INNER_CAPITAL = re.compile(r"^(?!(?:Mc|Mac|De|Di|Du|La|Le|Van|Fitz)[A-Z][a-z]+$).+[A-Z]")
_LONG = 16
_GLUED_SHARE = 0.15
_FOREIGN = 0.12
_LAST_LATIN = "\u024f"
# English function words that are words of other languages as well, so that they tell nothing.
_SHARED = word_set("a i in an am as so do no on me is of die was he she her all per at or over")
# Of a longer text this much of its beginning and as much of its end are looked at, in characters.
_END = 1500


def word_order(text: str) -> float | None:
    """The gain in nats per word; None where order says nothing: few words, lists, numbers, code, other languages."""
    parts = parts_of(text)
    if len(parts) < FEWEST or not _is_prose(text, parts) or _other_language(parts):
        return None
    return _table().gain([word_class(part) for part in parts])


def is_glued(text: str) -> bool:
    """Whether two words and _GLUED_SHARE of all are glued or longer than words are; not asked of code."""
    parts = parts_of(text)
    words = [part for part in parts if part[0].isalpha()]
    glued = sum(word_class(word) == GLUED or (len(word) >= _LONG and word.isalpha()) for word in words if _cased(word))
    return glued >= max(2, _GLUED_SHARE * len(words)) and len(words) > len(parts) / 2 and not _other_language(parts)


def parts_of(text: str) -> list[str]:
    """Words, numbers and signs in order; an address, a date or a contact is one part, by its class."""
    if len(text) > 2 * _END:
        text = f"{text[:_END]} {text[-_END:]}"
    for span in reversed(find_spans(text)):
        if span.kind in _WHOLE:
            text = f"{text[: span.start]}{_WHOLE[span.kind]}{text[span.end :]}"
    return _PART.findall(text)


@lru_cache(maxsize=1 << 16)
def word_class(part: str) -> str:
    """The class of a word, number or sign."""
    if part[0].isdigit():
        return "0000" if len(part) == 4 else "0"
    if not part[0].isalpha():
        return part if part in _SIGNS else "sign"
    if "//" in part or part.startswith("www."):
        return "Name"
    low = part.lower().replace("’", "'")
    if part.isascii() and (is_function_word(low) or is_function_word(_SHORT_FORM.sub("", low))):
        return low
    return _content_class(part, low)


def _content_class(part: str, low: str) -> str:
    if any(_INNER_CAPITAL.match(piece) for piece in _PIECES.split(part)) and not part.isupper():
        return GLUED
    if part[0].isupper():
        return "Name"
    ending = next((ending for ending in _ENDINGS if low.endswith(ending) and len(low) > len(ending) + 2), "")
    return f"-{ending}" if ending else "word"


def _is_prose(text: str, parts: Sequence[str]) -> bool:
    """Half of the parts are words in Latin letters, few are signs, and no list is before us."""
    words = sum(map(_cased, parts))
    odd = sum(word_class(part) == "sign" or part in "()/" for part in parts)
    return words >= len(parts) / 2 and odd <= len(parts) / 5 and not _is_list(text)


def _is_list(text: str) -> bool:
    """Three lines and more, most of them short. A line of a list does not end in "of the"; one of babble may."""
    lines = [line.split() for line in text.splitlines() if line.strip()]
    short = sum(len(line) <= _SHORT_LINE for line in lines)
    hanging = sum(is_function_word(line[-1].strip(_PUNCTUATION).lower()) for line in lines)
    return len(lines) > 2 and short > len(lines) / 2 and hanging < _HANGING * len(lines)


def _cased(part: str) -> bool:
    """In letters of the Latin alphabet, which has two cases."""
    return part[0].isalpha() and part[0] <= _LAST_LATIN and part.lower() != part.upper()


def _other_language(parts: Sequence[str]) -> bool:
    """Whether the function words of another language are at least _FOREIGN of the text and outnumber the English."""
    words = [part.lower() for part in parts if part[0].isalpha()]
    telling = [word for word in words if word not in _SHARED]
    most = max(sum(word in known for word in telling) for known in OTHER_LANGUAGES.values())
    return most >= max(2, _FOREIGN * len(words)) and most > sum(map(is_function_word, telling))


@dataclass(frozen=True)
class OrderTable:
    """`classes`: names; `pairs`, `triples`: how often each was seen, keyed by the places of the classes in `classes`.

    Probabilities are interpolated from triple to pair to single by Witten and Bell's rule.
    """

    classes: tuple[str, ...]
    pairs: dict[tuple[int, int], int]
    triples: dict[tuple[int, int, int], int]

    def gain(self, classes: Sequence[str]) -> float | None:
        """Mean log-probability in this order less the mean over all orders; None when every order is the same."""
        other = self._places["word"]
        keys = [self._places.get(name, other) for name in classes]
        if len(set(keys)) == 1:
            return None
        start = self._places[START]
        said = [start, start, *keys]
        own = [self._triple(*said[at - 2 : at + 1]) for at in range(2, len(said))]
        return sum(own) / len(own) - self._any_order(keys)

    def _any_order(self, keys: list[int]) -> float:
        """The mean over all ordered pairs of different places: what a random order has on average."""
        seen = Counter(keys)
        at, count = np.array(list(seen)), np.array(list(seen.values()), dtype=np.float64)
        logs = self._pair_logs[np.ix_(at, at)]
        total = count @ logs @ count - count @ np.diag(logs)
        return float(total / (len(keys) * (len(keys) - 1)))

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.classes)}

    @cached_property
    def _pair_logs(self) -> np.ndarray:
        """(classes, classes): log-probability of the second after the first."""
        size = len(self.classes)
        counts = np.zeros((size, size))
        for (first, second), count in self.pairs.items():
            counts[first, second] = count
        single = (counts.sum(axis=0) + 1) / (counts.sum() + size)
        kinds = (counts > 0).sum(axis=1, keepdims=True)
        seen = counts.sum(axis=1, keepdims=True)
        return np.log(np.where(seen > 0, (counts + kinds * single) / np.maximum(seen + kinds, 1), single))

    @cached_property
    def _contexts(self) -> dict[tuple[int, int], tuple[int, int]]:
        """Two classes -> (how often, how many different classes followed)."""
        seen: Counter[tuple[int, int]] = Counter()
        kinds: Counter[tuple[int, int]] = Counter()
        for (first, second, _), count in self.triples.items():
            seen[first, second] += count
            kinds[first, second] += 1
        return {key: (seen[key], kinds[key]) for key in seen}

    def _triple(self, first: int, second: int, third: int) -> float:
        pair = float(self._pair_logs[second, third])
        if (first, second) not in self._contexts:
            return pair
        seen, kinds = self._contexts[first, second]
        return math.log((self.triples.get((first, second, third), 0) + kinds * math.exp(pair)) / (seen + kinds))

    def to_json(self) -> str:
        triples = [[*key, count] for key, count in sorted(self.triples.items())]
        pairs = [[*key, count] for key, count in sorted(self.pairs.items())]
        return json.dumps({"classes": self.classes, "pairs": pairs, "triples": triples}, separators=(",", ":"))


def count_orders(texts: Sequence[str], fewest: int = 1) -> OrderTable:
    """The table of some texts; pairs and triples seen less than `fewest` times are left out."""
    pairs: Counter[tuple[str, str]] = Counter()
    triples: Counter[tuple[str, str, str]] = Counter()
    for text in texts:
        said = [START, START, *map(word_class, parts_of(text))]
        pairs.update(pairwise(said[1:]))
        triples.update(zip(said, said[1:], said[2:], strict=False))
    classes = tuple(sorted({name for pair in pairs for name in pair} | {START, "word"}))
    place = {name: at for at, name in enumerate(classes)}
    return OrderTable(
        classes,
        {(place[a], place[b]): count for (a, b), count in pairs.items() if count >= fewest},
        {(place[a], place[b], place[c]): count for (a, b, c), count in triples.items() if count >= fewest},
    )


@lru_cache(maxsize=1)
def _table() -> OrderTable:
    raw = json.loads(resources.files("relearn.metrics").joinpath("word_order.json").read_text(encoding="utf-8"))
    pairs = {(first, second): count for first, second, count in raw["pairs"]}
    triples = {(first, second, third): count for first, second, third, count in raw["triples"]}
    return OrderTable(tuple(raw["classes"]), pairs, triples)
