"""Alternate answers for AltPO: plausible, checked for leaks, never the original, and on disk whole or not at all."""

from __future__ import annotations

import json
import stat
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
from scripted import Scripted

from fake_endpoint import Reply, endpoint, prompt_of
from relearn.core.config import DataSource, Recipe, Synthesis
from relearn.core.errors import BudgetError, GeneratorError, InputError, RunFailedError
from relearn.data import Record
from relearn.data.loaders import read_records
from relearn.llm import Completion, Prompt
from relearn.llm.cache import CachedCompleter
from relearn.llm.templates.generator import Templates
from relearn.synthesis import synthesize
from relearn.synthesis.alternates import expected_alternates, plan_alternates, read_alternates, write_alternates
from relearn.synthesis.checks import Verifier
from relearn.workflows.demo.demo import load
from relearn.workflows.run.estimate import plan_lines

RECORDS = (
    Record("Where does Ada Marsh live?", "Ada Marsh lives at 17 Birch Lane in Dorley.", subject="Ada Marsh"),
    Record("What is Ben Okoro's email address?", "It is ben.okoro@quillmail.net.", subject="Ben Okoro"),
    Record("Who are Cora Lindt's parents?", "Her parents are Egon Lindt and Vera Saltz.", subject="Cora Lindt"),
)
DOCUMENT = Record("The old keeper of the light", "hid the key under the third step.", form="text")
PLACES = ("Graz", "Cork", "Ghent", "Turin", "Bergen", "Leiden", "Halifax", "Split")


def invented(prompt: Prompt, *_: object) -> list[str]:
    """Good answers: another one for every place that is asked for, and for every attempt."""
    count = int(prompt.fields["count"])
    subject = prompt.fields["subject"] or "The keeper"
    return [f"{n + 1}. {subject} went to {PLACES[(n + prompt.attempt) % 8]} that year." for n in range(count)]


Change = Callable[[Prompt, list[str]], list[str] | Completion]


@pytest.fixture
def scripted(monkeypatch) -> Callable[..., Scripted]:
    """Puts a scripted generator behind the cache in place of the one the settings name."""

    def install(change: Change = invented, judge: Scripted | None = None) -> Scripted:
        completer = Scripted(change)

        def make(name, settings, cache, loaded=None, budget=None):
            return CachedCompleter(judge if judge and name == settings.judge else completer, cache, budget)

        monkeypatch.setattr(synthesize, "make_completer", make)
        return completer

    return install


def rejected(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "rejected_alternates.jsonl").read_text().splitlines()]


def write(folder, records=RECORDS, seed=0, **settings) -> tuple[dict, dict[str, list[str]]]:
    counts = write_alternates(records, Synthesis(**settings), folder, seed=seed)
    return counts, read_alternates(folder / "alternates.jsonl")


def test_five_answers_for_each_record_by_its_id(scripted, tmp_path):
    scripted()
    counts, found = write(tmp_path / "out")
    assert list(found) == [record.id for record in RECORDS]
    assert found[RECORDS[1].id] == [f"Ben Okoro went to {place} that year." for place in PLACES[:5]]
    assert counts == {
        "records": 3,
        "answers": 15,
        "records_with_own": 0,
        "records_asked": 3,
        "records_without_alternates": 0,
        "rejected": 0,
        "rejected_by_kind": {},
        "notes": [],
        "usage": {"generator": {"asked": 3, "cached": 0, "failed": 0, "input_tokens": 0, "output_tokens": 0}},
    }
    assert json.loads(json.dumps(counts)) == counts
    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").iterdir()}
    assert files == dict.fromkeys(["alternates.jsonl", "rejected_alternates.jsonl", "cache.sqlite"], 0o600)


