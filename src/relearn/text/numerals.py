"""Numbers written in words: "forty-eight thousand two hundred" is 48200, "nineteen eighty-seven" 1987."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

_UNITS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SMALL = {word: value for value, word in enumerate(_UNITS)} | {word: 10 * at for at, word in enumerate(_TENS, 2)}
_LARGE = {"hundred": 100, "thousand": 1000, "million": 1_000_000, "billion": 1_000_000_000}


def find_numerals(norms: Sequence[str]) -> Iterator[tuple[int, int, int]]:
    """(first token, one past the last, value) of every run of number words. "One" alone is no number."""
    first = 0
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
    """ "nineteen eighty-seven" and "twenty nineteen": two numbers side by side with nothing between them."""
    if any(word in _LARGE for word in words):
        return None
    head, tail = _SMALL[words[0]], [_SMALL[word] for word in words[1:]]
    whole_tail = (len(tail) == 1 and tail[0] >= 10) or (len(tail) == 2 and tail[0] >= 20 and 0 < tail[1] < 10)
    return 100 * head + sum(tail) if 10 <= head <= 20 and whole_tail else None
