"""The KFR-KRR plane as a file of its own."""

from __future__ import annotations

import itertools
from xml.etree import ElementTree

from relearn.report.kfr_krr_plot import Point, label_places, plane, standalone


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
