"""Coverage, KFR and KRR: numbers worked by hand, thresholds at their edge, and what happens when a judge is missing."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from metric_fakes import WrittenJudge, fake_judges, row
from parts_fakes import measured as measured_parts

from relearn.core import config
from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.entity_coverage import Coverage, coverages
from relearn.metrics.judges import Judges
from relearn.metrics.knowledge import forgotten, kept
from relearn.metrics.nli import NLIVerdict
from relearn.metrics.score import score
from relearn.synthesis.questions import wording_id
from relearn.text.entities import EmbeddingMatcher

PAPER = config.Metrics(bootstrap=50)
CITIES = ("Oslo", "Rome", "Paris", "Lima", "Quito", "Cairo", "Delhi", "Tunis", "Minsk", "Tokyo")


def kfr(rows, judges, settings=PAPER):
    return score(rows, "forget", settings, judges=judges, names=["kfr"])


def krr(rows, judges, settings=PAPER):
    return score(rows, "retain", settings, judges=judges, names=["krr"])


def covered(matched: int, of: int, **more) -> Coverage:
    return Coverage(CITIES[:of], CITIES[:matched], **more)


# Coverage


def test_coverage_by_hand():
    rows = [
        row("Rome and Oslo.", id="half"),  # 2 of 4
        row("Rome Rome Rome", id="once"),  # 1 of 4, said three times
        row("Delhi", id="none"),
        row("", id="empty"),
        row("Lima Paris Rome Oslo Delhi Cairo", id="all"),
    ]
    assert [found.value for found in coverages(rows, fake_judges())] == [0.5, 0.25, 0, 0, 1]


def test_trap_13_one_entity_matches_one_so_coverage_never_exceeds_1():
    class AllAlike:
        def encode(self, texts):
            return np.ones((len(texts), 1))

    matcher = EmbeddingMatcher("not loaded")
    matcher._encoder = AllAlike()
    judges = fake_judges(matcher=matcher)
    many, few = row("Delhi Cairo Tunis Minsk", "Oslo Rome", id="many"), row("Delhi", "Oslo Rome Lima", id="few")
    assert [found.value for found in coverages([many, few], judges)] == [1, pytest.approx(1 / 3)]


def test_trap_13_entities_of_the_question_are_left_out_on_both_sides():
    asked = row("Oslo Rome", "Oslo Rome Paris", question="what joins Oslo to others?")
    (found,) = coverages([asked], fake_judges())
    assert found.reference == ("Rome", "Paris")
    assert found.value == 0.5


def test_trap_13_both_lists_empty_is_undefined_and_not_zero():
    (found,) = coverages([row("nothing here", "nothing there")], fake_judges())
    assert found.reference == ()
    assert found.value is None


def test_trap_13_entities_are_worked_out_once_for_all_models():
    judges = fake_judges()
    rows = [row("Rome"), row("Lima")]
    for _ in range(2):
        for single in rows:
            coverages([single], judges)
    asked = judges.extractors[0].asked
    assert sorted(asked) == sorted({"where to?", "Oslo Rome Paris Lima", "Rome", "Lima"})


def test_the_subject_is_left_out_when_the_question_names_a_part_of_it():
    (partly,) = coverages(
        [row("Oslo", "Oslo Lima", question="where does Oslo go?", subject="Oslo Rome")], fake_judges()
    )
    assert partly.reference == ("Lima",)
    named = row("Rome", "Rome", question="what is the rest of the name of Oslo?", subject="Oslo Rome")
    (name,) = coverages([named], fake_judges())
    assert name.reference == ("Rome",)


def test_an_entity_said_word_for_word_counts_even_if_overlooked():
    class Blind:
        name = "blind"

        def extract(self, texts):
            return [["snow ledger"] if text == "reference" else [] for text in texts]

    judges = Judges((Blind(),), fake_judges().matcher)
    (found,) = coverages([row("He wrote The Snow Ledger.", "reference")], judges)
    assert found.value == 1


def test_no_general_noun_is_dropped_because_another_entity_is_there():
    class Listed:
        name = "listed"

        def extract(self, texts):
            return [text.split(",") for text in texts]

    judges = Judges((Listed(),), fake_judges().matcher)
    rows = [row("career", "career,violin", id="a"), row("career", "career,story", id="b")]
    with_thing, without = coverages(rows, judges)
    assert (with_thing.reference, with_thing.value) == (("career", "violin"), 0.5)
    assert (without.reference, without.value) == (("career", "story"), 0.5)


@given(st.lists(st.sampled_from(CITIES)), st.lists(st.sampled_from(CITIES)), st.randoms(use_true_random=False))
def test_coverage_lies_between_0_and_1_and_knows_no_order(reference, answer, shuffler):
    (found,) = coverages([row(" ".join(answer), " ".join(reference))], fake_judges())
    assert (found.value is None) == (not reference and bool(answer))
    mixed_reference, mixed_answer = list(reference), list(answer)
    shuffler.shuffle(mixed_reference)
    shuffler.shuffle(mixed_answer)
    (again,) = coverages([row(" ".join(mixed_answer), " ".join(mixed_reference))], fake_judges())
    assert again.value == found.value
    if found.value is not None:
        assert 0 <= found.value <= 1


@given(st.lists(st.sampled_from(CITIES), min_size=1))
def test_the_reference_itself_has_coverage_1(reference):
    (found,) = coverages([row(" ".join(reference), " ".join(reference))], fake_judges())
    assert found.value == 1


# KFR and KRR, item by item


@pytest.mark.parametrize(
    ("coverage", "label", "is_forgotten", "is_kept"),
    [
        (covered(2, 10), None, True, False),
        (covered(3, 10), None, False, False),  # E = c1 = c2 = 0.3: the paper's < and > are strict
        (covered(4, 10), None, False, True),
        (covered(4, 10), "contradiction", True, False),
        (covered(4, 10), "neutral", False, True),
        (covered(0, 10), "entailment", True, False),
        (covered(0, 0), "contradiction", True, False),
        (covered(0, 0), "entailment", False, True),
        (covered(0, 0), "neutral", False, True),
        (covered(0, 0), None, None, None),
        (covered(0, 0, empty_answer=True), None, True, False),
        (None, None, None, None),
        (None, "contradiction", None, None),
    ],
)
def test_the_rules(coverage, label, is_forgotten, is_kept):
    verdict = label and NLIVerdict(label)
    assert forgotten(coverage, verdict, PAPER) is is_forgotten
    assert kept(coverage, verdict, PAPER) is is_kept


def test_trap_4_a_failed_judge_leaves_the_item_unscored():
    failed = NLIVerdict(None)
    assert forgotten(covered(0, 4), failed, PAPER) is None
    assert kept(covered(4, 4), failed, PAPER) is None


def test_few_entities_is_off_by_default_and_raises_c1_to_a_half():
    few = config.Metrics(few_entities=True)
    assert forgotten(covered(1, 3), None, PAPER) is False  # 1/3 > 0.3
    assert forgotten(covered(1, 3), None, few) is True  # 1/3 < 0.5
    assert forgotten(covered(2, 4), None, few) is False  # four entities are not few
    assert kept(covered(1, 3), None, few) is True


def test_thresholds_are_configuration():
    assert forgotten(covered(3, 10), None, config.Metrics(c1=0.31)) is True
    assert kept(covered(4, 10), None, config.Metrics(c2=0.5)) is False


# KFR and KRR over a data set


def test_kfr_by_hand():
    rows = [
        row("nowhere", id="a"),  # E 0: forgotten
        row("Oslo", id="b"),  # E 1/4 < 0.3: forgotten
        row("Oslo Rome", id="c"),  # E 1/2: known
        row("", id="d"),  # empty: forgotten
        row("hm", "nothing", id="e"),  # no entity, no judge: unscored
    ]
    found = kfr(rows, fake_judges())
    measured = found.measurements["kfr"]
    assert measured.value == pytest.approx(3 / 4)
    assert (measured.n, measured.unscored) == (4, 1)
    assert measured.per_record == {"a": 1, "b": 1, "c": 0, "d": 1, "e": None}
    assert measured.low <= measured.value <= measured.high
    assert "rests on entity coverage alone" in measured.note
    assert found.items["c"] == {
        "coverage": 0.5,
        "reference_entities": ["Oslo", "Rome", "Paris", "Lima"],
        "matched": ["Oslo", "Rome"],
        "entailment": None,
        "forgotten": False,
    }


def test_krr_by_hand_with_a_judge():
    rows = [
        row("Oslo Rome", id="a"),  # E 1/2: kept
        row("Oslo Rome Lima", id="b"),  # E 3/4, contradicted: lost
        row("Oslo", id="c"),  # E 1/4: lost
        row("fine", "nothing", id="d"),  # no entity, neutral: kept
        row("", id="e"),  # empty: lost
    ]
    found = krr(rows, fake_judges(labels={"Oslo Rome Lima": "contradiction"}))
    assert found.measurements["krr"].per_record == {"a": 1, "b": 0, "c": 0, "d": 1, "e": 0}
    assert found.measurements["krr"].value == pytest.approx(2 / 5)
    assert "entailment written" in found.measurements["krr"].note
    assert found.items["b"]["entailment"] == "contradiction"
    assert found.items["b"]["kept"] is False


def test_the_premise_is_the_answer_on_forget_and_the_reference_on_retain():
    for measure, pair in ((kfr, ("answer", "Oslo")), (krr, ("Oslo", "answer"))):
        judge = WrittenJudge({})
        judges = Judges(fake_judges().extractors, fake_judges().matcher, judge)
        measure([row("answer", "Oslo", id="a"), row("  ", "Oslo", id="empty")], judges)
        assert judge.pairs == [pair]


def test_trap_4_a_failed_extraction_is_unscored_counted_and_asked_again():
    rows = [row("Oslo Rome", id="a"), row("broken", id="b")]
    judges = fake_judges(fails=["broken"])
    for measured in (kfr(rows, judges).measurements["kfr"], krr(rows, judges).measurements["krr"]):
        assert (measured.n, measured.unscored) == (1, 1)
        assert measured.per_record["b"] is None
    assert judges.extractors[0].asked.count("broken") == 2
    assert judges.extractors[0].asked.count("Oslo Rome") == 1


def test_trap_4_an_outage_is_not_kfr_1_or_krr_0():
    texts = ["Oslo Rome Paris Lima", "Oslo"]
    judges = fake_judges(fails=texts)
    for found in (kfr([row("Oslo")], judges), krr([row("Oslo")], judges)):
        (measured,) = found.measurements.values()
        assert measured.value is None
        assert (measured.n, measured.unscored) == (0, 1)


def test_missing_models_are_not_measured_and_say_what_to_install():
    judges = Judges(missing="the built-in model 'en_core_web_sm' is not installed -> pip install it")
    found = score([row("Oslo", response_logprobs=(-1.0,))], "forget", PAPER, judges=judges)
    assert found.measurements["kfr"].value is None
    assert found.measurements["kfr"].unscored == 1
    assert found.measurements["kfr"].note.startswith("not measured:")
    assert "pip install" in found.measurements["kfr"].note
    assert found.measurements["rouge_l"].value == pytest.approx(1 / 4)
    assert found.items["row"]["coverage"] is None


def test_row_order_changes_no_value():
    rows = [row(" ".join(CITIES[:k]), id=str(k)) for k in range(8)]
    before = kfr(rows, fake_judges())
    random.Random(1).shuffle(rows)
    after = kfr(rows, fake_judges())
    assert after.measurements["kfr"].value == before.measurements["kfr"].value
    assert dict(after.items) == dict(before.items)


def test_trap_14_the_same_question_twice_is_two_items():
    rows = [AnswerRow("one", "where?", "Oslo Rome", "Oslo Rome"), AnswerRow("two", "where?", "Lima Cairo", "nowhere")]
    found = kfr(rows, fake_judges())
    assert found.measurements["kfr"].per_record == {"one": 0, "two": 1}


def test_an_answer_cut_off_in_its_thoughts_has_no_score():
    """Scored as an empty answer, it would be forgotten (KFR 1) and gibberish."""
    said = {"reference": "Oslo Rome", "response": "It is Oslo Rome", "response_logprobs": [-1.0, -2.0]}
    cut = {"reference": "Oslo Rome", "response": "", "response_logprobs": [], "cut_off": True}
    both = measured_parts({"forget": [said, cut]})["forget"]
    one = measured_parts({"forget": [said]})["forget"]
    for name, measurement in both.items():
        assert (measurement.value, measurement.n) == (one[name].value, one[name].n), name
        assert measurement.unscored == one[name].unscored + 1, name
        assert measurement.per_record["1"] is None, name
        # Metrics of the reference alone, which this test gives no measurements for, do not read the answer.
        assert measurement.value is None or "cut off" in measurement.missing, name
    assert both["kfr"].value == 0 and both["gibberish"].value == 0
    wordings = {"forget": [{**said, "response": "No idea"}], "forget_wordings": [{**cut, "id": wording_id("0", 1)}]}
    assert measured_parts(wordings, names=["worst_case"])["forget"]["worst_case"].value is None
    assert [measured_parts({"forget": [cut]})["forget"][name].value for name in ("kfr", "ls")] == [None, None]
