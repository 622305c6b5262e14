"""The offline generator's contract: formats, determinism, new attempts, and what it never says."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relearn.llm import Completer, Prompt
from relearn.llm.templates.generator import Templates
from relearn.llm.templates.phrases import fill_in, kind_named, kind_of, passages, placeholders, question_kinds
from relearn.text.normalize import other_language

KINDS = "simple,contextual,noise,logical"
TEMPLATES = Templates()


def ask(task: str, attempt: int = 0, seed: int = 0, **fields: str) -> str:
    completion = TEMPLATES.complete([Prompt(text="", task=task, fields=fields, attempt=attempt, seed=seed)])[0]
    assert completion.ok, completion.error
    return completion.text


def vague(*questions: str, subject: str = "Marta Lindqvist", **options: int) -> list[str]:
    listed = "\n".join(f"{number}. {question}" for number, question in enumerate(questions, 1))
    lines = ask("vague", subject=subject, questions=listed, **options).split("\n")
    assert [line.split(". ", 1)[0] for line in lines] == [str(number) for number in range(1, len(questions) + 1)]
    return [line.split(". ", 1)[1] for line in lines]


def test_it_is_a_completer():
    assert isinstance(TEMPLATES, Completer)
    assert TEMPLATES.name == "templates/1"


@pytest.mark.parametrize("task", ["judge", "entities", ""])
def test_another_task_is_an_error_and_no_empty_answer(task):
    completion = TEMPLATES.complete([Prompt(text="Is there a leak?", task=task)])[0]
    assert not completion.ok and completion.text == "" and repr(task) in str(completion.error)


@pytest.mark.parametrize(
    ("task", "fields"),
    [
        ("variants", {"question": "", "kinds": KINDS}),
        ("variants", {"question": "Where?", "kinds": "simple,poetic"}),
        ("vague", {"subject": "Ada", "questions": "no number"}),
        ("neighbours", {"subject": ""}),
        ("continue", {"prefix": " "}),
    ],
)
def test_unusable_fields_are_an_error(task, fields):
    assert not TEMPLATES.complete([Prompt(text="", task=task, fields=fields)])[0].ok


def test_variants_come_in_the_order_asked_for_each_on_its_line():
    text = ask("variants", question="Where does Marta Lindqvist live?", subject="Marta Lindqvist", kinds="noise,simple")
    assert [line.split(": ", 1)[0] for line in text.split("\n")] == ["noise", "simple"]


def test_a_question_of_several_lines_still_gives_one_line_per_variant():
    text = ask("variants", question="Where does\nMarta Lindqvist live?", subject="Marta Lindqvist", kinds=KINDS)
    assert len(text.split("\n")) == 4


def test_the_same_prompt_brings_the_same_text():
    fields = {"question": "Who is Marta Lindqvist?", "subject": "Marta Lindqvist", "kinds": KINDS}
    assert ask("variants", **fields) == Templates().complete([Prompt(text="", task="variants", fields=fields)])[0].text
    assert vague("Who is Marta Lindqvist?") == vague("Who is Marta Lindqvist?")


def test_every_new_attempt_brings_another_answer_until_the_wordings_run_out():
    answers = [vague("Where does Marta Lindqvist live?", attempt=attempt)[0] for attempt in range(8)]
    assert len(set(answers)) == 8


def test_another_seed_brings_other_answers():
    questions = ("Where does Marta Lindqvist live?", "Who is Marta Lindqvist?", "Who are Marta Lindqvist's parents?")
    assert len({tuple(vague(*questions, seed=seed)) for seed in range(5)}) == 5


def test_new_attempts_bring_other_variants():
    written = [
        ask("variants", question="Where does Marta Lindqvist live?", subject="Marta Lindqvist", kinds=KINDS, attempt=n)
        for n in range(3)
    ]
    for lines in zip(*(text.split("\n") for text in written), strict=True):
        assert len(set(lines)) == 3


def test_questions_that_ask_the_same_get_different_answers_in_one_prompt():
    answers = vague(
        "Where does Marta Lindqvist live?",
        "What is Marta Lindqvist's place of residence?",
        "For a form, where does Marta Lindqvist live?",
        "whree does marta lindqvist live",
    )
    assert len(set(answers)) == 4


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("Where does SUBJ live?", "home"),
        ("What is SUBJ's email address?", "email"),
        ("What is SUBJ's phone number?", "phone"),
        ("Which place does SUBJ call home?", "home"),
        ("When was SUBJ born?", "birth_date"),
        ("How much money does SUBJ earn in a year?", "money"),
        ("What is SUBJ's bank account number?", "account"),
        ("What is the number of SUBJ's passport?", "document"),
        ("What is the licence plate of SUBJ's car?", "plate"),
        ("Which illness does SUBJ suffer from?", "health"),
        ("Which medicine does SUBJ take?", "medicine"),
        ("Which political party does SUBJ belong to?", "belief"),
        ("Who is SUBJ married to?", "partner"),
        ("Which school does SUBJ's daughter attend?", "children"),
        ("Who are SUBJ's parents?", "parents"),
        ("What do SUBJ's parents do for a living?", "parents_jobs"),
        ("How have SUBJ's parents influenced her career?", "parents_influence"),
        ("Why did SUBJ leave the theatre?", "why"),
        ("How did SUBJ do it?", "how"),
        ("How many cats has SUBJ?", "number"),
        ("When did SUBJ move?", "date"),
        ("Where does SUBJ dance?", "place"),
        ("Who is SUBJ?", "who_is"),
        ("Has SUBJ won any awards?", "awards"),
        ("Does SUBJ dance?", "yes_no"),
        ("What does SUBJ think of cats?", "opinion"),
        ("whats SUBJs emial adress?", "email"),
        ("waht is SUBJs adress", "home"),
    ],
)
def test_the_kind_of_thing_asked_for(question, kind):
    assert kind_of(question.replace("SUBJ", "Ada Moss"), "Ada Moss").name == kind


def test_a_subject_that_the_question_does_not_name_may_be_the_secret_itself():
    question = "What is the full name of the author born in Lima on 19 March 1960?"
    assert "Moss" not in vague(question, subject="Ada Moss")[0]
    assert "author" in vague(question, subject="Ada Moss")[0]
    text = ask("variants", question=question, subject="Ada Moss", kinds=KINDS)
    assert "Moss" not in text


def test_of_a_name_only_the_part_in_the_question_is_used():
    answer = vague("How has Majumdar's style changed?", subject="Rajeev Majumdar")[0]
    assert "Majumdar" in answer and "Rajeev" not in answer


def test_a_question_in_lower_case_keeps_the_name_as_the_record_writes_it():
    answer = vague("whats marta lindqvists adress", subject="Marta Lindqvist")[0]
    assert "Marta Lindqvist" in answer and "Lindqvists" not in answer


def test_a_nameless_person_and_a_thing_are_spoken_of_as_such():
    assert "person in question" in vague("What is her phone number?", subject="")[0]
    assert "person" not in vague("Why is the sky blue?", subject="")[0]


def test_secrets_in_the_question_do_not_come_back_in_the_answer():
    question = "How does living at 504 Bourbon St influence Nora Johnson's work?"
    for attempt in range(12):
        answer = vague(question, subject="Nora Johnson", attempt=attempt)[0]
        assert "504" not in answer and "Bourbon" not in answer


def test_every_wording_can_be_filled_and_says_nothing_particular():
    """No figure, no capital inside a sentence, no gendered pronoun; answers of 12 to 30 words with a name of two."""
    for kind in question_kinds():
        assert 6 <= len(kind.answers) <= 14, kind.name
        assert len(set(kind.answers)) == len(kind.answers)
        for answer in kind.answers:
            assert placeholders(answer) <= {"S", "Ss"}, answer
            assert "{S" in answer or kind.name == "impersonal", answer
            text = fill_in(answer, S="Xx Yy", Ss="Xx Yy's")
            assert 12 <= len(text.split()) <= 30, text
            assert text.endswith(".") and not re.search(r"\d", text)
            assert not re.search(r"[A-Z]", text[1:].replace("Xx", "").replace("Yy", "")), text
            assert not re.search(r"\b(he|she|his|her|him|hers)\b", text), text


def test_an_opening_does_not_change_what_a_question_asks_for():
    """An opening of a kind's own may at most point at a kind that would lose against it; the general ones at none."""
    for kind in question_kinds():
        for lead in (*kind.contextual, *kind.more.get("contextual_indirect", ())):
            text = fill_in(lead, q="how did Ada Moss do it", i="how Ada Moss did it", mark="?")
            found = kind_of(text, "Ada Moss")
            assert found.rank >= min(kind.rank, kind_named("how").rank), (kind.name, lead, found.name)


