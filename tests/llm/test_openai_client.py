"""The OpenAI-compatible client against a real HTTP endpoint on this machine."""

from __future__ import annotations

import threading
import time

import pytest

from fake_endpoint import Endpoint, Reply, endpoint, prompt_of
from relearn.core.errors import GeneratorError, InputError
from relearn.llm import Prompt
from relearn.llm.cache import CachedCompleter
from relearn.llm.endpoint import Limits
from relearn.llm.openai_client import OpenAICompleter

KEY = "sk-very-private-key-0123456789"


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)


def _completer(found: Endpoint, monkeypatch, *, concurrency: int = 8, **limits) -> OpenAICompleter:
    monkeypatch.setenv("OPENAI_BASE_URL", found.url)
    return OpenAICompleter("m", concurrency, limits=Limits(**{"first_wait": 0.01, **limits}))


def _prompts(*texts: str) -> list[Prompt]:
    return [Prompt(text, "vague", max_tokens=7, temperature=0.5, seed=3) for text in texts]


def test_answers_come_in_the_order_asked_whatever_the_order_they_arrive_in(monkeypatch):
    def answer(body, number):
        time.sleep(0.05 * (3 - number % 4))
        return Reply(f"to {prompt_of(body)}")

    with endpoint(answer) as found:
        completions = _completer(found, monkeypatch, concurrency=4).complete(_prompts(*"abcdefgh"))
    assert [completion.text for completion in completions] == [f"to {letter}" for letter in "abcdefgh"]
    assert (completions[0].input_tokens, completions[0].output_tokens) == (10, 5)
    assert 2 <= found.most_at_once <= 4


def test_the_prompt_is_sent_with_its_parameters_and_without_its_fields(monkeypatch):
    prompt = Prompt("hello", "vague", fields={"subject": "SECRET"}, max_tokens=7, temperature=0.5, attempt=2, seed=3)
    with endpoint(lambda body, number: Reply("x")) as found:
        _completer(found, monkeypatch).complete([prompt])
    assert found.requests == [
        {
            "model": "m",
            "messages": [{"role": "user", "content": "hello"}],
            "max_tokens": 7,
            "temperature": 0.5,
            "seed": 5,
        }
    ]


@pytest.mark.parametrize("first", [Reply(status=500), Reply(status=503), Reply(status=429), Reply(status=0)])
def test_what_fails_for_the_moment_is_tried_again(monkeypatch, first):
    with endpoint(lambda body, number: first if number == 0 else Reply("at last")) as found:
        (completion,) = _completer(found, monkeypatch).complete(_prompts("a"))
    assert completion.ok and completion.text == "at last" and len(found.requests) == 2


def test_retry_after_is_kept_to(monkeypatch):
    times = []

    def answer(body, number):
        times.append(time.monotonic())
        return Reply(status=429, headers={"Retry-After": "2"}) if number == 0 else Reply("later")

    with endpoint(answer) as found:
        (completion,) = _completer(found, monkeypatch).complete(_prompts("a"))
    assert completion.text == "later" and times[1] - times[0] >= 2


def test_an_endpoint_that_is_down_stops_the_run_early_with_exit_code_1(monkeypatch):
    with endpoint(lambda body, number: Reply(status=503)) as found, pytest.raises(GeneratorError) as caught:
        _completer(found, monkeypatch, concurrency=1, tries=2).complete(_prompts(*"abcdefgh"))
    assert caught.value.exit_code == 1 and "HTTP 503" in str(caught.value) and "start again" in str(caught.value)
    assert len(found.requests) == 3 * 2


def test_three_failures_that_are_not_in_a_row_do_not_stop_the_run(monkeypatch):
    def answer(body, number):
        return Reply(status=503) if prompt_of(body) in "ace" else Reply("fine")

    with endpoint(answer) as found:
        completions = _completer(found, monkeypatch, concurrency=1, tries=1).complete(_prompts(*"abcdef"))
    assert [completion.error for completion in completions] == ["HTTP 503", None] * 3
    assert all(completion.text == "" for completion in completions if not completion.ok)


