"""Send prompts to an OpenAI-compatible endpoint (`openai:MODEL`) with concurrent requests.

OPENAI_BASE_URL is the endpoint and OPENAI_API_KEY the key; an endpoint on this machine needs no key. The client library
retries temporary failures (429, 5xx, no connection, timeout) with exponential backoff and jitter, and follows
Retry-After. Error messages of a server are not shown, because they may contain the prompt or the key.
"""

from __future__ import annotations

import ipaddress
import os
import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from relearn.core.errors import GeneratorError, InputError
from relearn.llm.completer import Completion, Prompt, drop_truncated_sentence, estimated_tokens, strip_reasoning
from relearn.llm.generators import GENERATORS, Generator

DEFAULT_URL = "https://api.openai.com/v1"
GIVE_UP_AFTER = 3
_OPTIONAL = ("seed", "temperature", "max_tokens")


@dataclass(frozen=True)
class _Arrival:
    """Store a thread's result; `unreachable`: the endpoint failed, not the prompt; `fatal`: error for all prompts."""

    number: int
    completion: Completion
    unreachable: bool = False
    fatal: InputError | None = None


class OpenAICompleter:
    """Request chat completions of one model.

    `concurrency`: concurrent requests; `tries`: maximum requests per prompt, including the first; `timeout`: seconds
    per request. Raises InputError for an invalid address or a missing key.
    """

    def __init__(self, model: str, concurrency: int = 8, *, tries: int = 6, timeout: float = 180.0):
        import openai

        url = base_url()
        local = is_loopback(url)
        self.model = model
        self.concurrency = concurrency
        self.where = f"generator {model} at {_without_login(url)}"
        self.name = f"openai:{model}@{_without_login(url)}"
        self._refused: set[str] = set()
        # Requests to this machine must not go through a proxy set in the environment.
        client = openai.DefaultHttpxClient(trust_env=False) if local else None
        self._client = openai.OpenAI(
            api_key=_api_key(local), base_url=url, max_retries=tries - 1, timeout=timeout, http_client=client
        )

    def complete(self, prompts: Sequence[Prompt]) -> list[Completion]:
        answers = dict(self.stream(prompts))
        return [answers[number] for number in range(len(prompts))]

    def stream(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion]]:
        """Yield (position, completion) when received; read a prompt from the iterable only when it can be sent.

        Raises InputError for a wrong key or model, GeneratorError if GIVE_UP_AFTER consecutive prompts failed after all
        their tries. The results of pending requests are yielded before the error is raised.
        """
        unsent = iter(enumerate(prompts))
        arrived: queue.Queue[_Arrival] = queue.Queue()
        in_flight = 0
        health = _Health()
        while True:
            while health.usable and in_flight < self.concurrency and (entry := next(unsent, None)):
                # Daemon threads: an interrupted process must not wait for a slow endpoint.
                threading.Thread(target=self._work, args=(*entry, arrived), daemon=True).start()
                in_flight += 1
            if not in_flight:
                break
            arrival = arrived.get()
            in_flight -= 1
            health.add(arrival)
            if arrival.fatal is None:
                yield arrival.number, arrival.completion
        health.raise_for(self.where)

    def _work(self, number: int, prompt: Prompt, arrived: queue.Queue[_Arrival]) -> None:
        import openai

        try:
            arrived.put(_Arrival(number, self._request(prompt)))
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
            arrived.put(_Arrival(number, Completion(error="refused"), fatal=self._refusal(error.status_code)))
        except openai.APIStatusError as error:
            temporary = error.status_code in (408, 409, 429) or error.status_code >= 500
            arrived.put(_Arrival(number, Completion(error=f"HTTP {error.status_code}"), unreachable=temporary))
        except openai.APITimeoutError:
            arrived.put(_Arrival(number, Completion(error="timed out"), unreachable=True))
        except openai.APIConnectionError:
            arrived.put(_Arrival(number, Completion(error="no connection"), unreachable=True))
        except Exception as error:
            # Every prompt needs a result in the queue; without one, `stream` would wait forever.
            arrived.put(_Arrival(number, Completion(error=f"unreadable reply ({type(error).__name__})")))

    def _request(self, prompt: Prompt) -> Completion:
        import openai

        while True:
            options = self._options(prompt)
            try:
                reply = self._client.chat.completions.create(**options)
            except openai.BadRequestError as error:
                if not self._drop_refused(error, options):
                    raise
                continue
            return _as_completion(reply, prompt)

    def _options(self, prompt: Prompt) -> dict[str, Any]:
        refused = frozenset(self._refused)
        options: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt.text}],
            "max_tokens": prompt.max_tokens,
            "temperature": prompt.temperature,
            # The attempt is part of the seed, so that a retry can give another text on a server that uses seeds.
            "seed": prompt.seed + prompt.attempt,
        }
        if "max_tokens" in refused:
            options["max_completion_tokens"] = prompt.max_tokens
        return {name: value for name, value in options.items() if name not in refused}

    def _drop_refused(self, error: Any, options: dict[str, Any]) -> bool:
        """Stop sending a parameter that the error names as unsupported; return False for other errors."""
        named = error.param or next((name for name in _OPTIONAL if f"'{name}'" in str(error.message)), None)
        if named not in _OPTIONAL or named not in options:
            return False
        self._refused.add(named)
        return True

    def _refusal(self, status: int) -> InputError:
        if status == 404:
            way_out = "check the name after openai: and OPENAI_BASE_URL"
            return InputError(f"HTTP 404: no model {self.model!r} there", where=self.where, way_out=way_out)
        return InputError(f"HTTP {status}: the key is not accepted", where=self.where, way_out="check OPENAI_API_KEY")


