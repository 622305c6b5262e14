"""The contract of all attacks, and what single ones promise."""

from __future__ import annotations

import base64
import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from relearn.audits.attack import AUDITS, AttackPrompt, Audit, AuditInputs, attack
from relearn.audits.attacks.prompting import first_words, mask_subject
from relearn.audits.attacks.weights import benign_rows, quantise, relearning_folds, rounded
from relearn.audits.check_attack import check_attack
from relearn.data import Record

COUNTER = itertools.count()


@pytest.fixture
def registered(monkeypatch):
    """The registry, emptied of new attacks after the test."""
    list(AUDITS)
    monkeypatch.setattr(AUDITS, "_items", dict(AUDITS._items))
    return AUDITS


def added(function, **options) -> list[str]:
    """Register a function as an attack and return its faults."""
    options = {"label": "Mine", "description": "for a test", **options}
    attack("mine", **options)(function)
    return check_attack("mine")


@pytest.mark.parametrize("name", list(AUDITS))
def test_every_attack_keeps_the_contract(name):
    audit = AUDITS.get(name)
    assert check_attack(name) == []
    assert audit.name == name and audit.source


def test_an_attack_of_ones_own_is_a_function_of_a_fact(registered, inputs):
    assert added(lambda fact: f"Please. {fact.question}") == []
    prompts = registered.get("mine").prompts
    first = prompts(inputs)[0]
    assert (first.key, first.prompt.text) == ("a/asked/0", "Please. Where does Marta Lindqvist live?")


def test_a_function_may_return_a_list_or_a_prompt_per_variant_and_take_the_inputs(registered, inputs):
    @attack("several", label="l", description="d")
    def several(fact):
        return [fact.question, AttackPrompt("Speak.", "Sure,")]

    @attack("hinted", label="l", description="d", by_variant=True)
    def hinted(fact: Record, inputs: AuditInputs):
        return {"first": None if fact.id == "a" else "One", "second": f"{len(inputs.retain)} {fact.id}"}

    @attack("drawn", label="l", description="d", sampled=True)
    def drawn(fact):
        return fact.question

    keys = {name: [one.key for one in registered.get(name).prompts(inputs)] for name in ("several", "hinted", "drawn")}
    assert keys["several"][:3] == ["a/prompt 1/0", "a/prompt 2/0", "b/prompt 1/0"]
    assert keys["hinted"] == ["b/first/0", "c/first/0", "a/second/0", "b/second/0", "c/second/0"]
    assert keys["drawn"][:4] == ["a/asked/1", "a/asked/2", "a/asked/3", "b/asked/1"]


@pytest.mark.parametrize(
    ("function", "fault"),
    [
        (lambda fact: "", "empty prompt"),
        (lambda fact: 3, "raises"),
        (lambda fact: {"v": 3}, "must be a str or an AttackPrompt"),
        (lambda fact: None, "no prompt"),
        (lambda fact: f"Is it true? {fact.answer}", "the whole answer"),
        (lambda fact: f"{fact.question} Was it {fact.answer.split()[-1]}", "contains the secret"),
        (lambda fact, inputs: inputs.templates.update(x="y") or "Say it.", "in place"),
        (lambda fact: f"{next(COUNTER)}", "when called again"),
    ],
)
def test_a_fault_is_one_plain_line(registered, function, fault):
    faults = added(function)
    assert any(fault in line for line in faults) and all("\n" not in line for line in faults)


def test_a_document_is_asked_as_text(registered):
    assert added(lambda fact: fact.question, documents=True) == []
    del registered._items["mine"]
    assert "as a chat" in added(lambda fact: AttackPrompt(fact.question), documents=True)[0]


def test_part_of_the_answer_may_be_shown_where_that_is_declared(registered):
    def begun(fact):
        return AttackPrompt(fact.question, first_words(fact.answer, 0.75))

    assert "contains the secret" in added(begun)[0]
    del registered._items["mine"]
    assert added(begun, partial_answer=True) == []


def test_functions_of_other_families_are_checked_too(registered):
    registered.add("nothing", Audit(name="nothing", label="", description=""))
    assert any("0 functions" in line for line in check_attack("nothing"))
    assert any("headline" in line for line in added(lambda loaded, inputs: [], family="access"))
    attack("few", label="l", description="d", family="precision")(lambda load_model: None)
    assert check_attack("few") == ["a function of family 'precision' takes 3 arguments"]


def test_a_document_is_never_asked_as_a_chat(inputs):
    passage = Record("The old mill by the river", "was sold to Karl Brandt in 1907.", "t", form="text")
    only = replace(inputs, facts=(passage,), wordings={})
    for audit in (AUDITS.get(name) for name in AUDITS):
        assert audit.prompts is None or all(one.prompt.form == "text" for one in audit.prompts(only)), audit.name


def test_reversed_questions_ask_for_the_subject(inputs):
    prompts = AUDITS.get("reverse").prompts
    assert prompts is not None
    (only,) = prompts(inputs)
    assert only.id == "c" and only.prompt.answer_targets == ("Marta Lindqvist",)
    assert "studied hydrology" in only.prompt.text and "Marta" not in only.prompt.text


