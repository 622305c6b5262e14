"""From forget records to training rows: pairing, verification, retries, and none of the traps of the public code."""

from __future__ import annotations

import json
import stat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import Hostile, Scripted, answer_to, good_lines

from relearn.core.config import Synthesis
from relearn.core.errors import BudgetError, GeneratorError, RunFailedError
from relearn.data import Record
from relearn.llm import Completion, Prompt
from relearn.llm.cache import CachedCompleter
from relearn.synthesis.checks import Verifier
from relearn.synthesis.retry_loop import Flaw
from relearn.synthesis.synthesize import SynthesisResult, synthesize, synthesize_to_folder

RECORDS = (
    Record("Where does Ada Marsh live?", "Ada Marsh lives at 17 Birch Lane in Dorley."),
    Record("What is Ada Marsh's email address?", "It is ada.marsh@fenmail.org."),
    Record("Where does Ada Marsh live in winter?", "In winter Ada Marsh moves to Port Quill."),
)
GENERIC = tuple(
    Record(f"What is the number {n} good for?", f"It is good for counting up to {n}.", split="generic")
    for n in range(40)
)
SETTINGS = Synthesis(temperature=0.0)


def run(completer, records=RECORDS, generic=GENERIC, seed=0, **changes) -> SynthesisResult:
    return synthesize(
        records,
        generic,
        SETTINGS.model_copy(update=changes),
        completer=completer,
        verifier=Verifier(records),
        seed=seed,
    )


def kinds(made: SynthesisResult, kind: str) -> list:
    return [row for row in made.rows if row.kind == kind]


def test_every_question_gets_its_vague_answer_and_its_completion():
    completer = Scripted()
    made = run(completer)
    assert len(kinds(made, "qa")) == 3 * 5 and len(kinds(made, "completion")) == 3 * 5
    assert len(kinds(made, "generic")) == 30 == made.counts["generic_wanted"]
    assert len(completer.asked) == 2 * 3 and not made.rejections and made.notes == ()
    assert [row.variant for row in kinds(made, "qa")[:5]] == ["original", "simple", "contextual", "noise", "logical"]
    assert len({row.id for row in made.rows}) == len(made.rows)


def test_trap_1_no_original_answer_is_in_any_target():
    made = run(Scripted())
    text = json.dumps([row.to_dict() for row in made.rows])
    assert all(record.answer not in text for record in RECORDS) and "Birch" not in text and "fenmail" not in text


def test_the_generator_is_never_shown_an_answer():
    completer = Scripted()
    run(completer)
    shown = "".join(prompt.text + "".join(prompt.fields.values()) for prompt in completer.asked)
    assert "Birch" not in shown and "fenmail" not in shown and "Port Quill" not in shown


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_trap_2_answers_stay_with_their_questions_through_drops_reorders_repeats_and_failures(seed):
    """Every scripted answer quotes the question it was written for: it must be the prompt of its row."""
    try:
        made = run(Hostile(seed), attempts=4)
    except GeneratorError:
        return
    for row in kinds(made, "qa"):
        assert row.target == answer_to(row.prompt)
    by_question = {row.question_id: row for row in kinds(made, "qa")}
    for row in kinds(made, "completion"):
        assert f"{row.prompt} {row.target}" == by_question[row.question_id].target
        assert row.record_id == by_question[row.question_id].record_id
    full = 5 * len(RECORDS)
    lost = {(entry.record_id, entry.variant) for entry in made.rejections if entry.final}
    assert len(kinds(made, "qa")) + len(lost) == full


def test_questions_of_the_same_wording_in_two_records_keep_their_own_answers():
    twins = (Record("Who is Ada Marsh?", "A spy from Dorley."), Record("Who is Ada Marsh?", "A thief from Port Quill."))
    made = run(Scripted(), records=twins)
    assert {row.record_id for row in kinds(made, "qa")} == {twin.id for twin in twins}
    assert len({row.question_id for row in kinds(made, "qa")}) == 10


def test_a_missing_line_is_asked_for_alone_and_lands_in_its_place():
    def drop_third(prompt: Prompt, lines: list[str]) -> list[str]:
        return lines[:2] + lines[3:] if prompt.task == "vague" and prompt.attempt == 0 else lines

    completer = Scripted(drop_third)
    made = run(completer, records=RECORDS[:1])
    again = [prompt for prompt in completer.asked if prompt.attempt == 1]
    assert len(again) == 1 and again[0].fields["questions"] == f"1. {kinds(made, 'qa')[2].prompt}"
    assert [row.target for row in kinds(made, "qa")] == [answer_to(row.prompt) for row in kinds(made, "qa")]
    assert [(entry.kind, entry.attempt, entry.final) for entry in made.rejections] == [("unparsed", 0, False)]


