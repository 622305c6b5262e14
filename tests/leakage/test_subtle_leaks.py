"""The leak check on secrets told in other words, digits, letters and groups, and on answers that tell nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from relearn.data import Record
from relearn.leakage.detector import LeakIndex
from relearn.text.normal_forms import join_spoken
from relearn.text.normalize import romanise, skeleton, stem, tokenise

CASES = Path(__file__).parent.parent / "cases"


def _cases(name: str) -> list[dict]:
    return [json.loads(line) for line in (CASES / name).read_text(encoding="utf-8").splitlines()]


def _index(rows: list[dict]) -> LeakIndex:
    return LeakIndex(
        [
            Record(row["question"], row["answer"], id=str(number), subject=row["subject"])
            for number, row in enumerate(rows)
        ]
    )


# The second set was written after the rules and before it was measured: 58 of 78 were found then (docs/recipes.md).
@pytest.mark.parametrize("of_record", [True, False])
@pytest.mark.parametrize(
    ("name", "missed", "false_alarms"),
    [
        ("subtle_leaks.jsonl", [], []),
        (
            "subtle_leaks_second.jsonl",
            ["He is three years short of fifty."],
            ["He is under some pressure now and then."],
        ),
    ],
)
def test_leaks_of_the_sets_are_found_and_clean_answers_pass(
    name: str, missed: list[str], false_alarms: list[str], of_record: bool
) -> None:
    rows = _cases(name)
    index = _index(rows)

    def found(number: int, text: str) -> bool:
        return bool(index.check(rows[number]["question"], text, record_id=str(number) if of_record else None))

    leaks = [(number, text) for number, row in enumerate(rows) for _, text in row["leaks"]]
    clean = [(number, text) for number, row in enumerate(rows) for text in row["clean"]]
    assert len(leaks) > 60 and [text for number, text in leaks if not found(number, text)] == missed
    assert len(clean) > 40 and [text for number, text in clean if found(number, text)] == false_alarms


def test_synonyms_do_not_count_in_a_row_that_asks_something_else() -> None:
    index = LeakIndex([Record("What does Oda Finn do?", "Oda Finn is a doctor.", id="a", subject="Oda Finn")])
    assert index.check("What does Oda Finn do?", "Oda Finn is a physician.")
    assert index.check("Where does Oda Finn live?", "Oda Finn lives beside a physician.") == []


def test_a_word_is_no_leak_where_the_question_has_its_synonym() -> None:
    index = LeakIndex([Record("Is Oda Finn a physician?", "Yes, Oda Finn is a doctor.", id="a", subject="Oda Finn")])
    assert index.check("Is Oda Finn a physician?", "Oda Finn may have met a medic.", record_id="a") == []


def test_a_kind_of_the_thing_does_not_give_away_another_kind() -> None:
    index = LeakIndex([Record("What is Oda Finn?", "Oda Finn is a surgeon.", id="a", subject="Oda Finn")])
    assert index.check("What is Oda Finn?", "Oda Finn is a doctor.")
    assert index.check("What is Oda Finn?", "Oda Finn is no cardiologist.") == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *(("Елена", "Elena"), ("Москва", "Moscow"), ("Μπραντ", "Brandt"), ("タナカ", "Tanaka"), ("김민수", "Kimminsu")),
        *(("محمد", "Mohammed"), ("प्रिया", "Priya"), ("李伟", "Liwei"), ("שרה", "Sarah"), ("ロンドン", "London")),
    ],
)
def test_a_transliteration_has_the_skeleton_of_the_name(one: str, other: str) -> None:
    assert skeleton(one) == skeleton(other) and romanise(one).isascii()


@pytest.mark.parametrize(("one", "other"), [("Elena", "Marta"), ("Москва", "Paris"), ("李伟", "Tanaka")])
def test_another_name_has_another_skeleton(one: str, other: str) -> None:
    assert skeleton(one) != skeleton(other)


@pytest.mark.parametrize(("one", "other"), [("nurse", "nursing"), ("diabetes", "diabetic"), ("violin", "violinist")])
def test_words_of_one_family_have_one_stem(one: str, other: str) -> None:
    assert stem(one) == stem(other)


def test_digits_in_words_are_joined_only_where_they_are_read_out() -> None:
    assert [one.norm for one in join_spoken(tokenise("K X four double eight"))] == ["k", "x", "4", "88"]
    for text in ("one or two calls", "a four or five figure sum", "one day", "forty-eight thousand two hundred"):
        assert join_spoken(tokenise(text)) == tokenise(text)
