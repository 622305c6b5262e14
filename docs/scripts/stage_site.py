"""Put the sources of the documentation site into one folder: `python docs/scripts/stage_site.py FOLDER`.

The pages of docs/ are copied, README and the READMEs of other folders become pages, and the reference pages are
generated from the code. Links are rewritten to the staged pages. A link to a file of the repository that is not part of
the site becomes plain text. A link or picture without a target, or a page that mkdocs.yml does not list, ends with exit
code 1. `zensical build --strict` then checks the links and anchors of the result.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from pathlib import Path

import yaml
from reference import write_reference

ROOT = Path(__file__).resolve().parents[2]
# Pages that lie elsewhere in the repository, by their place in the site.
ELSEWHERE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "examples/README.md": "examples.md",
    "results/README.md": "results.md",
    "benchmarks/README.md": "speed.md",
    "research/README.md": "research.md",
    "research/judge_training/README.md": "judge-training.md",
}
PICTURES = {".svg", ".png"}
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
FENCED = re.compile(r"(^ *```.*?^ *```|`[^`\n]+`)", flags=re.DOTALL | re.MULTILINE)


def stage(folder: Path) -> list[str]:
    """Write all pages and pictures into `folder`; return the problems found."""
    shutil.rmtree(folder, ignore_errors=True)
    pages = {ROOT / source: Path(target) for source, target in ELSEWHERE.items()}
    docs = ROOT / "docs"
    pages |= {path: path.relative_to(docs) for path in sorted(docs.rglob("*.md"))}
    write_reference(folder / "reference")
    generated = {
        docs / "reference" / path.name: Path("reference") / path.name for path in (folder / "reference").iterdir()
    }
    problems: list[str] = []
    for source, target in pages.items():
        text = rewritten(source, target, pages | generated, folder, problems)
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        (folder / target).write_text(text, encoding="utf-8")
    return problems + unlisted({*pages.values(), *generated.values()})


def rewritten(source: Path, target: Path, pages: dict[Path, Path], folder: Path, problems: list[str]) -> str:
    """Return the text of a page with its links turned to their places in the site."""

    def link(match: re.Match[str]) -> str:
        picture, label, address = match.groups()
        path, _, anchor = address.partition("#")
        if "://" in address or address.startswith("mailto:") or not path:
            return match[0]
        linked = (source.parent / path).resolve()
        readme = linked / "README.md"
        if readme in pages:
            linked = readme
        if linked in pages:
            relative = os.path.relpath(pages[linked], target.parent)
            return f"{picture}[{label}]({relative}{f'#{anchor}' if anchor else ''})"
        if not linked.exists():
            problems.append(f"{source.relative_to(ROOT)}: no such file: {address}")
            return match[0]
        if picture or linked.suffix in PICTURES:
            place = Path("files") / linked.relative_to(ROOT)
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(linked, folder / place)
            return f"{picture}[{label}]({os.path.relpath(place, target.parent)})"
        return label

    parts = FENCED.split(source.read_text(encoding="utf-8"))
    return "".join(part if number % 2 else LINK.sub(link, part) for number, part in enumerate(parts))


def unlisted(targets: set[Path]) -> list[str]:
    """Return a problem for every page that mkdocs.yml does not list, and for every page it lists that is not there."""
    listed = {Path(page) for page in _leaves(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])}
    missing = [f"mkdocs.yml: lists {page}, which does not exist" for page in sorted(listed - targets)]
    return missing + [f"mkdocs.yml: does not list {page}" for page in sorted(targets - listed)]


def _leaves(nav: object) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    entries = nav.values() if isinstance(nav, dict) else nav
    return [leaf for entry in entries for leaf in _leaves(entry)]  # pyright: ignore[reportGeneralTypeIssues]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    problems = stage(parser.parse_args().folder)
    for problem in problems:
        print(problem, file=sys.stderr)
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
