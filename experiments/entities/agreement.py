"""How far the entity extractors agree: python experiments/entities/agreement.py OUT.json [GENERATOR]

On answers of KnowUnDo and TOFU's forget10: rules alone (text/spans.py), spaCy with the rules (the default), and the
paper's prompt to a GENERATOR where one is named. Agreement is over entities matched one-to-one as for KFR: F1 of the
pairs, and for TOFU how often KFR decides the same about paraphrased and about wrong answers.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from relearn.core import config
from relearn.llm.generators import make_completer
from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.entity_coverage import coverages
from relearn.metrics.judges import PromptedEntities
from relearn.metrics.judges import Judges, make_judges
from relearn.metrics.knowledge import forgotten
from relearn.data.loaders import read_rows
from relearn.text.entities import Extractor, distinct
from relearn.text.spans import find_spans

ANSWERS = 40
SETTINGS = config.Metrics()


class Rules:
    """What the rules find without spaCy."""

    name = "rules"

    def extract(self, texts: Sequence[str]) -> list[list[str] | None]:
        return [distinct(span.text for span in find_spans(text)) for text in texts]


def agreement(first: Extractor, second: Extractor, texts: Sequence[str], matcher) -> dict:
    found = list(zip(first.extract(texts), second.extract(texts), strict=True))
    pairs = [(left, right) for left, right in found if left is not None and right is not None]
    partners = matcher.match(pairs)
    matched = sum(partner is not None for one in partners for partner in one)
    named = sum(len(left) + len(right) for left, right in pairs)
    return {
        "texts": len(texts), "both_answered": len(pairs), "f1": round(2 * matched / named, 3) if named else None,
        "entities_each": [round(sum(map(len, side)) / len(pairs), 2) for side in zip(*pairs, strict=True)] or None,
    }  # fmt: skip


def decisions(extractor: Extractor, rows: Sequence[AnswerRow], matcher) -> list[bool | None]:
    return [forgotten(item, None, SETTINGS) for item in coverages(rows, Judges((extractor,), matcher))]


def main(data: Path, out: Path, generator: str | None) -> None:
    draw = random.Random(0)
    judges = make_judges(SETTINGS)
    extractors: dict[str, Extractor] = {"rules": Rules(), "spacy": judges.extractors[0]}
    if generator:
        settings = config.Synthesis(generator=generator)
        extractors[generator] = PromptedEntities(make_completer(generator, settings, None))
    know = draw.sample([row["labels"] for _, row in read_rows(data / "knowundo" / "full.json")], ANSWERS)
    facts = draw.sample([row for _, row in read_rows(data / "tofu" / "forget10_perturbed.json")], ANSWERS)
    texts = {"KnowUnDo": know, "TOFU forget10": [fact["answer"] for fact in facts]}
    said = [answer for fact in facts for answer in (fact["paraphrased_answer"], fact["perturbed_answer"][0])]
    asked = [fact for fact in facts for _ in range(2)]
    rows = [
        AnswerRow(str(at), fact["question"], fact["answer"], answer)
        for at, (fact, answer) in enumerate(zip(asked, said, strict=True))
    ]
    offline = {name: decisions(extractors[name], rows, judges.matcher) for name in ("rules", "spacy")}
    results = {
        "entities": {
            f"{name}: {one} and {other}": agreement(extractors[one], extractors[other], answers, judges.matcher)
            for name, answers in texts.items()
            for one, other in combinations(extractors, 2)
        },
        "decisions": {
            "answers": len(rows),
            "undecided": {name: found.count(None) for name, found in offline.items()},
            "same": sum(a == b for a, b in zip(*offline.values(), strict=True)),
            "forgotten_of_paraphrased": {name: sum(filter(None, found[::2])) for name, found in offline.items()},
            "forgotten_of_wrong": {name: sum(filter(None, found[1::2])) for name, found in offline.items()},
        },
    }
    out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main(Path(os.environ["RELEARN_DATA"]), Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
