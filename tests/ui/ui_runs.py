"""Finished runs of a tiny model made by hand, and how their page is asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from starlette.testclient import TestClient

from relearn.core import files
from relearn.core.config import Lora, Model, Recipe
from relearn.models.load import load
from relearn.models.lora import add_lora, save_adapter
from relearn.ui.run_data import open_runs
from relearn.ui.server import make_app

TOKEN = "the-secret-of-this-start"
PORT = 8123
OWN = f"http://127.0.0.1:{PORT}"
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
FACTS = {
    "a": ("Where does Ada Holm live?", "Ada Holm lives at 10 Mill Lane.", "hidden", ["paraphrase", "quantise"]),
    "b": ("When was Bo Lind born?", "Bo Lind was born on 3 May 1970.", "gone", []),
    "c": ("Whom did Cleo Marsh marry?", "Cleo Marsh married Dov Peretz.", "there", ["plain"]),
    "d": ("What does Dov Peretz fear?", "Dov Peretz fears geese.", "never_known", []),
}


def make_run(folder: Path, model: Path, seed: int = 1, *, learned: bool = False, **recipe: Any) -> Path:
    """A run with an adapter that says other things than the tiny model, with numbers, answers and no audit."""
    values = {
        "name": folder.name,
        "model": {"name": str(model)},
        "data": {"forget": "private.jsonl"},
        "generate": {"max_new_tokens": 12},
        **({"learn": {"data": "private.jsonl"}} if learned else {}),
        **recipe,
    }
    files.write_text(folder / "recipe.yaml", Recipe.from_mapping(values).to_yaml())
    files.write_json(folder / "manifest.json", {"stages": {}})
    make_adapter(folder / "adapter", model, seed)
    if learned:
        make_adapter(folder / "start", model, seed + 100)
    for side in ("before", "after"):
        files.write_jsonl(folder / side / "forget.jsonl", [_row(key, side) for key in FACTS])
    measured = {"value": 0.25, "low": 0.1, "high": 0.4, "n": 4, "unscored": 0}
    after = {**measured, "value": 0.875, "low": 0.75, "high": 1.0, "unscored": 2}
    nothing = {"value": None, "low": None, "high": None, "n": 0, "unscored": 4}
    files.write_json(
        folder / "summary.json",
        {"before": {"forget": {"kfr": measured}}, "after": {"forget": {"kfr": after, "ls": nothing}}},
    )
    return folder


def make_adapter(folder: Path, model: Path, seed: int) -> None:
    loaded = load(Model(name=str(model)))
    adapted = add_lora(loaded.model, Lora(r=2), seed=seed)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(generator=torch.Generator().manual_seed(seed), std=0.5)
    save_adapter(adapted, folder)


def audit(folder: Path) -> None:
    rows = [
        {"id": key, "question": question, "verdict": verdict, "by": by, "beside": []}
        for key, (question, _, verdict, by) in FACTS.items()
    ]
    files.write_json(folder / "audits" / "verdicts.json", rows)


def _row(key: str, side: str) -> dict[str, Any]:
    question, reference, _, _ = FACTS[key]
    said = reference if side == "before" else f"after says nothing of {key}"
    return {"id": key, "question": question, "reference": reference, "response": said, "subject": None}


class Page:
    """The page of some runs, asked as its own script asks."""

    def __init__(self, *runs: Path, **more: Any):
        self.app = make_app(open_runs(runs), token=TOKEN, port=PORT, **more)
        self.client = TestClient(self.app, base_url=OWN)

    def html(self) -> str:
        reply = self.client.get("/", params={"token": TOKEN})
        assert reply.status_code == 200, reply.text
        return reply.text

    def call(self, path: str, body: Any = None, **headers: str) -> Any:
        own = {"origin": OWN, "x-relearn-token": TOKEN}
        return self.client.post(path, json={} if body is None else body, headers={**own, **headers})

    def ask(self, question: str, **more: Any) -> list[dict[str, Any]]:
        reply = self.call("/api/ask", {"question": question, **more})
        assert reply.status_code == 200, reply.text
        return [json.loads(line) for line in reply.text.splitlines()]


def whole(lines: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The finished answer of every column."""
    return {line["column"]: line for line in lines if "text" in line}
