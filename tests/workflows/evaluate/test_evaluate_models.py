"""`relearn evaluate` on one model or two: what is asked, what resumes, what is not done twice."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

import relearn
from relearn.cli import run_command
from relearn.core.files import read_json, read_jsonl
from relearn.inference import run_models
from relearn.inference.run_models import ModelSet
from relearn.metrics.answer_files import RELEARN_CODE
from relearn.workflows.evaluate import evaluation as evaluation_run
from workflows.evaluate.asked import ASKED, PRIVATE, QUICK, SAID, WARM, answers, evaluate, records


def test_a_model_is_asked_a_retain_file_alone(facts, tiny_model_dir):
    assert evaluate("--after", str(tiny_model_dir), *facts[2:], "--out", "out", *ASKED) == 0
    assert set(read_json(Path("out/summary.json"))["after"]) == {"retain"}
    assert sorted(path.name for path in Path("out/after").iterdir()) == ["retain.jsonl"]


def test_two_models_are_asked_and_compared(facts, tiny_model_dir, other_model):
    from relearn.core.config import Generate, Model
    from relearn.engine.generate import generate
    from relearn.models.load import load

    models = ["--before", str(tiny_model_dir), "--after", other_model]
    assert evaluate(*facts, *models, *ASKED, "--out", "out") == 0
    for side, name in (("before", str(tiny_model_dir)), ("after", other_model)):
        rows = read_jsonl(Path(f"out/{side}/forget.jsonl"))
        said = generate(
            load(Model(name=name)), [question for question, _ in PRIVATE], Generate(max_new_tokens=5, temperature=3)
        )
        assert [row["response"] for row in rows] == said
        assert [(row["question"], row["reference"]) for row in rows] == PRIVATE
        assert rows[0]["subject"] == "Ada Holm"
        assert all(row["reference_logprobs"] and row["response_logprobs"] is not None for row in rows)
    summary = read_json(Path("out/summary.json"))
    assert {"before", "after"} <= set(summary)
    change = summary["difference"]["forget"]["rouge_l"]
    assert change["n"] == 3
    assert change["value"] == pytest.approx(
        summary["after"]["forget"]["rouge_l"]["value"] - summary["before"]["forget"]["rouge_l"]["value"]
    )
    assert "PPL and LS rest on the model before: no model from before any fine-tuning" in " ".join(
        read_json(Path("out/manifest.json"))["notes"]
    )
    page = Path("out/report.html").read_text()
    assert "trained questions" not in page and "To forget" in page and other_model in page


def test_one_model_alone_needs_a_base_for_perplexity(facts, tiny_model_dir, other_model):
    options = [*facts, "--after", other_model, *ASKED, "--out", "out"]
    assert evaluate(*options) == 0
    assert read_json(Path("out/summary.json"))["after"]["forget"]["ppl"]["value"] is None
    asked = Path("out/after/forget.jsonl").stat().st_ino
    assert evaluate(*options, "--base", str(tiny_model_dir)) == 0
    assert read_json(Path("out/summary.json"))["after"]["forget"]["ppl"]["value"] > 1
    assert Path("out/after/forget.jsonl").stat().st_ino != asked


def test_the_same_model_twice_changes_nothing(facts, other_model):
    assert evaluate(*facts, "--before", other_model, "--after", other_model, *ASKED, "--out", "out") == 0
    assert read_jsonl(Path("out/before/forget.jsonl")) == read_jsonl(Path("out/after/forget.jsonl"))
    changes = read_json(Path("out/summary.json"))["difference"]["forget"]
    assert {name: change["value"] for name, change in changes.items() if change["value"]} == {}


def test_an_adapter_is_put_on_its_model(facts, tiny_model_dir, adapter):
    assert evaluate(*facts, "--before", str(tiny_model_dir), "--after-adapter", adapter, *ASKED, "--out", "out") == 0
    before, after = (read_jsonl(Path(f"out/{side}/forget.jsonl")) for side in ("before", "after"))
    assert [row["reference_logprobs"] for row in before] != [row["reference_logprobs"] for row in after]
    twice = [*facts, "--after", str(tiny_model_dir), "--after-adapter", adapter]
    assert evaluate(*twice, *ASKED, "--out", "twice") == 0
    again = read_jsonl(Path("twice/after/forget.jsonl"))
    assert [row["response"] for row in again] == [row["response"] for row in after]


def test_one_model_is_in_memory_at_a_time_and_none_is_loaded_twice(facts, tiny_model_dir, other_model, monkeypatch):
    loaded = []
    load = run_models.load
    monkeypatch.setattr(run_models, "load", lambda spec: loaded.append(spec.name) or load(spec))
    models = ["--before", str(tiny_model_dir), "--after", other_model]
    assert evaluate(*facts, *models, *ASKED, "--out", "out") == 0
    assert loaded == [other_model, str(tiny_model_dir)]


def test_numbers_equal_those_of_a_run_with_the_same_models(facts, tiny_model_dir, tmp_path):
    values = {
        "model": str(tiny_model_dir),
        "data": {"forget": "forget.jsonl", "retain": "retain.jsonl"},
        "audit": "none",
        "unlearn": {"epochs": 1, "learning_rate": 1e-2, "lora": {"r": 2}},
        "generate": {"max_new_tokens": 5, "temperature": 3},
        "metrics": {"bootstrap": 20},
    }
    made = relearn.run(relearn.Recipe.from_mapping(values), tmp_path / "run").path
    models = ["--before", str(tiny_model_dir), "--after-adapter", str(made / "adapter")]
    assert evaluate(*facts, *models, *WARM, "--set", "metrics.bootstrap=20", "--out", "out") == 0
    for side in ("before", "after"):
        for name in ("forget", "retain"):
            ours, its = (read_jsonl(folder / f"{side}/{name}.jsonl") for folder in (Path("out"), made))
            assert [row["response"] for row in ours] == [row["response"] for row in its]
            assert [row["response_logprobs"] for row in ours] == [row["response_logprobs"] for row in its]
    ours, its = (read_json(folder / "summary.json") for folder in (Path("out"), made))
    assert {side: ours[side] for side in ("before", "after")} == {side: its[side] for side in ("before", "after")}
    check_judging_again(made)


def check_judging_again(made: Path) -> None:
    """A finished run takes other thresholds, and nothing else; what is refused leaves its recipe as it was."""
    recipe = (made / "recipe.yaml").read_bytes()
    assert evaluate(str(made), "--set", "unlearn.epochs=2") == 2
    assert evaluate(str(made), "--set", "metrics.base_model=other") == 2
    assert evaluate(str(made), "--set", "metrics.entities=nothing") == 2
    # Wordings are written before anything is asked: without a refusal the whole run would be done anew.
    assert evaluate(str(made), "--set", "metrics.worst_case=2") == 2
    assert evaluate(str(made), "--set", "metrics.ability.tasks=[sums.jsonl]") == 2
    assert evaluate(str(made), "--forget", "forget.jsonl") == 2
    assert (made / "recipe.yaml").read_bytes() == recipe
    assert evaluate(str(made), "--set", "metrics.c1=1", "--set", "metrics.bootstrap=21") == 0
    assert relearn.Recipe.from_yaml(made / "recipe.yaml").metrics.c1 == 1


def test_the_same_command_does_nothing_where_all_is_done(facts, tiny_model_dir, monkeypatch):
    options = [*facts, "--after", str(tiny_model_dir), "--base", str(tiny_model_dir), *ASKED, "--out", "out"]
    assert evaluate(*options) == 0
    kept = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*.*") if path.name != "manifest.json"}
    kept.pop(Path("out/evaluation.yaml"))
    monkeypatch.setattr(ModelSet, "get", lambda *_: pytest.fail("a model is loaded"))
    assert evaluate(*options) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_what_was_stopped_goes_on_and_asks_no_question_twice(facts, tiny_model_dir, other_model, monkeypatch):
    options = [*facts, "--before", str(tiny_model_dir), "--after", other_model, *ASKED]
    assert evaluate(*options, "--out", "whole") == 0
    ask, asked = evaluation_run.ask, []

    def stops(loaded, records, *arguments, **named):
        asked.append((loaded.name, len(records)))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return ask(loaded, records, *arguments, **named)

    monkeypatch.setattr(evaluation_run, "ask", stops)
    assert evaluate(*options, "--out", "out") == 130
    assert evaluate(*options, "--out", "out") == 0
    before, after = str(tiny_model_dir), other_model
    assert asked == [(after, 3), (after, 2), (before, 3), (before, 3), (before, 2)]
    for name in ("before/forget.jsonl", "after/retain.jsonl", "summary.json", "scores.json"):
        assert Path("out", name).read_bytes() == Path("whole", name).read_bytes()


def test_both_sides_have_their_perplexity_from_one_pass_and_a_lost_one_alone(
    facts, tiny_model_dir, other_model, monkeypatch
):
    options = [*facts, "--before", str(tiny_model_dir), "--after", other_model, *ASKED, "--out", "out"]
    scored, passes = evaluation_run.with_response_logprobs, []

    def spy(base, *files):
        passes.append(len(files))
        return scored(base, *files)

    monkeypatch.setattr(evaluation_run, "with_response_logprobs", spy)
    assert evaluate(*options) == 0
    assert passes == [2, 2]
    file = Path("out/after/forget.jsonl")
    whole = [row["response_logprobs"] for row in read_jsonl(file)]
    file.unlink()
    assert evaluate(*options) == 0
    assert passes == [2, 2, 1]
    again = [row["response_logprobs"] for row in read_jsonl(file)]
    # An answer may be empty: the random model can begin with an end token.
    assert len(again) == 3 and any(again)
    assert all(one == pytest.approx(other, abs=1e-4) for one, other in zip(again, whole, strict=True))


def test_judging_may_change_without_asking_again(facts, tiny_model_dir, monkeypatch):
    options = [*facts, "--after", str(tiny_model_dir), *ASKED, "--out", "out"]
    assert evaluate(*options) == 0
    monkeypatch.setattr(ModelSet, "get", lambda *_: pytest.fail("a model is loaded"))
    judged = [*facts, "--after", str(tiny_model_dir), *WARM, "--metrics", "hs", "--out", "out"]
    assert evaluate(*judged) == 0
    assert set(read_json(Path("out/summary.json"))["after"]["forget"]) == {"hs"}
    assert evaluate("out", "--set", "measure=[bi]") == 0
    assert set(read_json(Path("out/summary.json"))["after"]["forget"]) == {"bi"}
    assert set(read_json(Path("out/report.json"))["metrics"][0]["rows"][0]) >= {"name", "after"}


def test_answers_in_a_file_of_records_are_left_out_and_said_so(tmp_path, tiny_model_dir):
    forget = answers(tmp_path / "f.json", SAID)
    out = tmp_path / "out"
    assert evaluate("--forget", forget, "--after", str(tiny_model_dir), *ASKED, "--out", str(out)) == 0
    assert any("holds answers; they are left out" in note for note in read_json(out / "manifest.json")["notes"])


def test_exported_answers_are_scored_the_same(facts, tiny_model_dir, tmp_path):
    assert evaluate(*facts, "--after", str(tiny_model_dir), *ASKED, "--out", "out") == 0
    assert run_command(["export", "out", "--answers", "--out", "files"]) == 0
    rows = json.loads(Path("files/after_forget.json").read_text())
    assert [set(row) for row in rows] == [set(RELEARN_CODE)] * 3
    assert stat.S_IMODE(Path("files/after_forget.json").stat().st_mode) == 0o600
    files = ["--forget", "files/after_forget.json", "--retain", "files/after_retain.json"]
    assert evaluate(*files, *QUICK, "--out", "again") == 0
    first, second = (read_json(Path(out, "summary.json"))["after"]["forget"] for out in ("out", "again"))
    assert first == second
    assert run_command(["export", "out", "--answers", "--out", "files"]) == 2
    assert run_command(["export", "files", "--answers", "--out", "others"]) == 2
    assert run_command(["export", "out", "--answers", "--merged", "--out", "others"]) == 2


def test_a_redacted_report_hides_texts_and_paths(facts, tiny_model_dir):
    assert evaluate(*facts, "--after", str(tiny_model_dir), *ASKED, "--out", "out") == 0
    assert run_command(["report", "out", "--redact"]) == 0
    page = Path("out/report.html").read_text() + Path("out/report.json").read_text()
    assert not [text for text in ("Mill Lane", "Ada Holm", "forget.jsonl", "retain.jsonl") if text in page]


def test_general_ability_and_membership_are_measured_where_they_are_asked_for(facts, tiny_model_dir, tmp_path):
    rows = [{"question": f"What is {n} and {n}?", "choices": [str(2 * n), str(n)], "answer": 0} for n in (1, 2, 3)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    holdout = records(tmp_path / "holdout.jsonl", [("Where does Cy Doe live?", "Cy Doe lives at 3 Elm Road.")])
    options = [*facts, "--holdout", holdout, "--after", str(tiny_model_dir), *WARM, "--metrics", "mia_loss"]
    assert evaluate(*options, "--set", "metrics.ability.tasks=[sums.jsonl]", "--out", "out") == 0
    found = read_json(Path("out/summary.json"))["after"]
    assert found["ability"] and all(entry["n"] == 3 for entry in found["ability"].values())
    # How often a forget answer is likelier than the one held out: of 3 pairs.
    (auc,) = [part["mia_loss"]["value"] for part in found.values() if "mia_loss" in part]
    mean = lambda name: [  # noqa: E731
        sum(row["reference_logprobs"]) / len(row["reference_logprobs"])
        for row in read_jsonl(Path(f"out/after/{name}.jsonl"))
    ]
    (other,) = mean("holdout")
    assert auc == pytest.approx(sum(own > other for own in mean("forget")) / 3)
    assert read_jsonl(Path("out/after/holdout.jsonl"))[0]["response"] == ""
