"""What the report says of analysis/, in words and pictures."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from relearn.report.circuit_plot import circuit_picture
from relearn.report.kfr_krr_plot import standalone
from relearn.report.plots import INK, over_layers, seesaw_picture
from relearn.report.sections import abruptness, findings, redacted_analysis

INSIDE = {
    "lines": {
        "lens": {"start": [-9.0, -0.5], "secret name": [-9.0, -3.25]},
        "lens_kl": {"start": [8.0, 6.0, 3.0, 0.0], "secret name": [8.0, 8.0, 8.0, 0.0]},
        "patching": {"secret name": [0.1, 0.75, 0.4]},
        "adapter": {},
    },
    "ranks": {"start": 1.0, "secret name": 40.0},
    "circuit_means": {"secret name": {"kept_share": 0.6, "lost": 12.0, "gained": 3.0}},
}


def test_abruptness_by_hand():
    assert abruptness([8, 6, 3, 0]) == pytest.approx(3 / 8)
    assert abruptness([8, 8, 8, 0]) == 1
    assert abruptness([1, 3, 1, 0]) == pytest.approx(2 / 3)
    assert abruptness([0, 1, 2]) is None and abruptness([1]) is None


def test_findings_say_the_numbers():
    said = " ".join(findings(INSIDE))
    for part in (
        "-3.25 (-0.50 before)",
        "median rank of 40",
        "makes 38 % of the way",
        "makes 100 % of the way",
        "bring back 75 %",
        "at layer 1",
        "60 % of the edges",
        "12 a question are lost, 3 gained",
    ):
        assert part in said


def test_redacted_keeps_numbers_and_loses_names_and_circuits():
    found = redacted_analysis({**INSIDE, "circuits": [{"tokens": ["a secret"]}], "not_measured": "", "findings": ["x"]})
    assert found is not None and "secret" not in str(found)
    assert found["lines"]["patching"] == {"model 1": [0.1, 0.75, 0.4]} and found["circuits"] == []
    assert redacted_analysis(None) is None


def test_tokens_are_escaped_and_edges_counted():
    start = [[0, "keep", 1, 1], [0, "attention", 1, 0], [0, "residual", 1, 1]]
    own = [[0, "keep", 1, 1], [0, "mlp", 1, 1], [0, "residual", 1, 1]]
    svg = circuit_picture(["<script>", "\x00&\n"], 1, own, start, 'a "title" <b>')
    root = ElementTree.fromstring(svg)
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert {"<script>", "·&·", "in both (2)", "lost (1)", "gained (1)", 'a "title" <b>'} <= set(texts)
    assert len([element for element in root.iter() if element.tag.endswith("path")]) == 4
    assert not any(element.tag.endswith("script") for element in root.iter())
    assert "lost" not in circuit_picture(["a"], 1, [], None, "t")


def test_a_picture_as_a_file_has_a_colour_for_every_ink():
    """A line whose class has no rule is not drawn at all."""
    picture = standalone(over_layers({f"m{n}": [0.1 * n, 1] for n in range(6)} | {"start": [0, 1]}, "p", "title", "y"))
    used = {name for classes in re.findall(r'class="([^"]*)"', picture) for name in classes.split()} - {"chart"}
    assert {"stroke-before", "stroke-after", "stroke-line3"} <= used
    assert all(f".{name} {{" in picture for name in used)
    assert all(f".stroke-{ink} {{ stroke: #" in picture for ink in INK)


def test_a_model_keeps_its_colour_with_and_without_the_start_model_beside_it():
    def colours(lines):
        svg = over_layers(lines, "p", "t", "y")
        return [name for name in re.findall(r"stroke-(?:before|after|line\d)", svg) if name]

    assert set(colours({"run": [0, 1]})) == {"stroke-after"}
    assert colours({"start": [0, 1], "run": [0, 1]})[:2] == ["stroke-before", "stroke-after"]


def test_no_two_of_seven_models_look_the_same():
    svg = over_layers({name: [0, 1] for name in ("start", *"abcdef")}, "p", "t", "y")
    looks = re.findall(r'<path d="M [^"]*"[^>]*stroke-width="1.7"[^>]*/>', svg)
    drawn = {(re.search(r"stroke-dasharray=\"[^\"]*", one) or [""])[0] + one[one.index("class=") :] for one in looks}
    assert len(drawn) == 7


def test_a_training_without_a_trace_has_no_picture():
    assert seesaw_picture(None, "s", "run") == "" and seesaw_picture({"step": [0], "retain": {}}, "s", "run") == ""
    assert over_layers({}, "p", "t", "y") == ""
