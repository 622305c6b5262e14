"""What of run folders the page shows, and that opening them loads nothing."""

from __future__ import annotations

import json
import shutil

import pytest
from ui_runs import FACTS, HOSTILE, Page, audit, make_run

from relearn.cli import run_command
from relearn.core.errors import InputError
from relearn.core.files import read_json, read_jsonl, write_json, write_jsonl
from relearn.core.ownership import purge
from relearn.ui.run_data import named_models, open_runs


@pytest.fixture
def copy(audited_run, tmp_path):
    return shutil.copytree(audited_run, tmp_path / "copy")


def change_recipe(folder, before: str, after: str) -> None:
    text = (folder / "recipe.yaml").read_text()
    assert before in text
    (folder / "recipe.yaml").write_text(text.replace(before, after))


def test_no_model_is_loaded_on_opening_or_before_the_user_agrees(audited_run, plain_run, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a model was loaded")

    for name in ("AutoModelForCausalLM", "AutoTokenizer", "AutoConfig"):
        monkeypatch.setattr(f"transformers.{name}.from_pretrained", refuse)
    monkeypatch.setattr("relearn.inference.run_models.load", refuse)
    monkeypatch.setattr("safetensors.safe_open", refuse)
    page = Page(audited_run, plain_run)
    page.html()
    for path, body in (
        ("/api/ask", {"question": "Who?"}),
        ("/api/candidates", {"answer": "x"}),
        ("/api/layers", {"answer": "x", "token": 0}),
    ):
        reply = page.call(path, body)
        assert (reply.status_code, reply.json()) == (403, {"error": "models are loaded only after you agree"})


def test_facts_come_by_verdict_with_what_brings_them_back(audited_run):
    (run,) = open_runs([audited_run])
    assert [fact.id for fact in run.facts.shown] == ["c", "a", "b", "d"]
    assert run.facts.counts == {"there": 1, "hidden": 1, "gone": 1, "never_known": 1}
    hidden = run.facts.shown[1]
    assert (hidden.question, hidden.reference, hidden.recovered_by) == (*FACTS["a"][:2], ("paraphrase", "quantise"))
    assert (hidden.before, hidden.after) == (FACTS["a"][1], "after says nothing of a")
    html = Page(audited_run).html()
    assert "brought back by paraphrase, quantise" in html
    assert "Of 3 facts that the model knew: 1 gone, 1 hidden, 1 still there" in html
    assert "No audit was made" not in html


def test_without_an_audit_the_page_says_how_to_make_one(plain_run):
    html = Page(plain_run).html()
    assert f"relearn audit {plain_run}" in html
    assert all(question in html and reference in html for question, reference, _, _ in FACTS.values())
    (run,) = open_runs([plain_run])
    assert run.facts.counts == {"not_audited": 4}


def test_facts_that_an_audit_left_out_are_not_judged(copy):
    write_json(copy / "audits/verdicts.json", read_json(copy / "audits/verdicts.json")[:1])
    (run,) = open_runs([copy])
    assert run.facts.counts == {"hidden": 1, "not_audited": 3}


def test_an_answer_that_is_not_there_is_not_an_empty_one(copy):
    rows = read_jsonl(copy / "after/forget.jsonl")
    write_jsonl(copy / "after/forget.jsonl", [{**rows[0], "response": ""}, *rows[2:]])
    facts = {fact.id: fact for fact in open_runs([copy])[0].facts.shown}
    assert (facts["a"].after, facts["b"].after) == ("", None)
    html = Page(copy).html()
    assert "(an empty answer)" in html and "<i>not asked</i>" in html


def test_markup_in_records_answers_names_and_attacks_stays_text(copy, tmp_path):
    for side in ("before", "after"):
        rows = read_jsonl(copy / side / "forget.jsonl")
        rows[0] |= {"question": HOSTILE, "reference": HOSTILE, "response": HOSTILE}
        write_jsonl(copy / side / "forget.jsonl", rows)
    rows = read_json(copy / "audits/verdicts.json")
    rows[0]["by"] = [HOSTILE]
    write_json(copy / "audits/verdicts.json", rows)
    hostile = copy.rename(tmp_path / "<img src=x onerror=alert(1)>")
    change_recipe(hostile, str(read_model(hostile)), "<svg onload=alert(1)>")
    html = Page(hostile).html()
    assert "<img" not in html and "<svg" not in html and html.count("<script") == 1
    assert "&lt;img src=x onerror=" in html and "&lt;svg onload=alert(1)&gt;" in html


def read_model(folder) -> str:
    (run,) = open_runs([folder])
    assert run.recipe is not None
    return run.recipe.model.name


def test_numbers_stand_side_by_side_with_intervals_and_say_what_was_not_measured(audited_run, plain_run, copy):
    summary = read_json(copy / "summary.json")
    summary["after"]["forget"]["kfr"] |= {"value": 0.3, "low": 0.2, "high": 0.5, "unscored": 0}
    write_json(copy / "summary.json", summary)
    html = Page(plain_run, copy).html()
    table = html[html.index("<table>") :]
    assert "Runs side by side" in html and table.index(">plain<") < table.index(">copy<")
    assert "To forget, trained questions" in table and "KFR ↑" in table
    assert "0.875" in table and "0.750 to 1.000" in table and "2 not judged" in table and "before 0.250" in table
    # 0.1-0.4 before and 0.75-1 after lie apart, 0.2-0.5 does not.
    assert table.count('class="value better"') == 1 and table.count('class="value same"') == 1
    assert table.count("not measured") == 2


def test_a_purged_run_keeps_its_numbers_and_is_not_asked(copy):
    purge(copy, really=True)
    page = Page(copy)
    html = page.html()
    assert "This run was purged: its texts and its recipe are gone, its numbers stay." in html
    assert "0.875" in html and 'id="question"' not in html
    reply = page.call("/api/load")
    assert (reply.status_code, reply.json()) == (409, {"error": "none of these runs can be asked"})


def test_an_evaluation_has_facts_and_numbers_and_nobody_to_ask(copy):
    shutil.rmtree(copy / "adapter")
    (copy / "recipe.yaml").rename(copy / "evaluation.yaml")
    page = Page(copy)
    html = page.html()
    assert "An evaluation has no run of its own" in html and FACTS["a"][0] in html
    assert "0.875" in html and "To forget, trained" not in html
    assert page.call("/api/load").status_code == 409


def test_a_purged_run_beside_another_leaves_that_one_as_it_is(copy, plain_run):
    purge(copy, really=True)
    html = Page(copy, plain_run).html()
    assert 'data-column="after-1"' in html and 'data-column="after-0"' not in html


def test_remote_code_is_refused_in_one_line(copy, capsys):
    change_recipe(copy, "trust_remote_code: false", "trust_remote_code: true")
    assert run_command(["ui", str(copy), "--no-browser"]) == 2
    said = capsys.readouterr().err.strip()
    assert "trust_remote_code" in said and "\n" not in said


def test_a_recipe_gets_no_environment_variables(copy, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sesame")
    change_recipe(
        copy, "name: copy" if "name: copy" in (copy / "recipe.yaml").read_text() else "name: audited", "name: ${MY_KEY}"
    )
    with pytest.raises(InputError, match="environment variable") as found:
        open_runs([copy])
    assert "sesame" not in str(found.value)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("audits/verdicts.json", [{"id": "a", "verdict": "<b>"}]),
        ("audits/verdicts.json", {"a": 1}),
        ("audits/verdicts.json", [1]),
        ("summary.json", [1]),
        ("summary.json", {"after": {"forget": {"kfr": 3}}}),
        ("summary.json", {"after": {"forget": {"kfr": {"value": "<b>"}}}}),
        ("before/forget.jsonl", [1]),
        ("before/forget.jsonl", {"id": "a"}),
    ],
)
def test_files_of_another_shape_are_one_line(copy, file, content, capsys):
    (copy / file).write_text(json.dumps(content))
    assert run_command(["ui", str(copy), "--no-browser"]) == 2
    said = capsys.readouterr().err.strip()
    assert str(copy) in said and "\n" not in said


