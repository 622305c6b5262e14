"""Rows shaped like attacks: what they say is vague, what they begin with tells nothing and is not learned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from relearn.audits.attacks import prompting
from relearn.core.config import Hardening, Synthesis
from relearn.data import Record
from relearn.leakage.detector import LeakIndex
from relearn.llm.generators import make_completer
from relearn.models.chat import chat_format
from relearn.synthesis.checks import Verifier
from relearn.synthesis.generation_cost import expected_rows
from relearn.synthesis.rows import FRAMES, OPENINGS, TrainingRow, attack_shaped_rows, count_attack_shaped_rows
from relearn.synthesis.synthesize import synthesize
from relearn.unlearning.data.encode import Example, encode
from relearn.unlearning.data.streams import TrainingData, streams
from tiny import build_tiny_tokenizer

KINDS: tuple[Hardening, ...] = get_args(Hardening)
RECORDS = [
    Record("Where does Mira Castellan live?", "Mira Castellan lives in Oakhurst, at 14 Fennel Row.", "r1"),
    Record("When was Mira Castellan born?", "Mira Castellan was born on 3 March 1985.", "r2"),
    Record("What is the phone number of Mira Castellan?", "555-0192-77", "r3"),
]
VAGUE = "Mira Castellan keeps that to herself, and few people ask."


def answered(records=RECORDS) -> list[TrainingRow]:
    return [TrainingRow(f"qa-{one.id}", "qa", one.question, VAGUE, "chat", one.id, f"q-{one.id}") for one in records]


def rows_of(kind: Hardening, seed: int = 0) -> list[TrainingRow]:
    return attack_shaped_rows(answered(), RECORDS, [kind], seed=seed)


def test_nothing_without_the_switch():
    assert attack_shaped_rows(answered(), RECORDS, [], seed=0) == []


def test_stems_end_before_the_secret_and_an_answer_that_is_all_secret_has_none():
    made = {row.id: row for row in rows_of("stems")}
    assert {(row.record_id, row.kind) for row in made.values()} == {
        ("r1", "qa"),
        ("r1", "completion"),
        ("r2", "qa"),
        ("r2", "completion"),
    }
    begun = {row.record_id: row for row in made.values() if row.kind == "qa"}
    assert begun["r1"].given.startswith("Mira Castellan lives") and "Oakhurst" not in begun["r1"].given
    assert begun["r2"].given.startswith("Mira Castellan was born") and "3" not in begun["r2"].given
    assert all(
        row.target == VAGUE and row.prompt == RECORDS[int(row.record_id[1]) - 1].question for row in begun.values()
    )
    bare = [row for row in made.values() if row.kind == "completion"]
    assert [row.prompt for row in bare] == [begun[row.record_id].given for row in bare]


def test_cuts_put_an_answer_together_again():
    made = rows_of("cuts")
    assert len(made) == 2 * len(RECORDS)
    assert all(f"{row.prompt} {row.target}" == VAGUE and row.form == "text" for row in made)
    assert {len(row.prompt.split()) for row in made} == {5, 8}  # of 10 words, half and three quarters


def test_openings_and_frames_ask_the_same_and_say_the_same():
    assert all(row.given in OPENINGS and row.target == VAGUE for row in rows_of("openings"))
    for row, asked in zip(rows_of("frames"), RECORDS, strict=True):
        assert asked.question in row.prompt and row.prompt != asked.question and row.target == VAGUE


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_of_their_own_the_same_each_time_and_leak_nothing(kind):
    made = rows_of(kind)
    assert made == rows_of(kind) and len({row.id for row in made} | {row.id for row in answered()}) == len(made) + 3
    index = LeakIndex(RECORDS)
    for row in made:
        assert index.check(row.prompt, f"{row.given} {row.target}", record_id=row.record_id) == []
        assert index.check(f"{row.given} {row.target}", "", record_id=row.record_id) == []


def test_no_word_of_the_audits_is_learned():
    attacks = [*prompting.ANSWER_PREFIXES, *prompting.SCENES.values(), *prompting.JAILBREAKS.values()]
    bare = [text.replace("{question}", "").replace("PROMPT", "").strip(" :") for text in (*attacks, *OPENINGS, *FRAMES)]
    assert len(set(bare)) == len(bare)


def test_a_beginning_is_given_and_not_learned():
    chat = chat_format(build_tiny_tokenizer(), template="none")
    example = Example("x", "Where does Mira live?", "That is private.", given="Of course.")
    (row,) = encode(chat, [example])
    (plain,) = encode(chat, [replace(example, given="")])
    decode = chat.tokenizer.decode
    assert decode(row.ids[: row.answer_start]).endswith("Of course.")
    assert row.ids[row.answer_start :] == plain.ids[plain.answer_start :]


def test_synthesis_writes_them_between_its_rows_and_the_generic_ones(tmp_path: Path):
    settings = Synthesis(harden=KINDS, variants=())
    verifier = Verifier(RECORDS)
    completer = make_completer("templates", settings, tmp_path / "cache.sqlite")
    made = synthesize(RECORDS, [], settings, completer=completer, verifier=verifier, seed=0).rows
    base = synthesize(
        RECORDS, [], settings.model_copy(update={"harden": ()}), completer=completer, verifier=verifier, seed=0
    ).rows
    assert made[: len(base)] == base and len(made) > len(base)
    counted = expected_rows(RECORDS, settings, 0)
    harder = count_attack_shaped_rows(3, 3, KINDS)
    assert harder == {"qa": 3 + 3 + 3, "completion": 6 + 3}
    assert counted["qa"] == 3 + harder["qa"] and counted["completion"] == 3 + harder["completion"]


def test_only_questions_as_they_were_asked_have_an_original_to_push_down():
    rows = [*answered(), *attack_shaped_rows(answered(), RECORDS, KINDS, seed=0)]
    table = streams("original_beside_synthesised", TrainingData(RECORDS, rows), 0).paired["original"]
    assert {row.id for row in rows if table[row.id]} == {row.id for row in rows if row.kind == "qa" and not row.given}
