"""The example of own model and own data runs from Python, on the tiny model."""

from __future__ import annotations

import importlib.util
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "own_model.py"


def test_own_model(tiny_model_dir, tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("own_model", EXAMPLE)
    assert spec is not None and spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)

    verdicts = example.unlearn(str(tiny_model_dir), str(tmp_path / "run"), epochs=1)

    assert [fact.question for fact in verdicts] == [row["question"] for row in example.FORGET]
    assert {fact.verdict for fact in verdicts} <= {"there", "hidden", "gone", "never_known"}
    printed = capsys.readouterr().out
    assert "before:" in printed and "after:" in printed
    assert (tmp_path / "run" / "report.html").exists()
