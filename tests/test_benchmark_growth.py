"""The growth benchmark fits exponents, and times every part at three sizes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import growth  # noqa: E402


def test_the_exponent_is_the_slope_in_logarithms() -> None:
    assert growth.fit([10, 40, 160], [3, 12, 48]) == pytest.approx(1)
    assert growth.fit([10, 40, 160], [1, 16, 256]) == pytest.approx(2)
    # By hand: the mean of log4(size) is 1, the seconds are 4^0, 4^1, 4^1, so the slope is (1 + 0) / 2.
    assert growth.fit([1, 4, 16], [1, 4, 4]) == pytest.approx(0.5)


def test_parts_are_timed_and_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "RECORDS", 30)
    assert growth.main(["verify", "--scale", "0.005", "--out", str(tmp_path / "growth.json")]) == 0
    found = json.loads((tmp_path / "growth.json").read_text())["parts"]["verify"]
    assert [point["size"] for point in found["points"]] == [10, 40, 160]
    assert found["unit"] == "rows" and all(point["seconds"] > 0 for point in found["points"])


def test_an_unknown_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        growth.main(["verfy"])
    assert "no part verfy; there are verify" in capsys.readouterr().err
