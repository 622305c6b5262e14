"""Typed spans found by rule, with their normalised values and offsets."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relearn.text.spans import find_spans

CASES = [
    ("Write to Maria.V@mexicomail.mx.", [("email", "Maria.V@mexicomail.mx", "maria.v@mexicomail.mx")]),
    (
        "Call 0171 555 8231 or +49 (171) 555-8231.",
        [("phone", "0171 555 8231", "01715558231"), ("phone", "+49 (171) 555-8231", "491715558231")],
    ),
    ("born on 14 March 1987", [("date", "14 March 1987", "1987-03-14")]),
    ("born on March 14th, 1987", [("date", "March 14th, 1987", "1987-03-14")]),
    ("on the 14th of March", [("date", "the 14th of March", "--03-14")]),
    ("in March 1987", [("date", "March 1987", "1987-03")]),
    ("on 14/03/1987", [("date", "14/03/1987", "1987-03-14")]),
    ("on 1987-03-14", [("date", "1987-03-14", "1987-03-14")]),
    ("on 05/11/1991", [("date", "05/11/1991", "1991-11-05|1991-05-11")]),
    ("in 1987, in the 1980s", [("date", "1987", "1987"), ("date", "1980s", "1980s")]),
    ("earns 48,200 euros, 2000 dollars", [("number", "48,200", "48200"), ("number", "2000", "2000")]),
    ("at 12 Elm Street, Torvik", [("address", "12 Elm Street", "12 elm street"), ("name", "Torvik", "torvik")]),
    ("at 2021 New Dawn St.", [("address", "2021 New Dawn St", "2021 new dawn st")]),
    (
        "at 59 Rue de l'Artiste, Paris",
        [("address", "59 Rue de l'Artiste", "59 rue de l artiste"), ("name", "Paris", "paris")],
    ),
    ("in Elmstraße 4b", [("address", "Elmstraße 4b", "elmstrasse 4b")]),
    ("lives with Dr. José de la Cruz", [("name", "José de la Cruz", "jose de la cruz")]),
    (
        "Living near Michael O'Connor's Kuwait City house",
        [("name", "Michael O'Connor", "michael o connor"), ("name", "Kuwait City", "kuwait city")],
    ),
    ("She works as a nurse.", []),
]


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_finds_and_normalises(text: str, expected: list[tuple[str, str, str]]) -> None:
    assert [(span.kind, span.text, span.norm) for span in find_spans(text)] == expected


def test_a_sentence_start_is_no_name_and_a_shouted_text_has_none() -> None:
    assert find_spans("Growing up was easy. The house was small.") == []
    assert [span.kind for span in find_spans("SHE LIVES WITH ELENA BRANDT NOW")] == []


@given(st.text(max_size=80))
def test_spans_are_ordered_do_not_overlap_and_hold_their_text(text: str) -> None:
    spans = find_spans(text)
    assert all(text[span.start : span.end] == span.text for span in spans)
    assert all(one.end <= other.start for one, other in pairwise(spans))
