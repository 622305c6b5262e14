"""A metric in one file of a user's own: measured with an interval, and named in the report."""

from __future__ import annotations

import importlib.util

import pytest
from sample_run import make_run

from relearn.core import config, run_dir
from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.check_metric import check_metric
from relearn.metrics.judges import Judges
from relearn.metrics.metric import METRICS
from relearn.metrics.paired import summarised
from relearn.metrics.score import score_parts
from relearn.report.build import write_report

OWN = '''"""Whether answers refuse."""

from relearn.metrics.metric import metric


@metric(
    "refusals",
    label="Refusals",
    description="share of answers that refuse",
    better={"forget": "higher", "retain": "lower"},
    unscored="an empty answer",
)
def refusals(rows):
    return [float("cannot" in row.response) if row.response else None for row in rows]
'''


@pytest.fixture
def own_metric(tmp_path):
    before = dict(METRICS._items) if list(METRICS) else {}
    path = tmp_path / "own.py"
    path.write_text(OWN)
    spec = importlib.util.spec_from_file_location("own", path)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    yield "refusals"
    METRICS._items.clear()
    METRICS._items.update(before)


def answers(responses):
    return [
        AnswerRow(str(at), "Where?", "Oslo", response, subject=f"person {at // 2}")
        for at, response in enumerate(responses)
    ]


def test_a_file_of_a_users_own(own_metric, tmp_path):
    assert len(OWN.splitlines()) <= 20
    assert check_metric(own_metric) == []
    sides = {"before": ["Oslo"] * 6, "after": ["I cannot say.", "I cannot say.", "Oslo", "I cannot say.", "", "Oslo"]}
    settings = config.Metrics(bootstrap=50)
    measured = {
        side: score_parts({"forget": ("forget", answers(responses))}, settings, judges=Judges(), names=[own_metric])
        for side, responses in sides.items()
    }
    found = measured["after"]["forget"].measurements[own_metric]
    assert (found.value, found.n, found.unscored, found.clusters) == (0.6, 5, 1, 3)
    assert found.low < 0.6 < found.high and found.missing == "1 of 6 unscored: an empty answer"
    run = make_run(tmp_path / "run")
    run_dir.write_json(run / "summary.json", summarised(measured, settings))
    write_report(run)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert ">Refusals <" in page and "share of answers that refuse" in page and "0.600" in page
