"""Count word orders for relearn.metrics.word_salad: python experiments/gibberish/table.py OUT.json

The texts come from the data folder RELEARN_DATA: the answers of TOFU's retain90 and its refusals (MIT), instructions
with their outputs (Apache-2.0), every second problem of GSM8K and a sample of MMLU (MIT). KnowUnDo and TOFU's forget10
are not among them: the check is measured there (measure.py). Only counts of classes are written, no text.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from relearn.data.loaders import read_rows
from relearn.metrics.word_salad import OrderTable, count_orders

FEWEST = 2


def table(data: Path) -> OrderTable:
    texts = [row["answer"] for _, row in read_rows(data / "tofu" / "retain90.json")]
    for _, row in read_rows(data / "generic" / "instructions.json"):
        texts += [row["instruction"], row["output"]]
    texts += (data / "refusals" / "idontknow.txt").read_text(encoding="utf-8").splitlines()
    for number, (_, row) in enumerate(read_rows(data / "general" / "gsm8k_test.jsonl")):
        if number % 2:
            texts += [row["question"], row["answer"].split("####")[0]]
    for task in json.loads((data / "general" / "retain_mmlu.json").read_text(encoding="utf-8")):
        for example in task["examples"]:
            texts += [example["question"], *example["choices"]]
    whole, kept = count_orders(texts), count_orders(texts, FEWEST)
    # A triple seen once is mostly chance; a pair seen once still says that the pair can be.
    return OrderTable(whole.classes, whole.pairs, {key: kept.triples[key] for key in kept.triples})


if __name__ == "__main__":
    found = table(Path(os.environ["RELEARN_DATA"]))
    Path(sys.argv[1]).write_text(found.to_json() + "\n", encoding="utf-8")
    print(json.dumps({"classes": len(found.classes), "pairs": len(found.pairs), "triples": len(found.triples)}))
