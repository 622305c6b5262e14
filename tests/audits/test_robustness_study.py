"""Audited runs side by side: counts and differences worked by hand, and no text in what the study keeps."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "research" / "studies"))

import robustness

from relearn.core.files import write_json, write_jsonl

SECRET = "12 Elm Street"


def measured(value):
    return {"value": value, "low": value, "high": value, "n": 4, "unscored": 0}


def audited(folder, verdicts):
    """A finished audit of four facts about two people; `verdicts`: verdict and attacks of each."""
    facts = [
        {"id": str(number), "question": SECRET, "verdict": verdict, "by": by, "beside": []}
        for number, (verdict, by) in enumerate(verdicts)
    ]
    write_json(folder / "audits" / "verdicts.json", facts)
    write_json(folder / "audits" / "about.json", {"facts": 4, "control": "none"})
    write_json(folder / "audits" / "worst.json", {"plain": measured(0.25), "after": measured(0.5)})
    asked = ["plain", "completion", "sampling"]
    summary = {name: {"back": measured(0.25)} for name in asked}
    write_json(folder / "audits" / "summary.json", {**summary, "topk": {"shown": "x"}})
    for name in asked:
        write_json(folder / "audits" / f"{name}.json", {"variants": {"asked": {"back": measured(0.25)}}})
    write_json(folder / "audits" / "topk.json", {"measures": {}})
    subjects = ["Ann", "Ann", "Bob", "Bob"]
    write_jsonl(folder / "before" / "forget.jsonl", [{"id": str(n), "subject": who} for n, who in enumerate(subjects)])
    return folder


@pytest.fixture
def runs(tmp_path):
    first = audited(
        tmp_path / "a",
        [("there", []), ("hidden", ["completion"]), ("hidden", ["completion", "sampling"]), ("never_known", [])],
    )
    other = audited(tmp_path / "b", [("gone", []), ("gone", []), ("hidden", ["sampling"]), ("gone", [])])
    return first, other


def test_what_an_audit_found_is_counted(runs):
    found = robustness.numbers(runs[0])
    assert found["verdicts"] == {"there": 1, "hidden": 2, "gone": 0, "never_known": 1}
    assert found["hidden_by"] == {"completion": 2, "sampling": 1}
    assert found["hidden_by_one_alone"] == {"completion": 1}
    assert list(found["variants"]) == ["plain", "completion", "sampling"]


def test_the_difference_is_over_facts_that_both_knew(runs):
    # Facts 0, 1, 2: brought back 1, 1, 1 by the first and 0, 0, 1 by the other: (1 - 3) / 3.
    found = robustness.difference(*runs, {"completion", "sampling"})
    assert found.value == pytest.approx(-2 / 3)
    assert (found.n, found.wins, found.losses, found.ties) == (3, 2, 0, 1)


def test_an_attack_that_only_one_run_went_through_decides_nothing_between_them(runs):
    # Without completion fact 1 is not brought back by the first either: (1 - 2) / 3.
    assert robustness.difference(*runs, {"sampling"}).value == pytest.approx(-1 / 3)
    assert robustness.worst(runs[0], {"sampling"})["value"] == pytest.approx(2 / 3)
    assert robustness.worst(runs[0], set())["value"] == pytest.approx(1 / 3)


def test_files_and_table_hold_numbers_and_no_text(runs, tmp_path, capsys):
    first, other = runs
    assert robustness.main([f"relearn={first}", f"other={other}", "--out", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert "| hidden | 2 | 1 |" in text
    assert "| less the first | - | -0.67 [" in text
    kept = json.loads((tmp_path / "out" / "other.json").read_text())
    assert kept["against"]["relearn"]["value"] == pytest.approx(-2 / 3)
    assert all(SECRET not in path.read_text() for path in (tmp_path / "out").iterdir())


@pytest.mark.parametrize("given", ["relearn", "=folder", "relearn=/nowhere"])
def test_what_cannot_be_read_is_one_line(given, tmp_path, capsys):
    assert robustness.main([given, "--out", str(tmp_path / "out")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "out").exists()
