"""Commands write and remove only what is theirs: no file of a user's is overwritten, removed, or reached by a link."""

from __future__ import annotations

import fcntl
import json
import shutil
from pathlib import Path

import pytest
import yaml

from people import people
from relearn.cli import run_command
from relearn.core.files import read_json, write_json
from relearn.core.run_dir import MARKER

OWN = {
    ".git/config": "[core]",
    ".env": "KEY=1",
    ".venv/pyvenv.cfg": "home",
    "train.py": "print()",
    "adapter/w.bin": "w",
}


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def recipe(folder: Path, model: Path, **changes) -> dict:
    return {
        "model": {"name": str(model)},
        "data": {
            "forget": people(folder / "private.jsonl", "private", 3),
            "retain": people(folder / "public.jsonl", "public", 3),
        },
        "unlearn": {"epochs": 1, "learning_rate": 1e-3, "lora": {"r": 2}},
        "generate": {"max_new_tokens": 6},
        "metrics": {"bootstrap": 20},
        **changes,
    }


@pytest.fixture(scope="module")
def finished(tiny_model_dir, tmp_path_factory) -> Path:
    """A finished run beside its data and recipe.yaml."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe(folder, tiny_model_dir)))
    assert run_command(["run", str(folder / "recipe.yaml"), "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture
def run(finished, tmp_path, monkeypatch) -> Path:
    """A copy of it, in the folder the commands are called in."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def project(finished, tmp_path, monkeypatch) -> Path:
    """A user's project with a recipe in it, in which the commands are called."""
    folder = tmp_path / "project"
    write(folder, OWN)
    shutil.copy(finished.parent / "recipe.yaml", folder)
    monkeypatch.chdir(folder)
    return folder


def refused(capsys, *arguments: str) -> str:
    capsys.readouterr()
    code = run_command([str(argument) for argument in arguments])
    lines = capsys.readouterr().err.strip().splitlines()
    assert code == 2 and len(lines) == 1 and lines[0].startswith("relearn: ") and " -> " in lines[0], (code, lines)
    return lines[0]


def as_of_01(run: Path) -> None:
    """What version 0.1 left: no marker."""
    manifest = read_json(run / "manifest.json")
    assert manifest.pop("relearn") == MARKER["relearn"]
    write_json(run / "manifest.json", manifest)


@pytest.mark.parametrize("manifest", [None, "{}", '{"name": "extension"}', "[]", "no json"])
def test_a_project_is_no_run_folder(project, tiny_model_dir, capsys, manifest):
    """Once `run recipe.yaml --out .` with --resume removed .git, .env and .venv and wrote over recipe.yaml."""
    if manifest is not None:
        (project / "manifest.json").write_text(manifest)
    forget = yaml.safe_load((project / "recipe.yaml").read_text())["data"]["forget"]
    before = contents(project)
    for command in (
        ["run", "recipe.yaml", "--out", "."],
        ["run", "recipe.yaml", "--out", ".", "--resume"],
        ["unlearn", "recipe.yaml", "--out", ".", "--resume"],
        ["demo", "--out", "."],
        ["evaluate", "."],
        ["evaluate", ".", "--set", "metrics.c1=0.5"],
        ["evaluate", "--after", str(tiny_model_dir), "--forget", forget, "--out", "."],
        ["audit", "."],
        ["audit", "--before", str(tiny_model_dir), "--after", str(tiny_model_dir), "--forget", forget, "--out", "."],
        ["analyze", "."],
        ["report", "."],
        ["purge", "."],
        ["purge", ".", "--yes"],
        ["synthesize", "--forget", forget, "--out", "."],
        ["compare", "recipe.yaml", "--methods", "grad_diff", "--out", "."],
        ["compare", "recipe.yaml", "--methods", "grad_diff", "--out", "new", "--results", ".."],
        ["export", "run", "--out", "."],
    ):
        if "--results" in command:
            # The results go to a folder of this name: the project's own.
            (project / "recipe.yaml").write_text("name: project\n" + before["recipe.yaml"].decode())
            assert "holds no results" in refused(capsys, *command)
            (project / "recipe.yaml").write_bytes(before["recipe.yaml"])
        else:
            refused(capsys, *command)
        assert contents(project) == before, command