def test_what_is_no_finished_run_is_one_line(copy, tmp_path, capsys):
    shutil.rmtree(copy / "adapter")
    for folders, said in (
        ([copy], "not unlearned yet"),
        ([tmp_path / "nowhere"], "no run there"),
        ([copy, copy], "named twice"),
    ):
        assert run_command(["ui", *map(str, folders), "--no-browser"]) == 2
        shown = capsys.readouterr().err.strip()
        assert said in shown and "\n" not in shown


def test_the_page_names_the_models_and_where_they_come_from(tmp_path, tiny_model_dir, monkeypatch):
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    learned = make_run(tmp_path / "learned", tiny_model_dir, learned=True)
    from_hub = make_run(tmp_path / "hub", tiny_model_dir)
    change_recipe(from_hub, str(tiny_model_dir), "somebody/some-model")
    built_in = make_run(tmp_path / "own", tiny_model_dir)
    change_recipe(built_in, str(tiny_model_dir), "smollm2-135m-instruct")
    local, hub, own = named_models(open_runs([learned, from_hub, built_in]))
    assert (local.source, local.own) == ("a folder on this machine", False)
    assert local.parts == ("the adapter that learned learned first", "the adapter made by unlearning, in learned")
    assert hub.source.startswith("https://huggingface.co;") and not hub.own
    assert own.own and "built in" in own.source
    html = Page(from_hub).html()
    assert "somebody/some-model" in html and "This is not a built-in model: the run folder hub names it." in html
    assert "This is not a built-in model" not in Page(built_in).html()


def test_runs_of_the_same_name_are_told_apart(copy, audited_run, tmp_path):
    other = shutil.copytree(copy, tmp_path / "beside" / "copy")
    audit(other)
    assert [run.name for run in open_runs([copy, other])] == ["copy", "copy 2"]
