"""Word order: prose has one, word salad has none, and where order says nothing it is not asked."""

from __future__ import annotations

import random
from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relearn.metrics.word_salad import OrderTable, count_orders, is_glued, parts_of, word_class, word_order

PROSE = (
    "Marta Lindqvist lives in a quiet residential area near the harbour and keeps the exact location private.",
    "I'm sorry, but I don't have any information about where she went to school.",
    "He can be reached at name@example.org or by telephone, and he likes to answer letters in the evening.",
    "She was born on 14 March 1987 at 12 Elm Street, and her father was a baker while her mother taught at a school.",
    "Her novels are known for their dark humour; the best of them won several prizes in the nineties.",
)


def shuffled(text: str, seed: int = 0) -> str:
    words = text.split()
    random.Random(seed).shuffle(words)
    return " ".join(words)


@pytest.mark.parametrize("text", PROSE)
def test_prose_has_an_order_and_its_words_shuffled_have_less(text):
    own = word_order(text)
    others = [word_order(shuffled(text, seed)) for seed in range(5)]
    assert own > 0.6
    assert all(other < own - 0.3 for other in others)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Oslo",
        "She lives in Oslo.",
        "12 14 1987 48,200 17 3 9 22",
        "- Oslo\n- Rome\n- Lima\n- Quito\n- Cairo",
        "def f(x): return {k: v for k, v in x.items() if v > 0}",
        "他住在奥斯陆。她写信给她的母亲和父亲。",
        "Он живёт в Осло, пишет романы и преподаёт в школе у моря.",
        "Ella vive en una casa tranquila cerca del puerto y trabaja como maestra en la escuela.",
        "Elle habite une maison tranquille près du port et elle est institutrice dans une école.",
        "Sie wohnt in einem ruhigen Haus am Hafen und arbeitet als Lehrerin an der Schule.",
        "😀 😀 👩 🇳🇴 😀 😀 👩",
        "?!... --- (( ))",
        "\n\t",
        "Marta Marta Marta Marta Marta Marta Marta",
    ],
)
def test_where_order_says_nothing_it_is_not_judged(text):
    gain = word_order(text)
    assert gain is None or gain > 0.4


@given(st.text(max_size=200))
def test_any_text_is_taken(text):
    gain = word_order(text)
    assert gain is None or np.isfinite(gain)
    assert is_glued(text) in (True, False)


def test_4000_words_are_taken():
    assert word_order(" ".join(PROSE * 60)) > 0.6
    assert word_order(shuffled(" ".join(PROSE * 60))) < 0.3


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("the", "the"),
        ("The", "the"),
        ("don't", "don't"),
        ("walking", "-ing"),
        ("quietly", "-ly"),
        ("Oslo", "Name"),
        ("NASA", "Name"),
        ("McAllister", "Name"),
        ("Yun-Hwa", "Name"),
        ("O'Connor", "Name"),
        ("eldoTag", "Glued"),
        ("1987", "0000"),
        ("12", "0"),
        (",", ","),
        ("=", "sign"),
        ("harbour", "word"),
        ("été", "word"),
    ],
)
def test_classes(part, expected):
    assert word_class(part) == expected


def test_a_contact_an_address_and_a_date_are_one_part():
    assert parts_of("Write to a.b@c.org, 12 Elm Street, by 14 March 1987.") == [
        "Write",
        "to",
        "Contact",
        ",",
        "Address",
        ",",
        "by",
        "0000",
        ".",
    ]


def test_words_run_together_are_glued_and_names_are_not():
    assert is_glued("talkeldogenetic drawingetheless recognizedTag Improved mentalityEug")
    assert not is_glued("Ian McDonald and Sean O'Brien met DeShawn LeRoy in Oslo.")
    assert not is_glued(
        "Die Donaudampfschifffahrtsgesellschaft und der Verbraucherschutzverband sind nicht in der Stadt."
    )


def test_the_mean_over_all_orders_is_that_of_every_permutation():
    table = count_orders(["the cat sat on the mat", "a dog ran to the house and sat", "the dog sat"])
    classes = ["the", "word", "word", "on", "the"]
    places = [table.classes.index(name) for name in classes]
    logs = table._pair_logs
    every = [sum(logs[a, b] for a, b in pairwise(order)) / 4 for order in permutations(places)]
    assert table._mean_over_orders(places) == pytest.approx(sum(every) / len(every))


def test_probabilities_of_pairs_and_triples_add_up_to_one():
    table = count_orders(["the cat sat on the mat", "the dog ran", "a cat ran to the dog"])
    assert np.exp(table._pair_logs).sum(axis=1) == pytest.approx(1)
    size = range(len(table.classes))
    for first, second in [*table._contexts, (0, 0)]:
        assert sum(np.exp(table._triple_log(first, second, third)) for third in size) == pytest.approx(1)


def test_a_table_survives_its_json():
    import json

    table = count_orders(["the cat sat on the mat"])
    raw = json.loads(table.to_json())
    again = OrderTable(
        tuple(raw["classes"]), {(a, b): n for a, b, n in raw["pairs"]}, {(a, b, c): n for a, b, c, n in raw["triples"]}
    )
    assert again == table
