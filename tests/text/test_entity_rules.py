"""Contacts, addresses, dates and numbers stay whole whatever sentence they stand in: the rules, drawn cases."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relearn.core.errors import MissingPartError
from relearn.models.builtin import builtin_path
from relearn.text.entities import SpacyEntities
from relearn.text.spans import MONTHS, find_spans

NAMES = st.sampled_from(["Marta", "Oskar", "priya", "jean.luc", "o_connor", "li-wei"])
HOSTS = st.sampled_from(["fjord.example", "mail.co.uk", "uni-graz.at", "delhimail.in"])
EMAILS = st.builds(lambda name, number, host: f"{name}{number}@{host}", NAMES, st.integers(0, 99), HOSTS)
STREETS = st.sampled_from(
    ["Elm Street", "Freedom Trail", "Old Harbour Road", "Lotus Court", "Kant St", "Tech Park Blvd"]
)
ADDRESSES = st.builds(lambda number, street: f"{number} {street}", st.integers(1, 9999), STREETS)
DATES = st.one_of(
    st.builds(
        lambda d, m, y: f"{d} {m.title()} {y}", st.integers(1, 28), st.sampled_from(MONTHS), st.integers(1900, 2029)
    ),
    st.builds(
        lambda d, m, y: f"{m.title()} {d}, {y}", st.integers(1, 28), st.sampled_from(MONTHS), st.integers(1900, 2029)
    ),
    st.builds(lambda d, m, y: f"{y}-{m:02d}-{d:02d}", st.integers(1, 28), st.integers(1, 12), st.integers(1900, 2029)),
)
# A last group that reads as a year ("+1 316 1950") is taken for one, so it is not among these.
PHONES = st.builds(lambda a, b, c: f"+{a} {b} {c}", st.integers(1, 99), st.integers(100, 999), st.integers(2100, 9999))
KINDS = {"email": EMAILS, "address": ADDRESSES, "date": DATES, "phone": PHONES}
FRAMES = st.sampled_from(
    ["Write to {}.", "{} is what she gave.", "She said {}, and then no more.", "It is ({}) as of now.", "Is it {}?"]
)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_the_rules_find_it_whole_and_of_its_kind(kind, data):
    value, frame = data.draw(KINDS[kind]), data.draw(FRAMES)
    found = [(span.kind, span.text) for span in find_spans(frame.format(value))]
    assert (kind, value) in found


def test_spacy_with_rules_keeps_them_whole_beside_each_other():
    try:
        extractor = SpacyEntities(builtin_path("en_core_web_sm"))
    except MissingPartError as error:
        pytest.skip(str(error))
    text = (
        "Reach Oskar Brandt at oskar12@uni-graz.at or +43 316 5550 before 3 March 1961, "
        "at 41 Old Harbour Road in Skarvik."
    )
    (found,) = extractor.extract([text])
    assert {"oskar12@uni-graz.at", "+43 316 5550", "3 March 1961", "41 Old Harbour Road", "Oskar Brandt"} <= set(found)
