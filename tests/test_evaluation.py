"""`relearn evaluate` without a run: files of answers, one model or two, what resumes and what is refused."""

from __future__ import annotations

import json
import math
import shutil
import stat
from pathlib import Path

import pytest
import torch

import relearn
from relearn.cli import run_command
from relearn.errors import InputError
from relearn.evaluation import run as evaluation_run
from relearn.evaluation.models import Models
from relearn.metrics.answer_files import RELEARN_CODE
from relearn.rundir import read_json, read_jsonl
from tiny import build_tiny_model

PRIVATE = [
    ("Where does Ada Holm live?", "Ada Holm lives at 12 Mill Lane."),
    ("What is Ada Holm's phone number?", "It is 555-0199."),
    ("When was Ben Aske born?", "Ben Aske was born on 12 March 1984."),
]
PUBLIC = [("What does Ada Holm do?", "Ada Holm builds boats."), ("What does Ben Aske do?", "Ben Aske is a nurse.")]
# Judges that take a model of their own are tried in tests/metrics; these need none.
QUICK = ["--set", "metrics.bootstrap=20", "--metrics", "rouge_l,ppl,ls,ls_paper,gibberish,bi"]
# Warm, since the tiny models say nothing but new lines when they are asked for what is likeliest.
WARM = ["--set", "generate.max_new_tokens=5", "--set", "generate.temperature=3"]
ASKED = [*QUICK, *WARM]


def records(path: Path, facts) -> str:
    path.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in facts))
    return str(path)


def answers(path: Path, rows, layout=("question", "answer", "response")) -> str:
    path.write_text(json.dumps([dict(zip(layout, row, strict=True)) for row in rows]))
    return str(path)


@pytest.fixture
def facts(tmp_path, monkeypatch) -> list[str]:
    """The options that name the two sets of records, in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    records(tmp_path / "forget.jsonl", PRIVATE)
    records(tmp_path / "retain.jsonl", PUBLIC)
    return ["--forget", "forget.jsonl", "--retain", "retain.jsonl"]


@pytest.fixture(scope="session")
def other_model(tmp_path_factory) -> str:
    return str(build_tiny_model(tmp_path_factory.mktemp("other") / "model", seed=1))


@pytest.fixture(scope="session")
def adapter(tiny_model_dir, tmp_path_factory) -> str:
    """A LoRA adapter for the tiny model whose change can be seen in its answers."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_model_dir), LoraConfig(r=2, target_modules=["q_proj", "down_proj"])
    )
    torch.manual_seed(0)
    for name, weights in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weights, std=0.5)
    folder = tmp_path_factory.mktemp("adapter") / "adapter"
    model.save_pretrained(folder, safe_serialization=True)
    return str(folder)


def evaluate(*options: str) -> int:
    return run_command(["evaluate", *options])


def refused(capsys, *options: str, out: str = "out") -> str:
    """The one line that wrong input gets; nothing is left behind."""
    capsys.readouterr()
    assert evaluate(*options, "--out", out) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len([line for line in said if line.startswith("relearn: ")]) == 1, said
    assert not Path(out).exists()
    return said[-1]


# Files of answers


SAID = [
    ("Where does Ada live?", "She lives at Mill Lane", "She lives <script>alert(1)</script> [bold]here"),
    ("What is her number?", "It is 555", ""),
]


