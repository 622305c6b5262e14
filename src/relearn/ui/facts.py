"""The facts of a run with their verdicts and with what was answered before and after, as the page lists them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relearn.audits.verdicts import VERDICTS
from relearn.core.run_dir import read_json, read_jsonl
from relearn.metrics.answer_row import asked_first
from relearn.report.sections import TITLES, finding

# A page with tens of thousands of facts helps nobody.
SHOWN = 1000
OPEN = "not_audited"
WORDS = {**TITLES, OPEN: "not audited"}


@dataclass(frozen=True)
class Fact:
    """`by`: attacks that bring it back; `beside`: others that do and decide nothing. An answer not there is None."""

    id: str
    question: str
    form: str
    reference: str
    before: str | None
    after: str | None
    verdict: str
    by: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class Facts:
    """`shown` in the order of the verdicts, those that came back first; `counts` by verdict, of all."""

    shown: Sequence[Fact]
    counts: Mapping[str, int]
    audited: bool
    finding: str

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    @property
    def left_out(self) -> int:
        return self.total - len(self.shown)


def read_facts(folder: Path) -> Facts:
    """None of a folder without answers. Raises KeyError, TypeError or ValueError for files of another shape."""
    sides = {side: _answers(folder / side / "forget.jsonl") for side in ("before", "after")}
    judged = _verdicts(folder / "audits" / "verdicts.json")
    rows = {**sides["after"], **sides["before"]}
    facts = [_fact(key, row, sides, judged.get(key)) for key, row in rows.items()]
    ranks = {name: rank for rank, name in enumerate((*VERDICTS, OPEN))}
    facts.sort(key=lambda fact: ranks[fact.verdict])
    counts = Counter(fact.verdict for fact in facts)
    told = finding(counts, [{"verdict": fact.verdict, "by": fact.by} for fact in facts]) if judged else ""
    return Facts(facts[:SHOWN], {name: counts[name] for name in ranks if counts[name]}, bool(judged), told)


def _answers(path: Path) -> dict[str, Mapping[str, Any]]:
    return {str(row["id"]): row for row in asked_first(read_jsonl(path))} if path.exists() else {}


def _verdicts(path: Path) -> dict[str, Mapping[str, Any]]:
    found = {str(row["id"]): row for row in read_json(path)} if path.exists() else {}
    if unknown := {str(row["verdict"]) for row in found.values()} - set(VERDICTS):
        raise ValueError(f"no verdicts: {unknown}")
    return found


def _fact(
    key: str, row: Mapping[str, Any], sides: Mapping[str, Mapping[str, Any]], judged: Mapping[str, Any] | None
) -> Fact:
    before, after = (str(sides[side][key]["response"]) if key in sides[side] else None for side in ("before", "after"))
    verdict, by, beside = OPEN, (), ()
    if judged is not None:
        verdict = judged["verdict"]
        by, beside = (tuple(map(str, judged.get(name) or ())) for name in ("by", "beside"))
    form = "text" if row.get("form") == "text" else "chat"
    return Fact(key, str(row["question"]), form, str(row["reference"]), before, after, verdict, by, beside)
