"""Completions and generic rows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relearn.data import Record
from relearn.synthesis.rows import choose_generic, split_answer


def test_a_quarter_of_the_words_is_the_prefix():
    assert split_answer("one two three four five six seven eight", 0.25) == (
        "one two",
        "three four five six seven eight",
    )
    assert split_answer("one two three four", 0.95) == ("one two three", "four")
    assert split_answer("one two three four", 0.01) == ("one", "two three four")
    assert split_answer("  one two\n three four ", 0.5) == ("one two", "three four")


@pytest.mark.parametrize("text", ["", "one", "one two three"])
def test_very_short_answers_give_no_completion(text):
    assert split_answer(text, 0.25) is None


@pytest.mark.parametrize(
    ("text", "prefix"),
    [
        ("Ada Moss lives in a pleasant part of town.", "Ada Moss"),
        ("The town of Port Quill lies by the sea.", "The town"),
        ("As for Dr. N. Moss it is so.", "As for"),
        ("A B C D", "A"),
    ],
)
def test_a_cut_never_falls_inside_a_name(text, prefix):
    cut = split_answer(text, 0.2)
    assert cut is not None and cut[0] == prefix


@given(st.lists(st.text("abc.", min_size=1), min_size=4, max_size=30), st.floats(0.001, 0.999))
def test_both_sides_hold_a_word_and_together_the_answer(words, share):
    cut = split_answer(" ".join(words), share)
    assert cut is not None and " ".join(cut) == " ".join(words)
    prefix = len(cut[0].split())
    assert 1 <= prefix <= len(words) - 1 and abs(prefix - share * len(words)) <= 1


def test_generic_rows_are_drawn_without_replacement_at_the_ratio():
    records = [Record(f"q{n}", f"a{n}", split="generic") for n in range(10)]
    rows = choose_generic(records, 6, 1.0, seed=0)
    assert len(rows) == len({row.prompt for row in rows}) == 6 and {row.kind for row in rows} == {"generic"}
    assert all(row.target == row.prompt.replace("q", "a") and row.record_id is None for row in rows)
    assert len(choose_generic(records, 6, 0.5, seed=0)) == 3 and len(choose_generic(records, 60, 1.2, seed=0)) == 10
    assert choose_generic(records, 6, 0.0, seed=0) == [] == choose_generic([], 6, 1.0, seed=0)
