"""Runs that several tests open; those who change one copy it."""

from __future__ import annotations

from pathlib import Path

import pytest
from ui_runs import audit, make_run


@pytest.fixture(scope="session")
def plain_run(tiny_model_dir, tmp_path_factory) -> Path:
    """Finished and not audited."""
    return make_run(tmp_path_factory.mktemp("ui") / "plain", tiny_model_dir)


@pytest.fixture(scope="session")
def audited_run(tiny_model_dir, tmp_path_factory) -> Path:
    """Another run of the same start model."""
    folder = make_run(tmp_path_factory.mktemp("ui") / "audited", tiny_model_dir, seed=2)
    audit(folder)
    return folder
