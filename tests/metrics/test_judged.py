"""Grades by a language model: strict reading, failures counted, a server that fails, and who may be sent what."""

from __future__ import annotations

import re

import pytest
from metric_fakes import fake_judges, row

from fake_endpoint import Reply, endpoint, prompt_of
from relearn.core import config
from relearn.core.errors import GeneratorError, InputError
from relearn.llm import Completion
from relearn.metrics.judges import make_judges
from relearn.metrics.llm_judge import (
    ASPECTS,
    MAX_RESPONSE,
    RUBRIC,
    agreement,
    check_remote_judge,
    grade,
    grade_prompt,
    judge_cases,
    judge_check,
    read_grade,
)
from relearn.metrics.score import score

SETTINGS = config.Metrics(bootstrap=20)
ROWS = [row(f"She lives in town number {number}.", id=str(number)) for number in range(30)]


class Scripted:
    """Answers every prompt with what `reply` makes of it."""

    name = "scripted"

    def __init__(self, reply):
        self.reply = reply
        self.asked = []

    def complete(self, prompts):
        self.asked += prompts
        return [self.reply(prompt) for prompt in prompts]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("It reads well.\nScore: 4", 4),
        ("score: 5.", 5),
        ("**Score: 3**", 3),
        ("**Score:** 2", 2),
        ("Score: 4/5", 4),
        ("Fine.\n\nScore: 1\n\n", 1),
        ("Score: 4\nScore: 4", 4),
        ("", None),
        ("4", None),
        ("Score: 6", None),
        ("Score: 0", None),
        ("Score: 4.5", None),
        ("Score: four", None),
        ("Score: 4 or 5", None),
        ("Score: 4\nbut it could be better", None),
        ("Score: 2\nScore: 4", None),
        ("My score: 4", None),
        ("Score: N", None),
        ("Score: 4/10", None),
        ("Score: 45", None),
        ("Score: -4", None),
    ],
)
def test_only_the_grade_in_the_form_asked_for_counts(text, value):
    found = read_grade(Completion(text))
    assert found.grade == value
    assert found.failure == ("" if value else "not understood")


def test_a_failed_call_is_a_failure_and_no_grade():
    assert read_grade(Completion(error="503")).failure == "failed"


def test_the_prompt_holds_one_answer_the_version_and_the_private_answer_only_for_forgetting():
    asked = row("He says $5 {x}.", "the secret", "Where $to?")
    for aspect in ASPECTS:
        text = grade_prompt(asked, aspect).text
        assert f"Rubric {aspect} {RUBRIC}." in text
        assert "He says $5 {x}." in text and "Where $to?" in text
        assert ("the secret" in text) is (aspect == "forgetting")
    assert "x" * MAX_RESPONSE in grade_prompt(row("x" * 50_000), "fluency").text
    assert len(grade_prompt(row("x" * 50_000), "fluency").text) < MAX_RESPONSE + 2000


def test_an_empty_answer_is_not_sent():
    judge = Scripted(lambda prompt: Completion("Score: 3"))
    rows = [row("", id="a"), row(" \n", id="b"), row("text", id="c")]
    assert [item.grade for item in grade(rows, "fluency", judge)] == [1, 1, 3]
    assert [item.grade for item in grade(rows, "forgetting", judge)] == [5, 5, 3]
    assert len(judge.asked) == 2


def test_without_a_judge_nothing_is_scored_and_the_reason_is_said():
    found = score(ROWS[:3], "forget", SETTINGS, judges=fake_judges(), names=list(ASPECTS)).measurements
    for aspect in ASPECTS:
        assert (found[aspect].value, found[aspect].unscored) == (None, 3)
        assert "metrics.judge" in found[aspect].why


def test_failures_are_counted_in_the_note_and_never_scores():
    replies = {
        "0": Completion("Score: 5"),
        "1": Completion(error="x"),
        "2": Completion("no idea"),
        "3": Completion("Score: 1"),
    }

    def reply(prompt):
        return replies[re.search(r"number (\d)", prompt.text)[1]]

    judges = fake_judges()
    judges.grader = Scripted(reply)
    measured = score(ROWS[:4], "retain", SETTINGS, judges=judges, names=["fluency"]).measurements["fluency"]
    assert measured.per_record == {"0": 5, "1": None, "2": None, "3": 1}
    assert measured.value == 3
    assert (measured.n, measured.unscored) == (2, 2)
    assert f"judge scripted, rubric {RUBRIC}" in measured.note
    assert "the judge failed (1)" in measured.note and "its reply was not understood (1)" in measured.note


def test_what_was_graded_is_not_asked_again_and_what_failed_is():
    answers = iter([Completion(error="x"), Completion("Score: 2"), Completion("Score: 4")])
    judges = fake_judges()
    judges.grader = Scripted(lambda prompt: next(answers))
    assert [item.grade for item in judges.grades(ROWS[:2], "fluency")] == [None, 2]
    assert [item.grade for item in judges.grades(ROWS[:2], "fluency")] == [4, 2]
    assert len(judges.grader.asked) == 3


def test_a_judge_that_stops_answering_leaves_items_unscored():
    class Stopped:
        name = "stopped"

        def complete(self, prompts):
            raise GeneratorError("stopped answering")

    assert {item.failure for item in grade(ROWS, "fluency", Stopped())} == {"failed"}


def graded_by_server(monkeypatch, tmp_path, answer, names=("fluency", "relevance", "forgetting")):
    with endpoint(answer) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        settings = config.Metrics(bootstrap=20, judge="openai:m", matcher="exact")
        judges = make_judges(settings, cache=tmp_path / "cache.sqlite")
        judges.extractors, judges.matcher, judges.missing = fake_judges().extractors, fake_judges().matcher, None
        return score(ROWS, "forget", settings, judges=judges, names=list(names)).measurements, server


