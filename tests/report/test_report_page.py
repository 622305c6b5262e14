"""The page: nothing but itself, nothing that runs, and every text shown as it is and nothing more."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from sample_run import PARTS, make_run

from relearn.core import files
from relearn.report import html, plots
from relearn.report.build import build_report, write_report
from relearn.report.html import render
from relearn.report.plots import INK, cleaned

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><!-- <script>",
    "]]> & &amp; &#60;b&#62;",
    r"$\alpha$ costs $5 and $6_{x}^2$",
    "\u202eright to left\u202c and \u200fשלום",
    "line\u2028separator\u2029and \"quotes\" 'single' `tick`",
    "{{ 7 * 7 }} {% raw %}",
    'x" onmouseover="alert(1)" y="',
    "javascript:alert(1)",
    "wide" * 400,
]
VOID = {"meta", "link", "input", "br"}


class Page(HTMLParser):
    """Elements with their attributes, the texts in between, and a check that every element is closed."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)


@pytest.fixture(scope="module")
def hostile_run(tmp_path_factory):
    facts = [(f"{text} Q", f"{text} R", [text], f"{text} A") for text in HOSTILE]
    parts = {name: (file, split, facts) for name, (file, split, _) in PARTS.items()}
    run = make_run(tmp_path_factory.mktemp("hostile") / "run", parts)
    manifest = files.read_json(run / "manifest.json")
    manifest |= {"notes": HOSTILE, "inputs": {text: "ab" for text in HOSTILE}, "versions": {HOSTILE[0]: HOSTILE[1]}}
    files.write_json(run / "manifest.json", manifest)
    recipe = (run / "recipe.yaml").read_text().replace("name: sample", f"name: '{HOSTILE[0]}'")
    files.write_text(run / "recipe.yaml", recipe)
    files.append_jsonl(run / "log.jsonl", {"stage": HOSTILE[0], "step": 1, "loss": 1.0, "parts": {"$a$": 1, "<b>": 2}})
    write_report(run)
    return run


@pytest.fixture(scope="module")
def page(hostile_run) -> str:
    return (hostile_run / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def plain_page(tmp_path_factory) -> str:
    return render(build_report(make_run(tmp_path_factory.mktemp("plain") / "run")))


def test_every_hostile_text_is_shown_as_it_is(page):
    shown = Page(page).text
    for text in HOSTILE:
        assert f"{text} Q" in shown
        assert f"{text} R" in shown


def test_no_text_becomes_an_element_or_an_attribute(page):
    parsed = Page(page)
    assert parsed.open == []
    kinds = {tag for tag, _ in parsed.elements}
    assert kinds.isdisjoint({"script", "iframe", "object", "embed", "img", "form", "b-", "base", "template"})
    attributes = {name for _, attrs in parsed.elements for name in attrs}
    assert not [name for name in attributes if name.startswith("on")]
    assert "style" not in attributes


def test_the_page_asks_for_nothing_outside_itself(page):
    for _, attrs in Page(page).elements:
        for name in ("src", "srcset", "data", "action", "poster", "xlink:href"):
            assert name not in attrs
        if "href" in attrs:
            assert attrs["href"].startswith("#") or attrs["href"] == "data:,"
    assert "@import" not in page
    assert re.findall(r"url\((?!#)", page) == []


def test_the_policy_allows_the_style_block_by_its_hash_and_no_script(page):
    policy = next(a["content"] for t, a in Page(page).elements if a.get("http-equiv") == "Content-Security-Policy")
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert page.count("<style") == 1
    assert f"style-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert "script-src" not in policy
    assert page.index("Content-Security-Policy") < page.index("<style>")


def test_ids_are_unique_and_labels_find_their_inputs(page):
    ids = [attrs["id"] for _, attrs in Page(page).elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    elements = Page(page).elements
    assert {attrs["for"] for tag, attrs in elements if tag == "label"} <= set(ids)
    assert {attrs["href"][1:] for tag, attrs in elements if tag == "a"} <= set(ids)
    references = set(re.findall(r"url\(#([^)]+)\)", page)) | set(re.findall(r'<use [^>]*href="#([^"]+)"', page))
    assert references <= set(ids)
    assert references


def test_a_dollar_sign_in_a_picture_is_no_formula(page):
    svgs = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]
    texts = {element.text for svg in svgs for element in svg.iter() if element.tag == "text"}
    assert {"$a$", "<b>", "KFR", "ROUGE-L"} <= texts


def test_the_page_is_made_from_the_json_alone_and_the_same_each_time(hostile_run, page):
    assert files.read_json(hostile_run / "report.json") == json.loads(json.dumps(build_report(hostile_run)))
    assert render(files.read_json(hostile_run / "report.json")) == page


def test_pictures_carry_no_date_and_no_foreign_colour(page):
    assert "dc:date" not in page
    assert "matplotlib" not in page.lower()
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        assert set(re.findall(r"#[0-9a-f]{6}\b", svg)) <= {"#000000"}
        assert not [colour for colour in INK.values() if colour in svg]


def test_every_class_of_a_picture_is_in_the_style(page):
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1]
    used = {
        name
        for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)
        for c in re.findall('class="([^"]+)"', svg)
        for name in c.split()
    }
    assert used >= {"chart", "stroke-before", "fill-after", "fill-muted", "stroke-line1"}
    assert [name for name in used if f".{name}" not in style] == []


