"""Replies are read by their labels; what is doubtful is missing, never guessed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relearn.synthesis.retry_loop import read_labelled, read_passage

THREE = ["1", "2", "3"]
KINDS = ["simple", "noise"]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("1. a b\n2. c d\n3. e f", ["a b", "c d", "e f"]),
        ("3) e\n1) a\n2) c", ["a", "c", "e"]),
        ("Here you are:\n\n1. a\n\n2. c\n\n3. e\n\nI hope this helps!", ["a", "c", "e"]),
        ("**1.** a\n**2. c**\n- 3: e", ["a", "c", "e"]),
        ('1. "a b"\n2. “c d”\n3. He said "no"', ["a b", "c d", 'He said "no"']),
        ("1. a\n3. e", ["a", None, "e"]),
        ("1. a\n2. c\n2. d\n3. e", ["a", None, "e"]),
        ("1. a\n2. c\nmore of it\n3. e", ["a", None, "e"]),
        ("1.\n2. c\n3. e", [None, "c", "e"]),
        ("1. a\n2. b\n3. c\n4. d", [None, None, None]),
        ("0. a\n1. b\n2. c\n3. d", [None, None, None]),
        ("a\nb\nc", [None, None, None]),
        ("", [None, None, None]),
        ("1. costs 3.5 and more\n2. c\n3. e", ["costs 3.5 and more", "c", "e"]),
    ],
)
def test_numbered_replies(reply, expected):
    assert read_labelled(reply, THREE) == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("simple: Who?\nnoise: whos", ["Who?", "whos"]),
        ("Noise: whos\n**Simple:** Who?", ["Who?", "whos"]),
        ("- simple: Who?\n- noise: whos\n- logical: Why?", ["Who?", "whos"]),
        ("simple: Who?\n\nNote: fine\n\nnoise: whos", ["Who?", "whos"]),
        ("simple:\nWho?\nnoise: whos", [None, "whos"]),
        ("simple: Who?\nor who?\nnoise: whos", [None, "whos"]),
        ("simple Who?", [None, None]),
    ],
)
def test_replies_labelled_by_kind(reply, expected):
    assert read_labelled(reply, KINDS) == expected


@given(st.permutations(range(1, 7)), st.sets(st.integers(1, 6)))
def test_any_order_and_any_gap_leaves_every_entry_at_its_number(order, kept):
    reply = "\n".join(f"{number}. text {number}" for number in order if number in kept)
    entries = read_labelled(reply, [str(number) for number in range(1, 7)])
    assert entries == [f"text {number}" if number in kept else None for number in range(1, 7)]


@given(st.text())
def test_any_text_is_read_without_an_error(reply):
    assert len(read_labelled(reply, THREE)) == 3 and len(read_labelled(reply, KINDS)) == 2
    passage = read_passage(reply, "the beginning")
    assert passage is None or passage.strip()


def test_a_passage_loses_the_echo_of_its_prefix():
    assert read_passage("The  old man\nwent on.", "The old man") == "went on."
    assert read_passage("... went on.", "The old man") == "went on."
    assert read_passage("The old man", "The old man") is None
