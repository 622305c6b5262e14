"""Whatever is wrong with the input: one line, exit code 2, and nothing written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from relearn.cli import run_command

FORGET = [{"question": "Where does Ada Holm live?", "answer": "Ada Holm lives at 12 Mill Lane."}]
RETAIN = [{"question": "What does Ada Holm do?", "answer": "Ada Holm builds boats."}]


@pytest.fixture
def job(tmp_path, tiny_model_dir, monkeypatch):
    """A function (forget rows, retain rows, changes of the recipe) -> (exit code, what was said)."""
    monkeypatch.chdir(tmp_path)

    def run(capsys, forget=FORGET, retain=RETAIN, **changes) -> tuple[int, str]:
        for name, rows in (("forget", forget), ("retain", retain)):
            text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
            Path(f"{name}.jsonl").write_text(text)
        recipe = {"model": str(tiny_model_dir), "data": {"forget": "forget.jsonl", "retain": "retain.jsonl"}, **changes}
        Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
        code = run_command(["run", "recipe.yaml", "--out", "out"])
        return code, capsys.readouterr().err

    return run


def one_line(code: int, said: str) -> str:
    assert code == 2, said
    lines = said.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("relearn: "), said
    assert not Path("out").exists()
    return lines[0]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("", "forget.jsonl"),
        ('{"question": "Where?"}\n', "forget.jsonl"),
        ('{"question": "Where?", "answer": 7}\n', "forget.jsonl:1"),
        ('{"question": "Where?", "answer": "Here"}\nnot json\n', "forget.jsonl:2"),
        ([{"id": "a", **FORGET[0]}, {"id": "a", **RETAIN[0]}], "the id 'a' is already that of forget.jsonl:1"),
        ([{"question": "Where?", "answer": "He\x07re"}], "forget.jsonl:1"),
        ([{"question": "Where?", "answer": "Here<|im_end|>"}], "special token '<|im_end|>'"),
        ([{"question": "Where?", "answer": "here " * 900}], "the limit is"),
    ],
    ids=["empty", "no answer", "wrong type", "no json", "duplicate ids", "control", "special token", "too long"],
)
def test_records(job, capsys, rows, expected):
    assert expected in one_line(*job(capsys, forget=rows))


def test_a_new_line_and_a_tab_are_fine(job, capsys):
    code, said = job(capsys, forget=[{"question": "Where?", "answer": "Here\n\tand there"}], unlearn={"epoch": 1})
    assert "unknown key" in one_line(code, said)


def test_overlap_of_forget_and_retain(job, capsys):
    same = [{"question": "where does ADA Holm live", "answer": "Ada Holm lives at 12 Mill Lane"}]
    assert "is in forget and in retain" in one_line(*job(capsys, retain=same))


def test_private_answers_are_not_repeated(job, capsys):
    rows = [{"question": "Where does Ada Holm live?", "answer": "At 12 Mill Lane.\x00"}]
    assert "Mill Lane" not in one_line(*job(capsys, forget=rows))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"unlearn": {"epoch": 2}}, "did you mean 'epochs'?"),
        ({"unlearn": {"method": "relern"}}, "unknown method 'relern' -> did you mean"),
        ({"unlearn": {"options": {"retain_knl": 1}}}, "no option 'retain_knl'"),
        ({"model": "no/such-model"}, "cannot load model 'no/such-model'"),
        ({"synthesis": {"generator": "tempates"}}, "unknown generator 'tempates'"),
        ({"data": {"forget": "absent.jsonl"}}, "absent.jsonl: no such file"),
    ],
)
def test_recipes(job, capsys, changes, expected):
    assert expected in one_line(*job(capsys, **changes))


def test_private_records_do_not_leave_the_machine_unasked(job, capsys, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "https://api.example.com/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-key")
    line = one_line(*job(capsys, synthesis={"generator": "openai:big-model"}))
    assert "1 private records would be sent to api.example.com" in line and "allow_remote" in line
    assert "sk-secret-key" not in line


@pytest.mark.parametrize("measured", [{"entities": "generator"}, {"entities": "both"}, {"worst_case": 2}])
def test_nor_are_they_measured_elsewhere_unasked(job, capsys, monkeypatch, measured):
    """A method that has nothing written still lets the generator name entities or word questions anew."""
    monkeypatch.setenv("OPENAI_BASE_URL", "https://api.example.com/v1")
    generator = {"generator": "openai:big-model"}
    line = one_line(*job(capsys, synthesis=generator, metrics=measured, unlearn={"method": "npo_gdr"}))
    shown = "the questions" if "worst_case" in measured else "the questions and answers"
    assert f"{shown} of 1 private records would be sent to api.example.com" in line


def test_folder_of_another_recipe(job, capsys, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "recipe.yaml").write_text("name: other\n")
    code, said = job(capsys)
    assert code == 2 and "run folder was made by another recipe" in said
    assert (tmp_path / "out" / "recipe.yaml").read_text() == "name: other\n"
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_folder_with_other_things_in_it(job, capsys, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    code, said = job(capsys)
    assert code == 2 and "not empty" in said


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "absent.yaml"], "absent.yaml: no such recipe"),
        (["ask", "absent", "Who?"], "absent: no run there"),
        (["report", "absent"], "absent: no run there"),
        (["export", "absent", "--out", "x"], "absent: no run there"),
        (["purge", "absent"], "absent: no run there"),
        (["runn"], "relearn --help"),
        (["run"], "relearn --help"),
        (["list", "colours"], "relearn --help"),
        (["verify", "absent.jsonl", "--against", "absent.jsonl", "--out", "o"], "absent.jsonl: no such file"),
    ],
)
def test_commands(capsys, tmp_path, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)
    assert run_command(arguments) == 2
    said = capsys.readouterr().err.strip()
    assert expected in said and len(said.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"learn": {"data": "absent.jsonl"}}, "absent.jsonl: no such file"),
        ({"unlearn": {"mask": "shure"}}, "unknown mask 'shure'"),
        ({"metrics": {"retain_reference": "absent"}}, "absent"),
        ({"metrics": {"judge": "templates"}}, "templates cannot grade answers"),
    ],
    ids=["learn", "unlearn", "reference", "judge"],
)
def test_every_stage_checks_its_input_before_anything_is_written(job, capsys, changes, expected):
    assert expected in one_line(*job(capsys, **changes))


def test_the_plan_lists_what_a_run_would_refuse(job, capsys, tmp_path):
    from relearn.core.config import Recipe
    from relearn.workflows.run.estimate import plan_lines

    job(capsys, unlearn={"epoch": 1})
    data = {"forget": str(tmp_path / "forget.jsonl")}
    values = {"model": "no/such-model", "data": data, "unlearn": {"mask": "shure"}, "metrics": {"judge": "templates"}}
    refused = [line for line in plan_lines(Recipe.from_mapping(values)) if line.startswith("The run will refuse: ")]
    assert len(refused) == 3
    for expected in ("cannot load model 'no/such-model'", "unknown mask 'shure'", "templates cannot grade answers"):
        assert any(expected in line for line in refused), expected


def broken_model(folder, tiny_model_dir, template: str | None = None, **config):
    """Copy the tiny model; with another chat template, or as a GPT-2 of few positions, without weights."""
    shutil.copytree(tiny_model_dir, folder)
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    if config:
        (folder / "config.json").write_text(json.dumps({"model_type": "gpt2", "vocab_size": 384, **config}))
    return str(folder)


@pytest.mark.parametrize(
    ("template", "config", "system_prompt", "expected"),
    [
        ("{% for m in messages %}{{ m['content'] }", {}, None, "chat template of"),
        (
            "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('none') }}{% endif %}"
            "{{ m['content'] }}{% endfor %}",
            {},
            "Terse.",
            "takes no system prompt",
        ),
        (None, {"n_positions": 80}, None, "forget.jsonl:1: a prompt with its answer may have"),
    ],
    ids=["syntax", "system", "positions"],
)
def test_what_the_model_cannot_do_is_found_before_the_run(
    job, capsys, tmp_path, tiny_model_dir, template, config, system_prompt, expected
):
    """By run, by its plan, and by an evaluation; each in one line."""
    from relearn.core.config import Recipe
    from relearn.workflows.run.estimate import plan_lines

    name = broken_model(tmp_path / "broken", tiny_model_dir, template, **config)
    model = {"name": name, **({"system_prompt": system_prompt} if system_prompt else {})}
    assert expected in one_line(*job(capsys, model=model, generate={"max_new_tokens": 60}))
    plan = plan_lines(Recipe.from_yaml(Path("recipe.yaml")))
    assert any(line.startswith("The run will refuse: ") and expected in line for line in plan)
    options = ["--after", name, "--forget", "forget.jsonl", "--out", "out", "--set", "generate.max_new_tokens=60"]
    options += ["--set", f"model.system_prompt={system_prompt}"] if system_prompt else []
    assert expected in one_line(run_command(["evaluate", *options]), capsys.readouterr().err)


def test_a_built_in_row_longer_than_the_positions_is_found_before_the_run(job, capsys, tmp_path, tiny_model_dir):
    """The records fit; the generic rows beside them do not."""
    name = broken_model(tmp_path / "short", tiny_model_dir, n_positions=80)
    said = one_line(*job(capsys, model=name, generate={"max_new_tokens": 4}))
    assert said.startswith("relearn: relearn/generic: ") and "data.generic replaces the built-in rows" in said
