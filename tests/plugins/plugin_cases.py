"""Provide the plug-ins of docs/plugins.md as files, and registries that forget them after a test."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from people import people
from relearn.cli.app import registries
from relearn.core import plugins

PAGE = Path(__file__).resolve().parents[2] / "docs" / "plugins.md"


@contextmanager
def fresh_plugins() -> Iterator[None]:
    """Forget, at the end, what plug-ins have registered meanwhile, as a new process would."""
    tables = [registry._items for registry in registries() if list(registry)]
    before, loaded = [dict(table) for table in tables], list(plugins.LOADED)
    plugins.LOADED.clear()
    try:
        yield
    finally:
        for table, entries in zip(tables, before, strict=True):
            table.clear()
            table.update(entries)
        plugins.LOADED[:] = loaded


def write_toys(folder: Path) -> dict[str, str]:
    """Write the Python blocks of the page to the file each names in its first line; return the paths by name."""
    blocks = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    for name, code in blocks:
        (folder / name).write_text(code)
    return {name: str(folder / name) for name, _ in blocks}


def write_recipe(folder: Path, model: Path, **unlearn) -> str:
    """Write a recipe of ten steps with the toy loss; return its path."""
    recipe = {
        "model": {"name": str(model)},
        "data": {
            "forget": people(folder / "private.jsonl", "private", 4),
            "retain": people(folder / "public.jsonl", "public", 4),
        },
        "unlearn": {
            "method": "my_loss",
            "options": {"beta": 0.2},
            "epochs": 5,
            "batch_size": 2,
            "learning_rate": 1e-2,
            "lora": {"r": 2, "dropout": 0},
            **unlearn,
        },
        "generate": {"max_new_tokens": 6},
        "metrics": {"bootstrap": 20},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return str(path)
