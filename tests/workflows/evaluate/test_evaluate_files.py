"""`relearn evaluate` on files of answers, without a model or a run."""

from __future__ import annotations

import json
import math
import stat
from pathlib import Path

import pytest
import torch

import relearn
from relearn.core.files import read_json, read_jsonl
from relearn.metrics.answer_files import RELEARN_CODE
from workflows.evaluate.asked import QUICK, SAID, answers, evaluate


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
DEGENERATE = ["", " ", "\n", "a", "...!?", "\U0001f600\u200d\U0001f600", "\u4f60\u597d", LONGER, "a\x00b", "<|im_end|>"]


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
        forget=answers(tmp_path / "f.json", forget),
        retain=answers(tmp_path / "r.json", retain),
        measure=("kfr", "krr"),
        changes=("metrics.bootstrap=20",),
        out=tmp_path / "out",
    ).path
    found = read_json(out / "summary.json")["after"]
    if found["forget"]["kfr"]["n"] == 0:
        pytest.skip(found["forget"]["kfr"]["note"])
    assert (found["forget"]["kfr"]["value"], found["retain"]["krr"]["value"]) == (0.5, 0.5)
    assert set(found["forget"]) == {"kfr"} and set(found["retain"]) == {"krr"}


def test_a_retain_file_alone_is_scored_and_what_is_not_measured_is_said(tmp_path, capsys):
    retain = answers(tmp_path / "r.json", [("q", "one two", "two one two"), ("p", "one two", "three")])
    out = tmp_path / "out"
    assert evaluate("--retain", retain, "--out", str(out), "--set", "metrics.bootstrap=20") == 0
    summary = read_json(out / "summary.json")["after"]
    assert set(summary) == {"retain"} and "krr" in summary["retain"]
    said = capsys.readouterr()
    assert "To keep (2)" in said.out and "KFR and the other metrics of forgetting are not measured" in said.err
    report = read_json(out / "report.json")
    assert report["headline"]["asked"] == "2 facts to keep."
    assert any("--forget FILE" in note for note in report["notes"])


def test_a_forget_file_alone_says_that_what_is_kept_is_not_measured(tmp_path):
    out = relearn.evaluate(forget=answers(tmp_path / "f.json", SAID), measure=("rouge_l",), out=tmp_path / "out").path
    assert any("KRR and the other metrics" in note for note in read_json(out / "manifest.json")["notes"])
    alone = relearn.evaluate(forget=str(tmp_path / "f.json"), measure=("kfr",), out=tmp_path / "other").path
    assert not any("KRR" in note for note in read_json(alone / "manifest.json")["notes"])
