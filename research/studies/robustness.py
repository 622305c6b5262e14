"""Audited runs side by side: what each attack brings back, and who holds better on the same facts.

    python research/studies/robustness.py relearn=runs/relearn npo_gdr=runs/npo_gdr --out results/audits/mine

The runs were audited (`relearn audit`) with the same facts and control. For each OUT/NAME.json has the numbers of its
audit, without texts; OUT/table.md sets them side by side. What is held against the first run rests on the attacks that
all of them went through: over the facts that both start models knew, the difference of the share that is brought back
by the plain question or any of these attacks that counts.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from relearn.audits.scoring import VERDICTS
from relearn.core.errors import InputError
from relearn.core.files import read_json, read_jsonl, write_json, write_text
from relearn.metrics.intervals import mean_interval
from relearn.metrics.paired import Difference, paired
from relearn.report.labels import chance


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="NAME=FOLDER of an audited run; the others are held against the first")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    try:
        folders = named(options.runs)
        found = {name: numbers(folder) for name, folder in folders.items()}
        first, *rest = folders
        common = set.intersection(*(set(own["summary"]) for own in found.values()))
        against = {name: difference(folders[first], folders[name], common) for name in rest}
        alike = {name: worst(folder, common) for name, folder in folders.items()}
    except InputError as error:
        print(f"robustness: {error}", file=sys.stderr)
        return 2
    for name, own in found.items():
        less = {"against": {first: against[name].to_dict()}} if name in against else {}
        write_json(options.out / f"{name}.json", {**own, **less})
    text = table(found, against, alike)
    write_text(options.out / "table.md", text)
    print(text, end="")
    return 0


def named(runs: Sequence[str]) -> dict[str, Path]:
    """ "name=folder" as a mapping. Raises InputError for another form, a name twice and a folder without an audit."""
    found: dict[str, Path] = {}
    for text in runs:
        name, equals, folder = text.partition("=")
        if not (equals and name and folder) or name in found:
            raise InputError(f"cannot take {text!r}", way_out="name each run once: relearn=runs/relearn")
        if not (Path(folder) / "audits" / "verdicts.json").exists():
            raise InputError("has no finished audit", where=folder, way_out=f"relearn audit {folder}")
        found[name] = Path(folder)
    return found


def numbers(folder: Path) -> dict[str, Any]:
    """What an audit found, without questions and answers."""
    audits = folder / "audits"
    facts = read_json(audits / "verdicts.json")
    counts = Counter(fact["verdict"] for fact in facts)
    by = Counter(name for fact in facts if fact["verdict"] == "hidden" for name in fact["by"])
    alone = Counter(fact["by"][0] for fact in facts if fact["verdict"] == "hidden" and len(fact["by"]) == 1)
    summary = read_json(audits / "summary.json")
    documents = {name: read_json(audits / f"{name}.json") for name in summary}
    return {
        "about": read_json(audits / "about.json"),
        "verdicts": {name: counts[name] for name in VERDICTS},
        "hidden_by": dict(by.most_common()),
        "hidden_by_one_alone": dict(alone.most_common()),
        "worst": read_json(audits / "worst.json"),
        "summary": summary,
        "variants": {name: own["variants"] for name, own in documents.items() if "variants" in own},
    }


def difference(first: Path, other: Path, attacks: Set[str]) -> Difference:
    """Share of the facts brought back, the other's less the first's, over facts that both knew; subjects together."""
    return paired(_back(first, attacks), _back(other, attacks), _subjects(first), better="lower")


def worst(folder: Path, attacks: Set[str]) -> dict[str, Any]:
    """Share of the known facts that the plain question or one of `attacks` brings back, with its interval."""
    known = _back(folder, attacks)
    if not known:
        return {"value": None}
    subjects = _subjects(folder)
    value, low, high = mean_interval(list(known.values()), clusters=[subjects.get(key) for key in known])
    return {"value": value, "low": low, "high": high}


def _back(folder: Path, attacks: Set[str]) -> dict[str, float]:
    facts = read_json(folder / "audits" / "verdicts.json")
    known = [fact for fact in facts if fact["verdict"] != "never_known"]
    return {fact["id"]: float(fact["verdict"] == "there" or not attacks.isdisjoint(fact["by"])) for fact in known}


def _subjects(folder: Path) -> dict[str, str | None]:
    return {row["id"]: row.get("subject") for row in read_jsonl(folder / "before" / "forget.jsonl")}


def table(
    found: Mapping[str, Mapping[str, Any]], against: Mapping[str, Difference], alike: Mapping[str, Mapping[str, Any]]
) -> str:
    """The verdicts, the worst case, and what every attack brought back, a column for each run."""
    lines = [_row("", *found), _row("---", *("---:" for _ in found))]
    for verdict in VERDICTS:
        lines.append(_row(verdict.replace("_", " "), *(str(own["verdicts"][verdict]) for own in found.values())))
    lines.append(_row("worst case", *(_shown(own["worst"]["after"]) for own in found.values())))
    if against:
        lines.append(_row("over attacks of all", *(_shown(alike[name]) for name in found)))
        lines.append(_row("less the first", *(_less(against.get(name)) for name in found)))
    names = dict.fromkeys(name for own in found.values() for name, row in own["summary"].items() if "back" in row)
    for attack in names:
        rows = [own["summary"].get(attack) for own in found.values()]
        lines.append(_row(attack, *("-" if row is None else _shown(row["back"]) for row in rows)))
    return "\n".join(lines) + "\n"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _shown(measured: Mapping[str, Any]) -> str:
    if measured["value"] is None:
        return "not measured"
    return f"{measured['value']:.2f} [{measured['low']:.2f}, {measured['high']:.2f}]"


def _less(found: Difference | None) -> str:
    if found is None or found.value is None:
        return "-"
    return f"{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}], {chance(found.to_dict())}"


if __name__ == "__main__":
    sys.exit(main())
