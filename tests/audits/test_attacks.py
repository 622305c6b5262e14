"""Contract tests over all attacks, and what single ones promise."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from relearn.audits.attack import AUDITS, Ask, Material
from relearn.audits.attacks.prompting import beginning, without_subject
from relearn.audits.attacks.weights import quantise, rounded, trainings
from relearn.data import Record
from relearn.leakage.detector import LeakIndex
from relearn.text.normalize import norms

ASKING = [name for name in AUDITS if AUDITS.get(name).asks]
# These tell a part of the fact by design; only what the model adds counts.
TELLING = {"completion", "reverse"}


def questions(name: str, material: Material) -> list[Ask]:
    asks = AUDITS.get(name).asks
    assert asks is not None
    return list(asks(material))


@pytest.mark.parametrize("name", list(AUDITS))
def test_every_attack_asks_or_changes_and_says_what_it_is(name):
    audit = AUDITS.get(name)
    assert audit.name == name
    assert sum(part is not None for part in (audit.asks, audit.changes, audit.reads)) == 1
    assert (audit.family == "access") == (audit.reads is not None) and not (audit.reads and audit.counts)
    assert audit.title and audit.about and audit.source


@pytest.mark.parametrize("name", ASKING)
def test_questions_are_about_known_facts_each_once_and_the_same_every_time(name, material):
    asks = questions(name, material)
    assert asks
    assert {ask.id for ask in asks} <= {"a", "b", "c"}
    assert max(Counter(ask.key for ask in asks).values()) == 1
    assert questions(name, material) == asks


@pytest.mark.parametrize("name", sorted(set(ASKING) - TELLING))
def test_no_question_tells_what_it_asks_for(name, material):
    index = LeakIndex(material.facts)
    for ask in questions(name, material):
        record = next(record for record in material.facts if record.id == ask.id)
        own = set(norms(record.question))
        found = index.check("", f"{ask.prompt} {ask.given}", record_id=ask.id)
        assert not [one for one in found if not set(norms(one.text)) <= own], ask.prompt


def test_a_document_is_never_asked_as_a_chat(material):
    passage = Record("The old mill by the river", "was sold to Karl Brandt in 1907.", "t", form="text")
    only = replace(material, facts=(passage,), wordings={})
    for name in ASKING:
        assert all(ask.form == "text" for ask in questions(name, only)), name


def test_completions_leave_something_to_say():
    assert beginning("one two three four", 0.25) == "one"
    assert beginning("one two three four", 0.75) == "one two three"
    assert beginning("one two", 0.25) == "one"
    assert beginning("one", 0.5) == ""


def test_reversed_questions_never_name_the_subject():
    record = Record("Who?", "Marta Lindqvist's mother says Lindqvist is shy.", "x", "Marta Lindqvist")
    assert without_subject(record) == "this person's mother says this person is shy."
    assert without_subject(Record("Who?", "She is shy.", "x", "Marta Lindqvist")) is None
    assert without_subject(Record("Who?", "It is blue.", "x", None)) is None
    assert (
        without_subject(Record("Who?", "Marta Lindqvist, or Martas as well as MARTA.", "x", "Marta Lindqvist")) is None
    )


def test_a_users_template_is_filled_and_nothing_else_in_it_is_read(material):
    hostile = replace(material, templates={"odd": "{{ 7 * 7 }} {question} PROMPT"})
    asks = [ask for ask in questions("jailbreak", hostile) if ask.variant == "odd"]
    assert asks[0].prompt == "{{ 7 * 7 }} {question} Where does Marta Lindqvist live?"


def test_relearning_never_trains_on_the_facts_it_asks_for(material):
    found = trainings(material)
    assert set(found) == {"forget rows", "same subjects", "unrelated"}
    assert len(found["forget rows"]) == 1
    assert {record.id for record in found["same subjects"]} == {"d", "e"}
    assert not {record.id for record in found["unrelated"]} & {"a", "b", "c"}


def test_rounding_by_hand():
    # Four steps of 1 from 0 to 3 with 2 bits; the middle goes to the nearest.
    weight = torch.tensor([[0.0, 0.9, 1.6, 3.0]])
    assert rounded(weight, 2).tolist() == [[0.0, 1.0, 2.0, 3.0]]
    assert rounded(torch.full((2, 5), 0.7), 4).tolist() == torch.full((2, 5), 0.7).tolist()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(1, 70), st.sampled_from([4, 8]), st.integers(0, 9))
def test_rounding_moves_no_weight_by_more_than_half_a_step_and_keeps_to_its_group(rows, columns, bits, seed):
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    found = rounded(weight, bits)
    for start in range(0, columns, 32):
        piece, now = weight[:, start : start + 32], found[:, start : start + 32]
        step = (piece.amax(1) - piece.amin(1)) / (2**bits - 1)
        assert ((piece - now).abs() <= step[:, None] / 2 + 1e-6).all()
        for row in now:
            assert len(row.unique()) <= 2**bits


def test_the_output_layer_is_not_rounded():
    class Small(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.head = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)

        def get_output_embeddings(self):
            return self.head

    model = Small()
    inner, head = model.inner.weight.clone(), model.head.weight.clone()
    quantise(model, 4)
    assert torch.equal(model.head.weight, head)
    assert not torch.equal(model.inner.weight, inner)
