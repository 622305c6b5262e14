"""Mangled recipes and record files: exit code 0, or 2 with one line; never a traceback.

RELEARN_EXAMPLES sets the number of examples of each test (`make soak`: many).
"""

from __future__ import annotations

import contextlib
import copy
import csv
import io
import json
import os
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relearn.cli import run_command

EXAMPLES = int(os.environ.get("RELEARN_EXAMPLES", "0"))
FORGET = [{"question": "Where does Ada Holm live?", "answer": "Ada Holm lives at 12 Mill Lane, Torvik.", "id": "a"}]
RETAIN = [
    {"question": "What does Ada Holm build?", "answer": "Ada Holm builds boats in Torvik.", "subject": "Ada Holm"}
]
VALID = {
    "name": "run",
    "seed": 1,
    "model": {"name": "MODEL", "dtype": "float32", "adapter": None},
    "data": {
        "forget": {"path": "forget.jsonl", "map": {"question": "question", "answer": "answer"}, "limit": 1},
        "retain": ["retain.jsonl"],
        "probes": {"retain": ["retain.jsonl"]},
    },
    "synthesis": {"variants": ["simple"], "attempts": 2, "generator": "templates"},
    "unlearn": {"method": "relearn", "options": {}, "mask": None, "epochs": 1, "lora": {"r": 2, "target": ["q_proj"]}},
    "generate": {"max_new_tokens": 8},
    "metrics": {"c1": 0.3, "ability": {"tasks": []}},
}
ODD_TEXTS = ["", " ", ".", "/", "~", "..", "a\nb", "\u202e", "e\u0301" * 200, "x" * 5000, "${HOME}", "${NO_SUCH}"]
ODD_TEXTS += [
    "é",
    "😀",
    "null",
    "yes",
    "1e400",
    "-0",
    "2020-01-01",
    "0x_",
    "relearn",
    "retain.jsonl",
    "a/b",
    "<|im_end|>",
]
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-3, 3), st.floats(), st.sampled_from(ODD_TEXTS), st.text()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=5,
)
# Pieces that mean something in YAML, JSON or CSV, and bytes that are no text.
PIECES = [b"&a ", b"*a", b"[", b"]", b"{", b"}", b": ", b"- ", b"\n", b"\r", b"\t", b'"', b"'", b",", b";", b"\\", b"#"]
PIECES += [
    b"|",
    b"\x00",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\\ud800",
    b"!!python/name:os ",
    b"<<: *a",
    b"---\n",
    b"null",
    b"NaN",
]
PIECES += [b"1e999", b'{"question": ', b"[[[[[[[[" * 50, "\u2028".encode(), b"\x1b[31m", b"9" * 5000]
EDITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 12), st.sampled_from(PIECES)), min_size=1, max_size=4)


def fuzzed(few: int):
    """Settings of a test: `few` examples, the same ones every time, or RELEARN_EXAMPLES others."""
    suppressed = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(
        max_examples=EXAMPLES or few, derandomize=not EXAMPLES, deadline=None, suppress_health_check=suppressed
    )


def run(*arguments: str) -> int:
    """Run a command; fail on a traceback, on an exit code that is not 0 or 2, and on a refusal of several lines."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = run_command(list(arguments))
    lines = said.getvalue().strip().splitlines()
    assert code in (0, 2), lines
    if code == 2:
        assert len(lines) == 1 and lines[0].startswith("relearn: ") and len(lines[0]) < 3000, lines
    return code


def edited(data: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    """Replace a few bytes at a share of the length by a piece."""
    for share, removed, piece in edits:
        at = round(share * len(data))
        data = data[:at] + piece + data[at + removed :]
    return data


@pytest.fixture
def place(tmp_path, tiny_model_dir, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, rows in (("forget", FORGET), ("retain", RETAIN)):
        Path(f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return tiny_model_dir


def valid(model: Path) -> dict:
    values = copy.deepcopy(VALID)
    values["model"]["name"] = str(model)
    return values


def places(value: object, path: tuple = ()) -> list[tuple]:
    """The path of every value in a recipe."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [found for key, entry in inner for found in places(entry, (*path, key))]


