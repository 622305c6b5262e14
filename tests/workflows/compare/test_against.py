"""Methods against the first of the table: what is kept, what is worked out, what the table shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from relearn.core.files import write_json, write_jsonl, write_text
from relearn.core.run_dir import RunFolder
from relearn.workflows.compare.results import _change, differences_by_method, update_differences

RECIPE = "model: m\ndata: {forget: f}\nmetrics: {bootstrap: 30}\n"


def made(folder: Path, values: dict[str, float | None]) -> RunFolder:
    """A run folder with the answers to one set, each of a subject of its own but the first two."""
    scored = [value for value in values.values() if value is not None]
    entry = {
        "value": sum(scored) / len(scored),
        "n": len(scored),
        "unscored": len(values) - len(scored),
        "per_record": values,
    }
    write_json(folder / "scores.json", {"after": {"forget": {"metrics": {"kfr": entry}}}})
    rows = [{"id": key, "subject": "both" if key in "ab" else key} for key in values]
    write_jsonl(folder / "after/forget.jsonl", rows)
    write_text(folder / "recipe.yaml", RECIPE)
    return RunFolder(folder)


def test_differences_are_of_the_questions_both_runs_could_score(tmp_path):
    first = made(tmp_path / "first", {"a": 1.0, "b": 1.0, "c": 0.0, "d": None})
    other = made(tmp_path / "other", {"a": 0.0, "b": 1.0, "c": 0.0, "d": 1.0})
    (row,) = update_differences([], ["first", "other"], {"first": first, "other": other})
    found = row["parts"]["forget"]["kfr"]
    assert (row["method"], row["against"]) == ("other", "first")
    assert found["value"] == pytest.approx(-1 / 3)
    assert (found["n"], found["unpaired"], found["losses"], found["clusters"]) == (3, 1, 1, 2)
    assert found["note"] == "1 of 4 left out: 1 unscored before"
    assert _change(found).endswith("], p = 1.00, 1 left out")


def test_what_another_call_worked_out_stays_and_other_firsts_are_not_shown(tmp_path):
    first, other = (made(tmp_path / name, {"a": 1.0, "b": 0.0}) for name in ("first", "other"))
    kept = [
        {"method": "far", "against": "first", "parts": {"forget": {}}},
        {"method": "near", "against": "elsewhere", "parts": {"forget": {}}},
        {"method": "gone", "against": "first", "parts": {}},
    ]
    methods = ["first", "other", "near", "far"]
    rows = update_differences(kept, methods, {"first": first, "other": other})
    assert [row["method"] for row in rows] == ["far", "near", "other"]
    assert list(differences_by_method(rows, methods)) == ["other", "far"]
    assert update_differences(rows, methods, {}) == rows
    assert update_differences(rows, methods, {"other": other}) == rows


def test_a_number_without_an_interval_is_shown_alone():
    assert _change(None) == _change({"value": None}) == "–"
    assert _change({"value": -0.125, "low": None}) == "-0.12"
