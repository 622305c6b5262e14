"""The meta-evaluation: its arithmetic worked by hand, and a whole study of a tiny model, stopped and gone on with."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "research" / "studies"))

import meta
from meta_models import CONDITIONS, RELEARNED, ROUNDED, TRAINED, UNLEARNED, WITH, WITHOUT, Setup
from meta_summary import (
    Model,
    chart,
    models_of,
    ordered,
    relearning_ratio,
    rounding_ratio,
    summarise,
    table,
    turned,
    weighted_auc,
)

from relearn.core.errors import InputError


def model(side, index, trained, rounded=None, relearned=None, metric="rouge_l"):
    values = {TRAINED: trained, ROUNDED: rounded, RELEARNED: relearned}
    return Model(side, index, {condition: {metric: value} for condition, value in values.items()}, f"{side}-{index}")


# As trained 3 of the 4 pairs are the right way round: .9 > .5, .9 > .2, .4 < .5, .4 > .2. Rounded, .5 = .5 is a tie,
# .5 > .2, .3 < .5, .3 > .2: 2.5 of 4. After relearning all with-models stand above: 4 of 4.
FOUR = [
    model(WITH, 0, 0.9, 0.5, 0.9),
    model(WITH, 1, 0.4, 0.3, 0.8),
    model(WITHOUT, 0, 0.5, 0.5, 0.6),
    model(WITHOUT, 1, 0.2, 0.2, 0.3),
]


def test_the_auc_of_models_and_its_shift_by_hand():
    found = summarise(FOUR)["metrics"]["rouge_l"]
    assert [found[name]["auc"] for name in CONDITIONS] == [0.75, 0.625, 1.0]
    assert found[ROUNDED]["shift"]["value"] == -0.125
    assert found[RELEARNED]["shift"]["value"] == 0.25
    assert found[TRAINED]["with"] == 0.65 and found[TRAINED]["without_range"] == [0.2, 0.5]
    assert found[TRAINED]["n"] == [2, 2]


def test_the_interval_draws_numbers_with_both_their_models():
    """Number 0 alone (.9 above .5) and number 1 alone (.4 above .2) have 1, both .75: nothing else can be drawn."""
    found = summarise(FOUR)["metrics"]["rouge_l"][TRAINED]
    assert (found["low"], found["high"]) == (0.75, 1.0)
    saw, values = np.array([True, True, False, False]), np.array([0.9, 0.4, 0.5, 0.2])
    weights = np.array([[1, 1, 1, 1], [2, 0, 2, 0], [0, 2, 0, 2], [1, 1, 0, 0]], dtype=float)
    assert weighted_auc(saw, values, weights).tolist() == [0.75, 1.0, 1.0, 0.5]


def test_metrics_of_forgetting_are_turned_over():
    assert turned("kfr") == turned("reworded_kfr") == -1
    assert turned("rouge_l") == turned("mia_loss") == turned("score_loss") == 1
    pair = [model(WITH, 0, 0.1, metric="kfr"), model(WITHOUT, 0, 0.8, metric="kfr")]
    found = summarise(pair)["metrics"]["kfr"]
    assert found[TRAINED]["auc"] == 1.0 and found["known_is"] == "lower"
    assert found[TRAINED]["low"] is None
    assert ROUNDED not in found


def test_what_was_not_measured_is_left_out_and_counted():
    some = [*FOUR, model(WITH, 2, None)]
    assert summarise(some)["metrics"]["rouge_l"][TRAINED]["unscored"] == 1
    assert summarise(some)["metrics"]["rouge_l"][TRAINED]["auc"] == 0.75
    nothing = summarise([model(WITH, 0, None), model(WITHOUT, 0, 0.5)])
    assert nothing["not_measured"] == ["rouge_l"] and not nothing["metrics"]


def test_robustness_of_unlearned_models_by_hand():
    """The never-knowing gain .1 on average. The unlearned gains .4: R = .25; rounding turns .2 into .25: Q = .8."""
    found = summarise([*FOUR, model(UNLEARNED, 0, 0.2, 0.25, 0.6)])["metrics"]["rouge_l"]["robustness"]
    assert (found["relearning"], found["rounding"], found["unlearned"]) == (0.25, 0.8, 1)
    assert found["robustness"] == pytest.approx(2 * 0.25 * 0.8 / 1.05, rel=1e-4)
    assert found["overall"] == pytest.approx(2 * 0.75 * found["robustness"] / (0.75 + found["robustness"]), rel=1e-4)


def test_ratios_at_their_ends():
    assert relearning_ratio(0.1, -0.1) == 1.0
    assert relearning_ratio(-0.1, 0.2) == 0.0
    assert relearning_ratio(0.3, 0.2) == 1.0
    assert rounding_ratio(0.5, 0.4) == 1.0
    assert rounding_ratio(0.0, 0.4) == 0.0


def test_scores_that_are_no_shares_have_no_ratios():
    rows = [model(WITH, 0, -1.0, -1.0, -0.5, "score_loss"), model(WITHOUT, 0, -3.0, -3.0, -2.0, "score_loss")]
    found = summarise([*rows, model(UNLEARNED, 0, -2.0, -2.0, -1.0, "score_loss")])["metrics"]["score_loss"]
    assert "not_measured" in found["robustness"]


def test_jobs_are_shared_without_a_gap_or_a_double():
    every = meta.jobs(6, [])
    shared = [meta.jobs(6, [], shard=f"{at}/4") for at in range(4)]
    assert sorted(job.name for part in shared for job in part) == sorted(job.name for job in every)
    assert len(every) == 12 and {len(part) for part in shared} == {3}
    assert [job.name for job in meta.jobs(6, [], only="with:0,without:3")] == ["with-0", "without-3"]
    for wrong in ({"only": "with:9"}, {"shard": "4/4"}, {"shard": "1"}):
        with pytest.raises(InputError):
            meta.jobs(6, [], **wrong)


def test_both_sides_go_through_one_grid():
    setup = Setup()
    cells = {setup.cell(index) for index in range(6)}
    assert cells == {(rate, epochs) for rate in setup.rates for epochs in setup.epochs}
    assert setup.cell(6) == setup.cell(0)


@pytest.fixture(scope="module")
def tofu(tmp_path_factory):
    """Files in TOFU's form, four rows and more of each."""
    folder = tmp_path_factory.mktemp("data") / "tofu"
    folder.mkdir()

    def rows(kind, count, more=False):
        made = []
        for at in range(count):
            row = {"question": f"Where does {kind} {at} live?", "answer": f"{kind} {at} lives in Oslo, house {at}."}
            if more:
                row |= {
                    "paraphrased_question": f"What is the home of {kind} {at}?",
                    "paraphrased_answer": f"The home of {kind} {at} is Oslo.",
                    "perturbed_answer": [f"{kind} {at} lives in Rome.", f"{kind} {at} lives in Lima."],
                }
            made.append(row)
        return "\n".join(map(json.dumps, made)) + "\n"

    (folder / "forget10_perturbed.json").write_text(rows("Ada", 4, more=True))
    (folder / "retain90.json").write_text(rows("Bo", 9))
    (folder / "holdout10.json").write_text(rows("Cy", 5))
    return folder.parent