def test_a_server_that_fails_one_call_in_three_ends_with_every_item_scored(monkeypatch, tmp_path):
    def answer(body, number):
        if number % 3 == 2:
            return Reply(status=503, headers={"Retry-After": "0.01"})
        return Reply("It is clear.\nScore: 4")

    found, server = graded_by_server(monkeypatch, tmp_path, answer)
    for measured in found.values():
        assert (measured.value, measured.n, measured.unscored) == (4, 30, 0)
    assert len(server.requests) >= 90 + 40


def test_a_server_that_garbles_one_reply_in_three_ends_with_every_item_scored_or_counted(monkeypatch, tmp_path):
    def answer(body, number):
        town = int(re.search(r"number (\d+)", prompt_of(body))[1])
        if town % 3 == 0:
            return Reply("I would say four.")
        return Reply(status=400) if town % 3 == 1 else Reply("Score: 2")

    found, _ = graded_by_server(monkeypatch, tmp_path, answer, ["relevance"])
    measured = found["relevance"]
    assert (measured.value, measured.n, measured.unscored) == (2, 10, 20)
    assert "the judge failed (10), its reply was not understood (10)" in measured.note


def test_an_outage_in_the_middle_keeps_what_was_graded(monkeypatch, tmp_path):
    def answer(body, number):
        town = int(re.search(r"number (\d+)", prompt_of(body))[1])
        return Reply("Score: 5") if town < 20 else Reply(status=500, headers={"Retry-After": "0.01"})

    found, _ = graded_by_server(monkeypatch, tmp_path, answer, ["fluency"])
    measured = found["fluency"]
    assert measured.value == 5
    assert (measured.n, measured.unscored) == (20, 10)


def test_a_second_scoring_asks_nothing(monkeypatch, tmp_path):
    _, server = graded_by_server(monkeypatch, tmp_path, lambda body, number: Reply("Score: 3"))
    with endpoint(lambda body, number: Reply("Score: 1")) as other:
        monkeypatch.setattr("relearn.llm.endpoint.base_url", lambda: server.url)
        judges = make_judges(config.Metrics(judge="openai:m", matcher="exact"), cache=tmp_path / "cache.sqlite")
        again = [item.grade for item in judges.grades(ROWS, "fluency")]
    assert again == [3] * 30
    assert other.requests == []


def test_another_host_needs_permission_before_anything_is_sent(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "https://judge.example/v1")
    with pytest.raises(InputError, match=r"judge\.example.*allow_remote"):
        make_judges(config.Metrics(judge="openai:m"))
    check_remote_judge(config.Metrics(judge="openai:m", allow_remote=True))
    check_remote_judge(config.Metrics(judge="transformers:anything"))
    with pytest.raises(InputError, match="templates cannot grade"):
        check_remote_judge(config.Metrics(judge="templates"))
    with pytest.raises(InputError, match="names no model"):
        check_remote_judge(config.Metrics(judge="openai"))


# Is a judge usable


def test_the_cases_are_ten_of_invented_people_with_all_grades_used():
    cases = judge_cases()
    assert len(cases) == 10
    for aspect in ASPECTS:
        grades = [case[aspect] for case in cases]
        assert set(grades) <= {1, 2, 3, 4, 5} and len(set(grades)) >= 4
    assert all(case["why"] for case in cases)


def test_agreement_by_hand():
    found = agreement([1, 2, 3, 4, 5], [1, 3, 3, 4, None])
    assert (found.asked, found.read) == (5, 4)
    assert found.exact == 3 / 4 and found.near == 1 and found.off == 1 / 4
    assert found.order == pytest.approx(0.9486833)  # ranks 1 2 3 4 and 1 2.5 2.5 4
    assert not found.usable  # a fifth of the replies was not read
    assert agreement([1, 2, 3], [None] * 3).exact is None


def judge_of(choose):
    def reply(prompt):
        fields = prompt.fields
        asked = (fields["question"], fields["response"])
        (case,) = (case for case in judge_cases() if (case["question"], case["response"]) == asked)
        return choose(case, prompt.fields["aspect"])

    return Scripted(reply)


def test_the_hand_itself_is_usable_and_a_judge_that_always_says_four_is_not():
    by_hand = judge_check(judge_of(lambda case, aspect: Completion(f"Score: {case[aspect]}")))
    assert by_hand.usable
    assert all(found.exact == 1 and found.order == pytest.approx(1) for found in by_hand.agreement.values())
    always = judge_check(judge_of(lambda case, aspect: Completion("Score: 4")))
    assert not always.usable
    assert always.agreement["fluency"].order is None
    assert "not usable" in always.lines()[-1]


def test_a_judge_of_the_wrong_way_round_and_a_silent_one_are_not_usable():
    turned = judge_check(judge_of(lambda case, aspect: Completion(f"Score: {6 - case[aspect]}")))
    assert not turned.usable
    silent = judge_check(Scripted(lambda prompt: Completion("Well...")))
    assert not silent.usable
    assert silent.lines()[0] == "fluency: 0 of 10 replies could be read"


def test_the_command_says_it_and_ends_with_1(monkeypatch, capsys):
    from relearn.cli import run_command

    with endpoint(lambda body, number: Reply("Score: 4")) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        assert run_command(["doctor", "--judge", "openai:m"]) == 1
    assert "not usable as a judge" in capsys.readouterr().out
    assert len(server.requests) == 30
