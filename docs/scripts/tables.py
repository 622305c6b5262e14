"""Fill the generated tables of README.md: `python docs/scripts/tables.py` writes them, `--check` only compares.

Each table stands between the comments `<!-- table: NAME -->` and `<!-- end of table -->`. Methods, metrics and attacks
come from `relearn list`, results from results/*.json. `tests/docs/test_generated.py` fails where README differs.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)", flags=re.DOTALL)
NOT_MEASURED = "not measured"


def listing(kind: str) -> list[dict[str, Any]]:
    """Return the rows of `relearn list KIND --json`."""
    from relearn.cli import run_command

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = run_command(["list", kind, "--json"])
    if code:
        raise RuntimeError(f"relearn list {kind} failed")
    return json.loads(printed.getvalue())


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]], align: str = "") -> str:
    """Return a Markdown table. `align` has one letter per column, l or r."""
    rules = {"l": "---", "r": "---:"}
    line = [rules[letter] for letter in align or "l" * len(header)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [list(header), line, *map(list, rows)]) + "\n"


def grouped(rows: Iterable[dict[str, Any]], key: Callable[[dict[str, Any]], tuple]) -> dict[tuple, list[str]]:
    """Return the names of the rows by key, in order of first appearance."""
    groups: dict[tuple, list[str]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row["name"])
    return groups


def names(group: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in group)


def methods() -> str:
    """Return the methods: names of one paper and kind share a row; the project's own family comes first."""
    rows = sorted(listing("methods"), key=lambda row: (row["family"] != "relearn", row["family"]))
    groups = grouped(rows, lambda row: (row["family"], row["data"], row["paper"].partition(" (")[0]))
    return markdown(
        ("method", "family", "trains on", "paper"),
        (
            (names(group), family, data.replace("_", " "), paper.replace(", arXiv ", ", "))
            for (family, data, paper), group in groups.items()
        ),
    )


def metrics() -> str:
    """Return the metrics: those with one source and one direction share a row."""
    groups = grouped(listing("metrics"), lambda row: (row["source"], tuple(sorted(row["better"].items()))))
    rows = []
    for (source, better), group in groups.items():
        direction = dict(better)
        rows.append((names(group), direction.get("forget", ""), direction.get("retain", ""), source))
    return markdown(("metric", "better on forget", "better on retain", "source"), rows)


def attacks() -> str:
    """Return the attacks, with those that decide a verdict first; what they do is cut to the width of a line."""
    rows = sorted(listing("audits"), key=lambda row: not row["counts"])
    return markdown(
        ("attack", "what it does", "decides"),
        (
            (
                f"`{row['name']}`",
                textwrap.shorten(row["about"], 96, placeholder=" ..."),
                "yes" if row["counts"] else "no",
            )
            for row in rows
        ),
    )


# Rows of the results table: label, name of the results file, name of the audit's file.
RESULTS = (
    ("ReLearn, as published", "relearn"),
    ("**ReLearn + a tenth of NPO** (`relearn_npo`)", "relearn_npo"),
    ("NPO (`npo_gdr`)", "npo_gdr"),
    ("NPO with SURE's mask (`npo_gdr+sure`)", "npo_gdr+sure"),
    ("SimNPO", "simnpo"),
    ("GA with KL (`ga_klr`)", "ga_klr"),
    ("GA with NLL (`grad_diff`)", "grad_diff"),
    ("never saw the facts (retain-only)", "retain_only"),
)


def results() -> str:
    """Return the results of `results/knowundo12` with the worst case of `results/audits/knowundo12`."""
    rows = []
    for label, name in RESULTS:
        scores = json.loads((ROOT / "results" / "knowundo12" / f"{name}.json").read_text())
        cells = [
            cell(scores["forget_heldout"].get("kfr"), interval=True),
            cell(scores["retain_heldout"].get("krr"), interval=True),
            cell(scores["forget_heldout"].get("ls")),
            cell(scores["forget_heldout"].get("gibberish")),
        ]
        rows.append((label, *cells, worst_case(name)))
    header = ("method", "KFR ↑", "KRR ↑", "LS ↑", "gibberish ↓", "facts back under attack ↓")
    return markdown(header, rows, "lrrrrr")


def worst_case(name: str) -> str:
    if name == "retain_only":
        return "(control)"
    path = ROOT / "results" / "audits" / "knowundo12" / f"{name}.json"
    return cell(json.loads(path.read_text())["worst"]["after"], interval=True) if path.exists() else NOT_MEASURED


def cell(measured: dict[str, Any] | None, *, interval: bool = False) -> str:
    """Return a value with two decimals and, on demand, its 95 % interval."""
    if measured is None or measured.get("value") is None:
        return NOT_MEASURED
    value = decimals(measured["value"])
    if not interval or measured.get("low") is None:
        return value
    return f"{value} [{decimals(measured['low'])}, {decimals(measured['high'])}]"


def decimals(value: float) -> str:
    return f"{value:.2f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.2f}"


TABLES: dict[str, Callable[[], str]] = {"results": results, "methods": methods, "metrics": metrics, "attacks": attacks}


def filled(text: str) -> str:
    """Return `text` with every marked table made anew."""
    return MARKED.sub(lambda match: match[1] + TABLES[match[2]]() + match[3], text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where a table is out of date")
    options = parser.parse_args()
    path = ROOT / "README.md"
    text = path.read_text(encoding="utf-8")
    if (new := filled(text)) == text:
        return 0
    if options.check:
        print("README.md: a table is out of date; run python docs/scripts/tables.py", file=sys.stderr)
        return 1
    path.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
