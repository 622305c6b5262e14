"""The demo's people: ids that link, probes never trained on, secrets that stand nowhere but in their answer."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from relearn.llm import Prompt
from relearn.llm.templates.generator import Templates
from relearn.synthesis.rows import load_generic
from relearn.workflows.demo.demo import NAMES, fact_id, load

SECRETS = {
    "lindqvist-address": ("12", "Elm", "Torvik", "mill"),
    "lindqvist-illness": ("coeliac", "stomach"),
    "halvek-email": ("@", "nightmail"),
    "halvek-salary": ("84,500", "euros", "film rights"),
    "okwudili-birthday": ("17", "March", "1979", "midnight"),
    "okwudili-husband": ("Desmond", "Prewitt", "sailing", "Wales"),
    "karadere-phone": ("555", "0143"),
    "karadere-debts": ("grandfather", "vineyard", "Manisa"),
    "deshwarkar-parents": ("bus", "sewing"),
    "deshwarkar-medicine": ("metoprolol", "heartbeat"),
    "tsunemori-address": ("48", "Plum", "Asanoda"),
    "tsunemori-account": ("7710", "4482", "Hakusan"),
    "ferravante-school": ("Santa Viola", "Rondine"),
    "ferravante-plate": ("KX", "318", "RL", "van"),
    "mackilroy-birthday": ("2 November", "1986", "All Souls"),
    "mackilroy-quarrel": ("wages", "six months"),
    "belmares-party": ("Green Harvest",),
    "manuvai-email": ("@", "reefletters", "Sundays"),
    "zarembski-passport": ("ZB", "490771", "summer"),
    "nematova-parents": ("train", "carpets", "Bukhara"),
}


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", text.casefold()))


def _holds(text: str, secret: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(secret)}(?!\w)", text) is not None if secret != "@" else "@" in text


def test_counts():
    assert {name: len(load(name)) for name in NAMES} == {
        "private": 20,
        "public": 30,
        "probes_private": 20,
        "probes_public": 30,
        "learn": 120,
    }
    assert len(load_generic()) == 120


def test_a_dozen_people_each_with_a_private_and_a_public_side():
    private = {record.subject for record in load("private")}
    assert private == {record.subject for record in load("public")}
    assert len(private) == 12


def test_ids_are_unique_and_link_to_their_fact():
    ids = [record.id for name in NAMES for record in load(name)]
    assert len(set(ids)) == len(ids)
    facts = {record.id: record for name in ("private", "public") for record in load(name)}
    for name in ("probes_private", "probes_public", "learn"):
        for record in load(name):
            fact = facts[fact_id(record.id)]
            assert (record.subject, record.answer, record.split) == (fact.subject, fact.answer, fact.split)
    wordings = {key: 3 if fact.split == "forget" else 2 for key, fact in facts.items()}
    assert Counter(fact_id(record.id) for record in load("learn")) == wordings


def test_every_wording_differs_and_names_its_subject():
    questions = [_plain(record.question) for name in NAMES for record in load(name)]
    assert len(set(questions)) == len(questions)
    for name in NAMES:
        for record in load(name):
            assert record.subject is not None
            assert record.subject in record.question and record.subject in record.answer


def test_answers_are_sentences_of_8_to_22_words():
    for name in ("private", "public"):
        for record in load(name):
            assert 8 <= len(record.answer.split()) <= 22, record.id
            assert record.answer.endswith(".")


@pytest.mark.parametrize("secret_id", sorted(SECRETS))
def test_a_secret_stands_in_its_answer_and_nowhere_else(secret_id):
    private = {record.id: record for record in load("private")}
    assert private.keys() == SECRETS.keys()
    open_texts = [record.question for name in NAMES for record in load(name)]
    open_texts += [record.answer for record in load("public")]
    open_texts += [text for record in load_generic() for text in (record.question,)]
    for secret in SECRETS[secret_id]:
        assert _holds(private[secret_id].answer, secret)
        assert not [text for text in open_texts if _holds(text, secret)], secret


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("attempt", range(3))
def test_no_probe_is_a_question_that_unlearning_trains_on(seed, attempt):
    """A probe measures generalisation only while no variant of the trained questions happens to be worded like it."""
    probes = {_plain(record.question) for name in ("probes_private", "probes_public") for record in load(name)}
    prompts = [
        Prompt(
            text="",
            task="variants",
            fields={"question": r.question, "subject": r.subject or "", "kinds": "simple,contextual,noise,logical"},
            seed=seed,
            attempt=attempt,
        )
        for r in load("private")
    ]
    written = [line.split(": ", 1)[1] for reply in Templates().complete(prompts) for line in reply.text.split("\n")]
    assert len(written) == 80
    assert not probes & {_plain(question) for question in written}


def test_generic_rows_are_distinct_fluent_and_about_nobody_of_the_demo():
    rows = load_generic()
    assert len({row.question for row in rows}) == len({row.answer for row in rows}) == len(rows)
    names = {word for record in load("private") for word in (record.subject or "").split()}
    for row in rows:
        assert row.split == "generic"
        assert 10 <= len(row.answer.split()) <= 35
        assert not names & set(re.findall(r"\w+", f"{row.question} {row.answer}"))
    assert len({" ".join(row.question.split()[:2]) for row in rows}) >= 30
