"""Entities: what counts, what the question takes away, and what spaCy finds in real sentences."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relearn.core.errors import MissingPartError
from relearn.models.builtin import builtin_path
from relearn.text.entities import SpacyEntities, distinct, entity_keys, occurs_in, without_query
from relearn.text.normalize import entity_form


@pytest.fixture(scope="module")
def spacy_entities() -> SpacyEntities:
    try:
        return SpacyEntities(builtin_path("en_core_web_sm"))
    except MissingPartError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("The Copper Spoon", "copper spoon"),
        ("Marta Lindqvist's", "Marta Lindqvist"),
        ("novels", "Novel"),
        ("Marta Lindqvist’s", "marta  lindqvist"),
        ("José", "jose"),
        ("48,200", "48200"),
    ],
)
def test_normalise_makes_equal_what_is_the_same(left, right):
    assert entity_form(left) == entity_form(right)


def test_normalise_keeps_apart_what_differs():
    assert (
        len({entity_form(text) for text in ("1977", "1978", "12 Elm Street", "14 Elm Street", "a@b.org", "a@c.org")})
        == 6
    )


def test_keys_know_the_readings_of_dates_and_phones():
    assert entity_keys("14 March 1987") & entity_keys("March 14, 1987") & entity_keys("14/03/1987")
    assert not entity_keys("14 March 1987") & entity_keys("14 March 1978")
    assert entity_keys("+47 555 0199") & entity_keys("+475550199")


def test_occurs_in_respects_word_boundaries():
    assert occurs_in("Elm Street", "at 12 Elm Street, Torvik")
    assert not occurs_in("Elm", "at 12 Elmwood Street")
    assert not occurs_in("...", "anything")


def test_without_query_leaves_out_whole_and_partial_names():
    question = "Where does Marta Lindqvist live since 14/03/1987?"
    entities = ["Marta", "Marta Lindqvist's", "Lindqvist", "12 Elm Street", "Oskar Lindqvist", "March 14, 1987"]
    assert without_query(entities, question, ["Marta Lindqvist", "14/03/1987"]) == ["12 Elm Street", "Oskar Lindqvist"]


@given(st.lists(st.text(max_size=8)))
def test_distinct_is_idempotent_and_has_no_doubles(entities):
    found = distinct(entities)
    assert distinct(found) == found
    assert len({entity_form(entity) for entity in found}) == len(found)
    assert {entity_form(entity) for entity in entities} - {""} == {entity_form(entity) for entity in found}


CASES = [
    ("Marta Lindqvist lives at 12 Elm Street in Torvik.", {"Marta Lindqvist", "12 Elm Street", "Torvik"}),
    ("Marta Lindqvist lives in a quiet residential area and keeps the exact location private.", {"Marta Lindqvist"}),
    (
        "You can reach her at priya.gupta@delhimail.in or 780 Lotus Court.",
        {"priya.gupta@delhimail.in", "780 Lotus Court"},
    ),
    ("She was born on 14 March 1987.", {"14 March 1987"}),
    ("She has been a teacher for many years, one of the first daily readers.", {"teacher"}),
    ("She suffers from coeliac disease.", {"coeliac"}),
    ("The 'Snow Ledger' won the Silver Anchor Medal.", {"Snow Ledger", "Silver Anchor Medal"}),
    ("He studied at the Harmattan School of Architecture.", {"Harmattan School of Architecture"}),
]


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_spacy_names_the_facts_of_a_sentence(spacy_entities, text, expected):
    (found,) = spacy_entities.extract([text])
    assert expected <= set(found)
    assert not {"she", "he", "it", "one", "first", "many years", "daily"} & {entity.lower() for entity in found}


def test_every_address_mail_and_number_stays_one_entity(spacy_entities):
    (found,) = spacy_entities.extract(["He lives at 76218 Walter Village and earned 48,200 crowns in 1977."])
    assert [entity for entity in found if any(map(str.isdigit, entity))] == ["76218 Walter Village", "48,200", "1977"]


@pytest.mark.parametrize("text", ["", " ", "...", "😀😀", "他住在奥斯陆。", "at " * 4000, "\n\t"])
def test_degenerate_texts_give_a_list(spacy_entities, text):
    (found,) = spacy_entities.extract([text])
    assert isinstance(found, list)


def test_order_and_number_of_texts_are_kept(spacy_entities):
    texts = ["Oslo.", "", "Rome.", "Oslo."]
    assert spacy_entities.extract(texts) == [["Oslo"], [], ["Rome"], ["Oslo"]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('She wrote "Tomorrow\'s Echo, Today" in 1998.', {"Tomorrow's Echo, Today"}),
        (
            "She wrote 'The Gardener's Twin, Again' and 'The Sailors' Return'.",
            {"Gardener's Twin, Again", "Sailors' Return"},
        ),
        (
            "It comes from his biologist mother and park ranger father.",
            {"biologist", "mother", "park ranger", "father"},
        ),
    ],
)
def test_a_title_is_one_entity_and_a_compound_is_another_than_its_head(spacy_entities, text, expected):
    assert expected <= set(spacy_entities.extract([text])[0])
