"""Sentences and words without punkt: golden cases, with the places where punkt may decide otherwise named."""

from __future__ import annotations

import pytest

from relearn.metrics.lexical_indices import sentences, words

GOLDEN_SENTENCES = [
    ("He lives in Paris. She works.", ["He lives in Paris.", "She works."]),
    ("Dr. Smith met Mr. O'Neil. They talked.", ["Dr. Smith met Mr. O'Neil.", "They talked."]),
    ("J. K. Rowling wrote it. He read it.", ["J. K. Rowling wrote it.", "He read it."]),
    ('He said "Go." Then he left.', ['He said "Go."', "Then he left."]),
    ("It cost 3.50 euros. No more!", ["It cost 3.50 euros.", "No more!"]),
    ("Really?! Yes... Maybe.", ["Really?!", "Yes...", "Maybe."]),
    ("He was born in 1977. 1980 came later.", ["He was born in 1977.", "1980 came later."]),
    ("Write to a.b@mail.example. She answers.", ["Write to a.b@mail.example.", "She answers."]),
    ("one. two", ["one. two"]),
    ("  ", []),
    ("他住在奥斯陆。她写信。", ["他住在奥斯陆。", "她写信。"]),
]


@pytest.mark.parametrize(("text", "expected"), GOLDEN_SENTENCES)
def test_sentences(text, expected):
    assert sentences(text) == expected


GOLDEN_WORDS = [
    # The stop of the first sentence is a token of its own, as in word_tokenize; the bare Treebank rules keep "paris.".
    ("He lives in Paris. She works.", "he lives in paris . she works ."),
    ("She can't. It isn't John's.", "she ca n't . it is n't john 's ."),
    ("Washington D.C. is big. Yes.", "washington d.c. is big . yes ."),
    ('He said "Go." Then left.', "he said `` go . '' then left ."),
    ("Oslo (Norway), 12 Elm St. 3", "oslo ( norway ) , 12 elm st. 3"),
    ("gonna go... now", "gon na go ... now"),
]


@pytest.mark.parametrize(("text", "expected"), GOLDEN_WORDS)
def test_words(text, expected):
    assert words(text) == expected.split()


def test_deviation_from_punkt_an_abbreviation_never_ends_a_sentence():
    assert sentences("He lives in the U.S. She does not.") == ["He lives in the U.S. She does not."]


def test_long_text_and_other_scripts_are_taken():
    assert len(words("at " * 4000)) == 4000
    assert words("😀 Привет, мир") == ["😀", "привет", ",", "мир"]
