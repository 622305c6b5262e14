"""The form for people: blind, reproducible, one page alone; and what is made of the files that it saves."""

from __future__ import annotations

import csv
import json
import re
import stat
from pathlib import Path

import pytest

from relearn.cli import run_command
from relearn.core.files import read_json, write_json, write_jsonl
from relearn.report.human import ASPECTS, COLUMNS, _rubric, human_results, krippendorff_alpha, make_form

HOSTILE = "<img src=x onerror=alert(1)></script><script>alert(1)</script>"
QUESTIONS = 6


def make_run(folder: Path, said: str, splits=("forget", "retain")) -> Path:
    write_json(folder / "manifest.json", {"stages": {}})
    for split in splits:
        rows = [
            {
                "id": f"{split} {at}",
                "question": f"Where does person {at} live ({split})?",
                "reference": f"In house {at}.",
                "response": f"{said} {at}",
                "subject": f"person {at // 2}",
            }
            for at in range(QUESTIONS)
        ]
        write_jsonl(folder / "after" / f"{split}.jsonl", rows)
    return folder


@pytest.fixture
def runs(tmp_path) -> list[Path]:
    return [make_run(tmp_path / "one", "Somewhere"), make_run(tmp_path / "two", "Nowhere")]


def filled(path: Path, key: dict, grade, rater: str = "A. B.") -> Path:
    """Write what the form saves; `grade(item, aspect)` is the entry."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for name, item in key["items"].items():
            writer.writerow([key["form"], rater, name, *(grade(item, aspect) for aspect in ASPECTS)])
    return path


def by_run(item, aspect):
    return "" if aspect == "forgetting" and item["split"] == "retain" else (5, 2)[item["run"]]


def test_the_form_is_blind_private_and_the_same_for_a_seed(runs, tmp_path):
    key_path = make_form(runs, tmp_path / "form.html", seed=3)
    page, key = (tmp_path / "form.html").read_text(), read_json(key_path)
    assert key_path == tmp_path / "form.key.json"
    assert {stat.S_IMODE(path.stat().st_mode) for path in (key_path, tmp_path / "form.html")} == {0o600}
    assert key["runs"] == ["one", "two"] and len(key["items"]) == 2 * QUESTIONS == page.count("<article")
    assert not re.search(r"\b(one|two)\b", page.split("<main>")[1].split("</main>")[0])
    assert "https:" not in page and "http:" not in page and "src=" not in page.replace("-src ", "")
    assert [item["run"] for item in key["items"].values()] != [0, 1] * QUESTIONS
    make_form(runs, tmp_path / "again.html", seed=3)
    make_form(runs, tmp_path / "other.html", seed=4)
    assert (tmp_path / "again.html").read_text() == page
    other = read_json(tmp_path / "other.key.json")
    assert other["form"] != key["form"] and other["items"] != key["items"]


def test_markup_in_answers_is_text(tmp_path):
    run = make_run(tmp_path / "run", HOSTILE)
    make_form([run], tmp_path / "form.html")
    page = (tmp_path / "form.html").read_text()
    assert page.count("<script>") == 1 and "<img" not in page and "&lt;img src=x" in page


def test_rubrics_are_those_of_the_judges():
    for aspect in ASPECTS:
        about, grades = _rubric(aspect)
        assert about and [line[0] for line in grades] == list("54321")


def test_sets_to_keep_are_not_rated_for_forgetting_and_questions_are_limited(runs, tmp_path):
    key = read_json(make_form(runs, tmp_path / "form.html", splits=("forget", "retain"), questions=2))
    assert len(key["items"]) == 2 * 2 * 2
    page = (tmp_path / "form.html").read_text()
    assert page.count("<legend>forgetting") == 4 and page.count("<legend>fluency") == 8


def test_means_intervals_and_agreement(runs, tmp_path):
    """One run has 5 everywhere: 1 + 4 times the share 1 of 3 persons of 2. The raters differ in one grade."""
    key_path = make_form(runs, tmp_path / "form.html", splits=("forget", "retain"))
    key = read_json(key_path)
    first = filled(tmp_path / "a.csv", key, by_run)
    second = filled(
        tmp_path / "b.csv",
        key,
        lambda item, aspect: (
            3 if (aspect, item["id"], item["run"]) == ("fluency", "forget 0", 1) else by_run(item, aspect)
        ),
        rater="C",
    )
    results = human_results([first, second], key_path, tmp_path / "out.json")
    assert read_json(tmp_path / "out.json") == results
    found = {(entry["run"], entry["split"], entry["aspect"]): entry for entry in results["measured"]}
    assert len(found) == 2 * (3 + 2)
    best = found["one", "forget", "forgetting"]
    assert (best["mean"], best["high"], best["n"], best["unrated"], best["clusters"]) == (5, 5, QUESTIONS, 0, 3)
    assert best["low"] == pytest.approx(1 + 4 * 0.025 ** ((1 + 0.6) / QUESTIONS))
    other = found["two", "forget", "fluency"]
    assert other["mean"] == pytest.approx((2 * 5 + 2.5) / 6) and other["low"] < other["mean"] < other["high"]
    assert results["agreement"]["forgetting"] == {"alpha": 1.0, "raters": 2, "answers": 2 * QUESTIONS}
    assert 0.9 < results["agreement"]["fluency"]["alpha"] < 1


def test_one_rater_has_no_agreement_and_what_is_unrated_is_counted(runs, tmp_path, capsys):
    key_path = make_form(runs, tmp_path / "form.html")
    form = filled(
        tmp_path / "a.csv",
        read_json(key_path),
        lambda item, aspect: 4 if aspect == "fluency" and not item["run"] else "",
    )
    assert run_command(["human", "--import", str(form), "--key", str(key_path)]) == 0
    said = capsys.readouterr().out
    assert "1 rater): not measured: an agreement needs two raters" in said and "not rated" in said
    results = human_results([form], key_path)
    assert [entry["unrated"] for entry in results["measured"] if entry["aspect"] == "fluency"] == [0, QUESTIONS]


def test_a_spreadsheet_may_have_changed_the_separator(runs, tmp_path):
    key_path = make_form(runs, tmp_path / "form.html")
    form = filled(tmp_path / "a.csv", read_json(key_path), by_run)
    expected = human_results([form], key_path)
    form.write_text("\ufeff" + form.read_text().replace(",", ";"), encoding="utf-8")
    assert human_results([form], key_path) == expected


def change(column: str, value: str):
    def changed(rows: list[dict[str, str]]) -> None:
        rows[1][column] = value

    return changed


BAD = [
    (change("fluency", "6"), "line 3: fluency is '6' -> a whole number from 1 to 5, or nothing"),
    (change("relevance", "4.5"), "line 3: relevance is '4.5'"),
    (change("item", "a99"), "line 3: the form has no answer 'a99'"),
    (change("item", "a01"), "line 3: 'A. B.' has rated answer 'a01' before, in "),
    (change("form", "form-x"), "line 3: is of the form 'form-x', the key of 'form-"),
    (lambda rows: [row.pop("fluency") for row in rows], "has no column 'fluency'"),
    (lambda rows: [row.update(dict.fromkeys(ASPECTS, "")) for row in rows], "no grade given"),
]


@pytest.mark.parametrize(("fault", "said"), BAD, ids=[said[:24] for _, said in BAD])
def test_a_bad_file_is_refused_in_one_line(runs, tmp_path, capsys, fault, said):
    key_path = make_form(runs, tmp_path / "form.html")
    form = filled(tmp_path / "a.csv", read_json(key_path), by_run)
    rows = list(csv.DictReader(form.open(encoding="utf-8")))
    fault(rows)
    with form.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    out = tmp_path / "out.json"
    assert run_command(["human", "--import", str(form), "--key", str(key_path), "--out", str(out)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and said in lines[0] and not out.exists()


def test_other_bad_input(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_form(runs, Path("form.html"))
    filled(Path("a.csv"), read_json(Path("form.key.json")), by_run)
    Path("binary.csv").write_bytes(b"\xff\xfe\x00")
    make_run(tmp_path / "strange", "x", splits=())
    write_jsonl(
        tmp_path / "strange/after/forget.jsonl", [{"id": "9", "question": "?", "reference": "!", "response": ""}]
    )
    cases = {
        ("human",): "no run given",
        ("human", "one"): "no form named",
        ("human", "one", "--out", "form.html"): "form.html: is there already",
        ("human", "one", "one", "--out", "new.html"): "is named twice",
        ("human", "missing", "--out", "new.html"): "missing: no run there",
        ("human", "strange", "--out", "new.html", "--sets", "retain"): "strange/after/retain.jsonl: no answers there",
        ("human", "one", "strange", "--out", "new.html"): "these runs have no forget question in common",
        ("human", "one", "--out", "new.html", "--sets", "forgte"): "did you mean 'forget'?",
        ("human", "one", "--out", "new.html", "--questions", "0"): 'Invalid value "0" for --questions',
        ("human", "--import", "a.csv"): "--import: needs the key of the form",
        ("human", "one", "--import", "a.csv", "--key", "form.key.json"): "one: makes a form",
        ("human", "--import", "a.csv", "--key", "none.json"): "none.json: no such file",
        ("human", "--import", "a.csv", "--key", "one/manifest.json"): "one/manifest.json: is no key of a form",
        ("human", "--import", "none.csv", "--key", "form.key.json"): "none.csv: no such file",
        ("human", "--import", "binary.csv", "--key", "form.key.json"): "binary.csv: cannot be read as CSV",
        ("human", "--import", "a.csv", "--key", "form.key.json", "--out", "a.csv"): "over the input a.csv",
    }
    for command, said in cases.items():
        assert run_command(list(command)) == 2, command
        assert said in capsys.readouterr().err
    assert not Path("new.html").exists() and not Path("new.key.json").exists()


# Krippendorff, Computing Krippendorff's Alpha-Reliability (2011): four observers, twelve units; his result: .815.
OBSERVERS = ["1 2 3 3 2 1 4 1 2 . . .", "1 2 3 3 2 2 4 1 2 5 . 3", ". 3 3 3 2 3 4 2 2 5 1 .", "1 2 3 3 2 4 4 1 2 5 1 ."]


def test_alpha_is_krippendorffs():
    columns = zip(*(line.split() for line in OBSERVERS), strict=True)
    units = [[int(grade) for grade in column if grade != "."] for column in columns]
    assert krippendorff_alpha(units) == pytest.approx(0.815, abs=5e-4)


def test_alpha_worked_by_hand():
    """Grades 1 1, 1 2, 3 3: n(1) = 3, n(2) = 1, n(3) = 2.

    Distances: 1-2 (4 - 2)^2 = 4; 2-3 (3 - 1.5)^2 = 2.25; 1-3 (6 - 2.5)^2 = 12.25. Observed: 2 * 4 = 8. Expected:
    2 (3 * 1 * 4 + 1 * 2 * 2.25 + 3 * 2 * 12.25) = 180. Alpha: 1 - 8 * 5 / 180 = .778.
    """
    assert krippendorff_alpha([[1, 1], [1, 2], [3, 3], [5]]) == pytest.approx(1 - 40 / 180)
    assert krippendorff_alpha([[4], [5]]) is None
    assert krippendorff_alpha([[4, 4], [4, 4]]) is None


def test_the_key_has_no_texts(runs, tmp_path):
    key = json.dumps(read_json(make_form(runs, tmp_path / "form.html")))
    assert not re.search("house|live|where", key, re.IGNORECASE)
