"""Who may ask the page, and what it lets out."""

from __future__ import annotations

import json

import pytest
from starlette.testclient import TestClient
from ui_runs import OWN, PORT, TOKEN, Page

from relearn.core.errors import InputError
from relearn.ui.run_data import open_runs
from relearn.ui.security import new_token
from relearn.ui.session import Session


@pytest.fixture(scope="module")
def page(plain_run) -> Page:
    return Page(plain_run)


def error(reply, status: int) -> str:
    """The reply is an error as all are: one line of JSON, with the headers of every reply."""
    assert reply.status_code == status, reply.text
    said = json.loads(reply.text)
    assert list(said) == ["error"] and "\n" not in reply.text
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    return said["error"]


@pytest.mark.parametrize(
    "host", ["evil.example", f"evil.example:{PORT}", "127.0.0.1", f"127.0.0.1:{PORT + 1}", f"0.0.0.0:{PORT}", ""]
)
def test_another_host_is_refused_even_with_the_token(page, host):
    reply = page.client.get("/", params={"token": TOKEN}, headers={"host": host})
    assert "127.0.0.1 and localhost only" in error(reply, 421)


@pytest.mark.parametrize("host", [f"localhost:{PORT}", f"LOCALHOST:{PORT}", f"127.0.0.1:{PORT}"])
def test_its_own_names_are_answered(page, host):
    assert page.client.get("/", params={"token": TOKEN}, headers={"host": host}).status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", f"https://127.0.0.1:{PORT}", "http://localhost:1"])
def test_another_origin_is_refused(page, origin):
    assert "another page" in error(page.call("/api/load", origin=origin), 403)
    read = page.client.get("/", params={"token": TOKEN}, headers={"origin": origin})
    assert "another page" in error(read, 403)


def test_whoever_asks_for_something_names_an_origin(page):
    reply = page.client.post("/api/load", json={}, headers={"x-relearn-token": TOKEN})
    assert "another page" in error(reply, 403)


@pytest.mark.parametrize("path", ["/api/load", "/api/ask", "/api/candidates", "/api/layers", "/api/else"])
@pytest.mark.parametrize("given", [None, "", "wrong", TOKEN[:-1], f"{TOKEN} ", "sécret".encode()])
def test_every_call_needs_the_token(page, path, given):
    headers = {"origin": OWN} if given is None else {"origin": OWN, "x-relearn-token": given}
    assert "the token in the address" in error(page.client.post(path, json={}, headers=headers), 403)
    # In the address it counts for the page alone.
    assert "the token in the address" in error(page.client.post(f"{path}?token={TOKEN}", json={}, headers=headers), 403)


@pytest.mark.parametrize("given", ["", "?token=", "?token=wrong", f"?token=x&token={TOKEN[:-1]}", "?token=%C3%A9"])
def test_the_page_itself_needs_it_too(page, given):
    assert "the token in the address" in error(page.client.get(f"/{given}"), 403)


def test_tokens_are_long_and_new_each_time():
    tokens = {new_token() for _ in range(50)}
    assert len(tokens) == 50 and min(map(len, tokens)) >= 43


def test_the_page_may_load_its_own_files_and_nothing_else(page):
    reply = page.client.get("/", params={"token": TOKEN})
    rules = dict(part.strip().split(" ", 1) for part in reply.headers["content-security-policy"].split(";"))
    assert rules["default-src"] == "'none'"
    assert {rules[name] for name in ("script-src", "style-src", "img-src", "connect-src")} == {"'self'"}
    assert {rules[name] for name in ("base-uri", "form-action", "frame-ancestors")} == {"'none'"}
    assert reply.headers["referrer-policy"] == "no-referrer"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in reply.headers
    html = reply.text
    assert "http://" not in html and "https://" not in html and " style=" not in html and " onclick" not in html
    assert html.count("<script") == 1 and TOKEN not in html
    for name in ("ui.css", "ui.js", "icon.svg"):
        file = page.client.get(f"/static/{name}")
        assert file.status_code == 200 and file.headers["content-security-policy"]
        assert "@import" not in file.text and "https://" not in file.text and "innerHTML" not in file.text


@pytest.mark.parametrize("path", ["/static/../app.py", "/static/%2e%2e/app.py", "/static/nothing.js"])
def test_nothing_beside_the_static_files_is_served(page, path):
    assert page.client.get(path).status_code in (403, 404)


def test_there_are_no_other_routes(page):
    assert error(page.call("/api/else"), 404) == "not found"
    assert error(page.client.get("/api/load", headers={"x-relearn-token": TOKEN}), 405)
    for path in ("/docs", "/openapi.json"):
        assert error(page.client.get(path, headers={"x-relearn-token": TOKEN}), 404)


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        ("{", "application/json", 400),
        ("[]", "application/json", 400),
        ("{}", "text/plain", 415),
        ("x" * 70_000, "application/json", 413),
    ],
)
def test_what_is_no_mapping_in_json_is_refused(page, content, kind, status):
    headers = {"origin": OWN, "x-relearn-token": TOKEN, "content-type": kind}
    error(page.client.post("/api/ask", content=content, headers=headers), status)


def test_what_goes_wrong_is_said_in_the_terminal_and_not_on_the_page(plain_run, capsys):
    class Broken(Session):
        def load(self) -> None:
            raise InputError("cannot load model", where="/secret/folder")

        def candidates(self, key):
            raise KeyError("/secret/folder")

    page = Page(plain_run, session=Broken(open_runs([plain_run])))
    said = error(page.call("/api/load"), 422)
    assert said == "the model cannot be loaded or asked; see the terminal for the reason"
    assert "/secret/folder: cannot load model" in capsys.readouterr().err
    client = TestClient(page.app, base_url=OWN, raise_server_exceptions=False)
    reply = client.post("/api/candidates", json={"answer": "x"}, headers={"origin": OWN, "x-relearn-token": TOKEN})
    assert "secret" not in error(reply, 500)
    shown = capsys.readouterr().err
    assert "KeyError" in shown and "Traceback" not in shown
