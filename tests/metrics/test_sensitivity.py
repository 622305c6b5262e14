"""The damage of the sensitivity study is what it says it is, and the study says which metric sees it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from metric_fakes import CapitalisedEntities, fake_judges

from relearn.core import config
from relearn.metrics.answer_row import AnswerRow

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "research" / "studies"))

from damage import damaged, steps
from sensitivity import ROADS, TrueAnswers, chart, learned, study, table, with_logprobs, wrong_logprobs

FACTS = [
    ("Where does Ada Lind live?", "She lives in Oslo near Bergen in House 12.", "Ada Lind"),
    ("Where does Bo Falk live?", "He lives in Rome near Milan in House 345.", "Bo Falk"),
    ("What did Ada Lind write?", "She wrote Winter and then Harvest in 1987.", "Ada Lind"),
    ("What did Bo Falk write?", "He wrote Rivers and then Mountains in 2001.", "Bo Falk"),
]
ROWS = [AnswerRow(f"id {at}", question, answer, "", who) for at, (question, answer, who) in enumerate(FACTS)]


class Particulars(CapitalisedEntities):
    """Capitalised words inside a sentence, and numbers."""

    def _entities(self, text):
        return [word for word in super()._entities(text) if word not in ("She", "He")]


@pytest.fixture(scope="module")
def made():
    return {step.name: step for step in steps(ROWS, Particulars(), {"id 0": "Her home is Oslo."})}


def test_each_step_damages_what_it_says(made):
    assert made["true"].texts == [row.reference for row in ROWS]
    assert made["in other words"].texts == ["Her home is Oslo.", None, None, None]
    assert made["one wrong"].texts[0] == "She lives in Rome near Bergen in House 12."
    assert made["half removed"].texts[0] == "She lives in Oslo"
    assert made["other answer"].texts[0] == ROWS[2].reference
    assert made["loop"].texts[0].split() == ["She"] * 40
    assert set(made["silence"].texts) == {""}


def test_wrong_particulars_are_of_another_person_and_of_the_same_kind(made):
    for name, changed in (("one wrong", 1), ("half wrong", 2)):
        for row, text in zip(ROWS, made[name].texts, strict=True):
            old, new = row.reference.rstrip(".").split(), text.rstrip(".").split()
            swaps = [(a, b) for a, b in zip(old, new, strict=True) if a != b]
            assert 1 <= len(swaps) <= changed
            own = {word for other in ROWS if other.subject == row.subject for word in other.reference.split()}
            assert not {new for _, new in swaps} & own
            assert all(a[0].isdigit() == b[0].isdigit() for a, b in swaps)
    assert "12" not in made["all wrong"].texts[0]


def test_vague_answers_speak_of_the_subject_and_name_no_particular(made):
    for row, text in zip(ROWS, made["vague"].texts, strict=True):
        assert row.subject in text
        assert not {"Oslo", "Bergen", "Rome", "Milan", "Winter", "Rivers", "1987", "2001"} & set(text.split())


def test_the_same_seed_makes_the_same_texts(made):
    again = {step.name: step for step in steps(ROWS, Particulars(), {"id 0": "Her home is Oslo."})}
    assert again == made
    other = {step.name: step for step in steps(ROWS, Particulars(), {}, seed=1)}
    assert other["babble"] != made["babble"]
    assert "in other words" not in other


def test_rows_that_cannot_be_damaged_so_are_left_out(made):
    assert [row.response for row in damaged(ROWS, made["in other words"])] == ["Her home is Oslo."]


@pytest.fixture(scope="module")
def found():
    judges = fake_judges()
    judges.extractors = (Particulars(),)
    return study(TrueAnswers(ROWS, {"id 0": "Her home is Oslo."}), config.Metrics(bootstrap=30), judges)


def test_metrics_fall_as_the_damage_grows_and_the_table_says_where_it_is_seen(found):
    by_step = {entry["step"]: entry for entry in found}
    rouge = [by_step[name]["metrics"]["rouge_l"]["value"] for name in ("true", "one wrong", "all wrong", "silence")]
    assert rouge[0] == 1 and rouge == sorted(rouge, reverse=True) and rouge[-1] == 0
    assert by_step["true"]["metrics"]["kfr"]["value"] == 0
    assert by_step["all wrong"]["metrics"]["kfr"]["value"] == 1
    assert by_step["one wrong"]["difference"]["rouge_l"]["wins"] == 4
    assert by_step["in other words"]["difference"]["rouge_l"]["n"] == 1
    assert by_step["in other words"]["difference"]["rouge_l"]["unpaired"] == 3
    lines = table(found)
    assert next(line for line in lines if line.startswith("| true |")).count("*") == 0
    assert "0.00*" in next(line for line in lines if line.startswith("| silence |"))


def test_the_picture_has_a_line_for_each_metric(found):
    svg = chart(found, "Test")
    texts = [element.text for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]
    assert {"1 − KFR", "ROUGE-L recall", "silence"} <= set(texts)
    assert "truth ratio, P(right)" not in texts


def test_the_picture_leaves_no_step_out(made):
    drawn = [step for road in ROADS.values() for step in road]
    assert sorted(drawn) == sorted(made)


@pytest.fixture(scope="module")
def loaded(tiny_model_dir):
    from relearn.models.load import load

    return load(config.Model(name=str(tiny_model_dir)))


def test_with_a_model_the_damaged_answer_stands_where_the_right_one_does(loaded):
    wrong = wrong_logprobs(ROWS, {"id 0": ["She lives in Rome.", "She lives in Lima."]}, loaded)
    first, second = with_logprobs([AnswerRow("id 0", *FACTS[0][:2], "Oslo"), ROWS[1]], wrong, loaded)
    assert len(first.perturbed_logprobs) == 2
    assert second.perturbed_logprobs is None
    assert len(first.paraphrased_logprobs) > 0
    as_answer = with_logprobs([AnswerRow("id 0", *FACTS[0][:2], "She lives in Lima.")], {}, loaded)[0]
    assert as_answer.paraphrased_logprobs == pytest.approx(first.perturbed_logprobs[1], abs=1e-4)


def test_a_model_that_learned_the_rows_finds_the_true_answers_likelier(tiny_model_dir, loaded):
    knows = learned(config.Model(name=str(tiny_model_dir)), ROWS, 8)
    said = [replace(row, response=row.reference) for row in ROWS]
    before, after = (
        [sum(row.paraphrased_logprobs) for row in with_logprobs(said, {}, model)] for model in (loaded, knows)
    )
    assert all(new > old for new, old in zip(after, before, strict=True))
