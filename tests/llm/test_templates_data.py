"""The offline generator over all of KnowUnDo's and TOFU forget10's questions and over the demo's."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from relearn.llm import Prompt
from relearn.llm.templates.generator import Templates
from relearn.text.subjects import find_subject
from relearn.workflows.demo.demo import load

KINDS = ("simple", "contextual", "noise", "logical")


@pytest.fixture(scope="module", params=["demo", "knowundo", "tofu"])
def written(request) -> list[tuple[str, str, list[str], list[str]]]:
    """For each question: its subject, [question and variants], [vague answers]."""
    if request.param == "demo":
        questions = [record.question for record in load("private")]
    else:
        data: Path = request.getfixturevalue("data_dir")
        file, field = {"knowundo": ("knowundo/unlearn_train.json", "text"), "tofu": ("tofu/forget10.json", "question")}[
            request.param
        ]
        text = (data / file).read_text(encoding="utf-8")
        rows = json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines() if line]
        questions = [row[field] for row in rows]
    return [_write(question) for question in questions]


def _write(question: str) -> tuple[str, str, list[str], list[str]]:
    subject = find_subject(question) or ""
    fields = {"question": question, "subject": subject, "kinds": ",".join(KINDS)}
    lines = _complete("variants", fields).split("\n")
    asked = [question, *(line.split(": ", 1)[1] for line in lines)]
    listed = "\n".join(f"{number}. {text}" for number, text in enumerate(asked, 1))
    meant = "\n".join(f"{number}. {text}" for number, text in enumerate([*[question] * 4, asked[4]], 1))
    answers = _complete("vague", {"subject": subject, "questions": listed, "asked": meant}).split("\n")
    return question, subject, asked, [answer.split(". ", 1)[1] for answer in answers]


def _complete(task: str, fields: dict[str, str]) -> str:
    completion = Templates().complete([Prompt(text="", task=task, fields=fields)])[0]
    assert completion.ok, completion.error
    return completion.text


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", text.casefold()))


def test_every_question_has_four_different_variants_and_five_different_answers(written):
    for question, _, asked, answers in written:
        assert len({_plain(text) for text in asked}) == 5, question
        assert len(set(answers)) == 5, question


def test_the_subject_is_kept_in_variants_and_answers(written):
    named = [(subject, texts) for _, subject, asked, answers in written for texts in (asked, answers) if subject]
    kept = [subject.casefold() in text.casefold() for subject, texts in named for text in texts]
    assert len(kept) >= 200
    assert sum(kept) / len(kept) >= 0.98


def test_no_answer_holds_a_figure_or_a_name_but_the_subject_s(written):
    """Up to two in a hundred keep another name of the question, where it is its grammatical subject."""
    answers = [(question, answer, subject) for question, subject, _, answers in written for answer in answers]
    assert not [answer for question, answer, _ in answers if re.search(r"\d|@", answer)]
    adjective = r"[A-Z]\w+(?:ish|ese|ian|ean|can|ench|lim|dhist|ndu|holic)\b|[A-Z]{2,}"
    rests = [
        re.sub(adjective, "", answer.replace(subject, "") if subject else answer) for _, answer, subject in answers
    ]
    named = [rest for rest in rests if re.search(r"(?<!^)[A-Z]", rest.replace("Dr.", ""))]
    assert len(named) <= 0.02 * len(rests), named[:20]


def test_answers_have_6_to_50_words_and_end_as_sentences(written):
    for question, _, _, answers in written:
        for answer in answers:
            assert 6 <= len(answer.split()) <= 50, (question, answer)
            assert answer.endswith(".") and ".." not in answer and answer[0].isupper()
            assert not re.search(r"[{}<>|\[\]]| [,;.]|\s{2}|\b(a|an|the) (a|an|the)\b", answer), answer


def test_answers_vary(written):
    """More than half of the answers differ in more than the words of their question."""
    frames = {
        " ".join(
            re.sub("|".join(map(re.escape, sorted(set(question.lower().split()), key=len))), "", answer.lower()).split()
        )
        for question, _, _, answers in written
        for answer in answers
    }
    assert len(frames) >= 0.5 * sum(len(answers) for *_, answers in written)


def test_variants_are_clean_questions(written):
    for _, _, asked, _ in written:
        for text in (asked[1], asked[2], asked[4]):
            assert text[0].isupper() and text.endswith(("?", "."))
            assert not re.search(r"[{}]|\?\?|\?\.|\s{2}| [,?]", text.replace("...", "")), text