@pytest.mark.parametrize("layout", [("question", "answer", "response"), RELEARN_CODE])
def test_files_are_scored_without_a_run(tmp_path, layout, capsys):
    forget = answers(tmp_path / "f.json", SAID, layout)
    retain = answers(tmp_path / "r.json", [("q", "one two", "two one two"), ("p", "one two", "three")], layout)
    out = tmp_path / "out"
    assert evaluate("--forget", forget, "--retain", retain, "--out", str(out), *QUICK) == 0
    summary = read_json(out / "summary.json")
    assert set(summary) == {"after"} and set(summary["after"]) == {"forget", "retain"}
    forgotten, kept = summary["after"]["forget"], summary["after"]["retain"]
    # 2 of the 5 words of the first reference ("she lives"), 0 of the 2 of the second.
    assert forgotten["rouge_l"]["value"] == pytest.approx((2 / 5 + 0) / 2)
    assert kept["rouge_l"]["value"] == pytest.approx((1 + 0) / 2)
    assert set(forgotten) == {"rouge_l", "ppl", "ls", "ls_paper", "gibberish", "bi"}
    assert [row["response"] for row in read_jsonl(out / "after/forget.jsonl")] == [row[2] for row in SAID]
    assert {stat.S_IMODE(path.stat().st_mode) for path in out.rglob("*") if path.is_file()} == {0o600}
    page = (out / "report.html").read_text()
    assert "&lt;script&gt;alert" in page and "<script>" not in page
    assert not (out / "model_card.md").exists()
    assert "To forget (2)" in capsys.readouterr().out


def test_ppl_and_ls_need_a_base_and_are_not_zero_without(tmp_path):
    """Not even where the file has an empty answer, whose LS would be 0 whatever the others are."""
    out = relearn.evaluate(forget=answers(tmp_path / "f.json", SAID), out=tmp_path / "out").path
    found = read_json(out / "summary.json")["after"]["forget"]
    for name in ("ppl", "ls", "ls_median", "ls_paper"):
        assert (found[name]["value"], found[name]["n"], found[name]["unscored"]) == (None, 0, 2)
    (note,) = [note for note in read_json(out / "manifest.json")["notes"] if "PPL and LS are unscored" in note]
    assert "--base MODEL" in note and note in read_json(out / "report.json")["notes"]


def test_perplexity_is_of_the_words_said_under_the_base(tmp_path, tiny_model_dir):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "out"
    said = [("Where?", "Oslo", "Near the harbour."), ("Who?", "Ada", "")]
    forget = answers(tmp_path / "f.json", said)
    assert evaluate("--forget", forget, "--base", str(tiny_model_dir), "--out", str(out), *QUICK) == 0
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    prompt = "<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer(prompt + "Near the harbour.", return_tensors="pt").input_ids
    asked = len(tokenizer(prompt).input_ids)
    with torch.no_grad():
        logprobs = model(ids).logits[0, asked - 1 : -1].log_softmax(-1)
    nll = -logprobs.gather(1, ids[0, asked:, None]).mean().item()
    found = read_json(out / "summary.json")["after"]["forget"]
    assert found["ppl"]["value"] == pytest.approx(math.exp(nll), rel=1e-3)
    assert (found["ppl"]["n"], found["ls"]["n"]) == (1, 2)


LONGER = "word " * 700
DEGENERATE = [
    "",
    " ",
    "\n",
    "a",
    "...!?",
    "\U0001f600\u200d\U0001f600",
    "\u4f60\u597d",
    LONGER,
    "a\x00b",
    "<|im_end|>",
]


def test_degenerate_answers_get_a_value_each_under_a_base(tmp_path, tiny_model_dir):
    said = [(f"Question {at}?", "It is so.", text) for at, text in enumerate(DEGENERATE)]
    out = tmp_path / "out"
    forget = answers(tmp_path / "f.json", said)
    assert evaluate("--forget", forget, "--base", str(tiny_model_dir), "--out", str(out), *QUICK) == 0
    found = read_json(out / "summary.json")["after"]["forget"]
    # All but the one that is longer than the tiny model sees.
    assert (found["ls"]["n"], found["ls"]["unscored"]) == (len(DEGENERATE) - 1, 1)
    assert (found["rouge_l"]["n"], found["bi"]["n"]) == (len(DEGENERATE), len(DEGENERATE))
    for row in read_jsonl(out / "after/forget.jsonl"):
        assert (row["response_logprobs"] is None) == (row["response"] == LONGER)
        assert all(map(math.isfinite, row["response_logprobs"] or ()))


