"""Matching: one-to-one, as many pairs as there can be, and no pair of contradicting numbers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relearn.core.errors import InputError, MissingPartError
from relearn.models.builtin import builtin_path
from relearn.text.entities import EmbeddingMatcher, ExactMatcher, _compatible, _maximum_matching


@pytest.fixture(scope="module")
def minilm() -> EmbeddingMatcher:
    try:
        return EmbeddingMatcher(str(builtin_path("all-minilm-l6-v2")))
    except MissingPartError as error:
        pytest.skip(str(error))


def matched(matcher, reference, generated) -> list[str]:
    (partners,) = matcher.match([(reference, generated)])
    return [entity for entity, partner in zip(reference, partners, strict=True) if partner is not None]


def test_exact_matches_once_each():
    assert matched(ExactMatcher(), ["Oslo", "Rome"], ["the Oslo", "Oslo's"]) == ["Oslo"]


def test_exact_of_empty_sides():
    assert ExactMatcher().match([([], ["a"]), (["a"], []), ([], [])]) == [[], [None], []]


@given(st.integers(1, 5), st.integers(1, 5), st.randoms(use_true_random=False))
def test_maximum_matching_equals_brute_force(rows, columns, random):
    graph = np.array([[random.random() < 0.4 for _ in range(columns)] for _ in range(rows)])
    partners = _maximum_matching(graph)
    used = [column for column in partners if column is not None]
    assert len(set(used)) == len(used)
    assert all(graph[row, column] for row, column in enumerate(partners) if column is not None)
    choices = itertools.product([*range(columns), None], repeat=rows)
    best = max(
        sum(c is not None for c in choice)
        for choice in choices
        if all(c is None or graph[r, c] for r, c in enumerate(choice))
        and len({c for c in choice if c is not None}) == sum(c is not None for c in choice)
    )
    assert len(used) == best


def test_an_exact_pair_gives_way_where_that_lets_both_match():
    # a equals x, and is near y; b is near x only: taking a-x first would leave b alone.
    assert sorted(_maximum_matching(np.array([[True, True], [True, False]]))) == [0, 1]


@pytest.mark.parametrize(
    ("left", "right", "may"),
    [
        ("1977", "1978", False),
        ("12 Elm Street", "Elm Street", True),
        ("12 Elm Street", "14 Elm Street", False),
        ("a@x.org", "b@x.org", False),
        ("June 1934", "June 4, 1934", True),
        ("Oslo", "Rome", True),
    ],
)
def test_contradicting_numbers_and_contacts_never_pair(left, right, may):
    assert _compatible(left, right) is may


def test_an_unknown_encoder_is_refused():
    with pytest.raises(InputError, match=r"metrics\.matcher"):
        EmbeddingMatcher("nobody/no-such-encoder").match([(["a b"], ["c d"])])


def test_cosine_pairs_the_near_and_not_the_far(minilm):
    assert matched(minilm, ["lawyer", "physician"], ["attorney", "baker"]) == ["lawyer"]
    assert matched(minilm, ["marta.l@mail.example"], ["martha.l@mail.example"]) == []
    assert matched(minilm, ["14 March 1987"], ["14 March 1988"]) == []


def test_embeddings_have_length_one_and_do_not_depend_on_the_batch(minilm):
    texts = ["Oslo", "a much longer phrase about the old harbour of the city", "Rome"]
    together = minilm._encoder.encode(texts)
    alone = EmbeddingMatcher(str(builtin_path("all-minilm-l6-v2")))._encoder.encode(["Oslo"])
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    assert np.allclose(together[0], alone[0], atol=1e-5)


def test_what_matches_exactly_is_not_embedded():
    matcher = EmbeddingMatcher("nobody/never-loaded")
    assert matcher.match([(["Oslo"], ["Oslo", "Rome"]), ([], ["x"]), (["x"], [])]) == [[0], [], [None]]
