"""The generic rows that come with the project: everyday questions that keep a model talking about the world."""

from __future__ import annotations

import json
from importlib import resources

from relearn.data import Record


def load_generic() -> list[Record]:
    """All built-in generic rows, in file order; none is about a person of the demo."""
    text = resources.files("relearn.synthesis").joinpath("data", "generic.jsonl").read_text(encoding="utf-8")
    rows = (json.loads(line) for line in text.splitlines() if line)
    return [Record(row["question"], row["answer"], split="generic", source="relearn/generic") for row in rows]