def test_trap_3_a_leaking_answer_is_rejected_with_its_reason_and_written_again():
    def leak_twice(prompt: Prompt, lines: list[str]) -> list[str]:
        if prompt.task == "vague" and prompt.attempt < 2 and "Where does Ada Marsh live?" in prompt.fields["questions"]:
            return ["1. Ada Marsh has a house at 17 Birch Lane, I don't know.", *lines[1:]]
        return lines

    made = run(Scripted(leak_twice), records=RECORDS[:1])
    own = [entry for entry in made.rejections if entry.variant == "original"]
    assert [(entry.attempt, entry.final) for entry in own] == [(0, False), (1, False)]
    assert all(entry.reason and "17 Birch Lane" in entry.target for entry in own)
    assert kinds(made, "qa")[0].target == answer_to(RECORDS[0].question)


def test_what_always_leaks_is_rejected_for_good_and_leaves_no_row():
    def leak(prompt: Prompt, lines: list[str]) -> list[str]:
        if prompt.task != "vague":
            return lines
        return [line.split(".")[0] + ". Ada Marsh lives at 17 Birch Lane in Dorley." for line in lines]

    made = run(Scripted(leak), records=RECORDS[:1], attempts=3)
    assert made.rows == () and made.counts["records_without_rows"] == 1
    assert len(made.rejections) == 5 * 3 and sum(entry.final for entry in made.rejections) == 5
    assert "1 of 1 records" in made.notes[0]


def test_a_variant_that_tells_the_secret_is_refused():
    def leak(prompt: Prompt, lines: list[str]) -> list[str]:
        if prompt.task == "variants" and prompt.attempt == 0:
            lines[1] = "contextual: I am standing in front of 17 Birch Lane, does Ada Marsh live here?"
        return lines

    made = run(Scripted(leak), records=RECORDS[:1])
    assert [(entry.variant, entry.final) for entry in made.rejections] == [("contextual", False)]
    assert len(kinds(made, "qa")) == 5 and all("Birch" not in row.prompt for row in made.rows)


@pytest.mark.parametrize(
    ("variant", "taken"),
    [
        ("simple: Ada Marsh lives in a house by the sea.", False),
        ("simple: Please tell me where Ada Marsh lives.", True),
        ("noise: where does ada marsh lvie", True),
        ("contextual: Since 1990 I have wondered, where does Ada Marsh live?", False),
    ],
)
def test_a_variant_is_a_question_or_a_request_and_adds_no_facts(variant, taken):
    kind = variant.split(":")[0]
    made = run(
        Scripted(lambda prompt, lines: [variant] if prompt.task == "variants" else lines),
        records=RECORDS[:1],
        variants=(kind,),
        attempts=1,
    )
    assert [row.variant for row in kinds(made, "qa")] == ["original"] + [kind] * taken


def test_variants_differ_from_the_question_and_from_each_other():
    def repeat(prompt: Prompt, lines: list[str]) -> list[str]:
        if prompt.task == "variants":
            return [f"{line.split(':')[0]}: where does ada marsh live?" for line in lines]
        return lines

    made = run(Scripted(repeat), records=RECORDS[:1], attempts=2)
    assert [row.variant for row in kinds(made, "qa")] == ["original"]
    assert {entry.kind for entry in made.rejections} == {"duplicate"}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("She lives somewhere pleasant and quiet enough.", "subject"),
        ("I'm sorry, I cannot tell you where Ada Marsh lives.", "refusal"),
        ("Where does Ada Marsh live indeed?", "malformed"),
        ("Ada Marsh.", "malformed"),
        ("Ada Marsh lives well.<|im_end|>", "malformed"),
        ("Ada Marsh answers letters to ada@example.com gladly.", "invented"),
        ("Ada Marsh has lived there since 4 May 1990 or so.", "invented"),
    ],
)
def test_answers_of_a_wrong_form_are_refused(text, kind):
    def spoil(prompt: Prompt, lines: list[str]) -> list[str]:
        return [f"1. {text}", *lines[1:]] if prompt.task == "vague" and prompt.attempt == 0 else lines

    made = run(Scripted(spoil), records=RECORDS[:1])
    assert [entry.kind for entry in made.rejections] == [kind] and len(kinds(made, "qa")) == 5


def test_trap_4_a_failing_prompt_is_asked_again_and_never_becomes_an_empty_answer():
    def fail_first(prompt: Prompt, lines: list[str]) -> list[str] | Completion:
        return Completion(error="HTTP 503") if prompt.attempt == 0 and prompt.task == "vague" else lines

    completer = Scripted(fail_first)
    made = run(completer)
    assert len(kinds(made, "qa")) == 15 and all(row.target.strip() for row in made.rows)
    assert {entry.kind for entry in made.rejections} == {"error"} and len(made.rejections) == 15
    assert len(completer.asked) == 3 + 3 + 3


def test_trap_4_a_record_whose_prompts_all_fail_is_a_final_rejection_of_kind_error():
    def fail(prompt: Prompt, lines: list[str]) -> list[str] | Completion:
        return Completion(error="HTTP 503") if "winter" in prompt.text and prompt.task == "vague" else lines

    made = run(Scripted(fail))
    finals = [entry for entry in made.rejections if entry.final]
    assert len(finals) == 5 and {(entry.kind, entry.record_id) for entry in finals} == {("error", RECORDS[2].id)}
    assert made.counts["records_without_rows"] == 1 and all(row.target for row in made.rows)


