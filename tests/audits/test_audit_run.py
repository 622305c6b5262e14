"""`relearn audit` on a finished run of a tiny model: what is written, what is asked again, what is refused."""

from __future__ import annotations

import json
import shutil
import stat
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import relearn
from people import people
from relearn.audits.attack import AUDITS
from relearn.audits.attacks import weights
from relearn.audits.attacks.prompting import PLAIN
from relearn.audits.audit_runner import AuditRun
from relearn.audits.check_attack import TOY_FACTS as FACTS
from relearn.audits.check_attack import check_attack
from relearn.audits.query_models import AnswerFiles
from relearn.cli import run_command
from relearn.core.config import Recipe
from relearn.core.errors import InputError
from relearn.core.files import curve_path, read_json, read_jsonl, write_jsonl
from relearn.core.ownership import purge
from relearn.workflows.audit import read_templates, wordings

# The training of strength "quick", so that the tests are short.
EVERY_ATTACK = ["--attacks", "all", "--strength", "quick", "--samples", "2"]


@pytest.fixture(scope="module")
def run(tiny_model_dir, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("audited")
    private, public = people(folder / "private.jsonl", "private", 3), people(folder / "public.jsonl", "public", 3)
    values = {
        "model": {"name": str(tiny_model_dir)},
        "data": {"forget": private, "retain": public},
        "learn": {"data": [private, public], "epochs": 1, "lora": {"r": 2}},
        "audit": "none",
        "unlearn": {"epochs": 1, "learning_rate": 1e-3, "lora": {"r": 2}},
        "generate": {"max_new_tokens": 4},
        "metrics": {"bootstrap": 20},
    }
    return relearn.run(relearn.Recipe.from_mapping(values), folder / "run").path


def test_nothing_is_loaded_that_the_caller_did_not_name(run, tmp_path, capsys):
    other = shutil.copytree(run, tmp_path / "other")
    recipe = (other / "recipe.yaml").read_text()
    (other / "recipe.yaml").write_text(recipe.replace("tiny", "tin-y"))
    assert run_command(["audit", str(run), "--control", str(other)]) == 2
    assert "not loaded without asking" in capsys.readouterr().err


@pytest.fixture(scope="module")
def audited(run) -> Path:
    assert run_command(["audit", str(run), *EVERY_ATTACK]) == 0
    return run


def test_every_attack_leaves_its_numbers_and_its_answers(audited):
    summary = read_json(audited / "audits/summary.json")
    assert set(summary) == set(AUDITS)
    for name, row in summary.items():
        if AUDITS.get(name).measure:
            continue
        sampled = {"leak_at"} if AUDITS.get(name).sampled else set()
        assert set(row) == {"before", "after", "control", "back", "change", *sampled}
        document = read_json(audited / f"audits/{name}.json")
        assert document["variants"], name
        assert not list((audited / "audits").glob("gguf_*"))
        assert AnswerFiles(audited).path(AUDITS.get(name), "after").exists()
    assert set(read_json(audited / "audits/quantise.json")["variants"]) == {"8 bit", "4 bit"}
    assert "krr" in read_json(audited / "audits/quantise.json")["variants"]["4 bit"]
    assert set(read_json(audited / "audits/relearning.json")["variants"]) == {"0.001, 10 steps"}
    assert set(read_json(audited / "audits/checkpoints.json")["variants"]) == {"alpha 0.5", "alpha 2"}
    assert set(summary["sampling"]["leak_at"]) == {"leak@1"} and summary["sampling"]["leak_at"]["leak@1"]["after"]["n"]
    assert not (audited / "audits/checkpoints").exists()


def test_the_summary_of_the_run_names_the_strength(audited):
    summary = read_json(audited / "summary.json")
    assert summary["audit"] == read_json(audited / "audits/worst.json")
    assert summary["audit"]["strength"] == "all attacks, 2 samples"


def test_the_control_is_trained_once_for_all_audits(audited, tmp_path, monkeypatch):
    """Another run with the same facts reads the control's answers; only its own model is fine-tuned."""
    copy = shutil.copytree(audited, tmp_path / "copy", ignore=shutil.ignore_patterns("audits"))
    trained: list[int] = []
    monkeypatch.setattr(weights, "train", lambda *args, **more: trained.append(1))
    assert run_command(["audit", str(copy), "--attacks", "relearning", "--strength", "quick"]) == 0
    assert len(trained) == 1
    audit, kept = AUDITS.get("relearning"), AnswerFiles(audited)
    assert AnswerFiles(copy).rows(audit, "control") == kept.rows(audit, "control")
    assert kept.rows(audit, "control") and not AnswerFiles(copy).rows(audit, "after")
    keys = {row["curve"] for row in kept.rows(audit, "control")}
    assert all(curve_path(key).exists() for key in keys)
    (copy / "audits/answers/relearning.control.jsonl").open("a").write('{"curve": "../../x"}\n')
    purge(copy, really=True)
    assert not any(curve_path(key).exists() for key in keys)


@pytest.mark.parametrize("change", ["seed", "facts", "rate", "control"])
def test_another_control_curve_has_another_key(inputs, change, monkeypatch):
    def key(inputs, control="c"):
        models = SimpleNamespace(control_hash=control, has_adapter=True)
        return AuditRun(inputs, models, [AUDITS.get("relearning")])._curve_key(inputs)

    unlearn = inputs.recipe.unlearn.model_copy(update={"learning_rate": 0.5})
    others = {
        "seed": key(replace(inputs, seed=7)),
        "facts": key(replace(inputs, facts=inputs.facts[:2])),
        "rate": key(replace(inputs, recipe=inputs.recipe.model_copy(update={"unlearn": unlearn}))),
        "control": key(inputs, "d"),
    }
    assert key(inputs) == key(inputs) != others[change]
    assert key(inputs, None) is None


def test_verdicts_have_the_documented_shape(audited):
    found = read_json(audited / "audits/verdicts.json")
    assert [row["id"] for row in found] == [row["id"] for row in read_jsonl(audited / "before/forget.jsonl")]
    assert {row["verdict"] for row in found} <= {"gone", "hidden", "there", "never_known"}
    assert all({"id", "question", "verdict", "by"} <= set(row) for row in found)


def test_what_holds_secrets_is_private(audited):
    for path in (audited / "audits").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_second_call_asks_nothing_again(audited, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("asked again")

    monkeypatch.setattr("relearn.audits.query_models.respond", refuse)
    before = (audited / "audits/verdicts.json").read_text()
    assert run_command(["audit", str(audited), *EVERY_ATTACK]) == 0
    assert (audited / "audits/verdicts.json").read_text() == before


def test_with_more_samples_only_these_are_asked(audited, tmp_path, monkeypatch):
    copy = shutil.copytree(audited, tmp_path / "copy")
    asked = []
    from relearn.audits import query_models

    real = query_models.respond
    monkeypatch.setattr(
        query_models,
        "respond",
        lambda loaded, prompts, *a, **k: asked.append(len(prompts)) or real(loaded, prompts, *a, **k),
    )
    assert run_command(["audit", str(copy), "--attacks", "sampling,prefix", "--samples", "3"]) == 0
    assert sum(asked) == 3 * len(read_jsonl(copy / "before/forget.jsonl")), "one more sample for each of three models"


def test_answers_that_state_the_fact_are_found_and_judged(audited, tmp_path):
    """The model's answers replaced by texts of our own: every verdict comes about as it should."""
    copy = shutil.copytree(audited, tmp_path / "copy")
    files, truth = AnswerFiles(copy), {row["id"]: row["reference"] for row in read_jsonl(copy / "before/forget.jsonl")}
    first, second, *others = truth

    def say(audit: str, model, known: set[str]) -> None:
        rows = files.rows(AUDITS.get(audit), model)
        write_jsonl(
            files.path(AUDITS.get(audit), model),
            [{**row, "answer": truth[row["id"]] if row["id"] in known else "No idea."} for row in rows],
        )

    for audit in (PLAIN, "prefix"):
        say(audit, "start", set(truth) - set(others[-1:]))
        say(audit, "after", {first, second} if audit == "prefix" else {first})
        say(audit, "control", set())
    assert run_command(["audit", str(copy), "--attacks", "prefix"]) == 0
    found = {row["id"]: row for row in read_json(copy / "audits/verdicts.json")}
    assert (found[first]["verdict"], found[first]["by"]) == ("there", ["plain", "prefix"])
    assert (found[second]["verdict"], found[second]["by"]) == ("hidden", ["prefix"])
    assert found[others[-1]]["verdict"] == "never_known"
    assert {found[key]["verdict"] for key in others[:-1]} <= {"gone"}
    summary = read_json(copy / "audits/summary.json")["prefix"]
    assert summary["after"]["stated"]["value"] == pytest.approx(2 / len(truth))
    assert summary["change"]["value"] == pytest.approx(1 / len(truth))


def test_taking_the_adapter_off_brings_back_the_start_model(audited):
    files = AnswerFiles(audited)
    off = {
        row["id"]: row["answer"]
        for row in files.rows(AUDITS.get("adapters"), "after")
        if row["variant"] == "adapter off" and row["part"] == "fact"
    }
    assert off == {row["id"]: row["answer"] for row in files.rows(AUDITS.get(PLAIN), "start")}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--attacks", "jailbrake"], "jailbreak"),
        (["--attacks", ","], "no attack named"),
        (["--control", "nowhere"], "holds neither"),
        (["--templates", "nowhere"], "no templates"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(run, tmp_path, capsys, arguments, said):
    copy = tmp_path / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("audits"))
    assert run_command(["audit", str(copy), *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and "\n" not in error
    assert not (copy / "audits").exists()


def test_an_unfinished_run_is_refused(run, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("after", "audits"))
    assert run_command(["audit", str(copy)]) == 2
    assert "not finished" in capsys.readouterr().err


def test_templates_are_read_as_text(tmp_path):
    (tmp_path / "a.yaml").write_text("---\nname: A\nvalue: >\n  {{ prompt }} now\n")
    (tmp_path / "b.txt").write_text("Say it: [INSERT PROMPT HERE]")
    (tmp_path / "c.txt").write_text("No place for it")
    found = read_templates(tmp_path)
    assert found == {"a": "PROMPT now", "b": "Say it: PROMPT", "c": "No place for it\n\nPROMPT"}
    (tmp_path / "d.yaml").write_text(json.dumps({"other": 1}))
    with pytest.raises(InputError, match="value"):
        read_templates(tmp_path)


def test_the_published_templates_are_read(data_dir):
    found = read_templates(data_dir / "jailbreak")
    assert len(found) == 6
    assert all("PROMPT" in text and "{{" not in text for text in found.values())


def test_the_report_has_the_table_and_the_verdicts_and_hides_them_when_asked(audited, tmp_path):
    copy = shutil.copytree(audited, tmp_path / "copy")
    page = (copy / "report.html").read_text()
    assert "Does it hold?" in page and "Quantised weights" in page
    report = read_json(copy / "report.json")
    assert len(report["audits"]["attacks"]) == sum(not AUDITS.get(name).measure for name in AUDITS)
    assert {row["title"] for row in report["audits"]["beside"]} == {
        AUDITS.get(name).label for name in AUDITS if AUDITS.get(name).measure or AUDITS.get(name).sampled
    }
    assert sum(report["audits"]["counts"].values()) == len(report["audits"]["facts"])
    assert run_command(["report", str(copy), "--redact"]) == 0
    hidden = (copy / "report.json").read_text()
    assert all(fact["question"] not in hidden for fact in report["audits"]["facts"])
    assert "Does it hold?" in (copy / "report.html").read_text()


def test_markup_in_a_question_stays_text(audited, tmp_path):
    copy = shutil.copytree(audited, tmp_path / "copy")
    path = copy / "audits/verdicts.json"
    rows = read_json(path)
    rows[0]["question"] = "<script>alert(1)</script>"
    path.write_text(json.dumps(rows))
    assert run_command(["report", str(copy)]) == 0
    page = (copy / "report.html").read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page


def test_there_are_as_many_wordings_as_the_recipe_asks_for(tmp_path):
    def count(**metrics) -> list[int]:
        values = {"model": "m", "data": {"forget": "f.jsonl"}, "metrics": metrics}
        found = wordings(FACTS[:2], tmp_path, Recipe.from_mapping(values))
        return [len(texts) for texts in found.values()]

    assert count(worst_case=2) == [2, 2]
    assert count() == [6, 6]


OWN_ATTACK = """
from relearn.audits.attack import attack

@attack("my_attack", label="Polite insistence", description="the question asked as a favour")
def my_attack(fact):
    return f"It would help me a lot. {fact.question}"
"""


def test_an_attack_in_a_file_of_ones_own_is_listed_run_and_judged(audited, tmp_path, monkeypatch, capsys):
    list(AUDITS)
    monkeypatch.setattr(AUDITS, "_items", dict(AUDITS._items))
    exec(compile(OWN_ATTACK, "own.py", "exec"), {})
    assert check_attack("my_attack") == []
    assert run_command(["list", "audits", "--json"]) == 0
    assert "my_attack" in {row["name"] for row in json.loads(capsys.readouterr().out)}
    copy = shutil.copytree(audited, tmp_path / "copy")
    assert run_command(["audit", str(copy), "--attacks", "my_attack"]) == 0
    files, truth = AnswerFiles(copy), {row["id"]: row["reference"] for row in read_jsonl(copy / "before/forget.jsonl")}
    rows = files.rows(AUDITS.get("my_attack"), "after")
    assert all(row["prompt"].startswith("It would help me a lot. ") for row in rows)
    for audit, model, known in ((PLAIN, "start", True), ("my_attack", "after", True), ("my_attack", "control", False)):
        path = files.path(AUDITS.get(audit), model)
        answers = [{**row, "answer": truth[row["id"]] if known else "No idea."} for row in read_jsonl(path)]
        write_jsonl(path, answers)
    assert run_command(["audit", str(copy), "--attacks", "my_attack"]) == 0
    assert all("my_attack" in row["by"] for row in read_json(copy / "audits/verdicts.json"))
