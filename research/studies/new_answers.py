"""How varied, and how clean, are the offline templates' answers beside those that a large model wrote?

    python research/studies/new_answers.py --json results/new_answers/variety.json

Reads KnowUnDo (400 questions to forget), TOFU (forget10) and their published augmentations from the folder
RELEARN_DATA. The templates answer every question and its four variants, 2,000 answers per set, as in a synthesis.

frames     different answers after names, numbers and the content words of the question are masked (in any form, with
           the function words between them), an opening phrase (up to five words before the first comma)
           and a closing phrase (up to six words after the last comma or semicolon) removed
cores      the same, with the whole continuation after the first ", and" or semicolon removed
distinct_4 different 4-grams per 4-gram, of the masked answers
self_bleu  mean BLEU of 200 answers against 200 others, lower is more varied
invented   share of answers with a name or number that neither question nor reference has (the metric `invented`)
leaks      accepted rows in which the leak check finds a secret; rejected: answers that it kept out
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from relearn.core import config
from relearn.data import Record
from relearn.data.loaders import read_rows
from relearn.leakage.detector import LeakIndex
from relearn.llm.templates.generator import Templates
from relearn.metrics.answer_quality import invented
from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.context import Context
from relearn.metrics.judges import make_judges
from relearn.synthesis.checks import Verifier
from relearn.synthesis.synthesize import SynthesisResult, synthesize
from relearn.text.normalize import is_function_word, norms, tokenise
from relearn.text.subjects import find_subject

SETS = {
    "knowundo": ("knowundo/unlearn_train.json", "text", "labels", "knowundo/augmented_official.json"),
    "tofu": ("tofu/forget10.json", "question", "answer", "tofu/augmented_forget10.jsonl"),
}
Pair = tuple[str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=Path("results/new_answers/variety.json"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = Path(os.environ.get("RELEARN_DATA", "../shared/data"))
    results: dict[str, Any] = {"generator": Templates.name, "seed": options.seed}
    for name, (file, question, answer, published) in SETS.items():
        records = [_record(row[question], row[answer]) for _, row in read_rows(folder / file)]
        made = write(records, options.seed)
        pairs = [(row.prompt, row.target) for row in made.rows if row.kind == "qa"]
        references = {record.id: record for record in records}
        own = [(row, references[str(row.record_id)]) for row in made.rows if row.kind == "qa"]
        results[name] = {
            "templates": {
                **variety(pairs, options.seed),
                "invented": share_invented([(row.prompt, record.answer, row.target) for row, record in own]),
                "leaks": count_leaks(made, records),
                "rejected_by_kind": made.counts["rejected_by_kind"],
                "records_without_rows": made.counts["records_without_rows"],
            },
            "published": variety(published_pairs(folder / published, records), options.seed),
        }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))


def _record(question: str, answer: str) -> Record:
    return Record(question, answer, subject=find_subject(question))


def write(records: Sequence[Record], seed: int) -> SynthesisResult:
    settings = config.Synthesis(completions=False)
    return synthesize(records, [], settings, completer=Templates(), verifier=Verifier(records), seed=seed)


def published_pairs(path: Path, records: Sequence[Record]) -> list[Pair]:
    """Read a published augmentation; leave out original answers and completions."""
    originals = {record.answer.strip() for record in records}
    rows = [
        (row.get("question") or row.get("text"), row.get("answer") or row.get("labels")) for _, row in read_rows(path)
    ]
    asked = [
        (str(prompt), str(text)) for prompt, text in rows if prompt and text and str(prompt).rstrip().endswith("?")
    ]
    return [(prompt, text) for prompt, text in asked if text.strip() not in originals]


def variety(pairs: Sequence[Pair], seed: int) -> dict[str, Any]:
    """Count frames, cores and 4-grams of at most 2,000 answers, and compute their self-BLEU."""
    rng = random.Random(seed)
    pairs = rng.sample(list(pairs), min(2000, len(pairs)))
    masked = [mask(prompt, text) for prompt, text in pairs]
    grams = [tuple(words[at : at + 4]) for words in map(str.split, masked) for at in range(len(words) - 3)]
    return {
        "answers": len(pairs),
        "frames": len({without_ends(text) for text in masked}),
        "cores": len({without_continuation(text) for text in masked}),
        "distinct_4": round(len(set(grams)) / len(grams), 3),
        "self_bleu": round(self_bleu([text for _, text in pairs], rng), 3),
    }


def mask(question: str, text: str) -> str:
    """Replace the question's content words in any form, names and numbers by "_"; commas and semicolons stay.

    Function words between two masked words are dropped, because they belong to what the question asks for.
    """
    asked = {norm for norm in norms(question) if not is_function_word(norm)}
    words: list[str] = []
    at = 0
    for token in tokenise(text):
        words += [sign for sign in text[at : token.start] if sign in ",;"]
        at = token.end
        word = text[token.start : token.end]
        named = any(sign.isdigit() for sign in word) or (bool(words) and word[0].isupper())
        if not named and not any(same_word(token.norm, other) for other in asked):
            words.append(token.norm)
            continue
        while words and words[-1].isalpha() and is_function_word(words[-1]) and "_" in words[-4:]:
            words.pop()
        if words[-1:] != ["_"]:
            words.append("_")
    return " ".join(words)


def same_word(word: str, other: str) -> bool:
    """Return whether two words are equal up to their endings."""
    shorter = min(len(word), len(other))
    return word == other or (shorter >= 4 and word[: max(4, shorter - 2)] == other[: max(4, shorter - 2)])


def without_ends(masked: str) -> str:
    """Remove an opening phrase before the first comma and a closing phrase after the last comma or semicolon."""
    text = re.sub(r"^(?:[^\s,;]+ ){1,5}, ", "", masked)
    return re.sub(r" [,;](?: [^\s,;]+){1,6}$", "", text)


def without_continuation(masked: str) -> str:
    return re.split(r" ; | , and ", without_ends(masked))[0]


def self_bleu(texts: Sequence[str], rng: random.Random) -> float:
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    chosen = [text.lower().split() for text in rng.sample(list(texts), min(400, len(texts)))]
    half = len(chosen) // 2
    smooth = SmoothingFunction().method1
    scores: list[Any] = [sentence_bleu(chosen[half:], text, smoothing_function=smooth) for text in chosen[:half]]
    return sum(map(float, scores)) / len(scores)


def share_invented(rows: Sequence[tuple[str, str, str]]) -> float | None:
    answers = [
        AnswerRow(str(number), question, reference, text, find_subject(question))
        for number, (question, reference, text) in enumerate(rows)
    ]
    settings = config.Metrics(entailment=None)
    value = invented(Context(answers, split="forget", settings=settings, judges=make_judges(settings))).value
    return None if value is None else round(value, 4)


def count_leaks(made: SynthesisResult, records: Sequence[Record]) -> int:
    index = LeakIndex(records)
    return sum(bool(index.check(row.prompt, row.target, record_id=row.record_id)) for row in made.rows)


if __name__ == "__main__":
    main()
