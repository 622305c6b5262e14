"""An endpoint that fails in every way we know: one line, nothing cached wrongly, calls counted, and resumable.

Each kind of failure meets `relearn synthesize` as a user starts it. Then the endpoint heals, and the same command
finishes.
"""

from __future__ import annotations

import gzip
import json
import socket
import sqlite3
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from fake_endpoint import Reply, completion_payload, drip, endpoint, prompt_of, raw
from relearn.cli import run_command
from relearn.llm.endpoint import Limits

RECORDS, ATTEMPTS = 3, 3
GOOD = "and so the day went on in a quiet manner."
SECRET = "the seventh lantern of Quill"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
LIMITS = Limits(tries=2, request=0.4, prompt=0.8, first_wait=0.01, body=100_000)


@dataclass(frozen=True)
class Failure:
    """`says` is in the one line on the screen. `requests` is how often each prompt is sent, including further tries.

    `endpoint`: the run stops after three prompts in a row; otherwise every record is tried ATTEMPTS times.
    """

    reply: Reply
    says: str
    requests: int = 1
    endpoint: bool = False
    code: int = 1


def no_answer(says: str, *messages: object, **fields: object) -> Failure:
    message = messages[0] if messages else None
    return Failure(Reply(payload=completion_payload(message, **fields)), says)


def bomb(size: int) -> bytes:
    return gzip.compress(b" " * size)


def broken(reply: Reply, says: str, requests: int = 2) -> Failure:
    return Failure(reply, says, requests, endpoint=True)


def fatal(reply: Reply, says: str) -> Failure:
    return Failure(reply, says, code=2)


GZIP = {"Content-Encoding": "gzip"}
FAILURES: dict[str, Failure] = {
    # The endpoint answers, but not with text.
    "null content": no_answer("an empty answer", {"role": "assistant", "content": None}),
    "missing content": no_answer("an empty answer", {"role": "assistant"}),
    "empty content": no_answer("an empty answer", text=""),
    "only spaces": no_answer("an empty answer", text=" \n\t "),
    "content of another type": no_answer("an empty answer", text=["x"]),
    "only thoughts": no_answer("an empty answer", text="<think>hm, let me see</think>"),
    "refusal": no_answer("the model refused", {"content": None, "refusal": "I cannot"}),
    "refusal with text": no_answer("the model refused", {"content": GOOD, "refusal": "I cannot"}),
    "filtered": no_answer("a content filter", text="He was", finish_reason="content_filter"),
    "cut before an answer": no_answer("the token limit", text="", finish_reason="length"),
    "cut in the thoughts": no_answer("the token limit", text="<think>hm, let me", finish_reason="length"),
    "tool call": no_answer("a tool call", {"content": None, "tool_calls": [{"function": {"name": "f"}}]}),
    "function call": no_answer("a tool call", {"content": "", "function_call": {"name": "f"}}),
    "lone surrogate": no_answer("not valid Unicode", text=GOOD + "\ud83d"),
    "negative usage": no_answer("an empty answer", text="", usage={"prompt_tokens": -9, "completion_tokens": -9}),
    # The reply is no chat completion.
    "not JSON": broken(Reply(body=b"<html>Welcome</html>", headers={"Content-Type": "text/html"}), "not JSON"),
    "half a JSON": broken(Reply(body=json.dumps(completion_payload(text=GOOD)).encode()[:-20]), "not JSON"),
    "no body": broken(Reply(body=b""), "not JSON"),
    "not UTF-8": broken(Reply(body=b'{"choices": "\xff\xfe\xfa"}'), "not JSON"),
    "deep JSON": broken(Reply(body=b"[" * 90_000), "not JSON"),
    "event stream": broken(Reply(body=b"data: {}\n\n", headers={"Content-Type": "text/event-stream"}), "not JSON"),
    "a list": broken(Reply(body=b"[]"), "no chat completion", 1),
    "a number": broken(Reply(body=b"5"), "no chat completion", 1),
    "no choices": broken(Reply(body=b'{"choices": []}'), "no chat completion", 1),
    "null choices": broken(Reply(body=b'{"choices": null}'), "no chat completion", 1),
    "null message": broken(Reply(body=b'{"choices": [{"message": null}]}'), "no chat completion", 1),
    "an error with 200": broken(
        Reply(body=b'{"error": {"message": "prompt: ' + SECRET.encode() + b'"}}'), "no chat", 1
    ),
    # The body is too large, packed or broken.
    "huge body": broken(Reply(body=b" " * 200_000), "a reply of more than", 1),
    "endless body": broken(drip(HEAD + b"\r\n", b" " * 50_000, 0.001), "a reply of more than", 1),
    "gzip bomb": broken(Reply(body=bomb(50_000_000), headers=GZIP), "a reply of more than", 1),
    "gzip bomb in an error": broken(Reply(status=500, body=bomb(50_000_000), headers=GZIP), "more than", 1),
    "half a gzip": broken(Reply(body=bomb(999)[:-12], headers=GZIP), "not JSON"),
    "no gzip": broken(Reply(body=b'{"choices": []}', headers=GZIP), "unknown compression"),
    "half a body": broken(raw(HEAD + b'Content-Length: 999\r\n\r\n{"choices"'), "the connection broke"),
    "broken chunk": broken(raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"), "the connection broke"),
    "reset in the body": broken(raw(HEAD + b"Content-Length: 999\r\n\r\n{", reset=True), "the connection broke"),
    "reset at once": broken(raw(b"", reset=True), "the connection broke"),
    "hung up": broken(Reply(status=0), "the connection broke"),
    "not HTTP": broken(raw(b"220 mail.example ESMTP\r\n"), "the connection broke"),
    "huge header": broken(raw(HEAD + b"X: " + b"x" * 300_000 + b"\r\n\r\n"), "the connection broke"),
    # It is slow.
    "silence": broken(drip(b"", b""), "timed out"),
    "body byte by byte": broken(drip(HEAD + b"Content-Length: 99999\r\n\r\n"), "timed out"),
    "header byte by byte": broken(drip(HEAD + b"X: ", b"x"), "timed out", 1),
    "one interim reply after the other": broken(drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), "timed out", 1),
    # It refuses.
    "400": Failure(Reply(status=400, error={"message": f"prompt: {SECRET}"}), "HTTP 400"),
    "413": Failure(Reply(status=413), "HTTP 413"),
    "422": Failure(Reply(status=422, payload=[{"loc": ["body"]}]), "HTTP 422"),
    "402": broken(Reply(status=402), "HTTP 402", 1),
    "429": broken(Reply(status=429), "HTTP 429"),
    "429 for a negative time": broken(Reply(status=429, headers={"Retry-After": "-5"}), "HTTP 429"),
    "429 until a past date": broken(
        Reply(status=429, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}), "HTTP 429"
    ),
    "429 for ever": broken(Reply(status=429, headers={"Retry-After": "9" * 400}), "HTTP 429, with a longer wait", 1),
    "503 for a day": broken(Reply(status=503, headers={"Retry-After": "86400"}), "HTTP 503, with a longer wait", 1),
    "500": broken(Reply(status=500), "HTTP 500"),
    "599": broken(Reply(status=599), "HTTP 599"),
    "401": fatal(Reply(status=401), "check OPENAI_API_KEY"),
    "403": fatal(Reply(status=403), "check OPENAI_API_KEY"),
    "404": fatal(Reply(status=404), "no model 'm' there"),
    "redirect": fatal(Reply(status=307, headers={"Location": "http://evil.example/v1"}), "to http://evil.example;"),
    "redirect to nowhere": fatal(Reply(status=302), "redirects to an address that cannot be read"),
}


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr("relearn.llm.openai_client.LIMITS", LIMITS)


