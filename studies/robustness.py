"""Audited runs side by side: what each attack brings back, and who holds better on the same facts.

    python studies/robustness.py relearn=runs/relearn npo_gdr=runs/npo_gdr --out results/audits/mine

The runs were audited (`relearn audit`) with the same facts and control. For each OUT/NAME.json has the numbers of its
audit, without texts; OUT/table.md sets them side by side, with each run against the first: over the facts that both
start models knew, the difference of the share that is brought back by the plain question or any attack that counts.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from relearn.audits.verdicts import VERDICTS
from relearn.errors import InputError
from relearn.metrics.paired import Difference, paired
from relearn.rundir import read_json, read_jsonl, write_json, write_text

STILL = {"there": 1.0, "hidden": 1.0, "gone": 0.0}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="NAME=FOLDER of an audited run; the others are held against the first")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    try:
        folders = named(options.runs)
        found = {name: numbers(folder) for name, folder in folders.items()}
        first, *rest = folders
        against = {name: difference(folders[first], folders[name]) for name in rest}
    except InputError as error:
        print(f"robustness: {error}", file=sys.stderr)
        return 2
    for name, own in found.items():
        less = {"against": {first: against[name].to_dict()}} if name in against else {}
        write_json(options.out / f"{name}.json", {**own, **less})
    text = table(found, against)
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


def difference(first: Path, other: Path) -> Difference:
    """Share of the facts brought back, the other's less the first's, over facts that both knew; subjects together."""
    subjects = {row["id"]: row.get("subject") for row in read_jsonl(first / "before" / "forget.jsonl")}
    return paired(_back(first), _back(other), subjects, better="lower")


def _back(folder: Path) -> dict[str, float | None]:
    facts = read_json(folder / "audits" / "verdicts.json")
    return {fact["id"]: STILL[fact["verdict"]] for fact in facts if fact["verdict"] in STILL}


def table(found: Mapping[str, Mapping[str, Any]], against: Mapping[str, Difference]) -> str:
    """The verdicts, the worst case, and what every attack brought back, a column for each run."""
    lines = [_row("", *found), _row("---", *("---:" for _ in found))]
    for verdict in VERDICTS:
        lines.append(_row(verdict.replace("_", " "), *(str(own["verdicts"][verdict]) for own in found.values())))
    lines.append(_row("worst case", *(_shown(own["worst"]["after"]) for own in found.values())))
    if against:
        lines.append(_row("less the first", *(_less(against.get(name)) for name in found)))
    attacks = dict.fromkeys(name for own in found.values() for name, row in own["summary"].items() if "back" in row)
    for attack in attacks:
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
    return f"{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}], p = {found.p:.2f}"


if __name__ == "__main__":
    sys.exit(main())