def test_the_run_itself_leaves_alone_what_is_not_its_own(run, capsys):
    write(run, {name: text for name, text in OWN.items() if name != "adapter/w.bin"})
    own = {name: text.encode() for name, text in OWN.items() if name != "adapter/w.bin"}
    (run / ".summary.json.abcdefgh.relearn-tmp").write_text("half")
    (run / "before" / ".forget.jsonl.abcdefgh").write_text("half")
    assert run_command(["evaluate", "run"]) == 0
    found = contents(run)
    assert own.items() <= found.items() and not [name for name in found if "abcdefgh" in name]


@pytest.mark.parametrize("old", [False, True])
def test_a_folder_of_either_version_goes_on(run, finished, old):
    if old:
        as_of_01(run)
    kept = (run / "adapter" / "adapter_model.safetensors").read_bytes()
    shutil.rmtree(run / "adapter")
    write(run, {".adapter.abcdefgh/half": "", ".git/config": "[core]"})
    recipe_file = str(finished.parent / "recipe.yaml")
    assert run_command(["run", recipe_file, "--out", "run", "--resume"]) == 0
    assert (run / "adapter" / "adapter_model.safetensors").read_bytes() == kept
    assert (run / ".git" / "config").exists() and not (run / ".adapter.abcdefgh").exists()
    assert read_json(run / "manifest.json")["relearn"] == MARKER["relearn"]


@pytest.mark.parametrize("options", [[], ["--resume"]])
@pytest.mark.parametrize(
    "left", [(), ("lock",), ("lock", ".recipe.yaml.abcdefgh.relearn-tmp"), ("lock", "manifest.json")]
)
def test_after_a_kill_in_the_first_moment_both_ways_begin(finished, tmp_path, options, left):
    out = tmp_path / "out"
    out.mkdir()
    for name in left:
        (out / name).write_text(json.dumps({"stages": {}, **MARKER}) if name == "manifest.json" else "")
    command = ["unlearn", str(finished.parent / "recipe.yaml"), "--out", str(out), *options]
    assert run_command(command) == 0
    assert (out / "adapter").exists() and not list(out.glob("lock")) + list(out.glob(".*"))


@pytest.mark.parametrize("old", [False, True])
def test_purge_takes_outputs_alone_and_names_the_rest(run, capsys, old):
    if old:
        as_of_01(run)
    own = {"notes.txt": "mine", ".git/config": "[core]", "before/notes.txt": "mine", "checkpoints.md": "mine"}
    write(run, own)
    write(run, {"before/.forget.jsonl.abcdefgh": "half"})
    assert run_command(["purge", "run"]) == 0
    said = capsys.readouterr().err
    assert "would remove synthesis.jsonl" in said and "left alone: before/notes.txt" in said and "lock" not in said
    assert run_command(["purge", "run", "--yes"]) == 0
    said = capsys.readouterr().err
    assert "removed before\n" in said and "left alone: .git\n" in said and "left alone: notes.txt\n" in said
    left = contents(run)
    assert {name: left[name].decode() for name in own} == own
    numbers = {"manifest.json", "summary.json", "scores.json"}
    assert {name for name in left if not name.startswith("adapter/")} == {*own, *numbers}
    assert run_command(["purge", "run", "--yes"]) == 0, "a purged folder is relearn's still"


