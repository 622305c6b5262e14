"""Multiple choice, MUSE's memorisation and probes by kind: worked by hand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_fakes import fake_judges, row
from rouge_score.rouge_scorer import RougeScorer

from relearn.core import config
from relearn.metrics.choice_accuracy import MAX_KINDS, chance, right_by_letter, right_by_text
from relearn.metrics.memorization import rouge_l_f
from relearn.metrics.score import score, score_parts

SETTINGS = config.Metrics(bootstrap=50)
NEW = {"choice_accuracy", "choice_accuracy_by_text", "probe_recall", "verbmem", "knowmem"}


def measured(rows, *names, split="forget"):
    return score(rows, split, SETTINGS, judges=fake_judges(), names=names).measurements


def quiz(key, right, letters, texts=None, choices=("abcdef", "b", "cc", "d"), **more):
    return row("", id=key, choices=choices, choice=right, letter_logprobs=letters, choice_logprobs=texts, **more)


def test_accuracy_by_letter_is_the_share_of_likeliest_right_letters():
    rows = [
        quiz("a", 0, (-1.0, -2.0, -3.0, -4.0)),
        quiz("b", 1, (-1.0, -2.0, -3.0, -4.0)),
        quiz("c", 3, (-9.0, -9.0, -9.0, -1.0)),
        quiz("d", 0, None),
        row("Oslo", id="e"),
    ]
    found = measured(rows, "choice_accuracy")["choice_accuracy"]
    assert found.per_record == {"a": 1, "b": 0, "c": 1, "d": None, "e": None}
    assert (found.value, found.n, found.unscored) == (pytest.approx(2 / 3), 3, 2)
    assert "guessing gets 0.250" in found.note and "no choices were offered" in found.missing


def test_by_text_a_log_probability_counts_over_its_length():
    """-6 of six letters is -1 a letter, -2 of one letter -2: the long text wins though its sum is lower."""
    asked = quiz("a", 0, None, (-6.0, -2.0, -5.0, -3.0))
    assert right_by_text(asked) == 1
    assert right_by_letter(asked) is None
    assert right_by_text(quiz("a", 0, None, (-6.0, -2.0))) is None


def test_of_equal_letters_the_first_wins_and_chance_is_of_the_rows_own_choices():
    assert right_by_letter(quiz("a", 0, (-1.0,) * 4)) == 1
    assert right_by_letter(quiz("a", 1, (-1.0,) * 4)) == 0
    two = quiz("b", 0, (-1.0, -2.0), choices=("yes", "no"))
    assert chance([two, quiz("a", 0, None)]) == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert chance([row("x")]) is None


def test_a_right_letter_that_never_changes_is_told():
    rows = [quiz("a", 0, (-1.0, -2.0, -3.0, -4.0)), quiz("b", 0, (-1.0, -2.0, -3.0, -4.0))]
    assert "always the same letter" in measured(rows, "choice_accuracy")["choice_accuracy"].note
    rows[1] = quiz("b", 1, (-1.0, -2.0, -3.0, -4.0))
    assert "always the same letter" not in measured(rows, "choice_accuracy")["choice_accuracy"].note


@settings(max_examples=50)
@given(st.lists(st.floats(-50, 0), min_size=2, max_size=8), st.floats(-5, 5), st.data())
def test_adding_to_all_letters_changes_nothing(letters, shift, data):
    right = data.draw(st.integers(0, len(letters) - 1))
    names = tuple(map(str, range(len(letters))))
    plain = right_by_letter(quiz("a", right, tuple(letters), choices=names))
    if len(set(letters)) == len({value + shift for value in letters}):
        assert right_by_letter(quiz("a", right, tuple(value + shift for value in letters), choices=names)) == plain


@pytest.mark.parametrize(
    ("reference", "response", "f"),
    [
        ("the cat sat on the mat", "the cat lay on a mat", 2 * (4 / 6) * (4 / 6) / (8 / 6)),
        ("a b c d", "a b", 2 * 1 * 0.5 / 1.5),
        ("a b", "a b c d e f", 2 * (1 / 3) * 1 / (4 / 3)),
        ("novels", "novel", 0),  # not stemmed
        ("Oslo", "", 0),
        ("他住在奥斯陆", "他住在奥斯陆", 1),
        ("...", "anything", None),
    ],
)
def test_rouge_l_f_by_hand(reference, response, f):
    assert rouge_l_f(row(response, reference)) == (None if f is None else pytest.approx(f))


_ASCII = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="_"), max_size=60)


@settings(max_examples=50)
@given(_ASCII, _ASCII)
def test_on_ascii_it_is_muses_own(reference, response):
    package = RougeScorer(["rougeL"], use_stemmer=False).score(reference, response)["rougeL"].fmeasure
    assert (rouge_l_f(row(response, reference)) or 0) == pytest.approx(package)


def test_passages_are_verbatim_and_questions_knowledge():
    rows = [row("a b", "a b", id="p", form="text"), row("Oslo", "Rome", id="q")]
    found = measured(rows, "verbmem", "knowmem")
    assert found["verbmem"].per_record == {"p": 1, "q": None} and found["verbmem"].value == 1
    assert found["knowmem"].per_record == {"p": None, "q": 0} and found["knowmem"].value == 0


def test_metrics_stay_out_of_parts_without_such_rows():
    plain = {"forget": ("forget", [row("Oslo", id="a")])}
    assert not NEW & set(score_parts(plain, SETTINGS, judges=fake_judges())["forget"].measurements)
    assert not NEW & set(score([row("Oslo", id="a")], "forget", SETTINGS, judges=fake_judges()).measurements)
    muse = {
        "forget": ("forget", [row("a b", "a b", id="p", form="text")]),
        "forget_heldout": ("forget", [row("Oslo", id="q")]),
        "retain_heldout": ("retain", [row("Rome", id="r")]),
    }
    found = score_parts(muse, SETTINGS, judges=fake_judges())
    assert {part: NEW & set(scores.measurements) for part, scores in found.items() if part in muse} == {
        "forget": {"verbmem"},
        "forget_heldout": {"knowmem"},
        "retain_heldout": {"knowmem"},
    }


def test_probes_by_kind():
    """Recall 1 and 1/2 for level 1, 0 for level 3; the mean over all is 1/2."""
    rows = [
        row("Oslo", "Oslo", id="a", tags=("level 1",)),
        row("Oslo", "Oslo Rome", id="b", tags=("level 1",)),
        row("no", "Oslo", id="c", tags=("level 3", "role play")),
        row("Oslo", "Oslo", id="d"),
    ]
    found = measured(rows, "probe_recall")["probe_recall"]
    assert (found.value, found.n, found.unscored) == (pytest.approx(0.5), 3, 1)
    assert {kind: (group.value, group.n) for kind, group in found.groups.items()} == {
        "level 1": (0.75, 2),
        "level 3": (0, 1),
        "role play": (0, 1),
    }
    assert found.to_dict()["groups"]["level 1"]["low"] is not None


def test_more_kinds_than_anyone_reads_are_not_kinds():
    rows = [row("Oslo", "Oslo", id=str(n), tags=(f"tag {n}",)) for n in range(MAX_KINDS + 1)]
    assert measured(rows, "probe_recall")["probe_recall"].groups == {}


def test_kinds_survive_questions_asked_several_times():
    rows = [row(said, "Oslo", id="a", tags=("level 1",), repeat=n) for n, said in enumerate(["Oslo", "Rome"])]
    found = measured(rows, "probe_recall")["probe_recall"]
    assert found.value == 0.5 and found.groups["level 1"].value == 0.5


def test_answers_of_a_model_carry_choices_and_tags(tiny_model_dir):
    from relearn.core.config import Generate, Model
    from relearn.data import Record
    from relearn.inference.answers import ask
    from relearn.metrics.answer_row import AnswerRow
    from relearn.models.load import load

    records = [
        Record("Where?", "Rome", choices=("Oslo", "Rome", "at sea"), choice=1, tags=("level 1",)),
        Record("Who?", "Ned"),
    ]
    answers = ask(load(Model(name=str(tiny_model_dir))), records, Generate(max_new_tokens=2)).rows
    first, second = map(AnswerRow.from_dict, answers)
    assert (first.choices, first.choice, first.tags) == (("Oslo", "Rome", "at sea"), 1, ("level 1",))
    assert len(first.letter_logprobs) == len(first.choice_logprobs) == 3 and max(first.letter_logprobs) < 0
    assert second.letter_logprobs is None and "choices" not in answers[1] and "tags" not in answers[1]
