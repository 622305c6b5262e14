"""The leak check on the augmented sets that public code has produced."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from relearn.synthesis.checks import verify_file


def _read(path: Path) -> list[dict]:
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines()]


def _plain(text: str) -> str:
    """A second way to compare, on purpose not the package's own: letters and digits, in lower case."""
    return " ".join(re.findall(r"\w+", text.lower()))


def _verbatim_rows(rows: list[dict], forget: list[dict], question: str, answer: str) -> Counter:
    """Row -> where it carries an original answer: in the target, or only in prompt and target together."""
    secrets = [f" {_plain(row[answer])} " for row in forget]
    found: Counter = Counter()
    for row in rows:
        target = f" {_plain(row[answer])} "
        joined = f" {_plain(row[question] + ' ' + row[answer])} "
        if any(secret in target for secret in secrets):
            found["target"] += 1
        elif any(secret in joined for secret in secrets):
            found["joined"] += 1
    return found


@pytest.fixture(scope="module")
def knowundo(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, list[dict]]:
    folder, out = data_dir / "knowundo", tmp_path_factory.mktemp("verify") / "flagged.jsonl"
    summary = verify_file(folder / "augmented_official.json", folder / "unlearn_train.json", out)
    return {"rows": summary.rows, "flagged": summary.flagged, **summary.by_kind}, _read(out)


def test_trap_1_all_802_rows_that_carry_an_original_answer_are_flagged(knowundo, data_dir: Path) -> None:
    rows, forget = (_read(data_dir / "knowundo" / name) for name in ("augmented_official.json", "unlearn_train.json"))
    assert _verbatim_rows(rows, forget, "text", "labels") == {"target": 401, "joined": 401}
    counts, flagged = knowundo
    assert (counts["verbatim"], counts["split"], counts["rows"]) == (401, 401, 5040)
    told = {row["row"] for row in flagged if row["kind"] in ("verbatim", "split")}
    secrets = [_plain(row["labels"]) for row in forget]
    assert all(any(s in _plain(f"{rows[n]['text']} {rows[n]['labels']}") for s in secrets) for n in told)


def test_lines_say_what_where_and_of_which_record(knowundo, data_dir: Path) -> None:
    rows = _read(data_dir / "knowundo" / "augmented_official.json")
    for line in knowundo[1]:
        assert "unlearn_train.json" in line["reason"] and "\n" not in line["reason"]
        for finding in line["findings"]:
            text = rows[line["row"]]["text" if finding["field"] == "prompt" else "labels"]
            assert text[finding["start"] : finding["end"]] == finding["text"]


# Read by hand: vague answers and general questions (clean), and paraphrases that still tell (flagged).
CLEAN = (15, 120, 222, 378, 390, 611, 1258, 1297, 1316, 1961, 2611, 4326, 4448, 4498, 4713, 4728)
TELLING = (98, 167, 206, 454, 906, 1052, 1189, 1391, 1430, 1908, 2098, 2894, 3391, 3599, 3947)


def test_rows_read_by_hand(knowundo) -> None:
    flagged = {row["row"] for row in knowundo[1]}
    assert not flagged & set(CLEAN)
    assert set(TELLING) <= flagged


def test_beyond_the_verbatim_rows_little_is_flagged(knowundo) -> None:
    _, flagged = knowundo
    assert 100 <= len(flagged) - 802 <= 250
    assert all(row["row"] < 4000 for row in flagged), "the general questions at the end carry nothing of anybody"


def test_all_400_originals_of_the_tofu_set_are_flagged(data_dir: Path, tmp_path: Path) -> None:
    rows, forget = (_read(data_dir / "tofu" / name) for name in ("augmented_forget10.jsonl", "forget10.json"))
    out = tmp_path / "flagged.jsonl"
    verify_file(data_dir / "tofu" / "augmented_forget10.jsonl", data_dir / "tofu" / "forget10.json", out)
    flagged = {row["row"]: row["kind"] for row in _read(out)}
    originals = {_plain(row["answer"]) for row in forget}
    carrying = [number for number, row in enumerate(rows) if _plain(row["answer"]) in originals]
    assert len(carrying) >= 400
    assert all(flagged.get(number) == "verbatim" for number in carrying)