def test_purge_does_not_stop_at_a_link_and_follows_none(run, tmp_path):
    write(tmp_path / "mine", {"forget.jsonl": "mine", "log.jsonl": "mine"})
    shutil.rmtree(run / "before")
    (run / "before").symlink_to(tmp_path / "mine")
    (run / "after" / "forget.jsonl").unlink()
    (run / "after" / "forget.jsonl").symlink_to(tmp_path / "mine" / "forget.jsonl")
    (run / "log.jsonl").unlink()
    (run / "log.jsonl").symlink_to(tmp_path / "mine" / "log.jsonl")
    (run / "checkpoints").symlink_to(tmp_path / "nowhere")
    (run / "lock").symlink_to(tmp_path / "mine" / "lock")
    assert run_command(["purge", "run", "--yes"]) == 0
    assert contents(tmp_path / "mine") == {"forget.jsonl": b"mine", "log.jsonl": b"mine"}
    assert {path.name for path in run.iterdir()} == {"adapter", "manifest.json", "summary.json", "scores.json"}


def test_purge_waits_for_nobody_who_is_at_work(run, capsys):
    before = contents(run)
    with (run / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        capsys.readouterr()
        assert run_command(["purge", "run", "--yes"]) == 2
        assert "run: another process is at work here" in capsys.readouterr().err
    (run / "lock").unlink()
    assert contents(run) == before


@pytest.mark.parametrize("name", ["log.jsonl", "before", "cache.sqlite", "checkpoints", "report.html", "lock"])
def test_nothing_is_written_through_a_link(run, finished, tmp_path, capsys, name):
    mine = tmp_path / "mine"
    write(mine, {"forget.jsonl": "mine"})
    if (run / name).is_dir():
        shutil.rmtree(run / name)
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(mine if name in ("before", "checkpoints") else mine / "forget.jsonl")
    write(run, {"audits/answers/plain.start.jsonl": ""})
    before = contents(tmp_path)
    for command in (
        ["run", str(finished.parent / "recipe.yaml"), "--out", "run", "--resume"],
        ["evaluate", "run"],
        ["evaluate", "run", "--set", "metrics.c1=0.5"],
        ["audit", "run"],
        ["analyze", "run"],
        ["report", "run"],
    ):
        if (command[0] in ("audit", "analyze")) and name == "before":
            continue
        assert f"{name}: is a symbolic link" in refused(capsys, *command), command
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["../../evil", "..", "a/b", ".git", "", "a\nb"])
def test_a_name_leads_out_of_no_folder(project, tiny_model_dir, capsys, name):
    before = contents(project.parent)
    values = yaml.safe_load((project / "recipe.yaml").read_text())
    named = yaml.safe_dump({**values, "name": name})
    methods = {name: {"unlearn": {"method": "grad_diff"}}}
    comparison = yaml.safe_dump({"name": "tiny", "base": values, "methods": methods})
    for text, command in (
        (named, ["run", "recipe.yaml"]),
        (named, ["unlearn", "recipe.yaml", "--resume"]),
        (named, ["compare", "recipe.yaml", "--methods", "grad_diff"]),
        (comparison, ["compare", "recipe.yaml", "--out", "new", "--results", "new_results"]),
    ):
        (project / "recipe.yaml").write_text(text)
        capsys.readouterr()
        assert run_command(command) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
    before["project/recipe.yaml"] = comparison.encode()
    assert contents(project.parent) == before


def test_verify_does_not_write_over_what_it_reads(run, finished, capsys):
    """Once `relearn verify --out FORGET` wrote over the forget set."""
    forget, rows = str(finished.parent / "private.jsonl"), str(run / "synthesis.jsonl")
    Path("linked.jsonl").symlink_to(forget)
    Path("hard.jsonl").hardlink_to(rows)
    before = Path(forget).read_bytes(), Path(rows).read_bytes()
    for out in (forget, rows, "linked.jsonl", "hard.jsonl", "run/../run/synthesis.jsonl"):
        assert "would be written over the input" in refused(capsys, "verify", rows, "--against", forget, "--out", out)
    assert (Path(forget).read_bytes(), Path(rows).read_bytes()) == before
    assert run_command(["verify", rows, "--against", forget, "--out", "found.jsonl"]) == 0
    assert run_command(["verify", rows, "--against", forget, "--out", "found.jsonl"]) == 0


