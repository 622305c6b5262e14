"""The page in a real browser: a question asked, markup shown as text and never run, candidates under the pointer."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn
from ui_runs import FACTS, HOSTILE, TOKEN

from relearn.core.files import read_json, read_jsonl, write_json, write_jsonl
from relearn.engine import generate
from relearn.ui.run_data import open_runs
from relearn.ui.server import listening, make_app

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
WAIT = 60_000
REFUSED = "ERR_CONNECTION_REFUSED"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: install it, or name one in CHROMIUM"),
]


@contextmanager
def served(*runs: Path) -> Iterator[str]:
    """The page's address while it is served from a thread."""
    with listening(0) as listener:
        port = listener.getsockname()[1]
        app = make_app(open_runs(runs), token=TOKEN, port=port)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{port}/?token={TOKEN}"
        finally:
            server.should_exit = True
            thread.join(20)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser):
    """A fresh page; whatever goes wrong in it, or leaves for another host, fails the test."""
    context = browser.new_context(viewport={"width": 1300, "height": 900})
    page = context.new_page()
    page.set_default_timeout(WAIT)
    wrong, asked = [], []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    # That nobody listens any more is for the page to say.
    page.on("console", lambda line: line.type == "error" and REFUSED not in line.text and wrong.append(line.text))
    page.on("dialog", lambda dialog: wrong.append(dialog.message) or dialog.dismiss())
    page.on("request", lambda request: asked.append(request.url))
    yield page
    assert wrong == []
    assert asked and all(url.startswith("http://127.0.0.1:") for url in asked)
    context.close()


@pytest.fixture
def hostile_run(audited_run, tmp_path) -> Path:
    """Every text of the folder is markup that would change the page's title."""
    run = shutil.copytree(audited_run, tmp_path / "run")
    for side in ("before", "after"):
        rows = [
            {**row, "question": row["question"] + HOSTILE, "reference": HOSTILE, "response": HOSTILE}
            for row in read_jsonl(run / side / "forget.jsonl")
        ]
        write_jsonl(run / side / "forget.jsonl", rows)
    judged = [{**row, "by": [HOSTILE]} for row in read_json(run / "audits/verdicts.json")]
    write_json(run / "audits/verdicts.json", judged)
    return run


def say_hostile(loaded, questions, settings, *, form, seed, on_tokens):
    """In place of a model that has learned to write markup."""
    for token in loaded.tokenizer(HOSTILE, add_special_tokens=False).input_ids:
        on_tokens([token])
    return [generate.Response(HOSTILE)]


def is_harmless(page) -> None:
    assert page.title() == "run · relearn"
    assert page.evaluate("document.querySelectorAll('img, main script').length") == 0


def load_model(page) -> None:
    page.get_by_role("button", name="Load").click()
    page.wait_for_selector("#send:not([disabled])")


def ask(page, question: str) -> list[str]:
    page.fill("#question", question)
    page.click("#send")
    # Shown at once, and gone when the last answer is there.
    page.wait_for_selector("#stop[hidden]", state="attached")
    return [node.text_content() for node in page.query_selector_all(".answer .said")]


def test_markup_of_a_model_and_of_a_folder_is_text(page, hostile_run, monkeypatch):
    monkeypatch.setattr(generate, "respond", say_hostile)
    with served(hostile_run) as address:
        page.goto(address)
        first = page.locator(".fact").first
        first.locator("summary").click()
        assert HOSTILE in page.input_value("#question")
        assert page.text_content("#reference .text") == HOSTILE
        assert first.locator("dd").all_text_contents()[:3] == [HOSTILE] * 3
        load_model(page)
        assert ask(page, "Who?") == [HOSTILE, HOSTILE]
        is_harmless(page)
        page.locator(".answer .token").nth(3).hover()
        page.wait_for_selector("#candidates .bar")
        page.locator(".answer .token").nth(3).click()
        page.wait_for_selector("#layers .bar")
        is_harmless(page)


def test_a_question_is_asked_and_an_answer_looked_into(page, plain_run, audited_run):
    with served(plain_run, audited_run) as address:
        page.goto(address)
        assert page.is_visible("#consent") and page.is_disabled("#send")
        load_model(page)
        assert page.is_hidden("#consent")
        _, first, second = ask(page, "Where does the engineer live?")
        assert first and second and first != second
        assert page.locator(".answer h3").all_text_contents() == ["before", "after · plain", "after · audited"]
        token = page.locator('[data-column="after-0"] .token').first
        token.hover()
        page.wait_for_selector("#candidates .bar")
        assert page.locator("#candidates .bar").count() == 5
        assert page.locator("#candidates .is-said").count() == 1
        assert page.locator("#layers .bar").count() == 0
        token.focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        page.wait_for_selector("#layers .bar")
        assert page.locator("#layers .bar:not(.head)").count() == 3
        assert page.locator(".token.held").get_attribute("data-token") == "1"
        page.reload()
        assert page.is_hidden("#consent") and page.is_enabled("#send")


def test_facts_are_found_by_verdict_and_words(page, plain_run, audited_run):
    with served(audited_run, plain_run) as address:
        page.goto(address)

        def shown() -> list[str]:
            return [node.text_content() for node in page.query_selector_all(".fact .question") if node.is_visible()]

        assert len(shown()) == 4
        page.get_by_role("button", name="hidden").click()
        assert shown() == [FACTS["a"][0]]
        page.get_by_role("button", name="all").click()
        page.get_by_placeholder("words of a question").first.fill("cleo MARRY")
        assert shown() == [FACTS["c"][0]]
        page.get_by_placeholder("words of a question").first.fill("nobody")
        assert shown() == [] and page.is_visible(".none")
        page.select_option("#which", "1")
        assert len(shown()) == 4
        page.locator(".fact summary:visible").first.press("Enter")
        assert page.input_value("#question") == page.locator(".fact:has(details[open]) .question").text_content()
        page.get_by_role("button", name="Ask it now").click()
        assert page.evaluate("document.activeElement.id") == "load"


def test_an_earlier_start_or_a_server_that_is_gone_is_said(page, plain_run):
    with served(plain_run) as address:
        page.goto(address)
    page.get_by_role("button", name="Load").click()
    page.wait_for_selector("#load-status.error")
    assert "is relearn ui still running?" in page.text_content("#load-status")
