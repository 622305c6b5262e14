"""The report in a real browser: hundreds of answers open at once and short, parts open, filters and print show all."""

from __future__ import annotations

import os
import shutil

import pytest
from sample_run import PARTS, make_run

from relearn.report.build import build_report
from relearn.report.html import PAGE_ITEMS, render

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: install it, or name one in CHROMIUM"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    from playwright.sync_api import sync_playwright

    folder = tmp_path_factory.mktemp("report")
    report = build_report(make_run(folder / "run", PARTS))
    for entry, times in zip(report["answers"], (20, 5000), strict=False):
        entry["items"] = entry["items"] * times
        entry["counts"] = {name: count * times for name, count in entry["counts"].items()}
    (folder / "report.html").write_text(render(report), encoding="utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1300, "height": 900})
        page.goto((folder / "report.html").as_uri())
        yield page
        browser.close()


def test_twenty_thousand_answers_are_a_short_page(page):
    assert page.evaluate("performance.timing.loadEventEnd - performance.timing.navigationStart") < 10_000
    assert page.evaluate("document.documentElement.scrollHeight") < 25_000
    assert page.locator(".item:visible").count() == PAGE_ITEMS


def test_a_part_opens_and_closes_the_other(page):
    summaries = page.locator(".part").first.locator("summary")
    summaries.nth(1).click()
    assert page.locator(".part").first.locator("details[open]").count() == 1
    assert page.locator(".item:visible").count() == PAGE_ITEMS
    summaries.nth(0).click()


def test_a_filter_shows_what_it_names_in_all_parts(page):
    part = page.locator(".part").first
    every = part.locator(".item").count()
    for name in ("known", "forgotten"):
        part.locator(f"label[for$=-{name}]").click()
        kinds = part.locator(".item:visible").evaluate_all("items => items.map(item => item.className)")
        assert PAGE_ITEMS <= len(kinds) < every and all(f"v-{name}" in kind for kind in kinds)


def test_print_shows_every_part(page):
    page.emulate_media(media="print")
    assert (
        page.locator(".part").first.locator(".item").last.evaluate("item => item.getBoundingClientRect().height") > 20
    )
    page.emulate_media(media="screen")
