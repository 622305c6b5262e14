"""One HTTP endpoint: which addresses are on this machine, redirects, proxies, waits and keys."""

from __future__ import annotations

import logging
import traceback
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from fake_endpoint import Reply, endpoint
from relearn.core.config import Metrics, Synthesis
from relearn.core.errors import GeneratorError, InputError
from relearn.llm import Prompt
from relearn.llm.endpoint import Limits, base_url, is_loopback, retry_after
from relearn.llm.generators import make_completer, remote_host
from relearn.llm.openai_client import OpenAICompleter
from relearn.metrics.llm_judge import check_remote_judge
from relearn.synthesis.generation_cost import check_remote

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
FAST = Limits(tries=2, first_wait=0.01)


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", *PROXIES):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://localhost:8000/v1", True),
        ("http://LOCALHOST:8000/v1", True),
        ("http://127.0.0.1/v1", True),
        ("http://127.8.0.1/v1", True),
        ("http://[::1]:80/v1", True),
        ("http://[::ffff:127.0.0.1]:80/v1", True),
        ("http://[::ffff:7f00:1]/v1", True),
        ("http://0.0.0.0:1", True),
        ("http://[::]:1", True),
        ("http://evil.example@127.0.0.1/v1", True),
        ("http://a.localhost/v1", False),
        ("http://localhost./v1", False),
        ("http://127.1/v1", False),
        ("http://2130706433/v1", False),
        ("http://0x7f000001/v1", False),
        ("http://127.0.0.1.nip.io/v1", False),
        ("http://localhost@evil.example/v1", False),
        ("http://127.0.0.1:80@evil.example/v1", False),
        ("http://[::ffff:8.8.8.8]/v1", False),
        ("http://evil.example/v1#@127.0.0.1", False),
        ("http://evil.example?@127.0.0.1", False),
        ("https://api.openai.com/v1", False),
        ("http://192.168.0.4:8000/v1", False),
        ("http://localhost.example.com/v1", False),
    ],
)
def test_what_is_this_machine(url, expected, monkeypatch):
    """Generators, judges and the client itself decide by the same function."""
    assert is_loopback(url) is expected
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    assert (remote_host("openai:m") is None) is expected
    if expected:
        return
    with pytest.raises(InputError, match="private records would be sent to"):
        check_remote(Synthesis(generator="openai:m"), 3)
    with pytest.raises(InputError, match="would be sent to"):
        check_remote_judge(Metrics(judge="openai:m"))
    with pytest.raises(InputError, match="would be sent to"):
        make_completer("openai:m", Synthesis(generator="openai:m"), None)


@pytest.mark.parametrize(
    "url",
    [
        *("not a url", "ftp://localhost/v1", "http://", "http://:80/v1", "http://[::1/v1", "localhost:8000/v1"),
        *("http://evil.example\\@127.0.0.1/v1", "http://127.0.0.1\\.evil.example/v1", "http://a b@127.0.0.1/v1"),
        *("http://127.0.0.1:notaport/v1", "http://0177.0.0.1/v1", "http://\x00localhost/v1", "file:///etc/passwd"),
    ],
)
def test_an_address_that_can_be_read_in_two_ways_is_refused_without_showing_it(monkeypatch, url):
    monkeypatch.setattr("os.environ", {"OPENAI_BASE_URL": url})
    with pytest.raises(InputError, match="OPENAI_BASE_URL: not an http") as caught:
        base_url()
    assert "evil" not in str(caught.value) and "passwd" not in str(caught.value)


