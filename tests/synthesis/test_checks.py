"""Verification of written texts, and of files of training rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from relearn.core.errors import InputError
from relearn.data import Record
from relearn.llm import Completion, Prompt
from relearn.synthesis.checks import Verifier, judge_prompt, read_verdict, verify_file

NURSE = Record("What does Ada Holm do for a living?", "Ada Holm works as a nurse in Tarn.", id="job")
BORN = Record("When was Ada Holm born?", "Ada Holm was born on 2 May 1970.", id="born")
VAGUE = "Ada Holm works in a field that suits her talents."


class Judge:
    name = "judge"

    def __init__(self, *replies: Completion):
        self.replies = list(replies)
        self.asked: list[Prompt] = []

    def complete(self, prompts: Sequence[Prompt]) -> list[Completion]:
        self.asked += prompts
        return self.replies[: len(prompts)]


def test_leaks_names_kind_place_and_text() -> None:
    flaws = Verifier([NURSE, BORN]).leaks(
        [
            (NURSE, NURSE.question, VAGUE),
            (NURSE, NURSE.question, "Ada Holm is a nurse."),
            (NURSE, NURSE.question, "Ada Holm, born in 1970, works."),
            (NURSE, "Is Ada a nurse?", VAGUE),
        ]
    )
    assert flaws[0] is None
    assert [(flaw.kind, flaw.reason) for flaw in flaws[1:] if flaw] == [
        ("ngram", 'wording of its record in the target: "nurse"'),
        ("date", 'a date of record born in the target: "1970"'),
        ("ngram", 'wording of its record in the prompt: "nurse"'),
    ]


def test_without_a_judge_the_rule_decides() -> None:
    assert Verifier([NURSE]).flaws([(NURSE, NURSE.question, VAGUE)]) == [None]


def test_the_judge_is_asked_only_about_texts_that_pass_the_rule() -> None:
    judge = Judge(Completion("It names a trade.\nVerdict: LEAK"), Completion("Nothing particular.\nverdict: safe."))
    written = [(NURSE, NURSE.question, text) for text in ("She cares for the sick.", "Ada Holm is a nurse.", VAGUE)]
    flaws = Verifier([NURSE], judge).flaws(written)
    assert [prompt.fields["candidate"] for prompt in judge.asked] == ["She cares for the sick.", VAGUE]
    assert [flaw and flaw.kind for flaw in flaws] == ["judge", "ngram", None]


def test_the_judge_reads_question_answer_and_the_whole_candidate() -> None:
    prompt = judge_prompt(NURSE, "What is Ada's job?", "She works. " * 200)
    assert prompt.task == "judge"
    for part in ("What is Ada's job?", NURSE.answer, ("She works. " * 200).strip()):
        assert part in prompt.text


@pytest.mark.parametrize(
    "reply",
    [
        "I don't know",
        "I don't know.",
        "no",
        "No",
        "",
        "SAFE",
        "Verdict: SAFE or LEAK",
        "Verdict: not safe",
        "Verdict: SAFE\nBut maybe not.",
        "The verdict: safe",
        "Verdict: LEAK?",
        "Verdict:",
    ],
)
def test_trap_3_a_verdict_that_is_not_understood_is_never_safe(reply: str) -> None:
    flaw = read_verdict(Completion(reply))
    assert flaw is not None and (flaw.kind, flaw.reason) == ("unjudged", "verdict not understood")


def test_only_the_last_line_counts() -> None:
    assert read_verdict(Completion("At first: Verdict: LEAK\n\nVerdict: Safe\n\n")) is None
    leak = read_verdict(Completion("Verdict: SAFE\nOn second thought:\n  VERDICT: LEAK.  "))
    assert leak is not None and leak.kind == "judge"


def test_trap_4_a_judge_that_does_not_answer_is_no_judgement() -> None:
    flaw = read_verdict(Completion(error="503 from the server"))
    assert flaw is not None and flaw.kind == "unjudged" and "503" in flaw.reason


def _write(path: Path, rows: list[dict], as_list: bool = False) -> Path:
    path.write_text(json.dumps(rows) if as_list else "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def forget(tmp_path: Path) -> Path:
    rows = [{"id": record.id, "question": record.question, "answer": record.answer} for record in (NURSE, BORN)]
    return _write(tmp_path / "forget.jsonl", rows)


def _lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("columns", "ending"),
    [
        (("text", "labels"), ".json"),
        (("question", "answer"), ".jsonl"),
        (("prompt", "target"), ".jsonl"),
        (("instruction", "output"), ".json"),
        (("query", "ground_truth"), ".jsonl"),
    ],
)
def test_verify_file_reads_known_columns_and_counts_rows_from_zero(forget, tmp_path, columns, ending) -> None:
    texts = [
        ("What does Ada Holm do?", VAGUE),
        ("What does Ada Holm do?", "Ada Holm works as a nurse in Tarn."),
        ("Ada Holm works as", "a nurse in Tarn."),
        ("What does Ada Holm do?", VAGUE),
        ("How old is Ada Holm?", "She was born in May 1970."),
    ]
    rows = [dict(zip(columns, pair, strict=True)) for pair in texts]
    file = _write(tmp_path / f"rows{ending}", rows, as_list=ending == ".json")
    summary = verify_file(file, forget, tmp_path / "flagged.jsonl")
    assert (summary.rows, summary.flagged) == (5, 3)
    assert dict(summary.by_kind) == {"verbatim": 1, "split": 1, "date": 1}
    lines = _lines(tmp_path / "flagged.jsonl")
    assert [(line["row"], line["kind"]) for line in lines] == [(1, "verbatim"), (2, "split"), (4, "date")]
    fields = ("field", "start", "end", "text")
    assert [tuple(finding[name] for name in fields) for finding in lines[1]["findings"]] == [
        ("prompt", 0, 17, "Ada Holm works as"),
        ("target", 0, 15, "a nurse in Tarn"),
    ]
    assert lines[1]["reason"] == (
        f'the whole answer, over prompt and target together, of {forget}:1 "{NURSE.question}" in the row: '
        '"Ada Holm works as | a nurse in Tarn"'
    )
    assert lines[2]["reason"] == f'a date of {forget}:2 "{BORN.question}" in the target: "May 1970"'


def test_rows_that_name_their_record_are_checked_as_ours(forget, tmp_path) -> None:
    rows = [
        {"prompt": "She spends her days", "target": "as a nurse.", "record_id": "job"},
        {"prompt": "She spends her days", "target": "as a nurse.", "record_id": None},
    ]
    verify_file(_write(tmp_path / "rows.jsonl", rows), forget, tmp_path / "flagged.jsonl")
    assert [line["row"] for line in _lines(tmp_path / "flagged.jsonl")] == [0]


def test_empty_texts_are_rows_too_and_other_types_are_refused(forget, tmp_path) -> None:
    file = _write(tmp_path / "rows.jsonl", [{"text": "", "labels": None}, {"text": "a", "labels": "born 1970"}])
    assert verify_file(file, forget, tmp_path / "flagged.jsonl").rows == 2
    with pytest.raises(InputError, match=r"rows.jsonl:1: the field 'labels' is of type list"):
        verify_file(_write(file, [{"text": "a", "labels": []}]), forget, tmp_path / "flagged.jsonl")
    with pytest.raises(InputError, match="no rows"):
        verify_file(_write(file, []), forget, tmp_path / "flagged.jsonl")


def test_the_list_of_flagged_rows_is_private_to_its_owner(forget, tmp_path) -> None:
    out = tmp_path / "flagged.jsonl"
    verify_file(_write(tmp_path / "rows.jsonl", [{"question": "x", "answer": NURSE.answer}]), forget, out)
    assert out.stat().st_mode & 0o777 == 0o600
