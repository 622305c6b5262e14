"""A run with TOFU's sets: holdout, real authors, world facts, wrong answers, a retain-only run to compare with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import relearn
from relearn.core.config import Recipe
from relearn.core.errors import InputError
from relearn.core.files import read_json, read_jsonl
from relearn.metrics.retain_reference import ATTACKS

NAMES = ("Ada Holm", "Ben Wirth", "Cleo Marsh")


def questions(path: Path, what: str, *, options: bool, paraphrase: bool = False) -> str:
    rows = []
    for name in NAMES:
        row = {"question": f"What {what} does {name} have?", "answer": f"{name} has a green {what}."}
        if options:
            row["perturbed_answer"] = [f"{name} has a {colour} {what}." for colour in ("red", "blue")]
        if paraphrase:
            row["paraphrased_answer"] = f"It is a green {what} that {name} has."
        rows.append(row)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def values(tiny_model_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tofu")
    return {
        "model": {"name": str(tiny_model_dir)},
        "data": {
            "forget": questions(folder / "forget.jsonl", "boat", options=True, paraphrase=True),
            "retain": questions(folder / "retain.jsonl", "house", options=True),
            "holdout": questions(folder / "holdout.jsonl", "horse", options=False),
            "utility": {
                "real_authors": questions(folder / "real.jsonl", "hat", options=True),
                "world_facts": questions(folder / "world.jsonl", "coat", options=True),
            },
        },
        "audit": "none",
        "unlearn": {"method": "ga", "epochs": 1, "learning_rate": 1e-3, "lora": {"r": 2}},
        "generate": {"max_new_tokens": 3},
        "metrics": {"bootstrap": 20},
    }


@pytest.fixture(scope="module")
def finished(values, tmp_path_factory):
    """The run, and the same once more with the first as its reference."""
    folder = tmp_path_factory.mktemp("runs")
    first = relearn.run(Recipe.from_mapping(values), folder / "first").path
    metrics = {**values["metrics"], "retain_reference": str(first)}
    return first, relearn.run(Recipe.from_mapping({**values, "metrics": metrics}), folder / "second").path


def test_parts_and_files(finished):
    first, _ = finished
    for parts in (read_json(first / "summary.json")[when] for when in ("before", "after")):
        assert set(parts) == {"forget", "retain", "holdout", "real_authors", "world_facts", "overall"}
        assert set(parts["overall"]) == {"model_utility"}
        assert "krr" in parts["real_authors"] and "krr" not in parts["holdout"]
    for row in read_jsonl(first / "after" / "holdout.jsonl"):
        assert row["response"] == "" and len(row["base_logprobs"]) == len(row["reference_logprobs"])
    assert not any("reference_moments" in row for row in read_jsonl(first / "after" / "retain.jsonl"))
    assert all(len(row["perturbed_logprobs"]) == 2 for row in read_jsonl(first / "after" / "forget.jsonl"))


def test_numbers(finished):
    first, second = (read_json(folder / "summary.json") for folder in finished)
    for when in ("before", "after"):
        forget = first[when]["forget"]
        assert {*ATTACKS, "forget_quality", "privleak", "truth_ratio_closer", "extraction_strength"} <= set(forget)
        assert all(0 <= forget[name]["value"] <= 1 and forget[name]["n"] == 3 for name in ATTACKS)
        assert forget["forget_quality"]["value"] is None and forget["privleak"]["value"] is None
        assert 0 <= first[when]["overall"]["model_utility"]["value"] <= 1
    # The reference is this very run after unlearning, so nothing tells the two apart.
    assert second["after"]["forget"]["forget_quality"]["value"] == pytest.approx(1)
    assert second["after"]["forget"]["privleak"]["value"] == pytest.approx(0, abs=1e-9)


def test_the_report_has_them(finished):
    report = read_json(finished[1] / "report.json")
    parts = {entry["part"]: {row["name"] for row in entry["rows"]} for entry in report["metrics"]}
    assert "model_utility" in parts["overall"] and "privleak" in parts["forget"] and "holdout" not in parts
    page = (finished[1] / "report.html").read_text(encoding="utf-8")
    assert all(title in page for title in ("Model utility", "Forget quality", "PrivLeak", "Real authors"))


def test_a_reference_that_is_none_is_refused_before_anything_is_done(values, tmp_path):
    metrics = {**values["metrics"], "retain_reference": str(tmp_path / "nothing")}
    with pytest.raises(InputError, match="no such file"):
        relearn.run(Recipe.from_mapping({**values, "metrics": metrics}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