def test_generate_does_not_write_over_what_it_reads(run, finished, capsys):
    questions = people(Path("q.jsonl"), "probe", 2)
    before = contents(run)
    for out in (questions, "run/recipe.yaml", "run/before/forget.jsonl", finished.parent / "private.jsonl"):
        refused(capsys, "generate", "run", "--questions", questions, "--out", out)
    assert contents(run) == before
    for _ in range(2):
        assert run_command(["generate", "run", "--questions", questions, "--out", "run/answers.jsonl"]) == 0


def test_synthesize_has_a_folder_of_its_own(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    forget = str(finished.parent / "private.jsonl")
    command = ["synthesize", "--forget", forget, "--out", "new"]
    assert run_command(command) == 0
    first = Path("new/synthesis.jsonl").read_bytes()
    assert read_json(Path("new/manifest.json"))["relearn"] == MARKER["relearn"]
    Path("new/manifest.json").unlink()
    assert run_command(command) == 0, "as version 0.1 left it"
    assert Path("new/synthesis.jsonl").read_bytes() == first
    shutil.copy("new/synthesis.jsonl", "new/forget.jsonl")
    Path("new/rejected.jsonl").unlink()
    Path("new/rejected.jsonl").hardlink_to("new/forget.jsonl")
    line = refused(capsys, "synthesize", "--forget", "new/forget.jsonl", "--out", "new")
    assert "rejected.jsonl: would be written over the input" in line
    shutil.copytree(finished, "run")
    assert "holds no synthesis" in refused(capsys, "synthesize", "--forget", forget, "--out", "run")
    Path("data").mkdir()
    shutil.copy(forget, "data/synthesis.jsonl")
    assert "holds no synthesis" in refused(capsys, "synthesize", "--forget", "data/synthesis.jsonl", "--out", "data")


def test_results_are_not_written_over_other_files(project, tmp_path, capsys):
    write(tmp_path / "results/tiny", {"grad_diff.json": '{"method": "grad_diff"}', "table.md": "mine"})
    values = yaml.safe_load((project / "recipe.yaml").read_text())
    (project / "recipe.yaml").write_text(yaml.safe_dump({**values, "name": "tiny"}))
    command = [
        "compare",
        "recipe.yaml",
        "--methods",
        "grad_diff",
        "--out",
        "new",
        "--results",
        str(tmp_path / "results"),
    ]
    assert "holds no results" in refused(capsys, *command)
    write(tmp_path / "results/tiny", {"npo.json": '{"method": "npo", "benchmark": "tiny"}'})
    assert "grad_diff.json: is no result" in refused(capsys, *command)
    write(tmp_path / "results/tiny", {"grad_diff.json": '{"method": "grad_diff", "benchmark": "tiny"}'})
    (tmp_path / "results/tiny/samples.jsonl").hardlink_to(values["data"]["forget"])
    assert "samples.jsonl: would be written over" in refused(capsys, *command)
    assert not Path("new").exists() and (tmp_path / "results/tiny/table.md").read_text() == "mine"


def test_a_comparison_takes_no_run_of_its_own_from_a_user(project, capsys):
    """A folder that bears the name of a run, without being one, was once replaced."""
    write(
        project / "out", {"manifest.json": json.dumps({"stages": {}, **MARKER}), "runs/grad_diff_1e/thesis.txt": "mine"}
    )
    command = ["compare", "recipe.yaml", "--methods", "grad_diff", "--out", "out", "--results", "results"]
    capsys.readouterr()
    assert run_command(command) == 2
    assert "runs/grad_diff_1e: is not empty and holds no run" in capsys.readouterr().err
    assert (project / "out/runs/grad_diff_1e/thesis.txt").read_text() == "mine"
