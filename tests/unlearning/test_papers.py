"""docs/papers*.md: every method is described, and every recipe excerpt is one that runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from relearn.core.config import Unlearn
from relearn.unlearning.method import METHODS

DOCUMENTS = sorted((Path(__file__).parents[2] / "docs").glob("papers*.md"))
TEXT = "\n".join(document.read_text(encoding="utf-8") for document in DOCUMENTS)
EXCERPTS = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)]
SETTINGS = [excerpt["unlearn"] for excerpt in EXCERPTS if "unlearn" in excerpt]


@pytest.mark.parametrize("settings", SETTINGS, ids=[settings.get("method", "?") for settings in SETTINGS])
def test_an_excerpt_is_a_valid_unlearn_part(settings):
    part = Unlearn.model_validate(settings)
    METHODS.get(part.method).objective(part.options)


@pytest.mark.parametrize("name", list(METHODS))
def test_a_method_is_described_with_its_papers(name):
    assert f"`{name}`" in TEXT
    for number in re.findall(r"arXiv (\d{4}\.\d{5})", METHODS.get(name).paper):
        assert number in TEXT