def test_every_verdict_can_be_filtered(page):
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1]
    from relearn.report.labels import VERDICTS

    for name in VERDICTS:
        assert f".part:has(.f-{name}:checked) .item:not(.v-{name})" in style


def test_filters_show_the_counts(plain_page):
    labels = re.findall(r'<label for="f-forget-\w+">([^<]+)<b>(\d+)</b>', plain_page)
    assert labels == [("all ", "6"), ("still known ", "1"), ("forgotten ", "5")]


def test_leaked_names_are_marked_and_an_empty_answer_is_said_to_be_empty(plain_page):
    assert "Bashir Velloso is married to <mark>Noor Castellan</mark>, who works at sea." in plain_page
    assert plain_page.count("an empty answer") == 1


def test_of_very_many_answers_the_failures_are_shown_first_and_the_rest_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(html, "SHOWN_ITEMS", 2)
    run = make_run(tmp_path / "run", {"forget": PARTS["forget"]})
    parsed = Page(render(build_report(run)))
    shown = [attrs["class"] for tag, attrs in parsed.elements if tag == "article"]
    assert shown == ["item card v-known", "item card v-forgotten"]
    assert "4 more answers in report.json" in parsed.text


@pytest.mark.parametrize("texts", [True, False])
def test_pages_of_folders_with_little_in_them_are_whole(tmp_path, texts):
    run = make_run(tmp_path / "run", retain=False, texts=texts)
    (run / "log.jsonl").unlink()
    assert Page(render(build_report(run))).open == []
    (run / "summary.json").unlink()
    (run / "recipe.yaml").unlink()
    assert Page(render(build_report(run))).open == []


def test_a_redacted_page_is_whole(hostile_run):
    parsed = Page(render(build_report(hostile_run, redact=True)))
    assert parsed.open == []
    assert "texts hidden" in parsed.text


def test_charts_of_nothing_are_nothing():
    assert plots.distribution([None], [], "x", "coverage") == ""
    assert plots.before_after([{"name": "ppl", "before": None, "after": {"value": 3}}], "x", "t") == ""
    assert plots.loss_curves({"steps": [], "parts": {}, "loss": [], "stage": "learn"}, "x") == ""


def test_the_running_mean_keeps_lines_and_length():
    import numpy as np

    line = np.linspace(3, 1, 50)
    assert plots._running_mean(line, 9) == pytest.approx(line)
    assert plots._running_mean(np.array([0.0, 3.0, 0.0]), 3) == pytest.approx([0, 1, 0])


