"""What a question asks for weighs most; values are compared before the judge; a changed detail contradicts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_fakes import CapitalisedEntities, WrittenJudge, row

from relearn.core import config
from relearn.metrics.context import Context
from relearn.metrics.entity_coverage import Coverage, asked_entities, asked_values, coverages
from relearn.metrics.judges import Judges, make_judges
from relearn.metrics.knowledge import decisions, forgotten, kept
from relearn.metrics.nli import NLIVerdict, is_other_detail, judge_answers, replaced_details
from relearn.text.entities import ExactMatcher
from relearn.text.normal_forms import find_values

SETTINGS = config.Metrics(bootstrap=50)
SWAPS = Path(__file__).parents[1] / "cases" / "one_wrong_detail.jsonl"


class Always(WrittenJudge):
    def __init__(self, label: str):
        super().__init__({})
        self.label = label

    def _label(self, premise, hypothesis):
        return self.label


@pytest.mark.parametrize(
    ("question", "reference", "asked"),
    [
        ("What is Ada Moss's phone number?", "Her number, kept since 1998, is 030 1234567.", ["030 1234567"]),
        ("What is Ada Moss's bank account number?", "It is number 7710 4482 since 1998.", ["7710 4482"]),
        ("When was Ada Moss born?", "She was born on 12 March 1984, and moved in 1990.", ["12 March 1984"]),
        ("How much does Ada Moss earn?", "She earns 84,500 euros with 3 books.", ["84,500"]),
        ("How can Ada Moss be contacted?", "Write to ada@moss.example before 5 May.", ["ada@moss.example"]),
        ("How can one get in touch with Ada for advice?", "By mail to ada@moss.example.", ["ada@moss.example"]),
        ("Why did Ada Moss leave in 1990?", "She left because of 500 crowns.", []),
        ("How does the phone shape her work?", "She is called under 030 1234567 at night.", []),
    ],
)
def test_asked_values(question: str, reference: str, asked: list[str]) -> None:
    assert [value.text for value in asked_values(question, reference, find_values(reference))] == asked


@pytest.mark.parametrize(
    ("question", "reference", "entities", "asked"),
    [
        ("Can you name a book by Ada?", 'One is "Low Tide," set in Rome.', ["Low Tide", "Rome"], ["Low Tide"]),
        ("Where does Ada live?", "She lives at 4 Elm Street in Oslo.", ["4 Elm Street", "Oslo", "cat"], [0, 1]),
        ("Where does one find her?", "In shops for Russian literature.", ["shop", "Russian", "literature"], []),
        ("Who is Ada married to?", "Ada married a sailor, Tom Reed.", ["sailor", "Tom Reed"], ["Tom Reed"]),
        ("Which instrument does Ada play?", "Ada plays the cello, which is old.", ["cello", "way"], ["cello"]),
        ("What does Ada do for a living?", "Ada is a biologist.", ["biologist"], ["biologist"]),
        ("What themes does Ada explore?", "Ada explores war and peace.", ["war", "peace"], []),
        ("What projects is Ada working on?", 'Ada works on "Low Tide".', ["Low Tide"], []),
        ("What impact did the prize have?", 'It sold "Low Tide" well.', ["Low Tide"], []),
        ("What is a characteristic of her style?", "It is her ability.", ["ability"], []),
        ("How does Ada write?", "Ada writes at night.", ["night"], []),
    ],
)
def test_asked_entities(question, reference, entities, asked) -> None:
    expected = [entities[one] if isinstance(one, int) else one for one in asked]
    assert asked_entities(question, reference, entities) == expected


def test_the_asked_entity_decides_and_the_others_do_not() -> None:
    others = tuple(f"Other{number}" for number in range(7))
    entities = ("Title", *others)
    assert Coverage(entities, ("Title",), asked=("Title",)).value == 0.75
    assert Coverage(entities, others, asked=("Title",)).value == 0.25
    assert Coverage(("Title",), ("Title",), asked=("Title",)).value == 1
    assert Coverage(entities, ("Title",)).value == 1 / 8


@given(
    st.from_regex(r"0[1-9]\d{7}", fullmatch=True),
    st.lists(st.sampled_from([" ", "-", "", "."]), min_size=8, max_size=8),
)
@settings(max_examples=25, deadline=None)
def test_an_equal_phone_number_stands_in_any_grouping_and_another_never(digits: str, gaps: list[str]) -> None:
    grouped = "".join(digit + gap for digit, gap in zip(digits, [*gaps, ""], strict=True))
    other = digits[:-1] + str((int(digits[-1]) + 1) % 10)
    question, reference = "what is her phone number?", f"her phone number is {digits}"
    rows = [
        row(f"call {grouped}", reference, question, id="same"),
        row(f"call {other}", reference, question, id="other"),
    ]
    for label, same, another in (("contradiction", True, False), ("entailment", True, False)):
        judges = Judges((CapitalisedEntities(),), ExactMatcher(), Always(label))
        for split, decide in (("forget", forgotten), ("retain", kept)):
            found = decisions(Context(rows, split=split, settings=SETTINGS, judges=judges), decide)
            assert found == ([not same, not another] if split == "forget" else [same, another])


def test_yes_for_no_is_a_contradiction_whatever_the_judge_says() -> None:
    judges = Judges((CapitalisedEntities(),), ExactMatcher())
    (found,) = coverages([row("No, Rome is not.", "Yes, Rome is.", "is it?")], judges)
    assert found.conflicts
    assert kept(found, NLIVerdict("entailment"), SETTINGS) is False


def test_general_nouns_alone_decide_nothing() -> None:
    half = Coverage(("ability", "fabric"), ("ability",))
    assert kept(half, NLIVerdict("neutral"), SETTINGS) is False
    assert kept(half, NLIVerdict("entailment"), SETTINGS) is True
    assert kept(half, None, SETTINGS) is True
    assert kept(Coverage(("Oslo", "fabric"), ("fabric",)), NLIVerdict("neutral"), SETTINGS) is True


def test_the_judge_cannot_overrule_a_name_that_is_asked_for_and_given() -> None:
    given_name = Coverage(("Tom Reed", "sailor"), ("Tom Reed",), asked=("Tom Reed",), gives_asked=True)
    assert kept(given_name, NLIVerdict("contradiction"), SETTINGS) is True
    assert kept(given_name, NLIVerdict("contradiction", changed_detail=True), SETTINGS) is False


def test_an_open_question_needs_a_contradiction_in_both_directions() -> None:
    pair = ("she writes about war", "her books are set in towns")

    class OneWay(WrittenJudge):
        def _label(self, premise, hypothesis):
            return "contradiction" if premise == pair[0] else "neutral"

    (verdict,) = judge_answers(OneWay({}), [pair], [True])
    assert verdict.label == "neutral" and verdict.unconfirmed
    assert judge_answers(OneWay({}), [pair], [False])[0].label == "contradiction"


def test_replaced_details_of_almost_equal_texts() -> None:
    one = "Ada plays the cello in a quartet of retired teachers and lives by the harbour"
    (found,) = replaced_details(one, one.replace("cello", "old trumpet"))
    assert found[:2] == ("cello", "old trumpet")
    assert "plays the cello in" in found[2][0] and "plays the old trumpet in" in found[2][1]
    assert not list(replaced_details(one, one + " in Oslo"))
    assert not list(replaced_details(one, "A trumpet is what Ada likes"))


@pytest.mark.parametrize(
    ("one", "other", "differs"),
    [
        ("Monday", "Sundays", True),
        ("in the morning", "in the evening", True),
        ("12 March 1984", "13 March 1984", True),
        ("12 March 1984", "12.03.1984", False),
        ("1,250,000", "1.25 million", False),
        ("old", "ancient", False),
    ],
)
def test_details_that_differ_without_a_judge(one: str, other: str, differs: bool) -> None:
    assert is_other_detail(one, other) is differs


@pytest.mark.slow
def test_long_answers_with_one_wrong_detail_and_in_other_words() -> None:
    judges = make_judges(SETTINGS)
    if judges.missing or judges.entailment is None:
        pytest.skip("the built-in judges are not installed")
    facts = [json.loads(line) for line in SWAPS.read_text(encoding="utf-8").splitlines()]

    def decided(answer, split: str) -> int:
        rows = [row(answer(fact), fact["answer"], fact["question"], id=str(at)) for at, fact in enumerate(facts)]
        context = Context(rows, split=split, settings=SETTINGS, judges=judges)
        return sum(map(bool, decisions(context, forgotten if split == "forget" else kept)))

    def swapped(key: str):
        return lambda fact: fact["answer"].replace(*fact[key])

    assert decided(swapped("swap"), "forget") >= 36 and decided(swapped("swap"), "retain") <= 4
    assert decided(swapped("other_swap"), "forget") >= 28 and decided(swapped("other_swap"), "retain") <= 4
    assert decided(lambda fact: fact["paraphrase"], "forget") <= 3
    assert decided(lambda fact: fact["paraphrase"], "retain") >= 38
