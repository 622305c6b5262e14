"""What `relearn evaluate` refuses: one line, exit code 2, nothing left behind."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import relearn
from relearn.core.errors import InputError
from tiny import build_tiny_model
from workflows.evaluate.asked import ASKED, PRIVATE, SAID, answers, evaluate, records, refused


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
)
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


def test_what_needs_facts_to_forget_is_refused_without_them(facts, tiny_model_dir, capsys):
    kept = facts[2:]
    asked = ["--after", str(tiny_model_dir), *kept, "--set", "metrics.worst_case=2"]
    assert "metrics.worst_case: asks the questions to forget" in refused(capsys, *asked)
    said = refused(capsys, "--after", str(tiny_model_dir), *kept, "--metrics", "forget_quality")
    assert "'forget_quality' is measured on the forget set, and there is none -> give --forget FILE" in said
