"""How often the gibberish check is right: python experiments/gibberish/measure.py OUT.json

True answers and vague ones of KnowUnDo and TOFU must be language; the same answers with their words shuffled, words
drawn at random, random pieces of two models' vocabularies, and loops must not be. By words alone: no perplexity.
"""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path

from tokenizers import Tokenizer

from relearn.metrics.gibberish import gibberish_kind
from relearn.models.builtin import builtin_path
from relearn.data.loaders import read_rows

FEWEST_WORDS = 6


def true_answers(data: Path) -> dict[str, list[str]]:
    def column(file: str, name: str) -> list[str]:
        return [row[name] for _, row in read_rows(data / file)]

    perturbed = column("tofu/forget10_perturbed.json", "perturbed_answer")
    return {
        "KnowUnDo, all answers": column("knowundo/full.json", "labels"),
        "TOFU forget10": column("tofu/forget10.json", "answer"),
        "TOFU forget10, wrong answers": [answer for answers in perturbed for answer in answers],
        "TOFU refusals": (data / "refusals" / "idontknow.txt").read_text(encoding="utf-8").splitlines(),
        "GSM8K, problems not counted": [row["question"] for _, row in read_rows(data / "general/gsm8k_test.jsonl")][
            ::2
        ],
        "WikiQA answers": column("generic/wikiqa_train_positive_qa.jsonl", "answer"),
    }


def salads(answers: list[str], draw: random.Random) -> dict[str, list[str]]:
    split = [words for answer in answers if len(words := answer.split()) >= FEWEST_WORDS]
    pool = [word for words in split for word in words]
    return {
        "shuffled words": [" ".join(draw.sample(words, len(words))) for words in split],
        "random words": [" ".join(draw.choices(pool, k=len(words))) for words in split],
        "loops": [" ".join((words[: draw.randint(1, 6)] * 100)[:100]) for words in split],
    }


def vocabulary(model: str, count: int, draw: random.Random) -> list[str]:
    tokenizer = Tokenizer.from_file(str(Path(builtin_path(model)) / "tokenizer.json"))
    size = tokenizer.get_vocab_size()
    return [tokenizer.decode([draw.randrange(size) for _ in range(draw.randint(16, 128))]) for _ in range(count)]


def rate(texts: list[str]) -> dict[str, float | int]:
    found = [gibberish_kind(text) is not None for text in texts]
    return {"n": len(found), "gibberish": round(sum(found) / len(found), 4)}


def main(data: Path, out: Path) -> None:
    draw = random.Random(0)
    true = true_answers(data)
    results = {"language": {name: rate(answers) for name, answers in true.items()}, "babble": {}}
    for name in ("KnowUnDo, all answers", "TOFU forget10"):
        for kind, texts in salads(true[name], draw).items():
            results["babble"][f"{name}: {kind}"] = rate(texts)
    for model in ("smollm2-135m-instruct", "all-minilm-l6-v2"):
        results["babble"][f"random tokens of {model}"] = rate(vocabulary(model, 300, draw))
    out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main(Path(os.environ["RELEARN_DATA"]), Path(sys.argv[1]))
