"""Define the splits of questions that models answer: answer file, scoring and label of each.

Splits are asked, and listed in summary.json, in the order of `SPLITS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# "holdout": records similar to the forget set that were never trained on. Only metrics that need nothing but the
# log-probabilities of the reference answer are measured on it.
ScoredSplit = Literal["forget", "retain", "holdout"]


@dataclass(frozen=True)
class EvalSplit:
    """Describe a split: a set of questions whose answers are scored together.

    `name`: name of the record set, and stem of the answer files (before/NAME.jsonl, after/NAME.jsonl). `key`: name in
    summary.json and scores.json. `scored_as`: "forget" or "retain" where the answers should be forgotten or retained,
    "holdout" for records that no model was trained on (membership inference). `label`: title in reports; empty for a
    split that reports do not show. `purpose`: where the questions come from. `trained`: True where training uses these
    questions; all other splits are held out.
    """

    name: str
    key: str
    scored_as: ScoredSplit
    label: str
    purpose: str
    trained: bool = False

    @property
    def answer_file(self) -> str:
        return f"{self.name}.jsonl"


_TABLE = (
    EvalSplit("forget", "forget", "forget", "To forget, trained questions", "data.forget", trained=True),
    EvalSplit("retain", "retain", "retain", "To keep, trained questions", "data.retain, or neighbours", trained=True),
    EvalSplit("wordings", "forget_wordings", "forget", "To forget, in other words", "generated rewordings of forget"),
    EvalSplit("probes_forget", "forget_heldout", "forget", "To forget, other questions", "data.probes.forget"),
    EvalSplit("probes_retain", "retain_heldout", "retain", "To keep, other questions", "data.probes.retain"),
    EvalSplit("holdout", "holdout", "holdout", "", "data.holdout: like the forget set, but never trained on"),
    EvalSplit("real_authors", "real_authors", "retain", "Real authors", "TOFU's questions about real authors"),
    EvalSplit("world_facts", "world_facts", "retain", "World facts", "TOFU's questions about the world"),
)
SPLITS = {split.name: split for split in _TABLE}
# key -> split, in the order of reports: first the splits to forget, then the splits to retain.
REPORTED_SPLITS = {
    split.key: split for side in ("forget", "retain") for split in _TABLE if split.scored_as == side and split.label
}
