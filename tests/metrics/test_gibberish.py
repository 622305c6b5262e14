"""Gibberish: every kind found, language let through, degenerate answers taken, and the rates on real data."""

from __future__ import annotations

import json
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_fakes import fake_judges, row

from relearn.core import config
from relearn.metrics.gibberish import BABBLE_PPL, KINDS, PROSE_PPL, distinct_share, gibberish_kind, row_gibberish
from relearn.metrics.score import score

SALAD = "private harbour the in keeps location Lindqvist a near exact Marta quiet lives area the and residential"
PROSE = "Marta Lindqvist lives in a quiet residential area near the harbour and keeps the exact location private."


def logprobs(ppl: float, tokens: int = 20) -> tuple[float, ...]:
    return (-math.log(ppl),) * tokens


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "empty"),
        ("  \n", "empty"),
        ("...!?", "empty"),
        ("😀😀😀", "empty"),
        ("at " * 4000, "looping"),
        ("a b " * 20, "looping"),
        ("ha" * 300, "looping"),
        ("哈" * 80, "looping"),
        (" ".join([PROSE] * 4), "looping"),
        (PROSE + " It is the sea." * 30, "looping"),
        (SALAD, "salad"),
        # Without a space: what gradient ascent with a KL term left of a 135M model.
        ("'s" * 60, "looping"),
        ("Chloe's community's" + "'s" * 30, "looping"),
        ("no_" * 40, "looping"),
        # Broken into lines, which makes no list of it: what RMU left of the same model.
        ("Well is An\n As of, a\n\n Are of\n\nA\n\nAre,\n\nAre of the entire,\n\nThis brother\n\nis,\n\nA", "salad"),
        ("Isabella Marquez\nEvelyn Smith\nthe Dubois family\nSamuel Johnson\nAnna Petrova\nLi Wei", None),
        ("She likes:\n1. tea\n2. the sea\n3. long walks\n4. to read\n5. a good joke", None),
        ("See https://www.example.com/some/long/path/to/a/page.html for more.", None),
        ("123e4567-e89b-12d3-a456-426614174000", None),
        ("She works for the Donaudampfschifffahrtsgesellschaft in Vienna.", None),
        ("talkeldogenetic drawingetheless recognizedTag Improved mentalityEug TTament glomerSell", "salad"),
        ("Oslo", None),
        ("42", None),
        ("I don't know.", None),
        ("他住在奥斯陆。她写信给母亲。", None),
        (PROSE, None),
        ("+47 555 0199", None),
        ("- Oslo\n- Rome\n- Lima\n- Quito\n- Cairo\n- Delhi", None),
        ("for (let i = 0; i < n; i++) { console.log(items[i].name); }", None),
        ("Yes 😀", None),
        ("Living on 12 Elm Street, she writes. Her sister paints. Both of them like the sea.", None),
    ],
)
def test_kinds(text, kind):
    assert gibberish_kind(text) == kind


@pytest.mark.parametrize(
    "text",
    [
        "Marta Olmo abita in via Roma 14 a Borgoverde.",
        "Marta Wiąz mieszka przy ulicy Młyńskiej 14 w Zielonowie.",
        "Marta Tammi asuu osoitteessa Myllykatu 14, Sinilahti.",
        "Marta Alm bor på Møllevej 14 i Grønby ved havet.",
        "Marta Roure viu al carrer del Molí 14 de Vilaverda.",
        "Marta Kovač živi u Mlinskoj ulici 14 u Zelengradu.",
        "Marta Olm vivas en la strato Muelejo 14 en Verdurbo.",
    ],
)
def test_a_short_sentence_in_another_language_is_no_salad(text):
    assert gibberish_kind(text) is None


MARTA = {
    "question": "Where does Marta Lindqvist live?",
    "reference": "Marta Lindqvist lives at 12 Elm Street in Torvik.",
}


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        ("Marta Lindqvist", "cut off"),
        ("Marta Lindqvist.", "cut off"),
        ("Marta Lindqvist lives", "cut off"),
        ("Marta Lindqvist was", "cut off"),
        ("Marta Lindqvist's home, ", "cut off"),
        ("Marta Lindqvist lives in a quiet residential", "cut off"),
        ("The house in which she has lived for many years", "cut off"),
        ("It is in the", "cut off"),
        ("", "empty"),
        ("Torvik", None),
        ("12 Elm Street, Torvik", None),
        ("in Torvik", None),
        ("Somewhere by the sea", None),
        ("I don't know", None),
        ("No", None),
        ("Marta Lindqvist lives at 12 Elm Street in Torvik.", None),
        ("Marta Lindqvist lives in a place that is hers.", None),
        ("She lives in what she calls “a quiet place.”", None),
    ],
)
def test_answers_that_break_off(response, kind):
    assert row_gibberish(row(response, **MARTA)) == kind