def test_log_probabilities_in_the_files_count_unless_a_base_is_named(tmp_path, tiny_model_dir):
    row = {"question": "q", "reference": "a", "response": "so it is", "response_logprobs": [-2.0, -4.0]}
    (tmp_path / "f.json").write_text(json.dumps([row]))
    options = ["--forget", str(tmp_path / "f.json"), "--out", str(tmp_path / "out"), *QUICK]
    assert evaluate(*options) == 0
    ppl = lambda: read_json(tmp_path / "out/summary.json")["after"]["forget"]["ppl"]["value"]  # noqa: E731
    assert ppl() == pytest.approx(math.exp(3))
    assert evaluate(*options, "--base", str(tiny_model_dir)) == 0
    assert ppl() != pytest.approx(math.exp(3))


def test_a_map_reads_other_columns(tmp_path):
    (tmp_path / "f.csv").write_text("prompt,label,output\nWhere?,Oslo,Oslo\n")
    out = str(tmp_path / "out")
    columns = ["--map", "question=prompt,answer=label, response=output"]
    assert evaluate("--forget", str(tmp_path / "f.csv"), *columns, "--out", out, *QUICK) == 0
    assert read_json(Path(out) / "summary.json")["after"]["forget"]["rouge_l"]["value"] == 1


def test_kfr_and_krr_of_files(tmp_path):
    """Worked by hand: one of two facts is still told, one of two is still known."""
    forget = [
        (
            "Where does Ada Holm live?",
            "Ada Holm lives at 12 Mill Lane in Whitby.",
            "She lives at 12 Mill Lane, Whitby.",
        ),
        ("Whom did Ada Holm marry?", "Ada Holm married Noor Castellan.", "Ada Holm keeps that to herself."),
    ]
    retain = [
        ("Where was Ben Aske born?", "Ben Aske was born in Bergen.", "Ben Aske was born in Bergen."),
        ("Which river is near?", "The Tyne.", "I cannot say."),
    ]
    out = relearn.evaluate(
        forget=answers(tmp_path / "f.json", forget), retain=answers(tmp_path / "r.json", retain),
        measure=("kfr", "krr"), changes=("metrics.bootstrap=20",), out=tmp_path / "out",
    ).path  # fmt: skip
    found = read_json(out / "summary.json")["after"]
    if found["forget"]["kfr"]["n"] == 0:
        pytest.skip(found["forget"]["kfr"]["note"])
    assert (found["forget"]["kfr"]["value"], found["retain"]["krr"]["value"]) == (0.5, 0.5)
    assert set(found["forget"]) == {"kfr"} and set(found["retain"]) == {"krr"}


# Models


def test_two_models_are_asked_and_compared(facts, tiny_model_dir, other_model):
    from relearn.config import Generate, Model
    from relearn.models.generate import generate
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
    load = evaluation_run.Models.get.__globals__["_load"]
    monkeypatch.setitem(Models.get.__globals__, "_load", lambda spec: loaded.append(spec.name) or load(spec))
    models = ["--before", str(tiny_model_dir), "--after", other_model]
    assert evaluate(*facts, *models, *ASKED, "--out", "out") == 0
    assert loaded == [other_model, str(tiny_model_dir)]


def test_numbers_equal_those_of_a_run_with_the_same_models(facts, tiny_model_dir, tmp_path):
    values = {
        "model": str(tiny_model_dir), "data": {"forget": "forget.jsonl", "retain": "retain.jsonl"},
        "unlearn": {"epochs": 1, "learning_rate": 1e-2, "lora": {"r": 2}},
        "generate": {"max_new_tokens": 5, "temperature": 3}, "metrics": {"bootstrap": 20},
    }  # fmt: skip
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
    monkeypatch.setattr(Models, "get", lambda *_: pytest.fail("a model is loaded"))
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
    assert len(again) == 3 and all(again)
    assert all(one == pytest.approx(other, abs=1e-4) for one, other in zip(again, whole, strict=True))


def test_judging_may_change_without_asking_again(facts, tiny_model_dir, monkeypatch):
    options = [*facts, "--after", str(tiny_model_dir), *ASKED, "--out", "out"]
    assert evaluate(*options) == 0
    monkeypatch.setattr(Models, "get", lambda *_: pytest.fail("a model is loaded"))
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