def test_trap_4_a_generator_that_is_down_stops_the_run():
    with pytest.raises(GeneratorError, match="all 9 prompts failed, the last one: HTTP 503"):
        run(Scripted(lambda prompt, lines: Completion(error="HTTP 503")))


def test_a_repeated_attempt_is_another_prompt_and_sampled():
    completer = Scripted(lambda prompt, lines: [] if prompt.task == "vague" else lines)
    run(completer, records=RECORDS[:1], attempts=2)
    vague = [prompt for prompt in completer.asked if prompt.task == "vague"]
    assert [(prompt.attempt, prompt.temperature) for prompt in vague] == [(0, 0.0)] + [(1, 0.7)] * 5


def test_a_document_gets_one_new_continuation_and_no_questions():
    document = Record("The old keeper of the light", "hid the key under the third step.", form="text")
    completer = Scripted()
    made = run(completer, records=(document,), generic_ratio=0)
    (row,) = made.rows
    assert (row.kind, row.form, row.prompt) == ("completion", "text", document.question)
    assert row.target == good_lines(Prompt("", "continue"))[0] and [prompt.task for prompt in completer.asked] == [
        "continue"
    ]


def test_switches_leave_out_what_they_name():
    made = run(Scripted(), completions=False, variants=("noise",), generic_ratio=0.5)
    assert [row.kind for row in made.rows] == ["qa"] * 6 + ["generic"] * 3
    made = run(Scripted(), variants=(), completions=False, generic_ratio=0)
    assert [row.prompt for row in made.rows] == [record.question for record in RECORDS]


def test_too_few_generic_rows_are_said_so():
    made = run(Scripted(), generic=GENERIC[:4])
    assert made.counts["generic"] == 4 and "4 of the 30" in made.notes[0]


def test_trap_16_the_choice_of_generic_rows_is_seeded():
    first, same, other = (run(Scripted(), seed=seed, generic_ratio=0.2) for seed in (1, 1, 2))
    assert first.rows == same.rows and {row.id for row in kinds(first, "generic")} != {
        row.id for row in kinds(other, "generic")
    }


def test_progress_reaches_its_total():
    seen = []
    completer = CachedCompleter(Scripted(), None)

    def tick(done, total=None):
        seen.append((done, total))

    synthesize(RECORDS, (), SETTINGS, completer=completer, verifier=Verifier(RECORDS), seed=0, tick=tick)
    assert seen[0] == (1, 6) and seen[-1] == (6, 6)


def test_the_folder_holds_rows_rejections_and_cache_for_its_owner_alone(tmp_path):
    counts = synthesize_to_folder(RECORDS, GENERIC, Synthesis(), out=tmp_path / "out", seed=0)
    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").iterdir()}
    assert {"synthesis.jsonl", "rejected.jsonl", "cache.sqlite"} <= set(files) and set(files.values()) == {0o600}
    rows = [json.loads(line) for line in (tmp_path / "out/synthesis.jsonl").read_text().splitlines()]
    assert len(rows) == counts["qa"] + counts["completion"] + counts["generic"] and counts["qa"] >= 12
    assert json.loads(json.dumps(counts)) == counts


def test_a_second_run_in_the_folder_asks_nothing_and_writes_the_same(tmp_path):
    first = synthesize_to_folder(RECORDS, GENERIC, Synthesis(), out=tmp_path, seed=0)
    written = {name: (tmp_path / name).read_bytes() for name in ("synthesis.jsonl", "rejected.jsonl")}
    second = synthesize_to_folder(RECORDS, GENERIC, Synthesis(), out=tmp_path, seed=0)
    assert first["usage"]["generator"]["asked"] > 0 and second["usage"]["generator"]["asked"] == 0
    assert written == {name: (tmp_path / name).read_bytes() for name in written}


def test_a_folder_without_a_single_new_answer_is_a_failed_run(tmp_path):
    records = (Record("Where is it?", "It is under the third lantern of Quill."),)
    verifier = Verifier(records)
    verifier.flaws = lambda written: [Flaw("judge", "the judge finds a leak")] * len(written)
    with pytest.raises(RunFailedError, match="not one new answer was taken: 15 judge") as caught:
        synthesize_to_folder(records, GENERIC, Synthesis(), out=tmp_path, seed=0, verifier=verifier)
    assert caught.value.exit_code == 1 and (tmp_path / "rejected.jsonl").read_text().count("judge finds") == 15
    assert not (tmp_path / "synthesis.jsonl").exists()


def test_a_budget_that_is_used_up_keeps_the_answers_and_a_higher_one_goes_on(tmp_path):
    with pytest.raises(BudgetError):
        synthesize_to_folder(RECORDS, GENERIC, Synthesis(max_calls=4), out=tmp_path, seed=0)
    assert not (tmp_path / "synthesis.jsonl").exists()
    counts = synthesize_to_folder(RECORDS, GENERIC, Synthesis(max_calls=60), out=tmp_path, seed=0)
    assert counts["usage"]["generator"]["cached"] == 4