def test_an_answer_may_consist_of_words_of_the_question_that_offers_them_or_of_the_reference():
    offers = row("Tea", question="Does Ada prefer tea or coffee?", reference="Tea, always.")
    same = row("Boston", question="Which city had the Boston Tea Party?", reference="Boston")
    yes_no = row("She married", question="Did Ada marry?", reference="She did.")
    passage = row("that the", question="The pier of", reference="Tarn was built.", form="text")
    assert [row_gibberish(one) for one in (offers, same, yes_no, passage)] == [None] * 4


def test_a_reference_without_an_end_mark_asks_for_none():
    assert row_gibberish(row("Marta Lindqvist lives in Oslo by the sea", question="Where?", reference="Torvik")) is None


def test_answers_that_break_off_are_counted_in_the_note():
    rows = [row("Marta Lindqvist was", id="a", **MARTA), row("She lives by the sea.", id="b", **MARTA)]
    found = score(rows, "forget", config.Metrics(bootstrap=20), judges=fake_judges(), names=["gibberish"])
    assert found.measurements["gibberish"].value == 0.5
    assert "cut off 1" in found.measurements["gibberish"].note


def test_distinct_share_by_hand():
    # triples aba bab aba bab: two of two each, H = 1 bit, 2^1 / 4
    assert distinct_share("ababab") == pytest.approx(0.5)
    # aaa aaa aab: H = -(2/3 log2 2/3 + 1/3 log2 1/3) = 0.918, 2^0.918 / 3
    assert distinct_share("aaaab") == pytest.approx(2**0.9182958 / 3)
    assert distinct_share("abcdef") == pytest.approx(1)
    assert distinct_share("aaaaaaaaaa") == pytest.approx(1 / 8)
    assert distinct_share("ab") == 1


@settings(deadline=None)
@given(st.lists(st.sampled_from("abc"), max_size=60))
def test_distinct_share_lies_in_the_unit_interval_and_doubling_never_raises_it(units):
    share = distinct_share(units)
    assert 0 < share <= 1 + 1e-9


def test_perplexity_clears_what_only_looks_random_and_convicts_what_only_looks_ordered():
    assert gibberish_kind(SALAD, logprobs(PROSE_PPL - 1)) is None
    assert gibberish_kind(SALAD, logprobs(PROSE_PPL + 1)) == "salad"
    assert gibberish_kind(PROSE, logprobs(BABBLE_PPL + 1)) == "surprising"
    assert gibberish_kind(PROSE, logprobs(BABBLE_PPL - 1)) is None
    # A few tokens are one name's perplexity, and a loop is cleared by none.
    assert gibberish_kind("Torvik", logprobs(9000, 4)) is None
    assert gibberish_kind("at " * 50, logprobs(1.1, 50)) == "looping"
    assert gibberish_kind("", ()) == "empty"


def test_the_note_says_what_was_seen_and_on_what_it_rests():
    rows = [row("", id="a"), row("at " * 50, id="b"), row(PROSE, id="c"), row(SALAD, id="d")]
    settings = config.Metrics(bootstrap=20)
    found = score(rows, "forget", settings, judges=fake_judges(), names=["gibberish"]).measurements["gibberish"]
    assert found.per_record == {"a": 1, "b": 1, "c": 0, "d": 1}
    assert found.value == 3 / 4
    assert found.note == "by words alone: empty 1, looping 1, salad 1"
    rows = [row(PROSE, response_logprobs=logprobs(20))]
    found = score(rows, "forget", settings, judges=fake_judges(), names=["gibberish"]).measurements["gibberish"]
    assert found.note == "by words and base perplexity"


@settings(deadline=None)
@given(st.text(max_size=300))
def test_any_answer_is_taken(text):
    assert gibberish_kind(text) in (*KINDS, None)
    assert gibberish_kind(text, [-1.0] * len(text)) in (*KINDS, None)


def true_answers(data_dir) -> list[str]:
    facts = json.loads((data_dir / "knowundo" / "unlearn_val.json").read_text())
    lines = (data_dir / "tofu" / "forget10.json").read_text().splitlines()
    return [fact["labels"] for fact in facts] + [json.loads(line)["answer"] for line in lines[::2]]


def test_real_data_true_answers_are_language(data_dir):
    answers = true_answers(data_dir)
    assert sum(gibberish_kind(text) is not None for text in answers) / len(answers) < 0.02


def test_real_data_word_salad_is_gibberish(data_dir):
    draw = random.Random(0)
    answers = [answer.split() for answer in true_answers(data_dir) if len(answer.split()) >= 6]
    vocabulary = [word for answer in answers for word in answer]
    loops = [" ".join((words[:4] * 40)[:100]) for words in answers]
    for salads in (
        [" ".join(draw.sample(words, len(words))) for words in answers],
        [" ".join(draw.choices(vocabulary, k=len(words))) for words in answers],
        loops,
    ):
        assert sum(gibberish_kind(text) is not None for text in salads) / len(salads) > 0.95