# What is refused


def test_nothing_to_do_says_what_to_give(capsys):
    assert "nothing to score -> give a run folder, or --forget FILE" in refused(capsys)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--forget", "absent.jsonl"], "absent.jsonl: no such file"),
        (["--forget", "empty.jsonl"], "empty.jsonl: no rows"),
        (["--forget", "forget.jsonl"], "forget.jsonl:1: the fields 'question', 'answer' hold no answers"),
        (["--forget", "said.json", "--retain", "said.json"], "said.json: is both --forget and --retain"),
        (["--forget", "said.json", "--retain", "copy.json"], "copy.json: is both --forget and --retain"),
        (["--forget", "both.json"], "fit question/reference/response and question/answer/response"),
        (["--forget", "twice.json"], "the id 'x' is already that of"),
        (["--forget", "said.json", "--map", "question"], "--map: cannot read 'question'"),
        (["--forget", "said.json", "--metrics", "rouge"], "unknown metric 'rouge' -> did you mean 'rouge_l'?"),
        (["--forget", "said.json", "--metrics", "krr"], "'krr' is measured on the retain set, and there is none"),
        (["--forget", "said.json", "--set", "metrics.c1=2"], "'metrics.c1' is 2"),
        (["--forget", "said.json", "--set", "metric.c1=1"], "unknown key 'metric'"),
        (["--forget", "said.json", "--set", "metrics.entities=none"], "metrics.entities: no entity extractor 'none'"),
        (["--forget", "said.json", "--set", "metrics.retain_reference=x.json"], "x.json"),
        (["--forget", "said.json", "--set", "metrics.base_model=x"], "name the model with --base"),
        (["--forget", "said.json", "--set", "metrics.ability.tasks=[sums.jsonl]"], "metrics.ability: asks a model"),
        (["--forget", "said.json", "--before", "x/y"], "--before: names the model to compare with"),
        (["--forget", "said.json", "--after-adapter", "a"], "--after-adapter: an adapter needs its model"),
        (["--forget", "said.json", "--before-adapter", "a"], "--before-adapter: an adapter needs its model"),
        (["--forget", "said.json", "--base", "./absent"], "--base ./absent: no such model folder"),
        (["--forget", "forget.jsonl", "--after", "pickled"], "--after pickled: no weights in safetensors form there"),
        (["--forget", "forget.jsonl", "--after", "empty"], "--after empty: no config.json there"),
        (["--forget", "forget.jsonl", "--after", "lora"], "--after lora: is an adapter, not a model -> --after MODEL"),
        (["--forget", "forget.jsonl", "--after", "run"], "--after run: is a run folder, not a model -> relearn eval"),
        (["--forget", "forget.jsonl", "--after", "no/such-model"], "cannot load model 'no/such-model'"),
        (["--forget", "forget.jsonl", "--after", "MODEL", "--after-adapter", "bin"], "bin: adapter is not in safe"),
        (["--forget", "forget.jsonl", "--after", "MODEL", "--after-adapter", "lora"], "adapter does not fit the model"),
        (["--forget", "special.jsonl", "--after", "MODEL"], "special token '<|im_end|>'"),
        (["--forget", "long.jsonl", "--after", "MODEL"], "long.jsonl:1: question and answer have"),
        (["--forget", "forget.jsonl", "--retain", "overlap.jsonl", "--after", "MODEL"], "is in forget and in retain"),
        (["--forget", "forget.jsonl", "--after", "MODEL", "--set", "model.name=x"], "named by --before, --after"),
    ],
    ids=lambda value: " ".join(value[1:]) if isinstance(value, list) else "",
)  # fmt: skip
def test_bad_input_is_one_line_and_leaves_nothing(facts, tiny_model_dir, adapter, capsys, options, expected):
    make_bad_input(Path(), tiny_model_dir, adapter)
    options = [str(tiny_model_dir) if option == "MODEL" else option for option in options]
    assert expected in refused(capsys, *options)


