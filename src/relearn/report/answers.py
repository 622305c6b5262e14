"""Before and after side by side: one item per question, with the verdict of each side and what came of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from relearn.metrics.answer_row import asked_first

Row = Mapping[str, Any]


def pair_items(
    split: str, before: Sequence[Row], after: Sequence[Row], scored_before: Row, scored_after: Row
) -> list[dict[str, Any]]:
    """One item per question asked, in the order of the file, tied by id; a side that is missing is None.

    Of a question asked several times the first answer is shown, and what was decided of the others beside it.
    """
    before, after = asked_first(before), asked_first(after)
    sides = {"before": {row["id"]: row for row in before}, "after": {row["id"]: row for row in after}}
    scored = {"before": scored_before, "after": scored_after}
    ids = list(dict.fromkeys(row["id"] for row in (*after, *before)))
    return [_item(split, key, sides, scored) for key in ids]


def _item(split: str, key: str, sides: Mapping[str, Mapping[str, Row]], scored: Mapping[str, Row]) -> dict[str, Any]:
    asked = sides["after"].get(key) or sides["before"][key]
    item: dict[str, Any] = {
        "id": key, "subject": asked.get("subject"), "question": asked["question"], "reference": asked["reference"],
    }  # fmt: skip
    for side in ("before", "after"):
        row = sides[side].get(key)
        item[side] = row and {"response": row["response"], **_evidence(scored[side], key)}
    item["verdict"] = verdict(split, _decided(split, item["before"]), _decided(split, item["after"]))
    return item


def _evidence(scored: Row, key: str) -> dict[str, Any]:
    found = scored.get("items", {}).get(key, {})
    metrics = scored.get("metrics", {})
    evidence = {name: found.get(name) for name in ("coverage", "reference_entities", "matched", "entailment")}
    evidence |= {name: found[name] for name in ("forgotten", "kept", "repeats") if name in found}
    evidence["entity_counts"] = [len(evidence[name] or ()) for name in ("reference_entities", "matched")]
    if evidence["reference_entities"] is None:
        evidence["entity_counts"] = [None, None]
    for name in ("rouge_l", "ls"):
        evidence[name] = metrics.get(name, {}).get("per_record", {}).get(key)
    return evidence


def _decided(split: str, side: Row | None) -> bool | None:
    """Whether the side still gives the fact; None where nothing was judged."""
    if side is None:
        return None
    value = side.get("forgotten" if split == "forget" else "kept")
    return value if value is None or split == "retain" else not value


def verdict(split: str, knew: bool | None, knows: bool | None) -> str:
    """ "forgotten", "known" (still), "kept", "lost", "never" (not known before either) or "unscored"."""
    if knows is None:
        return "unscored"
    if knows:
        return "known" if split == "forget" else "kept"
    if knew is False:
        return "never"
    return "forgotten" if split == "forget" else "lost"


def verdict_counts(items: Sequence[Row]) -> dict[str, int]:
    return dict(Counter(item["verdict"] for item in items))


def known(split: str, items: Sequence[Row], side: str) -> tuple[int, int]:
    """(how many facts a side still gives, how many could be judged)."""
    decided = [value for item in items if (value := _decided(split, item[side])) is not None]
    return sum(decided), len(decided)


def marked(text: str, entities: Sequence[str] | None) -> list[tuple[str, bool]]:
    """`text` in pieces, those that spell one of `entities` marked; the pieces joined are the text."""
    found = sorted({entity for entity in entities or () if entity.strip()}, key=len, reverse=True)
    if not found:
        return [(text, False)]
    pattern = re.compile("|".join(rf"(?<!\w){re.escape(entity)}(?!\w)" for entity in found), re.IGNORECASE)
    pieces: list[tuple[str, bool]] = []
    end = 0
    for match in pattern.finditer(text):
        pieces += [(text[end : match.start()], False), (match.group(), True)]
        end = match.end()
    return [piece for piece in [*pieces, (text[end:], False)] if piece[0]]
