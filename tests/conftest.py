"""What all tests share: no model hub, few threads, the data folder, and a tiny model."""

from __future__ import annotations

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", str(min(4, os.cpu_count() or 1)))
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest

from tiny import build_tiny_model

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: with several processes, none is left alone with them at the end."""
    length: dict[Path, float] = {}
    for item in items:
        limit = item.get_closest_marker("timeout")
        own = limit.args[0] if limit else 1 if item.get_closest_marker("slow") else 0
        length[item.path] = max(own, length.get(item.path, 0))
    items.sort(key=lambda item: -length[item.path])


@pytest.fixture(scope="session")
def project_root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real data sets: the folder RELEARN_DATA names, else shared/data beside the project; skips where it is absent."""
    folder = Path(os.environ.get("RELEARN_DATA") or ROOT.parent / "shared" / "data").resolve()
    if not folder.is_dir():
        pytest.skip(f"no data sets at {folder}; set RELEARN_DATA")
    return folder


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random chat model; shared by all tests of a session, so read only."""
    return build_tiny_model(tmp_path_factory.mktemp("tiny") / "model")
