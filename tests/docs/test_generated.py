"""Generated parts of the documentation are up to date, and the sources of the site have no broken link."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "docs" / "scripts"


@pytest.fixture(scope="module")
def scripts():
    sys.path.insert(0, str(SCRIPTS))
    import pipeline_picture
    import stage_site
    import tables

    yield {"picture": pipeline_picture, "stage": stage_site, "tables": tables}
    sys.path.remove(str(SCRIPTS))


def test_readme_has_the_tables_that_the_registries_and_results_give(scripts):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"<!-- table: (\w+) -->", readme)) == set(scripts["tables"].TABLES)
    assert scripts["tables"].filled(readme) == readme, "run python docs/scripts/tables.py"


def test_every_registered_name_is_in_the_readme(scripts):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for kind in ("methods", "metrics", "audits"):
        for row in scripts["tables"].listing(kind):
            assert f"`{row['name']}`" in readme, row["name"]


def test_a_result_that_nobody_measured_says_so(scripts):
    tables = scripts["tables"]
    assert tables.cell(None) == tables.cell({"value": None}) == "not measured"
    assert tables.worst_case("simnpo") == "not measured"
    assert tables.cell({"value": 0.5, "low": 0.28125, "high": 1.0}, interval=True) == ".50 [.28, 1.00]"


def test_the_picture_is_what_its_script_draws(scripts):
    assert scripts["picture"].TARGET.read_text(encoding="utf-8") == scripts["picture"].picture()


def test_the_site_is_staged_without_problems(scripts, tmp_path):
    assert scripts["stage"].stage(tmp_path) == []
    assert (tmp_path / "index.md").exists() and (tmp_path / "files/docs/pictures/pipeline.svg").exists()
    commands = (tmp_path / "reference/commands.md").read_text()
    keys = (tmp_path / "reference/recipe.md").read_text()
    assert "## relearn audit" in commands and "`learning_rate`" in keys


def test_a_broken_link_and_an_unlisted_page_are_problems(scripts, tmp_path):
    stage = scripts["stage"]
    problems: list[str] = []
    page = ROOT / "docs" / "design.md"
    text = stage.rewritten(page, Path("design.md"), {page: Path("design.md")}, tmp_path, problems)
    assert text and all("no such file" in problem for problem in problems)
    assert stage.unlisted({Path("nowhere.md")})[-1] == "mkdocs.yml: does not list nowhere.md"


def test_links_of_every_tracked_page_lead_somewhere():
    listed = subprocess.run(["git", "ls-files", "*.md"], capture_output=True, text=True, cwd=ROOT, check=True)
    broken = []
    for name in listed.stdout.split():
        text = re.sub(r"```.*?```|`[^`\n]*`", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\((?!https?://|mailto:|#)([^)#\s]+)[^)\s]*\)", text):
            if not ((ROOT / name).parent / target).exists():
                broken.append(f"{name}: {target}")
    assert broken == []


def test_no_line_of_the_prose_is_longer_than_130_characters():
    """Tables are exempt: a row cannot be broken."""
    pages = [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md"), *(ROOT / "examples").glob("*.md")]
    pages += [ROOT / "results/README.md", ROOT / "benchmarks/README.md", *(ROOT / "research").rglob("*.md")]
    long = [
        f"{page.relative_to(ROOT)}:{number}"
        for page in pages
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1)
        if len(line) > 130 and not line.lstrip().startswith(("|", "!["))
    ]
    assert long == []