def test_one_training_step_can_be_drawn():
    curve = {"steps": [1], "parts": {"gdf": [0.5], "gdr": [None]}, "loss": [0.5], "stage": "unlearn"}
    assert plots.loss_curves(curve, "x").startswith("<svg")


def test_cleaning_turns_styles_into_attributes_and_classes():
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="9" viewBox="0 0 9">'
        "<metadata>when</metadata><style>*{}</style>"
        f'<g id="unused"><path id="p" style="fill: none; stroke: {INK["after"]}; font-family: x"/></g>'
        '<use xlink:href="#p" clip-path="url(#c)"/><clipPath id="c"/><text>a &lt; b</text></svg>'
    )
    assert cleaned(svg, "n", 't"') == (
        '<svg viewBox="0 0 9" role="img" aria-label="t&quot;" class="chart">'
        '<g><path fill="none" id="n-p" class="stroke-after" /></g>'
        '<use clip-path="url(#n-c)" href="#n-p" /><clipPath id="n-c" /><text class="fill-ink">a &lt; b</text></svg>'
    )


def test_the_page_shows_the_change_with_its_interval_and_the_sign_test(tmp_path):
    run = make_run(tmp_path / "run", {"forget": PARTS["forget"]})
    plain = Page(render(build_report(run)))
    assert "change" not in [text.strip() for text in plain.texts]
    summary = files.read_json(run / "summary.json")
    found = {
        "value": -0.5,
        "low": -0.75,
        "high": -0.25,
        "n": 5,
        "unpaired": 1,
        "wins": 4,
        "losses": 1,
        "ties": 0,
        "p": 0.375,
        "clusters": 3,
        "cluster_wins": 2,
        "cluster_losses": 1,
        "note": HOSTILE[7],
    }
    summary["difference"] = {"forget": {"rouge_l": found}}
    summary["after"]["forget"]["ppl"] |= {"repeats": 3, "seed_sd": 0.125, "missing": HOSTILE[0], "unscored": 1}
    files.write_json(run / "summary.json", summary)
    parsed = Page(render(build_report(run)))
    assert parsed.open == []
    shown = [text.strip() for text in parsed.texts]
    for text in ("change", "-0.500", "-0.750 to -0.250", "p = 0.38", "5 pairs", "± 0.125 from seed to seed"):
        assert text in shown
    titles = [attrs["title"] for _, attrs in parsed.elements if "title" in attrs]
    assert "4 answers better, 1 worse, 0 alike; 2 subjects better, 1 worse" in titles
    assert {HOSTILE[0], HOSTILE[7]} <= set(titles)
    assert not [attrs for _, attrs in parsed.elements if "onmouseover" in attrs]


def test_a_report_made_before_there_were_differences_is_still_rendered(tmp_path):
    report = build_report(make_run(tmp_path / "run"))
    for entry in report["metrics"]:
        for row in entry["rows"]:
            del row["difference"]
    assert Page(render(report)).open == []


def test_the_evidence_of_repeated_answers_says_how_many_gave_the_fact_away():
    answer = {"entity_counts": [None, None], "entailment": None, "rouge_l": 0.5, "ls": None}
    assert html._evidence({**answer, "forgotten": True, "repeats": [True, None, False]}) == (
        "forgotten in 1 of 2 answers · ROUGE-L 0.500"
    )


def test_a_loss_below_zero_is_seen():
    curve = {"steps": [1, 2, 3], "loss": [-1.0, -2.0, -4.0], "parts": {"ga": [-1.0, -2.0, -4.0]}, "stage": "unlearn"}
    upwards = {**curve, "loss": [1.0, 2.0, 4.0], "parts": {"ga": [1.0, 2.0, 4.0]}}
    # matplotlib writes numbers below zero with the sign U+2212.
    assert "\u22124" in plots.loss_curves(curve, "x")
    assert "\u2212" not in plots.loss_curves(upwards, "x")
