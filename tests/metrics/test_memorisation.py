"""Exact memorisation and extraction strength, by hand and by their properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parts_fakes import cases, measured

from relearn.metrics.memorization import exact_memorisation, extraction_strength


@pytest.mark.parametrize("case", cases("memorisation"), ids=lambda case: case["worked"])
def test_by_hand(case):
    row = {"reference_hits": case["hits"], "closing_tokens": case.get("closing", 0)}
    found = measured({"forget": [row]}, ["exact_memorisation", "extraction_strength"])["forget"]
    assert found["exact_memorisation"].value == case["em"]
    assert found["extraction_strength"].value == case["es"]


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_properties(hits):
    es, em = extraction_strength(hits), exact_memorisation(hits)
    assert es is not None and em is not None
    assert 0 <= es <= em <= 1
    assert (es == 0) == (not hits[-1])
    assert (es == 1) == all(hits)
    # The definition: the shortest beginning after which every token is a hit.
    k = next(k for k in range(len(hits) + 1) if all(hits[k:]))
    assert es == pytest.approx(1 - k / len(hits))
    longer = extraction_strength([*hits, False])
    assert longer == 0


def test_trap_extraction_strength_reaches_0_at_any_length():
    """Trap 15: a loop that ends at the last token gives 1/|y| where nothing can be extracted."""
    assert [extraction_strength([False] * length) for length in (1, 2, 50)] == [0, 0, 0]
