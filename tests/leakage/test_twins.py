"""False values and invented names: of the same kind, different from the true ones, the same for the same seed."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relearn.data import Record
from relearn.leakage.secrets import read_secrets
from relearn.leakage.twins import WordPool, invented_names, name_origin, secret_value, subject_name, twin_values

TEXTS = ["We saw the quiet harbour, an early garden and a narrow bridge in Westmoor and Aldenby near some meadows."]


def count_tokens(texts):
    """Three letters or digits make a token."""
    return [sum(-(-len(word) // 3) for word in re.findall(r"\w+", text)) for text in texts]


POOL = WordPool(TEXTS, count_tokens)


def value_of(answer: str, question: str = "What is Marta Lindqvist's phone or passport number?"):
    (secret,) = read_secrets([Record(question, answer, "a", "Marta Lindqvist")])
    value = secret_value(secret, count_tokens)
    assert value is not None
    return value


@pytest.mark.parametrize(
    "answer, beginning, text",
    [
        ("She lives at 12 Elm Street, near a lake.", "She lives at", "12 Elm Street"),
        ("She was born on 17 March 1979.", "She was born on", "17 March 1979"),
        ("Write to marta.lindqvist@harbourmail.org.", "Write to", "marta.lindqvist@harbourmail.org"),
        ("She is married to Desmond Prewitt, a baker.", "She is married to", "Desmond Prewitt"),
    ],
)
def test_the_value_is_the_longest_secret_and_begins_after_a_space(answer, beginning, text):
    value = value_of(answer)
    assert (value.beginning, value.text) == (beginning, text)
    assert answer.startswith(f"{value.beginning} {value.text}")


def test_an_answer_without_a_secret_has_no_value():
    (secret,) = read_secrets([Record("Who is she?", "Marta Lindqvist.", "a", "Marta Lindqvist")])
    assert secret_value(secret, count_tokens) is None


@pytest.mark.parametrize(
    "answer, pattern",
    [
        ("She earns 84,500 a year.", r"[1-9]\d,\d00"),
        ("Her phone number is 555 0143.", r"[1-9]\d\d \d{4}"),
        ("She was born on 2 November 1986.", r"[1-9] [A-Z][a-z]+ (?:19|20)\d\d"),
        ("The number of her passport is ZB 490771.", r"[A-Z]{2} [1-9]\d{5}"),
        ("Write to marta.lindqvist@harbourmail.org.", r"marta\.lindqvist@[a-z]+\.[a-z]+"),
        ("She is married to Desmond Prewitt.", r"[A-Z][a-z]+ [A-Z][a-z]+"),
    ],
)
def test_twins_have_the_kind_of_the_value_and_are_different(answer, pattern):
    value = value_of(answer)
    twins = twin_values(value, POOL, count=12, rng=random.Random(0))
    assert len(set(twins)) == len(twins) == 12 and value.text not in twins
    assert all(re.fullmatch(pattern, twin) for twin in twins), twins
    assert twins == twin_values(value, POOL, count=12, rng=random.Random(0))


@given(st.integers(0, 999))
@settings(max_examples=20, deadline=None)
def test_twins_have_the_token_count_of_the_value_where_there_are_words_of_it(seed):
    value = value_of("She repairs sewing machines.")
    twins = twin_values(value, POOL, count=8, rng=random.Random(seed))
    assert len(twins) == 8 and set(count_tokens(twins)) == set(count_tokens([value.text]))


@pytest.mark.parametrize(
    "name, origin",
    [
        ("Siobhan Mackilroy", "irish"),
        ("Haruko Tsunemori", "japanese"),
        ("Wiktor Zarembski", "slavic"),
        ("Luciano Ferrante", "italian"),
        ("Nalini Deshwarkar", "indian"),
    ],
)
def test_the_origin_of_a_name(name, origin):
    assert name_origin(name) == origin


@pytest.mark.parametrize(
    "subject", ["Marta Lindqvist", "Lindqvist", "Ana Maria Belmares", "router X200", "王小明", "Li"]
)
def test_invented_names_have_the_shape_of_the_subject_and_share_no_word(subject):
    names = invented_names(subject, count=4, rng=random.Random(0), taken=("Torvald Nygard",))
    assert len(set(names)) == 4 and subject not in names
    assert all(len(name.split()) == len(subject.split()) for name in names)
    if subject[0].isascii() and subject[0].isupper():
        taken = {*subject.split(), "Torvald", "Nygard"}
        assert not any(taken & set(name.split()) for name in names)


def test_a_subject_is_found_in_the_question_where_the_record_has_none():
    (secret,) = read_secrets([Record("Where does Tomas Okafor live?", "He lives in Bergen.", "b")])
    assert subject_name(secret) == "Tomas Okafor"
    (secret,) = read_secrets([Record("What is it?", "It is Bergen.", "c")])
    assert subject_name(secret) is None
