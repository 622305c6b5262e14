"""PPL, BI, HS and LS against the paper's Table 9 and numbers worked by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from metric_fakes import fake_judges, row

from relearn.core import config
from relearn.metrics.lexical_indices import (
    EMPTY_BI,
    PPL_CAP,
    brunet,
    honore,
    lexical_counts,
    linguistic_score,
    perplexity,
)
from relearn.metrics.score import score

NAMES = ("ppl", "bi", "hs", "ls", "ls_median", "ls_paper")
SANNA = "Sanna Kaarina Laaksonen's father was a Financial Advisor and her mother was an Investigative Journalist."


def measure(rows, names=NAMES, bootstrap=200):
    settings = config.Metrics(bootstrap=bootstrap)
    return score(rows, "retain", settings, judges=fake_judges(), names=names).measurements


def test_table_9_repetition():
    found = lexical_counts(row(" ".join(["at"] * 128)))
    assert (found.n, found.v, found.v1) == (128, 1, 0)
    assert round(found.bi, 2) == 128.00
    assert round(found.hs, 2) == 441.09


def test_table_9_sentence():
    found = lexical_counts(row(SANNA))
    assert (found.n, found.v, found.v1) == (17, 16, 15)
    assert round(found.bi, 2) == 6.01
    assert round(found.hs, 2) == 1743.52


def test_two_sentences_count_the_inner_stop():
    # he lives in paris . she works . -> N 8, V 7 (the stop twice), V1 6
    found = lexical_counts(row("He lives in Paris. She works."))
    assert (found.n, found.v, found.v1) == (8, 7, 6)


def test_by_hand():
    assert brunet(1, 1) == 1
    assert brunet(100, 50) == pytest.approx(100 ** (50**-0.165))
    assert honore(1, 1, 1) == 0
    assert honore(10, 10, 10) == pytest.approx(100 * math.log(10) / 0.1)
    assert perplexity((-1.0, -3.0)) == pytest.approx(math.exp(2))
    # 3 / (3 + 10 + 6 + 1/100) = 3 / 19.01
    assert linguistic_score(10, 6, 100) == pytest.approx(3 / 19.01)


@given(st.floats(1, 1e12), st.floats(1, 1e4), st.floats(1e-3, 1e6))
def test_closed_form_is_the_harmonic_mean_of_the_sigmoids(ppl, bi, hs):
    def sigmoid(x):
        return 1 / (1 + math.exp(-x))

    parts = [sigmoid(-math.log(ppl)), sigmoid(-math.log(bi)), sigmoid(math.log(hs))]
    assert linguistic_score(ppl, bi, hs) == pytest.approx(3 / sum(1 / part for part in parts), rel=1e-6)
    assert 0 < linguistic_score(ppl, bi, hs) <= 0.6


def test_ls_paper_takes_the_means_first_and_ls_takes_them_last():
    rows = [
        row("one two three", id="a", response_logprobs=(-math.log(2), -math.log(2))),
        row("one one two", id="b", response_logprobs=(-math.log(8),)),
    ]
    found = measure(rows)
    bis = [3 ** (3**-0.165), 3 ** (2**-0.165)]
    hss = [100 * math.log(3) / 0.1, 100 * math.log(3) / (1 - 1 / 2 + 0.1)]
    assert found["ppl"].value == pytest.approx(5)
    assert found["bi"].value == pytest.approx(sum(bis) / 2)
    assert found["hs"].value == pytest.approx(sum(hss) / 2)
    assert found["ls_paper"].value == pytest.approx(3 / (3 + 5 + sum(bis) / 2 + 2 / sum(hss)))
    each = [3 / (3 + ppl + bi + 1 / hs) for ppl, bi, hs in zip((2, 8), bis, hss, strict=True)]
    assert found["ls"].value == pytest.approx(sum(each) / 2)
    assert found["ls_median"].value == pytest.approx(sum(each) / 2)
    assert found["ls"].per_record == pytest.approx({"a": each[0], "b": each[1]})
    for measured in found.values():
        assert measured.low <= measured.value <= measured.high


def test_one_outlier_destroys_ls_paper_and_not_ls():
    good = [row("one two three", id=str(i), response_logprobs=(-2.0,)) for i in range(20)]
    found = measure([*good, row("one two three", id="x", response_logprobs=(-60.0,))])
    assert found["ls_paper"].value < 1e-6
    assert found["ls"].value > 0.2
    assert found["ls_median"].value > 0.2


def test_trap_14_missing_ppl_is_unscored_and_counted_and_never_improves_the_mean():
    rows = [
        row("one two three", id="a", response_logprobs=(-1.0,)),
        row("one two three", id="b"),
        row("one two three", id="c", response_logprobs=(math.nan,)),
    ]
    found = measure(rows)
    for name in ("ppl", "ls", "ls_median", "ls_paper"):
        assert (found[name].n, found[name].unscored) == (1, 2), name
        assert found[name].per_record["b"] is None
    assert found["ppl"].value == pytest.approx(math.e)
    assert (found["bi"].n, found["bi"].unscored) == (3, 0)


def test_nothing_measured_is_none_and_not_zero():
    found = measure([row("one two", id="a"), row("three four", id="b")])
    for name in ("ppl", "ls", "ls_median", "ls_paper"):
        assert found[name].value is None
        assert found[name].unscored == 2
        assert "no log-probabilities" in found[name].note


def test_empty_answers_score_ls_0_and_are_never_dropped():
    rows = [row("one two three", id="a", response_logprobs=(-1.0,)), row(" ", id="b", response_logprobs=())]
    found = measure(rows)
    alone = measure(rows[:1])
    assert found["ls"].per_record["b"] == 0
    assert found["ls"].n == 2
    assert found["ls"].value == pytest.approx(alone["ls"].value / 2)
    assert found["bi"].per_record["b"] == EMPTY_BI
    assert found["hs"].per_record["b"] == 0
    assert found["ls_paper"].value < alone["ls_paper"].value
    assert (found["ppl"].n, found["ppl"].unscored) == (1, 1)


def test_only_empty_answers_have_ls_paper_0():
    found = measure([row("", id="a"), row("", id="b", response_logprobs=())])
    assert found["ls_paper"].value == 0
    assert found["ls"].value == 0


def test_one_token_has_hs_0_and_ls_0():
    found = measure([row("Oslo", response_logprobs=(-0.1,))])
    assert found["hs"].value == 0
    assert found["ls"].value == 0
    assert found["ls_paper"].value == 0


def test_huge_perplexity_stays_finite():
    assert perplexity((-5000.0,)) == pytest.approx(PPL_CAP)
    found = measure([row("one two", id=str(i), response_logprobs=(-5000.0,)) for i in range(3)])
    assert math.isfinite(found["ppl"].value)
    assert 0 <= found["ls"].value < 1e-20


def test_a_model_of_stubs_is_below_an_intact_one():
    asked = {"question": "Where does Ada Moss live?", "reference": "Ada Moss lives at 7 Mill Road in Tarn."}

    def model(response, ppl):
        tokens = (-math.log(ppl),) * max(1, len(response.split()))
        return [row(response, id=str(number), response_logprobs=tokens, **asked) for number in range(4)]

    stubs = measure(model("Ada Moss", 6.0))
    intact = measure(model("Ada Moss lives in a quiet residential area near the harbour of a town.", 12.0))
    assert stubs["ls_paper"].value > intact["ls_paper"].value
    assert stubs["ls"].value == stubs["ls_median"].value == 0 < intact["ls"].value