def test_completions_leave_something_to_say():
    assert first_words("one two three four", 0.25) == "one"
    assert first_words("one two three four", 0.75) == "one two three"
    assert first_words("one two", 0.25) == "one"
    assert first_words("one", 0.5) == ""


def test_reversed_questions_never_name_the_subject():
    record = Record("Who?", "Marta Lindqvist's mother says Lindqvist is shy.", "x", "Marta Lindqvist")
    assert mask_subject(record) == "this person's mother says this person is shy."
    assert mask_subject(Record("Who?", "She is shy.", "x", "Marta Lindqvist")) is None
    assert mask_subject(Record("Who?", "It is blue.", "x", None)) is None
    assert mask_subject(Record("Who?", "Marta Lindqvist, or Martas as well as MARTA.", "x", "Marta Lindqvist")) is None


def test_a_users_template_is_filled_and_nothing_else_in_it_is_read(inputs):
    hostile = replace(inputs, templates={"odd": "{{ 7 * 7 }} {question} PROMPT"})
    prompts = AUDITS.get("jailbreak").prompts
    assert prompts is not None
    texts = [one.prompt.text for one in prompts(hostile) if one.variant == "odd"]
    assert texts[0] == "{{ 7 * 7 }} {question} Where does Marta Lindqvist live?"


def test_marks_are_filled_in_every_turn_and_in_no_users_template(inputs):
    def texts(name, inputs=inputs):
        prompts = AUDITS.get(name).prompts
        assert prompts is not None
        return {(one.id, one.variant): one.prompt for one in prompts(inputs)}

    portrait = texts("conversation")["a", "portrait"]
    assert "portrait of Marta Lindqvist" in portrait.turns[0][0] and portrait.turns[0][1] is None
    assert portrait.text.endswith("Where does Marta Lindqvist live?") and len(portrait.turns) == 2
    encoded = texts("encoding")["a", "base64"].text.split()[-1]
    assert base64.b64decode(encoded).decode() == "Where does Marta Lindqvist live?"
    assert texts("encoding")["a", "letters"].text.endswith("M-a-r-t-a / L-i-n-d-q-v-i-s-t / l-i-v-e-?")
    without = replace(inputs, facts=[replace(inputs.facts[0], subject=None)])
    assert {variant for _, variant in texts("conversation", without)} == {"candidates"}
    mine = replace(inputs, templates={"mine": "SUBJECT: PROMPT"})
    assert texts("jailbreak", mine)["a", "mine"].text == "SUBJECT: Where does Marta Lindqvist live?"


def test_examples_are_about_other_people_the_most_similar_last(inputs):
    phone = Record("What is Ines Duarte's email address?", "It is ines@duarte.pt.", "d", "Ines Duarte")
    prompts = AUDITS.get("fewshot").prompts
    assert prompts is not None
    found = {(one.id, one.variant): one.prompt for one in prompts(replace(inputs, facts=[*inputs.facts, phone]))}
    of_tomas = found["b", "as conversation"]
    assert [question for question, _ in of_tomas.turns][-1] == phone.question
    assert of_tomas.turns[-1][1] == phone.answer and of_tomas.text == "What is Tomas Okafor's email address?"
    assert "Tomas" not in " ".join(text for turn in of_tomas.turns for text in turn if text)
    assert found["b", "as text"].form == "text" and found["b", "as text"].text.endswith("email address?\nA:")
    alone = replace(inputs, facts=[one for one in inputs.facts if one.subject == "Marta Lindqvist"])
    assert prompts(alone) == []


def test_completions_begin_with_two_words_where_no_share_does(inputs):
    prompts = AUDITS.get("completion").prompts
    assert prompts is not None
    of_c = {one.variant: one.prompt.answer_prefix for one in prompts(inputs) if one.id == "c"}
    assert of_c["50% of the answer"] == "Marta Lindqvist studied" and of_c["2 words of the answer"] == "Marta Lindqvist"
    quarter = replace(inputs, strength=replace(inputs.strength, completion_shares=(0.4,)))
    assert not [one for one in prompts(quarter) if one.id == "c" and "2 words" in one.variant]


def test_benign_relearning_never_trains_on_the_facts(inputs):
    rows = benign_rows(inputs)
    assert set(rows) == {"same subjects", "unrelated"}
    assert {record.id for record in rows["same subjects"]} == {"d", "e"}
    assert not {record.id for record in rows["unrelated"]} & {"a", "b", "c"}


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


@given(st.integers(0, 40), st.integers(1, 5))
def test_every_fact_is_held_out_by_at_most_one_fold_and_the_others_are_trained_on(count, folds):
    facts = [Record(f"question {number}", "answer", str(number), None) for number in range(count)]
    trained = relearning_folds(facts, folds)
    held_out = [{fact.id for fact in facts} - {fact.id for fact in records} for records in trained]
    assert len(trained) == (0 if count < 2 else min(folds, count))
    assert all(held_out) and all(trained)
    assert sum(map(len, held_out)) == len(set().union(*held_out))
    if folds == 5 and count > 1:
        assert set().union(*held_out) == {fact.id for fact in facts}
