"""List the splits of questions that models are asked: answer file, scoring and label of each.

The order is that of asking and of summary.json.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ScoredAs = Literal["forget", "retain", "holdout"]


@dataclass(frozen=True)
class EvalSplit:
    """A set of questions.

    `name`: the set of records, and the stem of its answer files (before/NAME.jsonl, after/NAME.jsonl). `key`: its name
    in summary.json and scores.json. `scored_as`: whether its answers should be forgotten, retained, or are those of
    non-members (membership inference). `label`: its title in reports; empty where reports leave it out. `trained`:
    whether training uses these very questions; all other splits are held out.
    """

    name: str
    key: str
    scored_as: ScoredAs
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
# By key, in the order of reports: first what should be forgotten, then what should be retained.
REPORTED_SPLITS = {
    split.key: split for side in ("forget", "retain") for split in _TABLE if split.scored_as == side and split.label
}
