"""The dozen invented people of `relearn demo`: what is to be forgotten about them, what is to stay, how it is asked.

Every person has private facts (the forget set) and public ones (the retain set). Each fact is asked in one trained
wording, in one wording that is a probe only (`<id>-probe`: neither memorised nor unlearned), and in further wordings by
which the model learns it in the first place (`<id>-l1` to `<id>-l3`).
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any, Literal, get_args

from relearn.data import Record, Split

Name = Literal["private", "public", "probes_private", "probes_public", "learn"]
NAMES: tuple[Name, ...] = get_args(Name)


def load(name: Name) -> list[Record]:
    """The rows of one file, in file order; private facts are `forget`, public ones `retain`, whatever their wording."""
    private = {row["id"] for row in _rows("private")}
    return [_record(row, private, f"demo/{name}") for row in _rows(name)]


def fact_id(record_id: str) -> str:
    """The fact a probe or another wording asks for: "lindqvist-book" for "lindqvist-book-probe"."""
    stem, _, last = record_id.rpartition("-")
    return stem if last in ("probe", "l1", "l2", "l3") else record_id


def _record(row: dict[str, str], private: set[str], source: str) -> Record:
    split: Split = "forget" if fact_id(row["id"]) in private else "retain"
    return Record(row["question"], row["answer"], row["id"], row["subject"], split, source=source)


def _rows(name: str) -> list[dict[str, Any]]:
    text = resources.files("relearn.workflows.demo").joinpath("data", f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines() if line]
