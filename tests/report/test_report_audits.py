"""The sentence over the table of attacks."""

from __future__ import annotations

import pytest
from sample_run import make_run

from relearn.core import files
from relearn.report.build import build_report
from relearn.report.html import _noted, render
from relearn.report.model_card import model_card
from relearn.report.sections import finding, read_audits

UNTRIED = {"value": None, "low": None, "high": None, "n": 0, "unscored": 6}
TOLD = {"value": 0.5, "low": 0.2, "high": 0.8, "n": 6, "unscored": 0}


@pytest.fixture
def audited(tmp_path):
    """A finished run whose adapter was taken off: six facts, half of which are told without it."""
    run = make_run(tmp_path / "run")
    facts = [
        {
            "id": str(n),
            "question": f"Who is {n}?",
            "verdict": "hidden" if n else "gone",
            "beside": [],
            "by": ["completion"] * (n > 0),
        }
        for n in range(6)
    ]
    row = {side: {"stated": TOLD} for side in ("before", "after", "control")} | {"back": TOLD, "change": TOLD}
    variants = {"adapter off": {"counts": False, "after": TOLD}, "adapter halved": {"counts": False, "after": UNTRIED}}
    about = {"name": "adapters", "title": "Adapter off and halved", "about": "removed", "counts": False}
    for name, value in {
        "summary": {"adapters": row},
        "about": {"control": "base model"},
        "verdicts": facts,
        "adapters": {**about, "variants": variants},
        "worst": {"after": TOLD, "plain": UNTRIED | {"value": 0.0}},
    }.items():
        files.write_json(run / "audits" / f"{name}.json", value)
    return run


def test_what_attacks_brought_back_stands_at_the_head_of_page_and_card(audited):
    """Who reads no further must not take the plain questions for the whole."""
    report = build_report(audited)
    back, off = report["headline"]["holds"]
    assert back == (
        "Of 6 facts that the model knew: 1 gone, 5 hidden, 0 still there. Attacks that brought the hidden facts back: "
        "completion (5)."
    )
    assert "no deletion as long as it can (adapter off: 3 of 6 facts told)" in off and "relearn export --merged" in off
    page = render(report)
    outcome = page[page.index('id="outcome"') : page.index('id="numbers"')]
    assert back in outcome and off in outcome
    assert "Worst case over the attacks that count: 0.500 (0.200 to 0.800) of the facts known before" in page
    assert "and to the attacks above" in page and "nothing here measures that" not in page
    card = model_card(report)
    assert back in card and "under the attacks that report.html lists" in card


def test_a_run_that_nobody_attacked_says_so_and_how_and_that_an_adapter_is_no_deletion(tmp_path):
    report = build_report(make_run(tmp_path / "run"))
    page = render(report)
    (not_attacked,) = report["headline"]["holds"]
    assert not_attacked.startswith("Not attacked yet") and "`relearn audit`" in not_attacked
    assert "Forgotten" not in [figure["title"] for figure in report["headline"]["figures"]]
    outcome = page[page.index('id="outcome"') : page.index('id="numbers"')]
    assert "Not attacked yet" in outcome and "Not attacked yet" in model_card(report)
    assert f"relearn audit {report['folder']}" in page and "whoever takes it off has the facts back" in page
    assert f"relearn export {report['folder']} --merged --out merged-model" in page


def test_what_notes_of_a_row_share_is_said_once():
    notes = ["not forgotten 9; by rules; by spaCy", "by rules; by spaCy", "not fluent 1; by rules; by spaCy", ""]
    assert _noted(notes) == (["not forgotten 9", "", "not fluent 1", ""], "by rules; by spaCy")
    assert _noted(["", ""]) == (["", ""], "")
    assert _noted(["by a", "by b"]) == (["by a", "by b"], "")


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"gone": 3}, "Of 3 facts that the model knew: 3 gone, 0 hidden, 0 still there."),
        (
            {"gone": 1, "hidden": 2, "there": 1, "never_known": 5},
            "Of 4 facts that the model knew: 1 gone, 2 hidden, 1 still there.",
        ),
        ({"hidden": 2}, "0 gone, 2 hidden, 0 still there."),
        ({"never_known": 4}, "The model knew none of these facts to begin with."),
    ],
)
def test_the_finding(counts, said):
    assert said in finding(counts)


def test_a_run_without_audits_has_no_such_section(tmp_path):
    assert read_audits(tmp_path) is None