class _Health:
    """Decide from the results received so far whether to send more prompts."""

    def __init__(self) -> None:
        self.failed_in_row = 0
        self.reason = ""
        self.fatal: InputError | None = None

    @property
    def usable(self) -> bool:
        return self.fatal is None and self.failed_in_row < GIVE_UP_AFTER

    def add(self, arrival: _Arrival) -> None:
        if not self.usable:
            return
        self.fatal = arrival.fatal
        self.failed_in_row = self.failed_in_row + 1 if arrival.unreachable else 0
        self.reason = arrival.completion.error or ""

    def raise_for(self, where: str) -> None:
        if self.fatal is not None:
            raise self.fatal
        if not self.usable:
            way_out = "every answer received is kept: start again to go on"
            raise GeneratorError(f"stopped answering ({self.reason})", where=where, way_out=way_out)


def _as_completion(reply: Any, prompt: Prompt) -> Completion:
    choice = reply.choices[0]
    text = strip_reasoning(choice.message.content or "")
    if choice.finish_reason == "length":
        text = drop_truncated_sentence(text)
    usage = reply.usage
    return Completion(
        text,
        input_tokens=usage.prompt_tokens if usage else estimated_tokens(prompt.text),
        output_tokens=usage.completion_tokens if usage else estimated_tokens(text),
    )


def base_url() -> str:
    """Return the endpoint: OPENAI_BASE_URL or DEFAULT_URL. Raises InputError unless it is an http(s) address."""
    url = os.environ.get("OPENAI_BASE_URL", "").strip() or DEFAULT_URL
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        way_out = "export OPENAI_BASE_URL=http://localhost:8000/v1"
        raise InputError("not an http(s) address", where="OPENAI_BASE_URL", way_out=way_out)
    return url.rstrip("/")


def _without_login(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def is_loopback(url: str) -> bool:
    """Return whether `url` is on this machine; host names are not resolved."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _api_key(local: bool) -> str:
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not key and not local:
        way_out = "export OPENAI_API_KEY=..., or OPENAI_BASE_URL for an endpoint of your own"
        raise InputError("OPENAI_API_KEY is not set", where="generator openai", way_out=way_out)
    return key or "none-needed"


def _host() -> str | None:
    url = base_url()
    return None if is_loopback(url) else urlsplit(url).hostname


GENERATORS.add(
    "openai",
    Generator(
        make=lambda model, settings, loaded: OpenAICompleter(model, settings.concurrency),
        host=_host,
        priced=True,
        about="openai:MODEL, any OpenAI-compatible endpoint (OPENAI_BASE_URL, OPENAI_API_KEY)",
    ),
)