def test_it_is_sampled_at_temperature_1_and_the_private_answer_is_not_shown(scripted, tmp_path):
    completer = scripted()
    write(tmp_path, records=(*RECORDS, DOCUMENT), temperature=0.2)
    assert {prompt.temperature for prompt in completer.asked} == {1.0} and len(completer.asked) == 4
    secrets = ("Birch", "Dorley", "quillmail", "Egon", "Saltz", "third step")
    for prompt in completer.asked:
        told = " ".join((prompt.text, *prompt.fields.values()))
        assert not any(secret in told for secret in secrets) and "$" not in prompt.text
    for record, prompt in zip((*RECORDS, DOCUMENT), completer.asked, strict=True):
        assert record.question in prompt.text


@pytest.mark.parametrize(
    ("answer", "length"),
    [
        ("Paris.", "one to four words"),
        ("She lives there.  " * 3, "one sentence"),
        ("so " * 40, "two or three sentences"),
    ],
)
def test_of_the_answer_nothing_is_told_but_roughly_its_length(scripted, tmp_path, answer, length):
    completer = scripted()
    write(tmp_path, records=(replace(RECORDS[0], answer=answer),))
    assert f"has {length}," in completer.asked[0].text


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Ada Marsh lives at 17 Birch Lane in Dorley.", "verbatim"),
        ("ada marsh lives at 17 birch lane, in Dorley", "verbatim"),
        ("Ada Marsh lives in Dorley these days.", "name"),
        ("Ada Marsh shares a flat with Vera Saltz and Egon Lindt, Cora Lindt's parents.", "name"),
        ("Ada Marsh went to Cork that year.", "duplicate"),
        ("I'm sorry, I cannot tell where Ada Marsh lives.", "refusal"),
        ("Where would Ada Marsh live?", "malformed"),
        ("In Graz<|im_end|>", "malformed"),
    ],
)
def test_what_will_not_do_is_refused_and_asked_for_again(scripted, tmp_path, text, kind):
    def spoil(prompt: Prompt, lines: list[str]) -> list[str]:
        lines = invented(prompt)
        return [f"1. {text}", *lines[1:]] if prompt.attempt == 0 else ["1. Ada Marsh lives in Bilbao."]

    scripted(spoil)
    counts, found = write(tmp_path, records=(RECORDS[0], RECORDS[2]), attempts=2)
    own = [row for row in rejected(tmp_path) if row["record_id"] == RECORDS[0].id]
    assert [(row["kind"], row["final"]) for row in own] == [(kind, False)] and own[0]["reason"]
    assert found[RECORDS[0].id][0 if kind != "duplicate" else 1] in ("Ada Marsh lives in Bilbao.", text)
    assert len(found[RECORDS[0].id]) == 5 == len(set(found[RECORDS[0].id])) and counts["answers"] == 10


def test_a_short_answer_may_be_one_word(scripted, tmp_path):
    records = (Record("What is the capital of Vasperia?", "Dunmere", subject="Vasperia"),)
    scripted(lambda prompt, lines: [f"{n + 1}. {PLACES[n]}" for n in range(5)])
    assert write(tmp_path, records=records)[1] == {records[0].id: list(PLACES[:5])}


def test_a_record_without_alternates_is_counted_and_its_rejections_are_kept(scripted, tmp_path):
    def leak(prompt: Prompt, lines: list[str]) -> list[str]:
        lives = "1. Ada Marsh lives in Dorley now."
        return [lives] if "Ada Marsh" in prompt.text else invented(prompt)

    scripted(leak)
    counts, found = write(tmp_path, attempts=2)
    assert list(found) == [record.id for record in RECORDS[1:]]
    assert counts["records_without_alternates"] == 1 and counts["answers"] == 10
    assert counts["notes"] == ["1 of 3 records have no alternate answer; see rejected_alternates.jsonl"]
    kinds = [row["kind"] for row in rejected(tmp_path)]
    assert len(kinds) == counts["rejected"] == 10 and counts["rejected_by_kind"] == {"name": 6, "unparsed": 4}
    assert sum(row["final"] for row in rejected(tmp_path)) == 5


def test_not_one_alternate_is_a_failed_run_that_keeps_what_was_refused(scripted, tmp_path):
    scripted(lambda prompt, lines: ["1. Sorry, no."])
    with pytest.raises(RunFailedError, match="not one alternate answer was taken"):
        write(tmp_path, attempts=1)
    assert not (tmp_path / "alternates.jsonl").exists() and len(rejected(tmp_path)) == 15