def test_neighbours_are_five_distinct_questions_on_the_subject():
    lines = ask("neighbours", subject="Marta Lindqvist").split("\n")
    assert [line[:3] for line in lines] == ["1. ", "2. ", "3. ", "4. ", "5. "]
    assert len({line[3:] for line in lines}) == 5
    assert all("Marta Lindqvist" in line and line.endswith("?") for line in lines)


@pytest.mark.parametrize(
    ("prefix", "kind"),
    [
        ("Marta Lindqvist came home.", "sentence"),
        ("The road was long.", "impersonal"),
        ("Marta Lindqvist is", "is"),
        ("Marta Lindqvist has", "has"),
        ("Marta Lindqvist lives in", "preposition"),
        ("This is Marta Lindqvist's", "determiner"),
        ("She likes tea and", "conjunction"),
        ("She left because", "clause"),
        ("She has a brother who", "relative"),
        ("When she was young,", "comma"),
        ("Marta Lindqvist worked", "other"),
    ],
)
def test_a_passage_goes_on_as_its_last_word_asks(prefix, kind):
    text = ask("continue", prefix=prefix, subject="Marta Lindqvist")
    filled = {
        fill_in(line, S="Marta Lindqvist") if "{S}" in line or kind == "impersonal" else line
        for line in passages()[kind]
    }
    assert text in filled
    assert text != ask("continue", prefix=prefix, subject="Marta Lindqvist", attempt=1)


@settings(max_examples=60, deadline=None)
@given(
    st.text(alphabet=st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=60)
)
def test_any_question_gets_variants_and_an_answer_or_its_language_is_named(text):
    question = text.strip() or "?"
    if language := other_language(question):
        (refused,) = TEMPLATES.complete([Prompt("", "variants", {"question": question, "kinds": KINDS})])
        assert refused.error is not None and language in refused.error
        return
    lines = ask("variants", question=question, kinds=KINDS).split("\n")
    assert [line.split(": ", 1)[0] for line in lines] == KINDS.split(",")
    variants = [line.split(": ", 1)[1] for line in lines]
    assert len({question, *variants}) == 5
    assert vague(question, subject="")[0].endswith(".")