def test_no_connection_at_all_is_said_so(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    with pytest.raises(GeneratorError, match="no connection"):
        OpenAICompleter("m", limits=Limits(tries=1)).complete(_prompts("a", "b", "c"))


def test_answers_under_way_when_the_endpoint_fails_are_kept(monkeypatch, tmp_path):
    """The slow answer arrives after three prompts have failed: it is yielded, and so cached, before the error."""
    slow = threading.Event()

    def answer(body, number):
        if prompt_of(body) != "slow":
            return Reply(status=503)
        slow.wait(5)
        return Reply("came late")

    with endpoint(answer) as found:
        completer = CachedCompleter(_completer(found, monkeypatch, concurrency=4, tries=1), tmp_path / "c.sqlite")
        threading.Timer(0.5, slow.set).start()
        with pytest.raises(GeneratorError):
            completer.complete(_prompts("slow", "a", "b", "c", "d", "e"))
        (kept,) = completer.complete(_prompts("slow"))
    assert kept.cached and kept.text == "came late"
    assert sum(prompt_of(body) == "slow" for body in found.requests) == 1


@pytest.mark.parametrize(("status", "says"), [(401, "OPENAI_API_KEY"), (403, "OPENAI_API_KEY"), (404, "no model 'm'")])
def test_a_wrong_key_or_model_fails_at_once_without_the_key_or_the_prompt(monkeypatch, status, says):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    refused = Reply(status=status, error={"message": f"wrong key {KEY} for prompt a secret"})
    with endpoint(lambda body, number: refused) as found, pytest.raises(InputError) as caught:
        _completer(found, monkeypatch, concurrency=1).complete(_prompts("a secret", "b", "c"))
    assert says in str(caught.value) and KEY not in str(caught.value) and "a secret" not in str(caught.value)
    assert caught.value.exit_code == 2 and len(found.requests) == 1


def test_a_prompt_that_the_server_refuses_is_an_error_without_the_servers_words(monkeypatch):
    refused = Reply(status=400, error={"message": "the prompt 'a secret' is too long"})
    with endpoint(lambda body, number: refused if prompt_of(body) == "a secret" else Reply("fine")) as found:
        bad, good = _completer(found, monkeypatch).complete(_prompts("a secret", "b"))
    assert bad.error == "HTTP 400" and bad.text == "" and good.text == "fine"


def test_a_reply_that_is_not_a_completion_is_an_error(monkeypatch):
    with endpoint(lambda body, number: Reply(body=b'{"choices": []}')) as found:
        (completion,) = _completer(found, monkeypatch).complete(_prompts("a"))
    assert not completion.ok and completion.text == ""


def test_parameters_that_a_model_refuses_are_left_out_or_renamed(monkeypatch):
    def answer(body, number):
        for name in ("max_tokens", "temperature"):
            if name in body:
                return Reply(status=400, error={"message": f"Unsupported parameter: '{name}'", "param": name})
        return Reply("fine")

    with endpoint(answer) as found:
        completions = _completer(found, monkeypatch, concurrency=2).complete(_prompts(*"abcdef"))
    assert [completion.text for completion in completions] == ["fine"] * 6
    assert found.requests[-1]["max_completion_tokens"] == 7 and "temperature" not in found.requests[-1]


def test_an_answer_cut_by_the_token_limit_ends_with_its_last_whole_sentence(monkeypatch):
    cut = Reply("1. He lives somewhere nice.\n2. He can be rea", finish_reason="length")
    with endpoint(lambda body, number: cut) as found:
        (completion,) = _completer(found, monkeypatch).complete(_prompts("a"))
    assert completion.text == "1. He lives somewhere nice."


def test_thinking_aloud_is_no_part_of_the_answer(monkeypatch):
    with endpoint(lambda body, number: Reply("<think>\nthe address is 5 Elm\n</think>\n\n1. Fine.")) as found:
        (completion,) = _completer(found, monkeypatch).complete(_prompts("a"))
    assert completion.text == "1. Fine."


def test_trap_16_a_key_is_asked_for_but_not_for_this_machine(monkeypatch):
    with pytest.raises(InputError, match="OPENAI_API_KEY is not set"):
        OpenAICompleter("m")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:1/v1")
    OpenAICompleter("m")


def test_a_login_in_the_address_is_not_shown(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://user:hidden@127.0.0.1:9/v1")
    completer = OpenAICompleter("m", limits=Limits(tries=1))
    with pytest.raises(GeneratorError) as caught:
        completer.complete(_prompts("a", "b", "c"))
    assert "hidden" not in str(caught.value) + completer.name