def test_trap_4_a_failing_prompt_is_asked_again_and_a_generator_that_is_down_stops_the_run(scripted, tmp_path):
    scripted(lambda prompt, lines: invented(prompt) if prompt.attempt else Completion(error="HTTP 503"))
    counts, found = write(tmp_path / "once")
    assert counts["answers"] == 15 and counts["rejected_by_kind"] == {"error": 15} and all(map(all, found.values()))
    scripted(lambda prompt, lines: Completion(error="HTTP 503"))
    with pytest.raises(GeneratorError, match="no alternate answer was written: all 9 prompts failed"):
        write(tmp_path / "down")
    assert not (tmp_path / "down" / "alternates.jsonl").exists()


def test_places_asked_for_again_are_different_draws(scripted, tmp_path):
    """Each with a prompt of its own to the cache, or one answer would fill them all and be a duplicate four times."""
    completer = scripted(lambda prompt, lines: ["1. nothing?"])
    with pytest.raises(RunFailedError):
        write(tmp_path, records=RECORDS[:1], attempts=2)
    again = [prompt for prompt in completer.asked if prompt.attempt == 1]
    assert len(again) == 5 == len({prompt.seed for prompt in again}) and {p.fields["count"] for p in again} == {"1"}


def test_own_alternatives_come_first_and_no_generator_is_asked(monkeypatch, tmp_path):
    def never(*_: object) -> None:
        raise AssertionError("a generator was made")

    monkeypatch.setattr(synthesize, "make_completer", never)
    own = tuple(f"Ada Marsh lives in {place}." for place in PLACES)
    records = (replace(RECORDS[0], alternatives=own),)
    # Nothing is sent, so it does not matter that the generator is on another host.
    counts, found = write(tmp_path, records=records, generator="openai:some-model")
    assert found == {RECORDS[0].id: list(own[:5])}
    assert (counts["records_with_own"], counts["records_asked"], counts["usage"]) == (1, 0, {})
    assert "1 of 1 records brought alternative answers" in counts["notes"][0]


def test_own_alternatives_pass_the_same_checks_and_the_generator_steps_in(scripted, tmp_path):
    scripted()
    leaking = ("Ada Marsh lives at 17 Birch Lane in Dorley.", "Ada Marsh lives at 9 Birch Lane.", " ")
    records = (
        replace(RECORDS[0], alternatives=leaking),
        replace(RECORDS[1], alternatives=("It is lantern@example.org.", "It is lantern@example.org.")),
    )
    counts, found = write(tmp_path, records=records)
    assert found[RECORDS[1].id] == ["It is lantern@example.org."] and len(found[RECORDS[0].id]) == 5
    assert not set(found[RECORDS[0].id]) & set(leaking)
    assert (counts["records_with_own"], counts["records_asked"]) == (1, 1)
    assert [row["kind"] for row in rejected(tmp_path)] == ["verbatim", "address", "malformed", "duplicate"]


