"""The form for people in a real browser: filled in, kept over a reload, saved as a file that can be read."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from relearn.core.files import read_json
from relearn.report.human import human_results, make_form
from report.test_human import HOSTILE, QUESTIONS, make_run

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: install it, or name one in CHROMIUM"),
]


@pytest.fixture(scope="module")
def page():
    """A page on which any error, dialog or request for something other than a file fails the test."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_context(accept_downloads=True).new_page()
        page.set_default_timeout(60_000)
        wrong, asked = [], []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda line: wrong.append(line.text) if line.type == "error" else None)
        page.on("dialog", lambda dialog: wrong.append(dialog.message) or dialog.dismiss())
        page.on("request", lambda request: asked.append(request.url))
        yield page
        assert wrong == []
        assert asked and all(url.startswith(("file:", "blob:", "data:")) for url in asked)
        browser.close()


def test_the_form_is_filled_in_kept_and_saved(page, tmp_path):
    runs = [make_run(tmp_path / "one", HOSTILE), make_run(tmp_path / "two", "Nowhere, says \"he\"; 'x', ,")]
    form = tmp_path / "form.html"
    key_path = make_form(runs, form)
    key = read_json(key_path)
    page.goto(form.as_uri())
    assert page.title() == f"Ratings · form {key['form']}"
    assert HOSTILE in page.locator(".said").all_text_contents()[[i["run"] for i in key["items"].values()].index(0)]
    assert page.locator("main img, main script").count() == 0
    page.fill("#rater", 'Ada, "the" first')
    for name, item in key["items"].items():
        for aspect, grade in (("forgetting", 5 - 2 * item["run"]), ("fluency", 4)):
            page.check(f'input[name="{name}-{aspect}"][value="{grade}"]')
    page.reload()
    assert page.input_value("#rater") == 'Ada, "the" first'
    assert f"{4 * QUESTIONS} of {6 * QUESTIONS} grades given" in page.text_content("#status")
    with page.expect_download() as download:
        page.click("#save")
    saved = Path(tmp_path / "saved.csv")
    download.value.save_as(saved)
    assert download.value.suggested_filename == f"ratings-{key['form']}-Ada_the_first.csv"
    assert page.evaluate("localStorage.length") == 0 and "saved" in page.text_content("#status")
    found = {(one["run"], one["aspect"]): one["mean"] for one in human_results([saved], key_path)["measured"]}
    assert found["one", "forgetting"] == 5 and found["two", "forgetting"] == 3
    assert found["one", "fluency"] == 4 and found["two", "relevance"] is None
    page.reload()
    assert page.input_value("#rater") == "" and page.locator("input:checked").count() == 0
