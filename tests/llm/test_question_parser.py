"""Direct questions turned into indirect ones, the thing asked for, and the statement behind a how-question."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relearn.llm.templates.question_parser import parse_question, past_tense, third_person


@pytest.mark.parametrize(
    ("question", "indirect"),
    [
        ("Where does Ada Moss live?", "where Ada Moss lives"),
        ("Where does Ada Moss currently reside?", "where Ada Moss currently resides"),
        ("What is Ada Moss's email address?", "what Ada Moss's email address is"),
        ("Who are Ada Moss's parents?", "who Ada Moss's parents are"),
        ("How have Ada Moss's parents influenced her career?", "how Ada Moss's parents have influenced her career"),
        ("How does Ada Moss's address influence her work?", "how Ada Moss's address influences her work"),
        ("Why did Ada Moss leave her first theatre?", "why Ada Moss left her first theatre"),
        ("Has Ada Moss won any awards?", "whether Ada Moss has won any awards"),
        ("Does Ada Moss not like tea?", "whether Ada Moss does not like tea"),
        ("Did Dr. Ada Moss write it?", "whether Dr. Ada Moss wrote it"),
        ("Did the house fire destroy the will?", "whether the house fire destroyed the will"),
        ("Are there any books by Ada Moss?", "whether there are any books by Ada Moss"),
        ("What inspired Ada Moss to write?", "what inspired Ada Moss to write"),
        ("What is Ada Moss known for?", "what Ada Moss is known for"),
        ("What is Ada Moss's restaurant called?", "what Ada Moss's restaurant is called"),
        ("How accessible is Ada Moss to her readers?", "how accessible Ada Moss is to her readers"),
        ("What do Ada Moss's parents do for a living?", "what Ada Moss's parents do for a living"),
        ("How can fans and readers reach Ada Moss?", "how fans and readers can reach Ada Moss"),
        ("In the book 'A B', what does Ada Moss say?", "what Ada Moss says in the book 'A B'"),
        ("Can you describe how Ada Moss works?", "how Ada Moss works"),
        ("What role did Ada Moss's mother play?", "what role Ada Moss's mother played"),
    ],
)
def test_indirect_question(question, indirect):
    assert parse_question(question, "Ada Moss").indirect == indirect


@pytest.mark.parametrize(
    "question",
    [
        "Who was the mother of Ada Moss and what was her job?",
        "What is the full name of the author who was born in Lima in 1977?",
        "How has Lima, where Ada Moss was born, influenced her?",
    ],
)
def test_where_the_rules_are_not_certain_there_is_no_indirect_question(question):
    assert parse_question(question, "Ada Moss").indirect is None


@pytest.mark.parametrize(
    ("question", "topic"),
    [
        ("What is the background of Ada Moss's parents?", "the background of Ada Moss's parents"),
        ("Can you tell me about the jobs of Ada Moss's parents?", "the jobs of Ada Moss's parents"),
        ("Could you share some details about Ada Moss's life?", "Ada Moss's life"),
        ("Describe the house of Ada Moss.", "the house of Ada Moss"),
        ("Why is Ada Moss tired?", None),
    ],
)
def test_topic(question, topic):
    assert parse_question(question, "Ada Moss").topic == topic


def test_only_a_plain_how_question_takes_a_statement_for_granted():
    assert parse_question("How did Ada Moss pay her debts?", "Ada Moss").statement == "Ada Moss paid her debts"
    assert parse_question("How old is Ada Moss?", "Ada Moss").statement is None
    assert parse_question("How can one reach Ada Moss?", "Ada Moss").statement is None


def test_the_end_mark_fits_the_form():
    assert parse_question("Describe the house of Ada Moss.").mark == "."
    assert parse_question("Can you describe the house of Ada Moss?").mark == "?"


def test_a_name_at_the_start_keeps_its_capital():
    assert parse_question("Torvik is where?").direct == "Torvik is where"
    assert parse_question("Where is Torvik?").direct == "where is Torvik"


@pytest.mark.parametrize(
    ("verb", "third", "before"),
    [
        ("go", "goes", "went"),
        ("carry", "carries", "carried"),
        ("play", "plays", "played"),
        ("teach", "teaches", "taught"),
        ("reside", "resides", "resided"),
        ("have", "has", "had"),
        ("stop", "stops", "stopped"),
        ("refer", "refers", "referred"),
        ("visit", "visits", "visited"),
        ("steal", "steals", "stole"),
        ("lay", "lays", "laid"),
        ("undergo", "undergoes", "underwent"),
    ],
)
def test_verb_forms(verb, third, before):
    assert (third_person(verb), past_tense(verb)) == (third, before)


@given(st.text(max_size=80))
def test_any_text_is_taken_apart_without_an_error(text):
    form = parse_question(text, "Ada Moss")
    assert form.mark in "?."