def test_the_host_that_prompts_would_go_to(monkeypatch):
    assert remote_host("openai:m") == "api.openai.com"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:8/v1")
    assert remote_host("openai:m") is None and remote_host("templates") is None


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("same_host", [True, False])
def test_a_redirect_is_never_followed_and_its_host_is_named(monkeypatch, status, same_host):
    with endpoint(lambda body, number: Reply("taken")) as other:
        target = "/v2/chat/completions?key=secret" if same_host else f"{other.url}/chat/completions?key=secret"
        moved = Reply(status=status, headers={"Location": target})
        with endpoint(lambda body, number: moved) as found:
            monkeypatch.setenv("OPENAI_BASE_URL", found.url)
            with pytest.raises(InputError) as caught:
                OpenAICompleter("m", limits=FAST).complete([Prompt("a secret", "vague")])
    host = (found if same_host else other).url.removesuffix("/v1")
    assert f"HTTP {status}: redirects to {host};" in str(caught.value) and caught.value.exit_code == 2
    assert other.requests == [] and len(found.requests) == 1 and "secret" not in str(caught.value)


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "socks5://127.0.0.1:9", "nonsense"])
@pytest.mark.parametrize("variable", PROXIES)
def test_a_proxy_does_not_see_what_is_meant_for_this_machine(monkeypatch, variable, proxy):
    monkeypatch.setenv(variable, proxy)
    with endpoint(lambda body, number: Reply("direct")) as found:
        monkeypatch.setenv("OPENAI_BASE_URL", found.url)
        (completion,) = OpenAICompleter("m", limits=Limits(tries=1)).complete([Prompt("a", "vague")])
    assert completion.text == "direct"


def test_a_proxy_that_cannot_be_used_is_one_line_without_its_login(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://remote.example/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    monkeypatch.setenv("HTTP_PROXY", "foo://user:hidden@host")
    with pytest.raises(InputError, match="check HTTP_PROXY") as caught:
        OpenAICompleter("m")
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        *[("2", 2.0), ("0.5", 0.5), ("1e9", 1e9), ("9" * 400, float("inf"))],
        *[(None, None), ("", None), ("0", None), ("-5", None), ("nan", None), ("soon", None), ("2 s", None)],
        *[
            ("Wed, 21 Oct 2015 07:28:00 GMT", None),
            ("Wed, 99 Xyz 2015", None),
            ("Fri, 31 Dec 99999 23:59:59 GMT", None),
        ],
    ],
)
def test_retry_after_in_odd_forms(header, expected):
    assert retry_after(header) == expected


def test_retry_after_as_a_date():
    at = datetime.now(UTC) + timedelta(seconds=100)
    assert retry_after(format_datetime(at, usegmt=True)) == pytest.approx(100, abs=5)
    assert retry_after(format_datetime(at.replace(tzinfo=None))) == pytest.approx(100, abs=5)


KEY = "sk-very-private-key-0123456789"


@pytest.mark.parametrize(
    "reply", [Reply("fine"), Reply(status=503), Reply(status=401), Reply(status=0), Reply(body=b"x")]
)
@pytest.mark.parametrize("place", ["key", "login", "query"])
def test_a_key_is_in_no_message_log_name_or_traceback(monkeypatch, caplog, tmp_path, reply, place):
    caplog.set_level(logging.DEBUG)
    with endpoint(lambda body, number: reply) as found:
        at = found.url.removeprefix("http://")
        url = {"key": found.url, "login": f"http://user:{KEY}@{at}", "query": f"{found.url}?api-key={KEY}"}[place]
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        if place == "key":
            monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setattr("relearn.llm.openai_client.LIMITS", FAST)
        completer = make_completer("openai:m", Synthesis(generator="openai:m"), tmp_path / "c.sqlite")
        shown = [completer.name]
        try:
            completions = completer.complete([Prompt(text, "vague") for text in "abc"])
            shown += [str(completion) for completion in completions]
        except (GeneratorError, InputError) as error:
            shown += traceback.format_exception(error)
    written = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    sent = {"key": f"Bearer {KEY}", "login": "Basic ", "query": f"?api-key={KEY}"}[place]
    assert any(sent in request for request in found.received)
    assert KEY not in "\n".join(shown) + caplog.text and KEY.encode() not in written


@pytest.mark.parametrize("key", ["sk-\nx", "sk-é", "sk-\x00"])
def test_a_key_that_cannot_be_sent_is_refused_without_showing_it(monkeypatch, key):
    monkeypatch.setattr("os.environ", {"OPENAI_API_KEY": key})
    with pytest.raises(InputError, match="OPENAI_API_KEY") as caught:
        OpenAICompleter("m")
    assert key not in str(caught.value)
