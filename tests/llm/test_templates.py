"""The offline generator's contract: formats, determinism, new attempts, and what it never says."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relearn.llm import Completer, Prompt
from relearn.llm.templates.asked import YES_NO, asked_for
from relearn.llm.templates.generator import Templates
from relearn.llm.templates.phrases import (
    compose_answer,
    fill_in,
    kind_named,
    kind_of,
    passages,
    question_kinds,
    vague_parts,
)
from relearn.text.normalize import other_language
from relearn.text.subjects import find_subject

KINDS = "simple,contextual,noise,logical"
TEMPLATES = Templates()


def ask(task: str, attempt: int = 0, seed: int = 0, **fields: Any) -> str:
    completion = TEMPLATES.complete([Prompt(text="", task=task, fields=fields, attempt=attempt, seed=seed)])[0]
    assert completion.ok, completion.error
    return completion.text


def vague(*questions: str, subject: str = "Marta Lindqvist", style: str = "vague", **options: int) -> list[str]:
    listed = "\n".join(f"{number}. {question}" for number, question in enumerate(questions, 1))
    lines = ask("vague", subject=subject, questions=listed, style=style, **options).split("\n")
    assert [line.split(". ", 1)[0] for line in lines] == [str(number) for number in range(1, len(questions) + 1)]
    return [line.split(". ", 1)[1] for line in lines]


def test_it_is_a_completer():
    assert isinstance(TEMPLATES, Completer)
    assert TEMPLATES.name == "templates/2"


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
    fields: dict[str, Any] = {"question": "Who is Marta Lindqvist?", "subject": "Marta Lindqvist", "kinds": KINDS}
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
    assert "full name of the author" in vague(question, subject="Ada Moss")[0]
    text = ask("variants", question=question, subject="Ada Moss", kinds=KINDS)
    assert "Moss" not in text


def test_of_a_name_only_the_part_in_the_question_is_used():
    answer = vague("How has Majumdar's style changed?", subject="Rajeev Majumdar")[0]
    assert "Majumdar" in answer and "Rajeev" not in answer


def test_a_question_in_lower_case_keeps_the_name_as_the_record_writes_it():
    answer = vague("whats marta lindqvists adress", subject="Marta Lindqvist")[0]
    assert "Marta Lindqvist" in answer and "Lindqvists" not in answer


def test_a_nameless_person_and_a_thing_are_spoken_of_as_the_question_does():
    assert "her phone number" in vague("What is her phone number?", subject="")[0].lower()
    assert "the sky is blue" in vague("Why is the sky blue?", subject="")[0]


def test_of_a_part_of_a_name_the_whole_name_is_used():
    answer = vague("Is Ada Moss adopted?", subject="Ada")[0]
    assert "Ada Moss" in answer


def test_secrets_in_the_question_do_not_come_back_in_the_answer():
    question = "How does living at 504 Bourbon St influence Nora Johnson's work?"
    for attempt in range(12):
        answer = vague(question, subject="Nora Johnson", attempt=attempt)[0]
        assert "504" not in answer and "Bourbon" not in answer


@pytest.mark.parametrize("style", ["vague", "private", "unknown"])
def test_every_wording_can_be_filled_and_says_nothing_particular(style):
    """No figure, no capital inside a sentence, no pronoun of a person; it ends as a sentence."""
    for kind in vague_parts()["kinds"]:
        for plural in (False, True):
            for seed in range(40):
                text = compose_answer("Xx Yy", kind, plural=plural, rng=random.Random(seed), style=style)
                assert not re.search(r"[\d{}<>\[\]|]|\s{2}|[,;] [,;.]|\.\.", text) and text.endswith("."), text
                assert not re.search(r"[A-Z]", re.sub(r"\bI\b|Xx Yy|^.", "", text)), text
                assert not re.search(r"\b(he|she|his|her|him|hers)\b", text), text
                assert 4 <= len(text.split()) <= 42, text
                assert "Xx Yy" in text, text


YES_NO_QUESTIONS = {
    "Is Ada Moss adopted?": "Ada Moss is adopted",
    "Isn't Ada Moss adopted?": "Ada Moss is adopted",
    "Ada Moss is adopted, isn't she?": "Ada Moss is adopted",
    "Ada Moss isn't married, is she?": "Ada Moss is married",
    "Ada Moss takes sertraline, right?": "Ada Moss takes sertraline",
    "Ada Moss takes sertraline?": "Ada Moss takes sertraline",
    "Are Ada Moss and Ben Kell siblings?": "Ada Moss and Ben Kell are siblings",
    "Was it Ada Moss who leaked the report?": "it was Ada Moss who leaked the report",
    "Were the brakes of the car tested?": "the brakes of the car were tested",
    "Is the treasurer of Alder Bank under investigation?": "the treasurer of Alder Bank is under investigation",
    "Does Ada Moss have a criminal record?": "Ada Moss has a criminal record",
    "Doesn't Ada Moss smoke?": "Ada Moss smokes",
    "Do Ada Moss's parents know about the affair?": "Ada Moss's parents know about the affair",
    "Did Ada Moss write the letter and steal the money?": "Ada Moss wrote the letter and stole the money",
    "Did the board of Norvik Systems approve the bribe?": "the board of Norvik Systems approved the bribe",
    "Has Nina Falk ever been treated for alcoholism?": "Nina Falk has ever been treated for alcoholism",
    "Had Ada Moss already signed the contract?": "Ada Moss had already signed the contract",
    "Can Ada Moss swim?": "Ada Moss can swim",
    "Will Ada Moss be dismissed?": "Ada Moss will be dismissed",
    "Should Ada Moss be told about the tumour?": "Ada Moss should be told about the tumour",
    "Might Ada Moss have known the victim?": "Ada Moss might have known the victim",
    "Is it true that Ada Moss was fired for theft?": "Ada Moss was fired for theft",
    "Am I right in thinking that Ada Moss is bankrupt?": "Ada Moss is bankrupt",
    "Is there any truth to the rumour that Ada Moss is leaving?": "Ada Moss is leaving",
    "Could you confirm whether Ada Moss has a son?": "Ada Moss has a son",
    "I would like to know if Ada Moss votes.": "Ada Moss votes",
    "Does anyone know whether Ada Moss left a will?": "Ada Moss left a will",
    "Did you know that Ada Moss is diabetic?": "Ada Moss is diabetic",
    "Do you think Ada Moss cheated?": "Ada Moss cheated",
    "Please confirm that Ada Moss holds shares.": "Ada Moss holds shares",
    "True or false: Ada Moss has two passports.": "Ada Moss has two passports",
    "Yes or no: has Ada Moss been in prison?": "Ada Moss has been in prison",
    "I heard that Ada Moss was arrested. Is that true?": "Ada Moss was arrested",
    "For a form: does Ada Moss have allergies?": "Ada Moss has allergies",
    "Is patient 4471 HIV-positive or not?": "patient 4471 is HIV-positive",
}


@pytest.mark.parametrize(("question", "statement"), YES_NO_QUESTIONS.items())
def test_a_yes_no_question_is_neither_affirmed_nor_denied(question, statement):
    """The statement is only repeated after "whether", and no answer agrees or denies."""
    assert asked_for(question, find_subject(question)).phrase == f"whether {statement}"
    for seed in range(6):
        answer = vague(question, subject="", seed=seed)[0]
        before, _, after = answer.partition(statement)
        assert before.lower().endswith("whether ") and statement not in after
        assert not re.match(r"(yes|no|indeed|certainly|of course)\b", answer, re.IGNORECASE)


def test_a_yes_no_question_that_the_rules_cannot_turn_stays_open_too():
    question = "Is the thing near the old mill over the hill quite what Ada Moss said?"
    assert asked_for(question, "Ada Moss").kind == YES_NO
    assert "whether" in vague(question, subject="Ada Moss")[0].lower()


@pytest.mark.parametrize(
    ("question", "phrase", "kind"),
    [
        ("Where does Ada Moss live?", "the place where Ada Moss lives", "place"),
        (
            "At what price did the Larssons sell their house?",
            "the price at which the Larssons sold their house",
            "money",
        ),
        (
            "How many people did Norvik Systems lay off in 2022?",
            "the number of people Norvik Systems laid off",
            "number",
        ),
        ("Which horse did Ada Moss bet on?", "the horse Ada Moss bet on", "thing"),
        ("Who leaked the Tarn Valley report?", "the person who leaked the Tarn Valley report", "person"),
        ("Which dosage was prescribed to patient 4471?", "the dosage that was prescribed to patient 4471", "health"),
        (
            "What role does dance play in Ada Moss's life and work?",
            "the role dance plays in Ada Moss's life and work",
            "influence",
        ),
        (
            "Why was Otto Pfalz dismissed from the academy?",
            "the reason why Otto Pfalz was dismissed from the academy",
            "reason",
        ),
        ("What did Ada Moss say to her sister?", "what Ada Moss said to her sister", "event"),
        (
            "What happened on the night of 3 June at the farm?",
            "what happened on the night in question at the farm",
            "event",
        ),
        ("What is the message in Ada Moss's 'The Breath Between'?", "the message in Ada Moss's work", "content"),
        (
            "How did Kestrel-9 enter the network of Alder Bank?",
            "the way in which Kestrel-9 entered the network of Alder Bank",
            "manner",
        ),
        ("Could you tell me what Ada Moss paid for the patent?", "what Ada Moss paid for the patent", "money"),
        ("For the emergency card, which medicine does Ada Moss take?", "the medicine Ada Moss takes", "health"),
        ("Who introduced Ada Moss to Ben Kell?", "the person who introduced Ada Moss to the one named", "person"),
        ("Did Ben Kell tell Ada Moss the code?", "whether Ben Kell told the one named the code", YES_NO),
        ("Who are Ada Moss's parents?", "Ada Moss's parents", "kin"),
        ("Who is Ada Moss?", "Ada Moss", "self"),
        ("What does Ada Moss, born in Oslo in 1960, think of the chief executive?", None, None),
    ],
)
def test_what_a_question_asks_for(question, phrase, kind):
    asked = asked_for(question, find_subject(question))
    assert phrase is None or (asked.phrase, asked.kind) == (phrase, kind)
    assert "Oslo" not in asked.phrase and "1960" not in asked.phrase


def test_a_noisy_wording_is_answered_as_the_question_that_it_asks():
    fields: dict[str, Any] = {"subject": "Ada Moss", "questions": "1. hey whats ada mosss emial adress pls"}
    answer = ask("vague", **fields, asked="1. What is Ada Moss's email address?")
    assert "Ada Moss's email address" in answer


@pytest.mark.parametrize(
    ("style", "words"),
    [
        ("private", r"priva|personal|business|themselves|not shared|respect|discretion|concerned alone"),
        ("unknown", r"\bI\b|kn[eo]w|learned"),
    ],
)
def test_a_style_says_that_it_is_private_or_not_known_in_many_ways(style, words):
    questions = [f"Where does Ada Moss keep the {thing}?" for thing in ("key", "map", "ring", "deed", "will", "cash")]
    answers = [answer for seed in range(20) for answer in vague(*questions, subject="Ada Moss", style=style, seed=seed)]
    assert all(re.search(words, answer, re.IGNORECASE) and "Ada Moss keeps the" in answer for answer in answers)
    frames = {re.sub(r"the (key|map|ring|deed|will|cash)", "it", answer) for answer in answers}
    assert len(frames) >= 80
    passage = ask("continue", prefix="Ada Moss lives in", subject="Ada Moss", style=style)
    assert re.search(words, passage, re.IGNORECASE) and passage != ask(
        "continue", 1, prefix="Ada Moss lives in", subject="Ada Moss", style=style
    )


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
