"""Summarise a run in sentences with counts, and pair answers before and after unlearning with verdicts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from relearn.core.run_dir import SIDES
from relearn.metrics.answer_row import asked_first
from relearn.report.labels import counted, part_title

NOT_ATTACKED = "Not attacked yet: an attack may bring back what a plain question does not; `relearn audit` tries it"
_NEVER_TRAINED = " on questions it was never trained on"


def headline(
    summary: Mapping[str, Any], answers: Sequence[Mapping[str, Any]], trained: bool = True, audits: Any = None
) -> dict[str, Any]:
    """Build the summary at the top of the report page.

    `asked`: one sentence with the number of facts. `holds`: sentences about the verdicts of the audit, or that a run
    was not attacked yet. `came_out`: sentences about the answers. `figures`: up to four numbers (KFR and KRR).
    """
    parts = {entry["part"]: entry for entry in answers}
    sizes = {part: _size(part, parts, summary) for part in ("forget", "retain")}
    asked = f"{counted(sizes['forget'], 'fact')} to forget"
    if sizes["retain"] and sizes["forget"]:
        asked += f", {sizes['retain']:,} to keep"
    elif sizes["retain"]:
        asked = f"{counted(sizes['retain'], 'fact')} to keep"
    return {
        "asked": f"{asked}.",
        "came_out": [
            *(text for split in ("forget", "retain") if (text := _sentence(split, parts))),
            *_garbled(summary),
        ],
        "holds": _holds(audits, trained),
        "figures": _figures(summary, trained),
    }


def _holds(audits: Any, trained: bool) -> list[str]:
    if audits:
        return [audits[name] for name in ("finding", "taken_off") if audits[name]]
    return [f"{NOT_ATTACKED}."] if trained else []


def _size(part: str, parts: Mapping[str, Any], summary: Mapping[str, Any]) -> int:
    if part in parts:
        return len(parts[part]["items"])
    measured = (summary.get("after") or {}).get(part) or {}
    return max((entry["n"] + entry["unscored"] for entry in measured.values()), default=0)


def _sentence(split: str, parts: Mapping[str, Any]) -> str:
    trained, heldout = parts.get(split), parts.get(f"{split}_heldout")
    entry = trained or heldout
    if entry is None:
        return ""
    verb = "gave away" if split == "forget" else "knew"
    now = "gives away" if split == "forget" else "knows"
    what = "facts to forget" if split == "forget" else "facts to keep"
    (had, of_had), (has, of_has) = entry["known_before"], entry["known_after"]
    if not of_has:
        return f"Whether the model still {now} the {what} could not be judged."
    words = "" if trained else _NEVER_TRAINED
    before = f"Before, the model {verb} {had:,} of {of_had:,} {what}{words}; now it {now} " if of_had else ""
    text = f"{before}{has:,} of {of_has:,}" if before else f"The model {now} {has:,} of {of_has:,} {what}{words}"
    if trained and heldout and heldout["known_after"][1]:
        has, of_has = heldout["known_after"]
        text += f", and {has:,} of {of_has:,}{_NEVER_TRAINED}"
    return f"{text}."


def _garbled(summary: Mapping[str, Any]) -> list[str]:
    """Describe in one sentence the number of gibberish answers, which KFR counts as forgotten; [] if there are none."""
    part = next((part for part in ("forget", "forget_heldout") if part in (summary.get("after") or {})), "")
    measured = ((summary.get("after") or {}).get(part) or {}).get("gibberish") or {}
    if not measured.get("value"):
        return []
    count = round(measured["value"] * measured["n"])
    return [f"{count:,} of {measured['n']:,} answers about what was to be forgotten are no language."]


def _figures(summary: Mapping[str, Any], trained: bool) -> list[dict[str, Any]]:
    figures = []
    for part, name, title in (
        ("forget", "kfr", "Not stated when asked"),
        ("forget_heldout", "kfr", "Not stated when asked"),
        ("retain", "krr", "Kept"),
        ("retain_heldout", "krr", "Kept"),
    ):
        before, after = (((summary.get(side) or {}).get(part) or {}).get(name) for side in SIDES)
        if after:
            asked = part_title(part, trained).partition(", ")[2]
            figures.append(
                {"part": part, "metric": name, "title": title, "asked": asked, "before": before, "after": after}
            )
    return figures


JsonObject = Mapping[str, Any]


def pair_items(
    split: str,
    before: Sequence[JsonObject],
    after: Sequence[JsonObject],
    scored_before: JsonObject,
    scored_after: JsonObject,
) -> list[dict[str, Any]]:
    """Pair answers before and after by record id, one item per question in the order of the file.

    A missing side is None. For a question that was sampled several times, the item has the first answer and the
    decisions on all answers.
    """
    before, after = asked_first(before), asked_first(after)
    sides = {"before": {row["id"]: row for row in before}, "after": {row["id"]: row for row in after}}
    scored = {"before": scored_before, "after": scored_after}
    ids = list(dict.fromkeys(row["id"] for row in (*after, *before)))
    return [_item(split, key, sides, scored) for key in ids]


def _item(
    split: str, key: str, sides: Mapping[str, Mapping[str, JsonObject]], scored: Mapping[str, JsonObject]
) -> dict[str, Any]:
    asked = sides["after"].get(key) or sides["before"][key]
    item: dict[str, Any] = {
        "id": key,
        "subject": asked.get("subject"),
        "question": asked["question"],
        "reference": asked["reference"],
    }
    for side in SIDES:
        row = sides[side].get(key)
        item[side] = row and {**_said(row), **_evidence(scored[side], key)}
    item["verdict"] = verdict(split, _decided(split, item["before"]), _decided(split, item["after"]))
    return item


def _said(row: JsonObject) -> dict[str, Any]:
    return {"response": row["response"], **({"cut_off": True} if row.get("cut_off") else {})}


def _evidence(scored: JsonObject, key: str) -> dict[str, Any]:
    item = scored.get("items", {}).get(key, {})
    metrics = scored.get("metrics", {})
    evidence = {name: item.get(name) for name in ("coverage", "reference_entities", "matched", "entailment")}
    evidence |= {name: item[name] for name in ("forgotten", "kept", "repeats") if name in item}
    evidence["entity_counts"] = [len(evidence[name] or ()) for name in ("reference_entities", "matched")]
    if evidence["reference_entities"] is None:
        evidence["entity_counts"] = [None, None]
    for name in ("rouge_l", "ls"):
        evidence[name] = metrics.get(name, {}).get("per_record", {}).get(key)
    return evidence


def _decided(split: str, side: JsonObject | None) -> bool | None:
    """Return whether the answer states the fact; None if it could not be judged."""
    if side is None:
        return None
    value = side.get("forgotten" if split == "forget" else "kept")
    return value if value is None or split == "retain" else not value


def verdict(split: str, knew: bool | None, knows: bool | None) -> str:
    """Decide the verdict on one answer: `knew` and `knows` say whether the fact was stated before and after.

    "forgotten" or "known" (still) for the forget set, "kept" or "lost" for the retain set; "never": not known before or
    after; "unscored": the answer could not be judged.
    """
    if knows is None:
        return "unscored"
    if knows:
        return "known" if split == "forget" else "kept"
    if knew is False:
        return "never"
    return "forgotten" if split == "forget" else "lost"


def verdict_counts(items: Sequence[JsonObject]) -> dict[str, int]:
    return dict(Counter(item["verdict"] for item in items))


def known(split: str, items: Sequence[JsonObject], side: str) -> tuple[int, int]:
    """Count the facts that the answers of one side state, and the answers that could be judged."""
    decided = [value for item in items if (value := _decided(split, item[side])) is not None]
    return sum(decided), len(decided)


def marked(text: str, entities: Sequence[str] | None) -> list[tuple[str, bool]]:
    """Split `text` into (piece, flag) pairs; the flag is True if the piece is one of `entities`, in any case."""
    names = sorted({entity for entity in entities or () if entity.strip()}, key=len, reverse=True)
    if not names:
        return [(text, False)]
    pattern = re.compile("|".join(rf"(?<!\w){re.escape(name)}(?!\w)" for name in names), re.IGNORECASE)
    pieces: list[tuple[str, bool]] = []
    end = 0
    for match in pattern.finditer(text):
        pieces += [(text[end : match.start()], False), (match.group(), True)]
        end = match.end()
    return [piece for piece in [*pieces, (text[end:], False)] if piece[0]]