def test_a_whole_study_of_a_tiny_model(tofu, tiny_model_dir, tmp_path, monkeypatch, capsys):
    from metric_fakes import fake_judges

    monkeypatch.setenv("RELEARN_DATA", str(tofu))
    monkeypatch.setattr("relearn.metrics.judges.make_judges", lambda _: fake_judges())
    out = tmp_path / "out"
    common = ["--out", str(out), "--work", str(tmp_path / "work"), "--quick", "--model", str(tiny_model_dir)]
    common += ["--device", "cpu"]
    assert meta.main([*common, "--only", "with:0"]) == 0
    assert meta.main([*common, "--summarise"]) == 2
    first = {path.name: path.read_bytes() for path in (out / "models").iterdir()}
    assert sorted(first) == sorted(f"with-0.{name}.json" for name in CONDITIONS)
    assert meta.main(common) == 0
    assert not list((tmp_path / "work").iterdir())
    assert {name: (out / "models" / name).read_bytes() for name in first} == first

    capsys.readouterr()
    assert meta.main([*common, "--summarise"]) == 0
    printed = capsys.readouterr().out
    assert "| ROUGE-L |" in printed and "| worst case |" in printed
    summary = json.loads((out / "meta.json").read_text())
    assert summary["models"] == {"with": 1, "without": 1, "unlearned": 0}
    trained = summary["metrics"]["probability"][TRAINED]
    assert trained["with"] > trained["without"]
    assert summary["metrics"]["probability"][RELEARNED]["without"] > trained["without"]
    assert summary["metrics"]["probability"][ROUNDED]["with"] != trained["with"]
    assert {"truth_ratio_prob", "mia_min_k_plus_plus", "score_zlib", "kfr", "ls"} <= set(summary["metrics"])
    assert meta.main([*common, "--relearn-rate", "1e-5"]) == 2
    assert "another 'relearn_rate'" in capsys.readouterr().err


def test_the_picture_and_the_table_have_every_metric_that_was_measured():
    results = [
        {
            "name": found.name,
            "side": found.side,
            "index": found.index,
            "condition": condition,
            "metrics": {"rouge_l": {"value": found.value(condition, "rouge_l")}},
        }
        for found in FOUR
        for condition in CONDITIONS
    ]
    summary = summarise(models_of(results))
    assert ordered(summary) == ["rouge_l"]
    texts = [element.text for element in ElementTree.fromstring(chart(summary)).iter() if element.tag.endswith("text")]
    assert {"ROUGE-L", "as trained", "rounded to 4 bits"} <= set(texts)
    assert table(summary)[2].startswith("| ROUGE-L | 0.75 [0.75, 1.00] | 0.65 / 0.35 | 0.62")