def make_bad_input(here: Path, model: Path, adapter: str) -> None:
    Path("empty.jsonl").write_text("")
    Path("sums.jsonl").write_text('{"question": "1 and 1?", "choices": ["2", "3"], "answer": 0}\n')
    answers(here / "said.json", SAID)
    shutil.copy("said.json", "copy.json")
    answers(here / "both.json", [("q", "a", "b", "r")], ("question", "reference", "answer", "response"))
    answers(here / "twice.json", [("x", "q", "a", "r"), ("x", "p", "a", "r")], ("id", "question", "answer", "response"))
    records(here / "special.jsonl", [("Where?", "Here<|im_end|>")])
    records(here / "long.jsonl", [("Where?", "here " * 1200)])
    records(here / "overlap.jsonl", PRIVATE[:1])
    for name in ("pickled", "empty", "lora", "run", "bin"):
        (here / name).mkdir()
    (here / "pickled/config.json").write_text("{}")
    (here / "pickled/pytorch_model.bin").write_bytes(b"\x80")
    for name in ("recipe.yaml", "manifest.json"):
        (here / "run" / name).write_text("{}")
    (here / "bin/adapter_config.json").write_text("{}")
    (here / "bin/adapter_model.bin").write_bytes(b"\x80")
    # An adapter of another width than the model's.
    from safetensors.torch import load_file, save_file

    shutil.copy(Path(adapter) / "adapter_config.json", here / "lora")
    weights = {name: torch.zeros(3, 5) for name in load_file(Path(adapter) / "adapter_model.safetensors")}
    save_file(weights, here / "lora/adapter_model.safetensors")


def test_a_folder_of_something_else_is_left_alone(facts, tiny_model_dir, other_model, capsys):
    options = [*facts, "--after", str(tiny_model_dir), *ASKED]
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("mine")
    assert evaluate(*options, "--out", "mine") == 2
    assert [path.name for path in Path("mine").iterdir()] == ["thesis.txt"]
    assert "holds no evaluation" in capsys.readouterr().err
    assert evaluate(*options, "--out", "out") == 0
    kept = {path: path.read_bytes() for path in Path("out").rglob("*.*")}
    for changed, expected in (
        ([*facts, "--after", other_model, *ASKED], "after is"),
        ([*facts[:2], "--after", str(tiny_model_dir), *ASKED], "retain is retain.jsonl, not none"),
        ([*options, "--set", "seed=1"], "it asks with other settings"),
        ([*options, "--set", "forget.limit=1"], "forget is forget.jsonl, not forget.jsonl (limit 1)"),
    ):
        capsys.readouterr()
        assert evaluate(*changed, "--out", "out") == 2
        assert f"out: holds another evaluation: {expected}" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in Path("out").rglob("*.*")} == kept


def test_a_changed_file_or_model_is_refused(facts, tiny_model_dir, tmp_path, capsys):
    shutil.copytree(tiny_model_dir, "model")
    options = [*facts, "--after", "model", *ASKED, "--out", "out"]
    assert evaluate(*options) == 0
    text = Path("forget.jsonl").read_text()
    records(Path("forget.jsonl"), PRIVATE[:2])
    assert evaluate(*options) == 2
    assert "forget.jsonl: has changed since this evaluation began -> restore it" in capsys.readouterr().err
    Path("forget.jsonl").write_text(text)
    shutil.rmtree("model")
    build_tiny_model(Path("model"), seed=2)
    assert evaluate(*options) == 2
    assert "the model after: has changed since this evaluation began" in capsys.readouterr().err


def test_entities_by_a_remote_generator_are_refused_unasked(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "https://api.example.com/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-key")
    options = ["--set", "metrics.entities=generator", "--set", "synthesis.generator=openai:big-model"]
    said = refused(capsys, "--forget", answers(tmp_path / "f.json", SAID), *options, out=str(tmp_path / "out"))
    assert "2 private records would be sent to api.example.com" in said and "sk-secret-key" not in said


def test_python_refuses_the_same(tmp_path):
    with pytest.raises(InputError, match="nothing to score"):
        relearn.evaluate(out=tmp_path / "out")
