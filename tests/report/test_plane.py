"""The KFR-KRR plane as a file of its own."""

from __future__ import annotations

import itertools
from xml.etree import ElementTree

from relearn.report.kfr_krr_plot import Point, checkpoint_curves, checkpoints, label_places, plane, standalone


def test_points_without_both_rates_are_left_out_and_nothing_gives_nothing():
    assert plane([Point("a", None, 0.5, 0.1), Point("b", 0.5, None, 0.1)], "p", "t") == standalone("") == ""


def test_a_file_that_stands_alone():
    points = [
        Point("relearn", 0.9, 0.7, 0.3, (0.8, 0.95), (0.6, 0.8)),
        Point("ga <&>", 1.0, 0.0, None),
        Point("retain_only", 0.95, 0.9, 0.35, ceiling=True),
    ]
    svg = standalone(plane(points, "plane", "bench"))
    root = ElementTree.fromstring(svg)
    texts = {(element.text or "").strip() for element in root.iter() if element.tag.endswith("text")}
    assert {"relearn", "ga <&>", "retain_only", "LS"} <= texts
    assert svg == standalone(plane(points, "plane", "bench"))
    assert "prefers-color-scheme" in svg and root.get("viewBox")


def test_labels_of_points_in_one_place_do_not_lie_on_each_other():
    places = label_places([Point(f"method{n}", 1.0, 0.02 * n, 0.1) for n in range(8)])
    heights = sorted(y for _, y, _ in places)
    assert min(b - a for a, b in itertools.pairwise(heights)) > 0.03
    assert {side for _, _, side in places} == {"right"}


LOG = [
    {"stage": "unlearn", "kind": "evaluation", "step": 0, "score": 0.0, "kfr": 0.0, "krr": 1.0},
    {"stage": "unlearn", "step": 5, "loss": 1.0},
    {"stage": "unlearn", "kind": "evaluation", "step": 10, "score": 0.7, "kfr": 0.5, "krr": 0.9},
    {"stage": "learn", "kind": "evaluation", "step": 10, "score": 0.1, "kfr": 0.1, "krr": 0.1},
    {"stage": "unlearn", "kind": "evaluation", "step": 20, "score": 0.8, "kfr": 0.9, "krr": 0.8},
    {"stage": "unlearn", "kind": "evaluation", "step": 10, "score": 0.6, "kfr": 0.4, "krr": 0.9},
]


def texts_of(svg: str) -> set[str]:
    return {(element.text or "").strip() for element in ElementTree.fromstring(svg).iter() if "text" in element.tag}


def test_checkpoints_are_read_by_step_and_a_repeated_one_counts_once():
    found = checkpoints(LOG)
    assert [(one["step"], one["kfr"]) for one in found] == [(0, 0.0), (10, 0.4), (20, 0.9)]
    assert checkpoints([{"stage": "unlearn", "kind": "evaluation", "step": 5, "score": 0.5}]) == [
        {"step": 5, "score": 0.5}
    ]


def test_a_training_alone_has_its_steps_as_labels_and_several_have_names():
    alone = checkpoint_curves({"unlearn": checkpoints(LOG)}, "c", "run")
    assert {"0", "10", "20"} <= texts_of(alone) and "unlearn" not in texts_of(alone)
    several = checkpoint_curves({"npo": checkpoints(LOG), "ga <&>": checkpoints(LOG)[:2]}, "c", "run")
    assert {"npo", "ga <&>"} <= texts_of(several) and "10" not in texts_of(several)


def test_one_checkpoint_or_a_log_without_rates_makes_no_picture():
    old = [{"step": step, "score": 0.5} for step in (5, 10)]
    assert checkpoint_curves({"unlearn": old, "other": checkpoints(LOG)[:1]}, "c", "run") == ""