def test_the_recipe_that_is_mangled_is_valid(place, capsys):
    Path("r.yaml").write_text(yaml.safe_dump(valid(place)))
    assert run_command(["plan", "r.yaml"]) == 0, capsys.readouterr().err
    assert "refuse" not in capsys.readouterr().out


@fuzzed(40)
@given(data=st.data())
def test_recipes_with_other_values(place, data):
    values = valid(place)
    for _ in range(data.draw(st.integers(1, 3))):
        *parents, last = data.draw(st.sampled_from(places(values)))
        inner = values
        for step in parents:
            inner = inner[step]
        action = data.draw(st.sampled_from(["replace", "delete", "add"]))
        if action == "delete":
            del inner[last]
        elif action == "add" and isinstance(inner, dict):
            inner[data.draw(st.text(max_size=8) | st.sampled_from(["path", "options", "base"]))] = data.draw(VALUES)
        else:
            inner[last] = data.draw(VALUES)
        if not places(values):
            break
    with contextlib.suppress(UnicodeEncodeError):
        Path("r.yaml").write_text(yaml.safe_dump(values, allow_unicode=data.draw(st.booleans())), encoding="utf-8")
    run("plan", "r.yaml")


@fuzzed(40)
@given(edits=EDITS)
def test_recipes_with_other_bytes(place, edits):
    Path("r.yaml").write_bytes(edited(yaml.safe_dump(valid(place)).encode(), edits))
    run("plan", "r.yaml")


@fuzzed(30)
@given(change=st.text(max_size=20) | st.tuples(st.sampled_from(["seed", "data.forget", "unlearn.lora"]), VALUES))
def test_changes_on_the_command_line(place, change):
    Path("r.yaml").write_text(yaml.safe_dump(valid(place)))
    run("plan", "r.yaml", f"--set={change if isinstance(change, str) else f'{change[0]}={change[1]}'}")


def as_csv(rows: list[dict], delimiter: str = ",") -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, rows[0], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


TURNS = [{"from": "human", "value": FORGET[0]["question"]}, {"from": "gpt", "value": FORGET[0]["answer"]}]
FILES = {
    "a.jsonl": "".join(f"{json.dumps(row)}\n" for row in FORGET * 2),
    "a.json": json.dumps(FORGET, indent=1),
    "b.json": json.dumps([{"conversations": TURNS, "id": "x"}]),
    "b.jsonl": json.dumps(
        {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ada."}]}
    ),
    "c.jsonl": json.dumps(
        {"question": "Who?", "answerKey": "B", "choices": {"text": ["Ada", "Ben"], "label": ["A", "B"]}}
    ),
    "d.jsonl": json.dumps({"text": "Ada Holm lives at 12 Mill Lane. " * 9}),
    "a.csv": as_csv(FORGET),
    "b.csv": as_csv(FORGET, ";"),
    "a.tsv": as_csv(FORGET, "\t"),
}


@fuzzed(60)
@given(name=st.sampled_from(sorted(FILES)), edits=EDITS)
def test_record_files_with_other_bytes(place, name, edits):
    Path(name).write_bytes(edited(FILES[name].encode(), edits))
    run("verify", "retain.jsonl", "--against", name, "--out", "flagged.jsonl")


@fuzzed(40)
@given(row=st.dictionaries(st.sampled_from([*FORGET[0], "messages", "text", "choices", "tags"]), VALUES, max_size=5))
def test_record_files_with_other_values(place, row):
    given_row = {**FORGET[0], **row} if len(row) % 2 else row
    Path("odd.jsonl").write_text(json.dumps(given_row) + "\n")
    run("verify", "odd.jsonl", "--against", "odd.jsonl", "--out", "flagged.jsonl")
    run("evaluate", "--forget", "odd.jsonl", "--metrics", "rouge_l", "--out", "evaluation")
