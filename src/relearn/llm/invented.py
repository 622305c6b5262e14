"""Sentences with invented particulars, by the kind of thing a question asks for: what the offline generator writes as
alternate answers. They live in data/wordings/alternates.yaml and name nobody's real address, number or mailbox.
"""

from __future__ import annotations

import random
from functools import cache
from importlib import resources

import yaml

from relearn.llm.templates.phrases import fill, needs

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
