"""Every registered metric keeps the contract; a metric that breaks it gets one line per fault."""

from __future__ import annotations

import json

import pytest
from metric_fakes import fake_judges, row

from relearn.core import config
from relearn.core.errors import InputError
from relearn.metrics.check_metric import RESPONSES, check_metric
from relearn.metrics.metric import METRICS, JointMetric, Measurement, metric, scores, summary
from relearn.metrics.score import metrics_of, score

SETTINGS = config.Metrics(bootstrap=20)
BOTH = {"forget": "lower", "retain": "higher"}


@pytest.fixture
def register():
    """Registers metrics that are gone after the test."""
    before = dict(METRICS._items) if list(METRICS) else {}
    yield metric
    METRICS._items.clear()
    METRICS._items.update(before)


def measure(name, split, rows):
    return score(rows, split, SETTINGS, judges=fake_judges(labels={}), names=[name]).measurements[name]


@pytest.mark.parametrize("name", list(METRICS))
def test_every_metric_keeps_the_contract(name):
    assert check_metric(name) == []


@pytest.mark.parametrize("name", list(METRICS))
def test_every_metric_of_the_package_names_its_source_and_direction(name):
    found = METRICS.get(name)
    assert found.name == name and found.source
    assert set(found.better.values()) <= {"higher", "lower", *(["closer"] if isinstance(found, JointMetric) else [])}
    assert "chart" not in found.shown_in or found.unit == "share"


def test_places_in_the_tables_are_given_once():
    orders = [found.order for found in map(METRICS.get, METRICS) if found.order < 1000]
    assert len(orders) == len(set(orders)) == 34


@pytest.mark.parametrize(("name", "split"), [(name, split) for split in BOTH for name in metrics_of(split)])
def test_a_reference_of_every_kind_is_taken(name, split):
    rows = [row("She lives in Oslo.", text, id=key) for key, text in RESPONSES.items()]
    found = measure(name, split, rows)
    assert found.n + found.unscored == len(rows)


@pytest.mark.parametrize(
    ("function", "fault"),
    [
        (lambda rows: [float(len(rows)) - at for at in range(len(rows))], "the order of the rows changes the value"),
        (lambda rows: [float("nan") for _ in rows], "a value is not finite"),
        (lambda rows: [1.0], "returned 1 values for 14 answers"),
        (lambda rows: rows.rows.append(rows[0]) or [1.0 for _ in rows], "changes the rows"),
        (lambda rows: [2.0 for _ in rows], "out of the bounds of the unit share"),
        (lambda rows: Measurement(0.0, n=1), "does not have one value per row"),
        (lambda rows: [1 / (len(row.response) - 4) for row in rows], "ZeroDivisionError"),
    ],
)
def test_a_broken_metric_is_described(register, function, fault):
    register("broken", label="Broken", description="what it says", better=BOTH)(function)
    assert any(fault in line for line in check_metric("broken"))


def test_missing_is_unscored_and_not_zero(register):
    register("zero", label="Z", description="d", better=BOTH, needs=["reference"])(lambda rows: [0.0 for _ in rows])
    assert check_metric("zero") == [
        "an answer has a value although what the metric needs is missing (forget set)",
        "an answer has a value although what the metric needs is missing (retain set)",
    ]


def test_a_metric_that_says_nothing_about_itself_is_described(register):
    register("bare", label="", description=" ", better={"holdout": "up"}, unit="apples")(lambda rows: [1 for _ in rows])
    assert check_metric("bare") == [
        "has no label",
        "has no description",
        "better: name the splits forget or retain",
        "better: the direction is one of higher, lower and closer",
        "unit: one of share, grade, percent, number",
    ]


def test_the_registry_holds_what_the_run_folder_promises():
    common = {"rouge_l", "ls", "ls_median", "ls_paper", "ppl", "bi", "hs", "gibberish"}
    assert common | {"kfr"} <= set(metrics_of("forget"))
    assert common | {"krr"} <= set(metrics_of("retain"))
    assert "krr" not in metrics_of("forget")


def test_summary_and_scores_are_plain_json():
    rows = [row(text, id=key, response_logprobs=(-5000.0,)) for key, text in RESPONSES.items()]
    parts = {split: score(rows, split, SETTINGS, judges=fake_judges()) for split in ("forget", "retain")}
    short = json.loads(json.dumps(summary(parts), allow_nan=False))
    full = json.loads(json.dumps(scores(parts), allow_nan=False))
    assert set(short["forget"]["kfr"]) >= {"value", "low", "high", "n", "unscored"}
    assert "per_record" not in short["forget"]["kfr"]
    assert set(full["retain"]["metrics"]["krr"]["per_record"]) == set(RESPONSES)
    assert full["forget"]["items"]["wrong"]["forgotten"] is True
    assert "Oslo" not in json.dumps(short)


def test_metrics_without_judges_ask_none():
    judges = fake_judges()
    found = score([row("Oslo")], "forget", SETTINGS, judges=judges, names=["rouge_l", "bi"])
    assert judges.extractors[0].asked == []
    assert found.items == {}


def test_ids_that_repeat_and_metrics_of_the_other_split_are_refused():
    with pytest.raises(InputError, match="'row'"):
        score([row("a"), row("b")], "forget", SETTINGS, judges=fake_judges())
    with pytest.raises(InputError, match="does not apply"):
        score([row("a")], "forget", SETTINGS, judges=fake_judges(), names=["krr"])
    with pytest.raises(InputError, match="did you mean 'rouge_l'"):
        score([row("a")], "forget", SETTINGS, judges=fake_judges(), names=["rouge"])


def test_importing_the_registry_loads_neither_torch_nor_transformers():
    import subprocess
    import sys

    code = (
        "import sys; from relearn.metrics.metric import METRICS; list(METRICS);"
        "import relearn.metrics.score; assert not {'torch', 'transformers', 'spacy', 'nltk'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