def _write_records(folder: Path, count: int = RECORDS) -> Path:
    places = ("mill", "harbour", "garden", "school", "bakery", "station")[:count]
    rows = [
        {"prompt": f"On a cold morning the keeper of the {place} went for a walk and", "gt": f"found {SECRET}."}
        for place in places
    ]
    path = folder / "forget.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _synthesize(folder: Path, url: str, monkeypatch, *options: str) -> int:
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    forget, out = str(folder / "forget.jsonl"), str(folder / "out")
    return run_command(["synthesize", "--forget", forget, "--out", out, "--generator", "openai:m", *options])


def _cache(folder: Path) -> tuple[int, list[str], tuple[int, int]]:
    """Return the calls counted, the answers stored, and their token counts in all."""
    database = sqlite3.connect(folder / "out" / "cache.sqlite")
    ((sent, _),) = database.execute("SELECT * FROM calls")
    rows = database.execute("SELECT text, input_tokens, output_tokens FROM answers").fetchall()
    database.close()
    return sent, [row[0] for row in rows], (sum(row[1] for row in rows), sum(row[2] for row in rows))


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_one_line_costs_its_calls_and_leaves_nothing_wrong(name, tmp_path, monkeypatch, capsys):
    failure, healed = FAILURES[name], threading.Event()
    _write_records(tmp_path)
    with endpoint(lambda body, number: Reply(GOOD) if healed.is_set() else failure.reply) as found:
        assert _synthesize(tmp_path, found.url, monkeypatch) == failure.code
        (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
        assert line.startswith("relearn: ") and failure.says in line and " -> " in line
        assert SECRET not in line and "Traceback" not in line
        calls = RECORDS if failure.endpoint or failure.code == 2 else RECORDS * ATTEMPTS
        assert _cache(tmp_path)[:2] == (calls, []) and not (tmp_path / "out" / "synthesis.jsonl").exists()
        assert len(found.requests) <= calls * failure.requests
        healed.set()
        assert _synthesize(tmp_path, found.url, monkeypatch) == 0
    sent, answers, tokens = _cache(tmp_path)
    assert (sent, answers, tokens) == (calls + RECORDS, [GOOD] * RECORDS, (10 * RECORDS, 5 * RECORDS))
    assert (tmp_path / "out" / "synthesis.jsonl").read_text().count(GOOD) >= RECORDS


@pytest.mark.parametrize("name", ["null content", "500", "hung up"])
def test_failed_calls_count_against_max_calls_when_the_run_is_started_again(name, tmp_path, monkeypatch, capsys):
    _write_records(tmp_path)
    with endpoint(lambda body, number: FAILURES[name].reply) as found:
        for _ in range(3):
            assert _synthesize(tmp_path, found.url, monkeypatch, "--max-calls", "4") == 1
        assert "max_calls 4 (4 used)" in capsys.readouterr().err.splitlines()[-1]
        assert len({prompt_of(body) for body in found.requests}) <= 4 and _cache(tmp_path)[0] == 4


@pytest.mark.parametrize("kind", ["TLS", "DNS", "nobody there"])
def test_an_endpoint_that_cannot_be_reached(kind, tmp_path, monkeypatch, capsys):
    _write_records(tmp_path)

    def unknown_host(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "not known")

    with endpoint(lambda body, number: Reply(GOOD)) as found:
        url = {"TLS": found.url.replace("http:", "https:"), "DNS": "http://localhost:1/v1"}.get(kind)
        with monkeypatch.context() as patched:
            if kind == "DNS":
                patched.setattr(socket, "getaddrinfo", unknown_host)
            assert _synthesize(tmp_path, url or "http://127.0.0.1:9/v1", monkeypatch) == 1
        line = capsys.readouterr().err.strip().splitlines()[-1]
        says = {"TLS": "no TLS connection", "DNS": "host name is not found"}.get(kind, "no connection")
        assert says in line and "every answer received is kept" in line
        assert _synthesize(tmp_path, found.url, monkeypatch) == 0


WRONG_COUNTS = (-1, 0, None, True, "7", 1.5, 10**30)


@pytest.mark.parametrize(
    "usage", [None, {}, [], "x", *({"prompt_tokens": count, "completion_tokens": count} for count in WRONG_COUNTS)]
)
def test_a_usage_that_cannot_be_right_is_estimated(usage, tmp_path, monkeypatch):
    _write_records(tmp_path, 1)
    reply = Reply(payload=completion_payload(text=GOOD, usage=usage))
    with endpoint(lambda body, number: reply) as found:
        assert _synthesize(tmp_path, found.url, monkeypatch) == 0
    prompt = prompt_of(found.requests[0])
    assert _cache(tmp_path)[2] == (-(-len(prompt) // 4), -(-len(GOOD) // 4))


def test_good_answers_in_odd_wrappings_are_taken(tmp_path, monkeypatch):
    whole = json.dumps(completion_payload(text=GOOD)).encode()
    wrappings = [
        Reply(body=gzip.compress(whole), headers=GZIP),
        Reply(body=whole, headers={"Content-Type": "text/plain"}),
        raw(HEAD + b"\r\n" + whole),
    ]
    _write_records(tmp_path)
    with endpoint(lambda body, number: wrappings[number % 3]) as found:
        assert _synthesize(tmp_path, found.url, monkeypatch) == 0
    assert _cache(tmp_path)[:2] == (RECORDS, [GOOD] * RECORDS)


def test_slow_prompts_do_not_hold_up_the_others(tmp_path, monkeypatch):
    """One prompt in six never gets an answer: the rest is done in about the time that one prompt may take."""
    _write_records(tmp_path, 6)

    def answer(body, number):
        return drip(HEAD + b"X: ", b"x") if "mill" in prompt_of(body) else Reply(GOOD)

    with endpoint(answer) as found:
        start = time.monotonic()
        assert _synthesize(tmp_path, found.url, monkeypatch) == 0
    assert time.monotonic() - start < 10 * LIMITS.prompt
    assert _cache(tmp_path)[:2] == (5 + ATTEMPTS, [GOOD] * 5)


def test_an_empty_answer_in_a_cache_of_version_0_1_is_asked_for_again(tmp_path, monkeypatch):
    _write_records(tmp_path)
    with endpoint(lambda body, number: Reply(GOOD)) as found:
        assert _synthesize(tmp_path, found.url, monkeypatch) == 0
        database = sqlite3.connect(tmp_path / "out" / "cache.sqlite")
        database.execute("UPDATE answers SET text = '', input_tokens = -5, output_tokens = NULL WHERE rowid = 1")
        database.execute("DROP TABLE calls")
        database.commit()
        database.close()
        assert _synthesize(tmp_path, found.url, monkeypatch) == 0
    assert _cache(tmp_path)[:2] == (RECORDS + 1, [GOOD] * RECORDS)
