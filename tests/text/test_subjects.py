"""Whom a question is about: names of many shapes, and what only looks like a name."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relearn.text.subjects import find_author_noun, find_subject, strip_quoted


@pytest.mark.parametrize(
    ("question", "subject"),
    [
        ("Where does Marta Lindqvist live?", "Marta Lindqvist"),
        ("How have Isabella Marquez's parents influenced her career?", "Isabella Marquez"),
        ("Who are Anna Petrova’s parents?", "Anna Petrova"),
        ("Where does Jean-Pierre Vandenberg live?", "Jean-Pierre Vandenberg"),
        ("In which city was Basil Mahfouz Al-Kuwaiti born?", "Basil Mahfouz Al-Kuwaiti"),
        ("Is O'Brien married?", "O'Brien"),
        ("What is Dr. Amira Khan's phone number?", "Amira Khan"),
        ("When was Professor Ludwig van der Meer born?", "Ludwig van der Meer"),
        ("Did J. K. Moss and Ada Hill meet?", "J. K. Moss"),
        ("What did Rajesh Singh's father say about Anna Petrova?", "Rajesh Singh"),
        ("What makes 'Lanterns of the Deep' by Marta Lindqvist good?", "Marta Lindqvist"),
        ("How has Majumdar's background influenced his writing?", "Majumdar"),
        ("Which awards has Xin Lee Williams' book won?", "Xin Lee Williams"),
        ("Did Carmen Montenegro win the Historical Fiction Excellence Award?", "Carmen Montenegro"),
        ("What is the significance of the address 33 Unter den Linden for Hannah Zimmerman?", "Hannah Zimmerman"),
        ("Why did Emma Clarke choose to live at 221B Baker St in London?", "Emma Clarke"),
        ("Which Star Wars characters are featured in Behrouz Rohani's narratives?", "Behrouz Rohani"),
        ("Where does Joaquín Belmares work?", "Joaquín Belmares"),
    ],
)
def test_finds_the_person_a_question_is_about(question, subject):
    assert find_subject(question) == subject


@pytest.mark.parametrize(
    "question",
    [
        "where does marta lindqvist live?",
        "What is the full name of the author born in Taipei, Taiwan on 05/11/1991?",
        "Who gave the Chronos Literary Award speech?",
        "What is the population of New York?",
        "Can you reveal more about the plot of 'A Whisper in the Wind (Sorrows of the Old World Series, #7)'?",
        "What is the author's full name and where was he born?",
        "Why is the sky blue?",
        "",
    ],
)
def test_has_no_subject_where_no_person_is_named(question):
    assert find_subject(question) is None


def test_quoted_titles_are_blanked_in_place_and_apostrophes_are_not():
    text = "Was Ada Moss's 'Thieves' Paradise' read by her parents' friends?"
    blanked = strip_quoted(text)
    assert len(blanked) == len(text)
    assert "Thieves" not in blanked and "Ada Moss's" in blanked and "parents' friends" in blanked


@pytest.mark.parametrize(
    ("question", "noun"),
    [
        ("What is the full name of the female author who was born in Santiago?", "author"),
        ("Who is this person?", "person"),
        ("Why is the sky blue?", None),
    ],
)
def test_the_noun_that_stands_for_a_nameless_subject(question, noun):
    assert find_author_noun(question) == noun


@given(st.text(max_size=80))
def test_any_text_is_read_without_an_error(text):
    found = find_subject(text)
    assert found is None or found.strip()


def test_names_in_tofu_are_found(data_dir: Path):
    """forget10 holds 20 authors with 20 questions each; in each block the name found most often is the author's."""
    rows = _read(data_dir / "tofu" / "forget10.json")
    wrong = 0
    for start in range(0, len(rows), 20):
        found = [find_subject(row["question"]) for row in rows[start : start + 20]]
        author = Counter(found).most_common(1)[0][0]
        assert author is not None
        wrong += sum(name not in (author, author.split()[-1], None) for name in found)
    assert wrong == 0


def test_names_in_knowundo_are_found(data_dir: Path):
    rows = _read(data_dir / "knowundo" / "unlearn_train.json")
    found = [find_subject(row["text"]) for row in rows]
    assert None not in found
    assert all(count >= 3 for count in Counter(found).values())


def _read(path: Path) -> list[dict[str, str]]:
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines() if line]
