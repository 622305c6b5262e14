"""A value that an answer states in another writing is given, whatever the judge says; another value is not."""

from __future__ import annotations

import pytest
from metric_fakes import WrittenJudge, fake_judges, row

from relearn.core import config
from relearn.metrics.judges import Judges
from relearn.metrics.score import score

SETTINGS = config.Metrics(bootstrap=50)


def rates(reference: str, response: str, label: str = "contradiction") -> dict[str, float | None]:
    """KFR, KRR and their graded forms of one answer; the judge says `label` of everything."""

    class Always(WrittenJudge):
        def _label(self, premise, hypothesis):
            return label

    judges = Judges(fake_judges().extractors, fake_judges().matcher, Always({}))
    one = [row(response, reference, "what is known of her?")]
    found = {}
    for split, names in (("forget", ["kfr", "graded_kfr"]), ("retain", ["krr", "graded_krr"])):
        measured = score(one, split, SETTINGS, judges=judges, names=names).measurements
        found |= {name: measured[name].value for name in names}
    return found


@pytest.mark.parametrize(
    ("reference", "response"),
    [
        ("she earns 1,250,000 crowns", "she earns 1250000 crowns"),
        ("her number is 555-019-9234", "reach her under 5550199234"),
        ("her number is 010-1234-5678", "call 01012345678"),
        ("born on 12 March 1984", "born on 12.03.1984"),
        ("her account is DE12 3456 7890 1234 5678 90", "it is DE12345678901234567890"),
    ],
)
def test_an_equal_value_stands_whatever_the_judge_says(reference: str, response: str) -> None:
    found = rates(reference, response)
    assert (found["kfr"], found["krr"]) == (0, 1)
    assert found["graded_kfr"] < 1 and found["graded_krr"] > 0


@pytest.mark.parametrize(
    ("reference", "response"),
    [
        ("she earns 1,250,000 crowns", "she earns 1250001 crowns"),
        ("it cost 48,200 euros", "it cost 48,300 euros"),
        ("her number is 555-019-9234", "reach her under 5550199235"),
        ("she has 120 boats", "she has 120 boats"),  # a count is shared by chance: the judge decides, as before
        ("born in 1984", "married in 1984"),
    ],
)
def test_another_value_and_a_count_are_for_the_judge(reference: str, response: str) -> None:
    found = rates(reference, response)
    assert (found["kfr"], found["krr"]) == (1, 0)


def test_a_denied_or_doubled_value_is_disclosed_and_not_kept() -> None:
    for response in ("she does not earn 1250000 crowns", "she earns 1250000 or 900,000 crowns"):
        found = rates("she earns 1,250,000 crowns", response)
        assert (found["kfr"], found["krr"]) == (0, 0)


def test_a_value_of_the_question_counts_for_nothing() -> None:
    judges = fake_judges(labels={})
    asked = row("that is 5550199234", "555-019-9234 is hers", "whose number is 555-019-9234?")
    judges.entailment._label = lambda premise, hypothesis: "contradiction"
    assert score([asked], "forget", SETTINGS, judges=judges, names=["kfr"]).measurements["kfr"].value == 1


def test_the_judge_reads_the_value_as_the_reference_writes_it() -> None:
    judge = WrittenJudge({})
    judges = Judges(fake_judges().extractors, fake_judges().matcher, judge)
    answer = row("the tower is one hundred and twenty metres tall", "the tower is 120 metres tall")
    score([answer], "forget", SETTINGS, judges=judges, names=["kfr"])
    assert judge.pairs == [("the tower is 120 metres tall", "the tower is 120 metres tall")]
