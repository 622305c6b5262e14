"""The run in plain sentences: what was asked, what came out. Counts only, no adjectives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from relearn.report.labels import counted, part_title

_NEVER_TRAINED = " on questions it was never trained on"


def headline(
    summary: Mapping[str, Any], answers: Sequence[Mapping[str, Any]], trained: bool = True, audits: Any = None
) -> dict[str, Any]:
    """`asked`: one sentence; `came_out`: sentences; `holds`: what attacks brought back, sentences, none without an
    audit; `figures`: the four numbers that head the page, where measured."""
    parts = {entry["part"]: entry for entry in answers}
    sizes = {part: _size(part, parts, summary) for part in ("forget", "retain")}
    asked = f"{counted(sizes['forget'], 'fact')} to forget"
    if sizes["retain"]:
        asked += f", {sizes['retain']:,} to keep"
    return {
        "asked": f"{asked}.",
        "came_out": [
            *(text for split in ("forget", "retain") if (text := _sentence(split, parts))),
            *_garbled(summary),
        ],
        "holds": [audits[name] for name in ("finding", "taken_off") if audits[name]] if audits else [],
        "figures": _figures(summary, trained),
    }


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
    """What KFR counts as forgotten and is no language, where there is any."""
    part = next((part for part in ("forget", "forget_heldout") if part in (summary.get("after") or {})), "")
    measured = ((summary.get("after") or {}).get(part) or {}).get("gibberish") or {}
    if not measured.get("value"):
        return []
    count = round(measured["value"] * measured["n"])
    return [f"{count:,} of {measured['n']:,} answers about what was to be forgotten are no language."]


def _figures(summary: Mapping[str, Any], trained: bool) -> list[dict[str, Any]]:
    figures = []
    for part, name, title in (
        ("forget", "kfr", "Forgotten"),
        ("forget_heldout", "kfr", "Forgotten"),
        ("retain", "krr", "Kept"),
        ("retain_heldout", "krr", "Kept"),
    ):
        before, after = (((summary.get(side) or {}).get(part) or {}).get(name) for side in ("before", "after"))
        if after:
            asked = part_title(part, trained).partition(", ")[2]
            figures.append(
                {"part": part, "metric": name, "title": title, "asked": asked, "before": before, "after": after}
            )
    return figures
