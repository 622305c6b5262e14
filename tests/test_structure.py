"""The shape of the project: import directions, importable modules, a light `import relearn`, an instant --help."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import pkgutil
import re
import resource
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

import relearn

HEAVY = ("torch", "transformers", "spacy", "matplotlib", "datasets", "pandas", "scipy", "nltk")
MODULES = [module.name for module in pkgutil.walk_packages(relearn.__path__, "relearn.")]
HELP_SECONDS = 0.5


def path_of(name: str) -> Path:
    path = Path(relearn.__path__[0]).joinpath(*name.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


PATHS = {name: path_of(name) for name in MODULES}


def run(*command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


@pytest.mark.parametrize("name", MODULES)
def test_every_module_imports_and_says_what_it_is_for(name):
    if name.endswith("__main__"):
        return
    assert importlib.import_module(name).__doc__


def test_every_part_imports_only_from_below(project_root):
    done = run(str(Path(sys.executable).parent / "lint-imports"), "--no-logo", "--no-cache", cwd=project_root)
    assert done.returncode == 0, done.stdout + done.stderr


def imported(name: str, path: Path) -> set[str]:
    """The modules that a file names in its imports, those in functions and for type checking alone included."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name} imports by a relative name"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (whole & PATHS.keys()) or {str(node.module)}
    return found & PATHS.keys() - {name}


def circles(graph: dict[str, set[str]]) -> set[tuple[str, ...]]:
    """The sets of modules, sorted, each of which leads back to itself through all the others."""
    reached = {name: _reached(graph, name) for name in graph}
    return {
        tuple(sorted({name} | {other for other in seen if name in reached[other]}))
        for name, seen in reached.items()
        if name in seen
    }


def _reached(graph: dict[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    left = list(graph[start])
    while left:
        name = left.pop()
        if name not in seen:
            seen.add(name)
            left += graph[name]
    return seen


def test_a_circle_is_found():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"e"}}
    assert circles(graph) == {("b", "c"), ("e",)}


def test_no_module_leads_back_to_itself():
    """The package's own `relearn` stands apart: it offers names of all parts, each loaded when it is first used."""
    graph = {name: imported(name, path) for name, path in PATHS.items()}
    assert circles(graph) == set()


MODULE_FILES = [path for name, path in PATHS.items() if path.name != "__init__.py"]


def test_the_tree_stays_small():
    """At most 180 modules and 14 layers, nothing loose at the package root, no file exempt from the formatter."""
    assert len(MODULE_FILES) <= 180
    root = Path(relearn.__path__[0])
    assert {path.name for path in root.iterdir() if path.is_file()} == {"__init__.py", "__main__.py", "py.typed"}
    settings = tomllib.loads((root.parents[1] / "pyproject.toml").read_text())
    assert len(settings["tool"]["importlinter"]["contracts"][0]["layers"]) <= 14
    assert [path.name for path in PATHS.values() if "# fmt:" in path.read_text(encoding="utf-8")] == []


def defined_names(path: Path) -> set[str]:
    """Classes, type aliases and type variables at the top of a file."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if re.fullmatch(r"_?[A-Z][a-z]\w*", name):
                names.add(name)
    return names


def test_no_class_or_type_alias_is_defined_twice():
    places: dict[str, list[str]] = {}
    for name, path in PATHS.items():
        for defined in defined_names(path):
            places.setdefault(defined, []).append(name)
    assert {name: modules for name, modules in places.items() if len(modules) > 1} == {}


def test_importing_relearn_loads_nothing_heavy():
    done = run(sys.executable, "-c", f"import relearn, sys; print(*[name for name in {HEAVY} if name in sys.modules])")
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_the_promised_names_are_there():
    """Those of the design; what is private to the package is not offered."""
    promised = {"run", "synthesize", "unlearn", "evaluate", "audit", "analyze", "Recipe", "Record"}
    assert promised <= set(relearn.__all__) == set(relearn._PLACES)
    assert all(callable(getattr(relearn, name)) for name in relearn.__all__)
    with pytest.raises(AttributeError, match="no attribute 'audits_of'"):
        relearn.audits_of  # noqa: B018


@pytest.mark.skipif(importlib.util.find_spec("relearn.cli") is None, reason="the command line is not there yet")
def test_help_is_instant():
    """Median of three, in seconds of CPU: the other processes of a busy machine do not count."""
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = run(sys.executable, "-m", "relearn", "--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0 and "demo" in done.stdout, done.stderr
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert sorted(seconds)[1] < HELP_SECONDS


def test_every_file_of_the_package_is_in_the_wheel(project_root):
    """Files that are no modules must match a pattern of package-data, or an installed wheel lacks them."""
    settings = tomllib.loads((project_root / "pyproject.toml").read_text())
    patterns = settings["tool"]["setuptools"]["package-data"]["relearn"]
    package = project_root / "src" / "relearn"
    files = [path.relative_to(package) for path in package.rglob("*") if path.is_file()]
    data = [path for path in files if path.suffix not in (".py", ".pyc")]
    missing = [
        path for path in data if not any(fnmatch(str(path), pattern.removeprefix("**/")) for pattern in patterns)
    ]
    assert data and missing == []
    folders = {path.parent for path in files if path.suffix == ".py"}
    assert all((package / folder / "__init__.py").exists() for folder in folders), "a package without __init__.py"


def test_every_dependency_is_pinned(project_root):
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = (project_root / "constraints.txt").read_text().splitlines()
    pins = {
        canonicalize_name(entry.name): entry for entry in map(Requirement, filter(lambda line: line[0] != "#", lines))
    }
    assert all(str(entry.specifier).startswith("==") for entry in pins.values())
    project = tomllib.loads((project_root / "pyproject.toml").read_text())["project"]
    wanted = map(Requirement, [*project["dependencies"], *project["optional-dependencies"]["test"]])
    for entry in wanted:
        pin = pins[canonicalize_name(entry.name)]
        assert entry.specifier.contains(str(pin.specifier).removeprefix("==")), f"{entry} against {pin}"


def test_test_files_have_unique_names(project_root):
    names = [path.name for path in (project_root / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names))


def test_the_tiny_model_is_the_same_for_a_seed(tiny_model_dir, tmp_path):
    from transformers import AutoTokenizer

    from tiny import build_tiny_model

    again = build_tiny_model(tmp_path / "again")
    assert (again / "model.safetensors").read_bytes() == (tiny_model_dir / "model.safetensors").read_bytes()
    assert (again / "tokenizer.json").read_bytes() == (tiny_model_dir / "tokenizer.json").read_bytes()
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    text = "It's Jos\u00e9 \u2014 don't.\n\tx@y.org <|im_end|>"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@pytest.mark.slow
def test_the_built_wheel_holds_the_package_and_imports(project_root, tmp_path):
    """What `pip install` of the wheel gives: every file of the package, in a folder of its own, without the source."""
    build = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(tmp_path))
    copy = tmp_path / "source"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE", "src"):
        (copy / name).symlink_to(project_root / name)
    done = run(*build, str(copy))
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("relearn_llm-*.whl")
    target = tmp_path / "site"
    done = run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(wheel))
    assert done.returncode == 0, done.stderr
    package = project_root / "src" / "relearn"
    expected = {path.relative_to(package) for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    found = {path.relative_to(target / "relearn") for path in (target / "relearn").rglob("*") if path.is_file()}
    assert expected <= found
    environment = {**os.environ, "PYTHONPATH": str(target)}
    shown = subprocess.run(
        [sys.executable, "-c", "import relearn; print(relearn.__file__)"],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        check=True,
    )
    assert shown.stdout.strip().startswith(str(target))