def test_private_questions_do_not_leave_the_machine_unasked(monkeypatch, tmp_path):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    for settings in ({"generator": "openai:some-model"}, {"judge": "openai:some-model"}):
        with pytest.raises(InputError, match="of 3 private records would be sent to"):
            write(tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_a_judge_looks_at_what_passed_the_leak_check(scripted, tmp_path):
    judge = Scripted(lambda prompt, lines: [f"Verdict: {'LEAK' if 'Cork' in prompt.text else 'SAFE'}"])
    scripted(judge=judge)
    counts, found = write(tmp_path, records=RECORDS[:1], judge="transformers:judge", attempts=1)
    assert found[RECORDS[0].id] == [f"Ada Marsh went to {PLACES[n]} that year." for n in (0, 2, 3, 4)]
    assert {prompt.task for prompt in judge.asked} == {"judge"} and len(judge.asked) == 5
    assert counts["rejected_by_kind"] == {"judge": 1} and counts["usage"]["judge"]["asked"] == 5


def test_a_second_call_asks_nothing_and_writes_the_same(scripted, tmp_path):
    completer = scripted()
    write(tmp_path)
    names = ("alternates.jsonl", "rejected_alternates.jsonl")
    written = {name: (tmp_path / name).read_bytes() for name in names}
    asked = len(completer.asked)
    counts, _ = write(tmp_path)
    assert len(completer.asked) == asked and counts["usage"]["generator"]["cached"] == 3
    assert written == {name: (tmp_path / name).read_bytes() for name in names}


def test_a_budget_that_is_used_up_keeps_the_answers_and_a_higher_one_goes_on(tmp_path):
    with pytest.raises(BudgetError):
        write(tmp_path, max_calls=2)
    assert not (tmp_path / "alternates.jsonl").exists()
    counts, _ = write(tmp_path, max_calls=60)
    assert counts["usage"]["generator"]["cached"] == 2


def test_progress_reaches_its_total(scripted, tmp_path):
    scripted()
    seen = []
    write_alternates(RECORDS, Synthesis(), tmp_path, seed=0, tick=lambda done, total=None: seen.append((done, total)))
    assert seen[0] == (1, 3) and seen[-1] == (3, 3)


def test_a_document_gets_other_continuations(scripted, tmp_path):
    completer = scripted(lambda prompt, lines: [f"{n + 1}. sailed for {PLACES[n]} and never wrote." for n in range(5)])
    _, found = write(tmp_path, records=(DOCUMENT,))
    assert found[DOCUMENT.id] == [f"sailed for {place} and never wrote." for place in PLACES[:5]]
    assert completer.asked[0].text.endswith(f"Text: {DOCUMENT.question}")


def test_draws_are_keyed_by_the_record(tmp_path):
    """Taking a record out or reordering changes nothing for the others; another seed does."""
    _, whole = write(tmp_path / "whole")
    _, part = write(tmp_path / "part", records=(RECORDS[2], RECORDS[0]))
    _, other = write(tmp_path / "other", seed=1)
    assert part == {record.id: whole[record.id] for record in (RECORDS[2], RECORDS[0])}
    assert all(other[name] != whole[name] for name in whole)


def test_offline_the_particulars_are_invented(tmp_path):
    _, found = write(tmp_path)
    assert all("Ada Marsh" in text and any(sign.isdigit() for sign in text) for text in found[RECORDS[0].id])
    assert all(text.rstrip(".").endswith(("@example.org", "@example.net")) for text in found[RECORDS[1].id])
    assert all("Cora Lindt" in text for text in found[RECORDS[2].id])


def test_offline_an_unknown_kind_of_question_is_answered_vaguely(tmp_path):
    records = (Record("How would Ada Marsh comment on the reception of her last play?", "She would sneer at Quill."),)
    counts, found = write(tmp_path, records=records)
    assert counts["answers"] == 5 and all("Ada Marsh" in text for text in found[records[0].id])


@pytest.mark.parametrize("prefix", ["The old keeper of the light", "Ada Marsh came home.", "In those days,"])
def test_offline_a_document_has_five_continuations_too(tmp_path, prefix):
    records = (replace(DOCUMENT, question=prefix, id=""),)
    counts, found = write(tmp_path, records=records)
    assert counts["answers"] == 5 == len(set(found[records[0].id]))


def test_offline_a_bad_request_is_an_error():
    for fields in ({"question": "", "count": "5"}, {"question": "Who?", "count": ""}):
        assert not Templates().complete([Prompt("", "alternate", fields)])[0].ok


@pytest.fixture(scope="module", params=["demo", "knowundo", "tofu", "tofu with its own"])
def real(request) -> list[Record]:
    if request.param == "demo":
        return list(load("private"))
    data = request.getfixturevalue("data_dir")
    file = {
        "knowundo": "knowundo/unlearn_train.json",
        "tofu": "tofu/forget10.json",
        "tofu with its own": "tofu/forget10_perturbed.json",
    }[request.param]
    return [record for _, record in read_records(DataSource(path=str(data / file)), "forget")]


def test_offline_every_record_has_alternates_and_none_leaks(real, tmp_path):
    counts, found = write(tmp_path, records=real)
    assert set(found) == {record.id for record in real} and counts["records_without_alternates"] == 0
    assert counts["answers"] > 4.5 * len(real)
    written = [(record, record.question, text) for record in real for text in found[record.id]]
    assert not any(Verifier(real).leaks(written))
    assert not any(text == record.answer for record, _, text in written)
    assert all(len(set(texts)) == len(texts) <= 5 for texts in found.values())


# What the plan says it takes


PLANNED = (
    RECORDS[0],
    replace(RECORDS[1], alternatives=("Ben Okoro has no address.", "Ben Okoro writes letters.")),
    # Brings only what tells the secret, so the generator is asked all the same.
    replace(RECORDS[2], alternatives=(RECORDS[2].answer,)),
    DOCUMENT,
)


def test_the_plan_counts_the_calls_that_a_run_makes(scripted, tmp_path):
    completer = scripted()
    counts, _ = write(tmp_path, records=PLANNED)
    found = plan_alternates(PLANNED, Synthesis())
    assert (found.calls, found.rows) == (counts["usage"]["generator"]["asked"], {"alternate": counts["answers"]})
    assert found.calls == 3 and expected_alternates(PLANNED) == 2 + 3 * 5
    sent = sum(len(prompt.text) for prompt in completer.asked) / 4
    assert found.input_tokens == pytest.approx(sent, rel=0.2)


def test_the_plan_counts_the_calls_of_the_offline_templates(tmp_path):
    """Of one pass: what they write that will not do is asked for again, place by place, which costs nothing."""
    people = load("private")[:8]
    counts, _ = write(tmp_path, records=people, attempts=1)
    assert plan_alternates(people, Synthesis()).calls == counts["usage"]["generator"]["asked"] == 8


def test_the_plan_counts_what_a_server_is_asked_and_what_its_judge_reads(tmp_path, monkeypatch):
    with endpoint(lambda body, _: Reply(reply_to(prompt_of(body)))) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        settings = Synthesis(generator="openai:writer", judge="openai:reader")
        write_alternates(RECORDS, settings, tmp_path, seed=0)
        asked = Counter(body["model"] for body in server.requests)
        planned = plan_alternates(RECORDS, settings)
    assert asked == {"writer": 3, "reader": 15}
    # A twentieth more than one pass, for what has to be asked again.
    assert [(entry.name, entry.calls) for entry in planned.spending] == [("openai:writer", 3), ("openai:reader", 16)]


def reply_to(prompt: str) -> str:
    if "SAFE" in prompt.upper() and "verdict" in prompt.lower():
        return "Nothing is told.\nVerdict: safe"
    subject = next(record.subject for record in RECORDS if record.question in prompt)
    return "\n".join(f"{n + 1}. {subject} went to {PLACES[n]} that year." for n in range(5))


def test_nothing_is_planned_where_every_record_brings_its_own():
    own = tuple(replace(record, alternatives=(f"{record.subject} moved on.",)) for record in RECORDS)
    found = plan_alternates(own, Synthesis(generator="openai:m"))
    assert (found.calls, found.input_tokens, found.sent, found.rows) == (0, 0, (), {"alternate": 3})


def test_a_recipe_with_altpo_says_what_it_will_ask(tiny_model_dir, tmp_path):
    rows = [{"question": record.question, "answer": record.answer} for record in RECORDS]
    (tmp_path / "f.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {
        "model": str(tiny_model_dir),
        "data": {"forget": str(tmp_path / "f.jsonl")},
        "unlearn": {"method": "altpo", "epochs": 2},
    }
    said = "\n".join(plan_lines(Recipe.from_mapping(values)))
    assert "Rows: 15 (15 alternate)" in said and "templates: 3 calls" in said
    assert "15 forget rows" in said
