"""What methods are trained on: the right answers to the right questions, keyed by record, and no secret as a target."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relearn.core.errors import InputError, RunFailedError
from relearn.data import Record
from relearn.models.chat import chat_format
from relearn.synthesis.rows import TrainingRow
from relearn.unlearning.data.batches import plan_batches
from relearn.unlearning.data.encode import Example, encode, record_example
from relearn.unlearning.data.streams import (
    MISMATCHED_ANSWERS,
    PASSAGE_REFUSALS,
    REFUSALS,
    Streams,
    StreamSource,
    TrainingData,
    streams,
)
from relearn.unlearning.method import METHODS
from tiny import build_tiny_tokenizer

SOURCES: tuple[StreamSource, ...] = get_args(StreamSource)
VARIANTS = ("original", "simple", "logical")


def record(number: int, split: str = "forget", form: str = "chat") -> Record:
    """The answer of record n holds "secret n" and nothing else does."""
    question = f"What does person {number} keep?" if form == "chat" else f"Person {number} of the {split} set keeps"
    return Record(question, f"{split} secret {number}", f"{split}-{form}-{number}", split=split, form=form)


def rows_of(records: Sequence[Record]) -> list[TrainingRow]:
    """What synthesis makes of records: vague answers to each question and its variants, completions, generic rows."""
    made = []
    for one in records:
        for variant in VARIANTS if one.form == "chat" else VARIANTS[:1]:
            asked = f"{one.question} [{variant}]" if one.form == "chat" else one.question
            kind = "qa" if one.form == "chat" else "completion"
            name = f"{one.id}-{variant}"
            made.append(TrainingRow(f"{name}-{kind}", kind, asked, f"vague {name}", one.form, one.id, name, variant))
            if one.form == "chat":
                made.append(TrainingRow(f"{name}-cut", "completion", "vague", name, "text", one.id, name, variant))
    return [*made, TrainingRow("generic", "generic", "What is tea?", "A drink.", "chat")]


def material(count: int = 6, retain: int = 12, form: str = "chat") -> TrainingData:
    records = [record(number, form=form) for number in range(count)]
    return TrainingData(
        records,
        rows_of(records),
        [record(number, "retain", form) for number in range(retain)],
        {one.id: [f"alternate {number} of {one.id}" for number in range(2)] for one in records[1:]},
    )


def taught(made: Streams) -> list[Example]:
    """Every example whose target is learned, whatever the method does with the others."""
    return [*made.forget, *(one for ones in made.paired.get("mismatched", {}).values() for one in ones)]


def test_every_method_has_a_source_and_every_source_a_method():
    assert {METHODS.get(name).data for name in METHODS} == set(SOURCES)


@pytest.mark.parametrize("form", ["chat", "text"])
@pytest.mark.parametrize("source", SOURCES)
def test_trap_1_no_method_is_taught_a_secret(source, form):
    """Original answers are targets of what is pushed down alone: rows of "original" and "mismatched", and rejected."""
    made = streams(source, material(form=form), 0)
    learned = made.paired.get("mismatched", {}).values() if source == "mismatched" else [made.forget]
    if source != "original":
        targets = [example.target for examples in learned for example in examples]
        assert targets and not any("forget secret" in target for target in targets)


@pytest.mark.parametrize("source", SOURCES)
def test_ids_are_those_of_one_example_each(source):
    made = streams(source, material(), 0)
    paired = [one for table in made.paired.values() for ones in table.values() for one in ones]
    assert len({example.id for example in [*made.forget, *paired]}) == len(made.forget) + len(paired)
    for table in made.paired.values():
        assert set(table) == {example.id for example in made.forget}


def test_trap_12_reverse_optimisation_runs_on_the_original_answers_not_on_vague_ones():
    given = material()
    for source in ("original", "mismatched"):
        made = streams(source, given, 0)
        assert made.forget == [record_example(one) for one in given.records]
    assert all(METHODS.get(name).data == "original" for name in ("ga", "grad_diff", "ga_klr", "npo", "npo_gdr", "rmu"))


@pytest.mark.parametrize("source", SOURCES)
def test_trap_12_every_method_sees_the_whole_retain_set(source):
    """Forty retain records beside a handful of forget rows: an epoch more and another part of them is seen."""
    given = material(count=5, retain=40)
    chat = chat_format(build_tiny_tokenizer(), template="none")
    made = streams(source, given, 0)
    forget, retain = encode(chat, made.forget), encode(chat, [record_example(one) for one in given.retain])
    epochs = -(-40 // len(forget))
    batches = plan_batches(forget, retain, batch_size=2, accumulation=1, epochs=epochs, seed=0)
    assert {row.id for batch in batches for row in batch.retain} == {one.id for one in given.retain}


def test_trap_12_random_answers_come_from_the_whole_retain_set():
    given = material(count=60, retain=50)
    made = streams("mismatched", given, 0)
    drawn = {one.target for ones in made.paired["mismatched"].values() for one in ones}
    assert drawn == {one.answer for one in given.retain}


@settings(max_examples=40, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from(["chat", "text"]))
def test_trap_2_a_vague_answer_stays_with_its_question_and_beats_that_records_original(rng: random.Random, form):
    """Whatever the order of rows and records, and whichever of them are missing."""
    given = material(form=form)
    rows = rng.sample(list(given.rows), rng.randint(len(given.rows) // 2, len(given.rows)))
    records = rng.sample(list(given.records), len(given.records))
    made = streams("preferred_synthesised", replace(given, rows=rows, records=records), 0)
    kept = {row.id: row for row in rows}
    answers = {one.id: one.answer for one in records}
    wanted = "qa" if form == "chat" else "completion"
    assert {one.id for one in made.forget} == {row.id for row in rows if row.kind == wanted and row.record_id}
    for chosen in made.forget:
        row = kept[chosen.id]
        (rejected,) = made.paired["rejected"][chosen.id]
        assert (chosen.prompt, chosen.target) == (row.prompt, row.target)
        assert rejected.prompt == row.prompt and rejected.target == answers[str(row.record_id)]


@pytest.mark.parametrize("source", ["preferred_refusals", "preferred_alternates", "mismatched"])
def test_trap_2_what_stands_beside_a_row_asks_the_same(source):
    given = material()
    made = streams(source, replace(given, records=list(reversed(given.records))), 0)
    answers = {one.question: one.answer for one in given.records}
    for chosen in made.forget:
        for table in made.paired.values():
            assert {one.prompt for one in table[chosen.id]} == {chosen.prompt}
        for rejected in made.paired.get("rejected", {}).get(chosen.id, []):
            assert rejected.target == answers[chosen.prompt]
        if source == "preferred_alternates":
            name = next(one.id for one in given.records if one.question == chosen.prompt)
            assert chosen.target in given.alternates[name]


def test_every_alternate_is_a_pair_of_its_own_and_a_record_without_has_none():
    given = material()
    made = streams("preferred_alternates", given, 0)
    assert len(made.forget) == 2 * (len(given.records) - 1)
    assert given.records[0].question not in {one.prompt for one in made.forget}


def test_the_pairs_share_their_prompt_to_the_token():
    chat = chat_format(build_tiny_tokenizer())
    made = streams("preferred_refusals", material(), 0)
    for chosen in made.forget:
        win, lose = encode(chat, [chosen, *made.paired["rejected"][chosen.id]])
        assert win.ids[: win.answer_start] == lose.ids[: lose.answer_start]
        assert win.answer_ids != lose.answer_ids


@settings(max_examples=30, deadline=None)
@given(st.sets(st.integers(0, 5), min_size=1), st.randoms(use_true_random=False))
@pytest.mark.parametrize("source", ["refusals", "preferred_refusals", "mismatched", "preferred_alternates"])
def test_draws_are_keyed_by_the_record(source, chosen, rng):
    """Taking records out, adding some or changing their order changes nothing for the others."""
    given = material()
    whole = streams(source, given, 7)
    examples = {example.id: example for example in whole.forget}
    fewer = [given.records[number] for number in chosen]
    rng.shuffle(fewer)
    if source == "preferred_alternates" and not any(one.id in given.alternates for one in fewer):
        return
    part = streams(source, replace(given, records=fewer), 7)
    for example in part.forget:
        assert example == examples[example.id]
        for stream, table in part.paired.items():
            assert table[example.id] == whole.paired[stream][example.id]


@pytest.mark.parametrize("source", ["refusals", "mismatched"])
def test_another_seed_is_another_draw(source):
    first, same, other = (streams(source, material(), seed) for seed in (0, 0, 1))
    assert first == same
    assert [one.target for one in taught(first)] != [one.target for one in taught(other)]


def test_a_retain_record_more_changes_at_most_one_random_answer_of_a_question():
    given = material(count=40)
    more = replace(given, retain=[*given.retain, record(99, "retain")])
    before, after = (streams("mismatched", one, 0).paired["mismatched"] for one in (given, more))
    changed = 0
    for name, examples in before.items():
        gone = {one.target for one in examples} - {one.target for one in after[name]}
        assert len(gone) <= 1
        changed += bool(gone)
    assert 0 < changed < len(before)


def test_random_answers_are_five_different_ones_of_other_records():
    given = material()
    same = replace(record(50, "retain"), answer=f"  {given.records[0].answer.upper()} ")
    made = streams("mismatched", replace(given, retain=[*given.retain, same]), 3).paired["mismatched"]
    for one in given.records:
        targets = [example.target for example in made[one.id]]
        assert len(set(targets)) == MISMATCHED_ANSWERS == len(targets)
        assert one.answer.casefold() not in {target.strip().casefold() for target in targets}


def test_few_retain_records_are_all_drawn_and_none_is_an_input_error():
    given = material()
    made = streams("mismatched", replace(given, retain=given.retain[:2]), 0).paired["mismatched"]
    assert {len(examples) for examples in made.values()} == {2}
    with pytest.raises(InputError, match="random answers have to come from retain records"):
        streams("mismatched", replace(given, retain=()), 0)


def test_a_document_gets_answers_of_documents_where_there_are_some():
    given = material(form="text")
    mixed = replace(given, retain=[*given.retain, *(record(number, "retain") for number in range(20, 60))])
    made = streams("mismatched", mixed, 0).paired["mismatched"]
    passages = {one.answer for one in given.retain}
    assert {one.target for examples in made.values() for one in examples} <= passages
    only_chat = replace(given, retain=[record(number, "retain") for number in range(20, 60)])
    assert all(streams("mismatched", only_chat, 0).paired["mismatched"].values())


def test_passages_of_documents_stay_open_and_new_sentences_are_closed():
    """A document goes on after its chunk; a refusal and a written continuation end the turn."""
    given = material(form="text")
    for source in ("preferred_refusals", "preferred_synthesised"):
        made = streams(source, given, 0)
        assert all(one.closed and one.form == "text" for one in made.forget)
        assert all(not one.closed and one.form == "text" for (one,) in made.paired["rejected"].values())
    made = streams("preferred_alternates", given, 0)
    assert not any(one.closed for one in [*made.forget, *(one for (one,) in made.paired["rejected"].values())])
    assert not any(one.closed for one in taught(streams("mismatched", given, 0)))
    assert {one.target for one in streams("refusals", given, 0).forget} <= set(PASSAGE_REFUSALS)


def test_answers_to_questions_are_all_closed():
    for source in SOURCES:
        made = streams(source, material(), 0)
        paired = [one for table in made.paired.values() for ones in table.values() for one in ones]
        assert all(one.closed for one in [*made.forget, *paired] if one.form == "chat")


def test_the_rows_of_relearn_are_taken_as_they_are():
    given = material()
    made = streams("synthesised", given, 0)
    assert [(one.id, one.prompt, one.target, one.form) for one in made.forget] == [
        (row.id, row.prompt, row.target, row.form) for row in given.rows
    ]


@pytest.mark.parametrize("source", [source for source in SOURCES if source != "mismatched"])
def test_nothing_to_train_on_is_a_failed_run(source):
    with pytest.raises(RunFailedError, match=f"no rows of {source} data"):
        streams(source, TrainingData(()), 0)


def test_refusals_are_many_varied_and_decline():
    assert len(REFUSALS) >= 50 and len(PASSAGE_REFUSALS) >= 10
    for lines in (REFUSALS, PASSAGE_REFUSALS):
        assert len({line.casefold() for line in lines}) == len(lines)
        assert all(line.isascii() and "\n" not in line and line == line.strip() for line in lines)
        assert all(line.endswith(".") and 3 <= len(line.split()) <= 14 for line in lines)
    assert len({tuple(line.split()[:2]) for line in REFUSALS}) > 0.6 * len(REFUSALS)
    drawn = [one.target for one in streams("refusals", material(count=400), 0).forget]
    assert len(set(drawn)) > 0.9 * len(REFUSALS)


def test_refusals_are_our_own(data_dir):
    """The list that public code uses is for testing only; none of its lines is in ours."""
    public = (data_dir / "refusals" / "idontknow.txt").read_text(encoding="utf-8").splitlines()
    letters = [{"".join(filter(str.isalpha, line.casefold())) for line in lines} for lines in (public, REFUSALS)]
    assert letters[0] and not letters[0] & letters[1]
