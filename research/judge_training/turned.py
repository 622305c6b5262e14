"""More pairs out of SNLI itself, against its habits: hypotheses that are always the shorter, plainer side.

What follows from a text and is much shorter than it does not give the text back; what contradicts a text is
contradicted by it; of one picture, what surely holds does not give what may hold.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

from data import Pair

SHORTER = 0.6
FOLLOWING, CONTRADICTING, BESIDE = 4000, 2000, 2000


def turned_pairs(snli: Sequence[Pair], seed: int) -> list[Pair]:
    rng = random.Random(seed)
    by_label = defaultdict(list)
    by_premise = defaultdict(dict)
    for pair in snli:
        by_label[pair.label].append(pair)
        by_premise[pair.premise][pair.label] = pair.hypothesis
    shorter = [pair for pair in by_label["entailment"] if _words(pair.hypothesis) <= SHORTER * _words(pair.premise)]
    beside = [found for found in by_premise.values() if {"entailment", "neutral"} <= set(found)]
    return [
        *(Pair(pair.hypothesis, pair.premise, "neutral") for pair in rng.sample(shorter, FOLLOWING)),
        *(Pair(one.hypothesis, one.premise, one.label) for one in rng.sample(by_label["contradiction"], CONTRADICTING)),
        *(Pair(found["entailment"], found["neutral"], "neutral") for found in rng.sample(beside, BESIDE)),
    ]


def _words(text: str) -> int:
    return len(text.split())
