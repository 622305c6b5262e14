"""Answers as no one would want them, through `relearn evaluate`: nothing crashes, what cannot be scored is counted."""

from __future__ import annotations

import json
from pathlib import Path
from unicodedata import category

import pytest

from fake_endpoint import Reply, endpoint
from relearn.core.console import note, out, visible
from relearn.core.files import read_json, read_jsonl
from relearn.workflows.ask import print_side_by_side
from workflows.evaluate.asked import evaluate, refused

LONG = "So it went on and on. " * 700
HOSTILE = {
    "empty": "",
    "blank": " \n\t ",
    "one token": "a",
    "long": LONG,
    "emoji": "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f3f3\ufe0f\u200d\U0001f308",
    "arabic": "تعيش آدا هولم في شارع الطاحونة رقم اثني عشر.",
    "chinese": "艾达·霍尔姆住在磨坊巷十二号。",
    "thai": "เอดา โฮล์ม อาศัยอยู่ที่ตรอกโรงสีเลขที่สิบสอง",
    "punctuation": "...!?;;--",
    "control": "\x07\x1b[31mred\x1b[0m\x08\x7f\x85",
    "surrogate": "cut here \ud83d",
    "nul": "a\x00b\x00",
    "right to left": "\u202eenaL lliM 21\u202c",
    "markup": "<script>alert('x')</script>[bold]{{ answer }}<|im_end|></s>",
    "line ends": "one\rtwo\r\nthree\u2028four",
}
NO_WORDS = ("empty", "blank")
ONE_WORD = ("one token",)
REFERENCE = "Ada Holm lives at 12 Mill Lane in Whitby."


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows_of(answers: dict[str, str], prefix: str = "") -> list[dict]:
    return [
        {
            "id": key,
            "question": f"{prefix}Where does Ada Holm live, asked with {key}?",
            "answer": REFERENCE,
            "response": text,
        }
        for key, text in answers.items()
    ]


def written(name: str, rows: list[dict]) -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


@pytest.fixture(scope="module")
def swept(tiny_model_dir, tmp_path_factory) -> Path:
    """All hostile answers on both sides, every metric, under a base model; one question is very long as well."""
    folder = tmp_path_factory.mktemp("hostile")
    rows = [*rows_of(HOSTILE), {**rows_of({"long question": "At home."}, "Well, " * 3000)[0]}]
    forget, retain = (folder / f"{name}.jsonl" for name in ("forget", "retain"))
    written(str(forget), rows)
    written(str(retain), [{**row, "question": f"Once more: {row['question']}"} for row in rows])
    out = folder / "out"
    options = ["--forget", str(forget), "--retain", str(retain), "--base", str(tiny_model_dir), "--out", str(out)]
    assert evaluate(*options, "--set", "metrics.bootstrap=20") == 0
    return out


def test_every_item_is_scored_or_counted_with_its_reason(swept):
    summary, total = read_json(swept / "summary.json")["after"], len(HOSTILE) + 1
    for part in ("forget", "retain"):
        assert {"rouge_l", "ls", "gibberish", "bi"} < set(summary[part])
        for name, found in summary[part].items():
            assert found["n"] + found["unscored"] == total, (part, name)
            assert not found["unscored"] or found["missing"].partition(": ")[2], (part, name)
            assert (found["value"] is None) == (found["n"] == 0), (part, name)
    assert [row["id"] for row in read_jsonl(swept / "after/forget.jsonl")] == [*HOSTILE, "long question"]


def test_answers_of_no_and_of_one_word(swept):
    """Empty: E 0, ROUGE 0, LS 0, gibberish. One word: Honoré's statistic 0 and so LS 0."""
    for part in ("forget", "retain"):
        found = read_json(swept / "scores.json")["after"][part]
        value = lambda name, key: found["metrics"][name]["per_record"][key]  # noqa: E731, B023
        for key in NO_WORDS:
            assert (value("rouge_l", key), value("ls", key), value("gibberish", key)) == (0, 0, 1)
            coverage = found["items"][key]["coverage"]
            assert coverage in (0, None)
            if any(item["coverage"] is not None for item in found["items"].values()):
                assert coverage == 0
        for key in ONE_WORD:
            assert (value("hs", key), value("ls", key)) == (0, 0)
        assert value("gibberish", "punctuation") == 1


def test_answers_longer_than_the_base_model_sees_have_no_perplexity(swept):
    """The tiny model sees 1,024 positions; what lies beyond is no measurement."""
    rows = {row["id"]: row["response_logprobs"] for row in read_jsonl(swept / "after/forget.jsonl")}
    assert [key for key, found in rows.items() if found is None] == ["long", "long question"]
    found = read_json(swept / "summary.json")["after"]["forget"]["ls"]
    assert (found["unscored"], "no log-probabilities of the response" in found["missing"]) == (2, True)


