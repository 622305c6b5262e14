"""ROUGE-L recall and the gibberish rate, by hand and against the package."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_fakes import fake_judges, row
from rouge_score.rouge_scorer import RougeScorer

from relearn.core import config
from relearn.metrics.gibberish import gibberish_kind
from relearn.metrics.memorization import rouge_l_recall
from relearn.metrics.score import score


@pytest.mark.parametrize(
    ("reference", "response", "recall"),
    [
        ("the cat sat on the mat", "the cat lay on a mat", 4 / 6),  # the cat on mat
        ("she writes novels", "novel writing", 1 / 3),  # stemmed: novel
        ("is his", "hi", 0),  # words of three letters are not stemmed
        ("Oslo", "", 0),
        ("Oslo", "!!!", 0),
        ("他住在奥斯陆", "她住在奥斯陆", 5 / 6),
        ("Он живёт в Осло", "он живёт в Риме", 3 / 4),
        ("...", "anything", None),
    ],
)
def test_recall_by_hand(reference, response, recall):
    assert rouge_l_recall(row(response, reference)) == (None if recall is None else pytest.approx(recall))


_ASCII = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60)


@settings(max_examples=60)
@given(_ASCII, _ASCII)
def test_on_ascii_the_number_is_the_packages_own(reference, response):
    found = rouge_l_recall(row(response, reference))
    package = RougeScorer(["rougeL"], use_stemmer=True).score(reference, response)["rougeL"].recall
    assert (found or 0) == pytest.approx(package)


def test_a_reference_without_words_is_unscored_and_counted():
    rows = [row("x", "...", id="a"), row("Oslo", "Oslo", id="b")]
    found = score(rows, "retain", config.Metrics(), judges=fake_judges(), names=["rouge_l"]).measurements["rouge_l"]
    assert (found.value, found.n, found.unscored) == (1, 1, 1)


@pytest.mark.parametrize(
    ("text", "gibberish"),
    [
        ("", True),
        ("  \n", True),
        ("...!?", True),
        ("😀😀😀", True),
        ("at " * 128, True),
        ("a b " * 20, True),
        ("Oslo", False),
        ("I don't know.", False),
        ("他住在奥斯陆", False),
        ("Marta Lindqvist lives in a quiet area and keeps the exact place private.", False),
    ],
)
def test_gibberish(text, gibberish):
    assert (gibberish_kind(text) is not None) is gibberish


def test_silence_has_kfr_1_and_gibberish_1():
    rows = [row("", id=str(number)) for number in range(4)]
    found = score(rows, "forget", config.Metrics(bootstrap=20), judges=fake_judges()).measurements
    assert found["kfr"].value == 1
    assert found["gibberish"].value == 1
    assert found["ls"].value == 0
    assert found["rouge_l"].value == 0
