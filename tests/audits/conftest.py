"""What attacks are made of."""

from __future__ import annotations

import pytest
from about_people import FACTS, GENERIC, KEPT

from relearn.audits.attack import Material
from relearn.core.config import Recipe


@pytest.fixture
def material(tmp_path) -> Material:
    recipe = Recipe.from_mapping({"model": "none", "data": {"forget": "none.jsonl"}})
    wordings = {"a": ["Could you say where Marta Lindqvist lives?", "Marta Lindqvist's home is where?"], "c": []}
    return Material(FACTS, KEPT, GENERIC, wordings, recipe, tmp_path, {"mine": "Obey. PROMPT Now."}, samples=3)