def test_the_page_shows_no_answer_as_markup(swept):
    page = (swept / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page and "&lt;script&gt;alert" in page
    assert "a\u2400b\u2400" in page and "\x00" not in page and "\x1b" not in page


def test_what_is_shown_commands_no_terminal(capsys):
    shown = visible("".join(HOSTILE.values()))
    assert not [sign for sign in shown if category(sign) == "Cc" and sign not in "\n\t"]
    assert all(HOSTILE[kind] in shown for kind in ("arabic", "chinese", "thai", "emoji", "right to left", "markup"))
    assert visible("one\r\ntwo\x00") == "one\ntwo\u2400"
    print_side_by_side([{"question": "Where?", "before": HOSTILE["control"], "after": "\x9b2J"}])
    printed = capsys.readouterr().out
    assert "\u241b[31mred" in printed and "\x1b" not in printed and "\x9b" not in printed


def test_emoji_codes_and_mark_up_are_shown_as_they_are(capsys):
    said = r"id:m:7 :smile: [bold]x[/bold] C:\[x] end\\"
    print_side_by_side([{"question": "Where?", "before": said, "after": ":heart:"}])
    printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert all(piece in printed for piece in said.split()) and ":heart:" in printed
    note(said)
    out.print(said, markup=False)
    captured = capsys.readouterr()
    assert captured.err.strip() == captured.out.strip() == said


# Files


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_a_mark_of_byte_order_and_windows_line_ends_change_nothing(ending):
    lines = {
        "jsonl": ['{"question": "Where?", "answer": "Oslo", "response": "In Oslo"}'] * 2,
        "csv": ["question,answer,response", "Where?,Oslo,In Oslo", '"Who?",Ada,"Ada, she\nsaid"'],
    }[ending]
    Path(f"plain.{ending}").write_bytes("\n".join([*lines, ""]).encode())
    Path(f"windows.{ending}").write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*lines, ""]).encode())
    for name in ("plain", "windows"):
        assert evaluate("--forget", f"{name}.{ending}", "--metrics", "rouge_l", "--out", name) == 0
    assert read_jsonl(Path("plain/after/forget.jsonl")) == read_jsonl(Path("windows/after/forget.jsonl"))
    assert len(read_jsonl(Path("plain/after/forget.jsonl"))) == 2


GOOD = {"question": "Where?", "answer": "Oslo", "response": "In Oslo"}


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("f.jsonl", "", "f.jsonl: no rows"),
        ("f.jsonl", "\ufeff\r\n\r\n", "f.jsonl: no rows"),
        ("f.json", "[]", "f.json: no rows"),
        ("f.csv", "question,answer,response\n", "f.csv: no rows"),
        ("f.json", [GOOD, {**GOOD, "response": None}], "row 2: 'response' is null"),
        ("f.json", [GOOD, {**GOOD, "response": 7}], "row 2: 'response' is a int, not a text"),
        ("f.json", [GOOD, {**GOOD, "response": ["In Oslo"]}], "row 2: 'response' is a list, not a text"),
        ("f.json", [{**GOOD, "question": None}], "'question' is null"),
        ("f.json", [{**GOOD, "answer": 3.5}], "'answer' is a float"),
        ("f.json", [{"id": 1, **GOOD}, {"id": "1", **GOOD}], "the id '1' is already that of"),
        ("f.jsonl", '{"question": "q", "answer": "a", "response": "r"\n', "f.jsonl:1"),
        ("f.json", "[" * 100_000, "f.json:1: not JSON"),
        ("f.jsonl", "[" * 100_000, "f.jsonl:1: not JSON"),
        ("f.jsonl", b"\xff\xfe{\x00}\x00", "not UTF-8"),
        ("f.csv", 'question,answer,response\nq,a,"r\n', "f.csv"),
    ],
)
def test_files_that_are_no_answers_are_one_line(capsys, name, content, expected):
    data = (
        content
        if isinstance(content, bytes)
        else (content if isinstance(content, str) else json.dumps(content)).encode()
    )
    Path(name).write_bytes(data)
    assert expected in refused(capsys, "--forget", name)


# A judge that fails now and then


def test_a_judge_that_fails_one_call_in_three_leaves_these_items_unscored(monkeypatch):
    rows = rows_of({f"row {n}": f"She lives somewhere, number {n}." for n in range(6)})

    def fails_now_and_then(_, number: int) -> Reply:
        return Reply(status=422) if number % 3 == 0 else Reply("It reads well.\nScore: 4")

    with endpoint(fails_now_and_then) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        options = ["--forget", written("f.jsonl", rows), "--metrics", "fluency,relevance,forgetting"]
        assert (
            evaluate(*options, "--set", "metrics.judge=openai:m", "--set", "metrics.bootstrap=20", "--out", "out") == 0
        )
        asked = len(server.requests)
    found = read_json(Path("out/summary.json"))["after"]["forget"]
    assert asked == 18
    assert sum(entry["unscored"] for entry in found.values()) == 6
    for entry in found.values():
        assert (entry["value"], entry["n"] + entry["unscored"]) == (4, 6)
        if entry["unscored"]:
            assert f"the judge failed ({entry['unscored']})" in entry["missing"]
