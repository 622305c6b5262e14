"""What every registered metric must keep: the whole registry over degenerate answers, empty sets, and JSON."""

from __future__ import annotations

import json
import math

import pytest
from metric_fakes import fake_judges, row

from relearn.core import config
from relearn.core.errors import InputError
from relearn.metrics.metric import METRICS, JointMetric, scores, summary
from relearn.metrics.score import metrics_of, score

SETTINGS = config.Metrics(bootstrap=20)
ANSWERS = {
    "empty": "",
    "blank": " \n\t",
    "one": "Oslo",
    "long": "at " * 4000,
    "varied": " ".join(map(str, range(4000))),
    "plain": "She lives in Oslo. It is far.",
    "signs": "?!... --- ((",
    "null": "a\x00b",
    "dollar": "$x$ {y} %s",
    "emoji": "\U0001f600\U0001f469\u200d\U0001f467 \U0001f1f3\U0001f1f4",
    "chinese": "他住在奥斯陆。她写信。",
    "russian": "Он живёт в Осло.",
    "arabic": "يعيش في أوسلو",
}
CASES = [(name, split) for split in ("forget", "retain") for name in metrics_of(split)]


def measure(name, split, rows):
    return score(rows, split, SETTINGS, judges=fake_judges(labels={}), names=[name]).measurements[name]


def is_finite(value):
    return value is None or math.isfinite(value)


def test_the_registry_holds_what_the_run_folder_promises():
    common = {"rouge_l", "ls", "ls_median", "ls_paper", "ppl", "bi", "hs", "gibberish"}
    assert common | {"kfr"} <= set(metrics_of("forget"))
    assert common | {"krr"} <= set(metrics_of("retain"))
    assert "krr" not in metrics_of("forget")


@pytest.mark.parametrize("name", list(METRICS))
def test_every_metric_says_what_it_is(name):
    metric = METRICS.get(name)
    assert metric.name == name
    assert metric.title and metric.source
    assert set(metric.better) <= {"forget", "retain"} and metric.better
    assert set(metric.better.values()) <= {"higher", "lower", *(["closer"] if isinstance(metric, JointMetric) else [])}


@pytest.mark.parametrize(("name", "split"), CASES)
def test_no_rows_give_no_value(name, split):
    found = measure(name, split, [])
    assert (found.value, found.low, found.high, found.n, found.unscored) == (None, None, None, 0, 0)


@pytest.mark.parametrize(("name", "split"), CASES)
@pytest.mark.parametrize("logprobs", [None, (), (-0.5, -3.0), (-5000.0,)], ids=["none", "no tokens", "some", "huge"])
def test_degenerate_answers_alone_and_together_give_finite_values_or_none(name, split, logprobs):
    rows = [row(text, id=key, response_logprobs=logprobs) for key, text in ANSWERS.items()]
    for batch in [rows, *([single] for single in rows)]:
        found = measure(name, split, batch)
        assert found.n + found.unscored == len(batch)
        assert set(found.per_record) == {single.id for single in batch}
        assert all(map(is_finite, [found.value, found.low, found.high, *found.per_record.values()]))
        assert sum(value is not None for value in found.per_record.values()) == found.n
        assert (found.value is None) == (found.n == 0)
        if found.value is not None:
            assert found.low <= found.value <= found.high


@pytest.mark.parametrize(("name", "split"), CASES)
def test_a_reference_of_every_kind_is_taken(name, split):
    rows = [row("She lives in Oslo.", text, id=key) for key, text in ANSWERS.items() if key != "varied"]
    found = measure(name, split, rows)
    assert found.n + found.unscored == len(rows)


@pytest.mark.parametrize(("name", "split"), CASES)
def test_row_order_changes_nothing_per_item(name, split):
    rows = [row(text, id=key, response_logprobs=(-1.0,)) for key, text in ANSWERS.items() if key != "varied"]
    assert measure(name, split, rows).per_record == measure(name, split, rows[::-1]).per_record


def test_summary_and_scores_are_plain_json():
    rows = [row(text, id=key, response_logprobs=(-5000.0,)) for key, text in ANSWERS.items()]
    parts = {split: score(rows, split, SETTINGS, judges=fake_judges()) for split in ("forget", "retain")}
    short = json.loads(json.dumps(summary(parts), allow_nan=False))
    full = json.loads(json.dumps(scores(parts), allow_nan=False))
    assert set(short["forget"]["kfr"]) >= {"value", "low", "high", "n", "unscored"}
    assert "per_record" not in short["forget"]["kfr"]
    assert set(full["retain"]["metrics"]["krr"]["per_record"]) == set(ANSWERS)
    assert full["forget"]["items"]["plain"]["forgotten"] is True
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
