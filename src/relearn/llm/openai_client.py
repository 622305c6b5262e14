"""Complete prompts with an OpenAI-compatible endpoint (`openai:MODEL`) and concurrent requests.

OPENAI_BASE_URL is the endpoint and OPENAI_API_KEY the key; an endpoint on this machine needs no key. Temporary failures
(429, 5xx, no connection, timeout, broken reply) are tried again with exponential backoff and jitter, or after the time
in Retry-After. A reply without a whole answer is a failure of its prompt.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from relearn.core import config
from relearn.core.errors import GeneratorError, InputError
from relearn.llm.completer import Completion, Prompt, drop_truncated_sentence, estimated_tokens, strip_reasoning
from relearn.llm.endpoint import REQUEST_THREAD, Endpoint, Limits, RequestFailure, remote_host
from relearn.llm.generators import GENERATORS, Generator

LIMITS = Limits()
GIVE_UP_AFTER = 3
_OPTIONAL = ("seed", "temperature", "max_tokens")


@dataclass(frozen=True)
class _Arrival:
    """Store the completion of the prompt at position `number`, and the failure of its last request, if any."""

    number: int
    completion: Completion
    failure: RequestFailure | None = None


class OpenAICompleter:
    """Request chat completions of one model with `concurrency` requests at a time, within `limits` (default LIMITS).

    Raises InputError for an invalid address or a missing key.
    """

    def __init__(self, model: str, concurrency: int = 8, *, limits: Limits | None = None):
        self.model = model
        self.concurrency = concurrency
        self.limits = limits or LIMITS
        self._endpoint = Endpoint(model, self.limits)
        self.where = self._endpoint.where
        self.name = f"openai:{model}@{self._endpoint.shown}"
        self._refused: set[str] = set()

    def complete(self, prompts: Sequence[Prompt]) -> list[Completion]:
        answers = dict(self.stream(prompts))
        return [answers[number] for number in range(len(prompts))]

    def stream(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion]]:
        """Yield (position, completion) when received; read a prompt from the iterable only when it can be sent.

        Raises InputError for a wrong key, model or address, GeneratorError if GIVE_UP_AFTER consecutive prompts failed
        after all their tries. The results of pending requests are yielded before the error is raised.
        """
        unsent = iter(enumerate(prompts))
        arrived: queue.Queue[_Arrival] = queue.Queue()
        deadlines: dict[int, float] = {}  # of the pending prompts, by position
        health = _Health()
        while True:
            while health.usable and len(deadlines) < self.concurrency and (entry := next(unsent, None)):
                number, prompt = entry
                deadlines[number] = time.monotonic() + self.limits.prompt
                # Daemon threads: an interrupted process must not wait for a slow endpoint.
                arguments = (number, prompt, deadlines[number], arrived)
                threading.Thread(target=self._work, args=arguments, name=REQUEST_THREAD, daemon=True).start()
            if not deadlines:
                break
            arrival = _next_arrival(arrived, deadlines)
            del deadlines[arrival.number]
            health.add(arrival.failure)
            if arrival.failure is None or arrival.failure.for_all is None:
                yield arrival.number, arrival.completion
        health.raise_for(self.where)

    def _work(self, number: int, prompt: Prompt, deadline: float, arrived: queue.Queue[_Arrival]) -> None:
        try:
            arrived.put(_Arrival(number, self._complete(prompt, deadline)))
        except RequestFailure as failure:
            arrived.put(_failed(number, failure))
        except Exception as error:
            # Every prompt needs a result in the queue; without one, `stream` would wait until the deadline.
            arrived.put(_failed(number, RequestFailure(f"the request failed: {type(error).__name__}")))

    def _complete(self, prompt: Prompt, deadline: float) -> Completion:
        """Send a prompt until it is answered, cannot be answered, or a limit is reached."""
        tries = 0
        while True:
            tries += 1
            try:
                return self._request(prompt, deadline)
            except RequestFailure as failure:
                wait = failure.wait or self._backoff(tries)
                if not failure.again or tries == self.limits.tries:
                    raise
                if time.monotonic() + wait >= deadline:
                    asked = f", with a longer wait than {self.limits.prompt:.0f} s" if failure.wait else ""
                    raise RequestFailure(failure.reason + asked, hint=failure.hint) from None
            time.sleep(wait)

    def _backoff(self, tries: int) -> float:
        longest = min(self.limits.first_wait * 2 ** (tries - 1), self.limits.longest_wait)
        return longest * random.uniform(0.75, 1.0)

    def _request(self, prompt: Prompt, deadline: float) -> Completion:
        while True:
            options = self._options(prompt)
            try:
                return _as_completion(self._endpoint.post(options, deadline), prompt)
            except RequestFailure as failure:
                if not self._drop_refused(failure.details, options):
                    raise

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

    def _drop_refused(self, details: Mapping[str, Any], options: dict[str, Any]) -> bool:
        """Stop sending a parameter that the error of a server names as unsupported; return False for other errors."""
        message = str(details.get("message"))
        named = details.get("param") or next((name for name in _OPTIONAL if f"'{name}'" in message), None)
        if named not in _OPTIONAL or named not in options:
            return False
        self._refused.add(named)
        return True


def _next_arrival(arrived: queue.Queue[_Arrival], deadlines: Mapping[int, float]) -> _Arrival:
    """Wait for the result of a pending prompt; a prompt without one at its deadline has timed out.

    A thread can overrun its deadline, for example where a header arrives byte by byte. A late result is not used.
    """
    number = min(deadlines, key=deadlines.__getitem__)
    while True:
        try:
            arrival = arrived.get(timeout=max(0.0, deadlines[number] + 0.5 - time.monotonic()))
        except queue.Empty:
            return _failed(number, RequestFailure("timed out"))
        if arrival.number in deadlines:
            return arrival


def _failed(number: int, failure: RequestFailure) -> _Arrival:
    return _Arrival(number, Completion(error=failure.reason), failure)


class _Health:
    """Decide from the results received so far whether to send more prompts."""

    def __init__(self) -> None:
        self.failed_in_row = 0
        self.last: RequestFailure | None = None

    @property
    def usable(self) -> bool:
        return self.failed_in_row < GIVE_UP_AFTER and not (self.last and self.last.for_all)

    def add(self, failure: RequestFailure | None) -> None:
        if self.usable:
            self.failed_in_row = self.failed_in_row + 1 if failure and failure.endpoint else 0
            self.last = failure

    def raise_for(self, where: str) -> None:
        if self.usable or self.last is None:
            return
        if self.last.for_all:
            raise self.last.for_all
        hint = f"{self.last.hint}; " if self.last.hint else ""
        way_out = f"{hint}every answer received is kept: start again to go on"
        raise GeneratorError(f"stopped answering ({self.last.reason})", where=where, way_out=way_out)


def _as_completion(reply: Any, prompt: Prompt) -> Completion:
    """Read the text and the token counts of a reply; a reply without a whole answer gives an error."""
    try:
        choice = reply["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason")
        content, usage = message.get("content"), reply.get("usage")
    except (TypeError, LookupError, AttributeError):
        raise RequestFailure("a reply that is no chat completion", hint="check OPENAI_BASE_URL") from None
    text = strip_reasoning(content) if isinstance(content, str) else ""
    if finish == "length":
        text = drop_truncated_sentence(text)
    error = _reason_without_answer(message, finish, text)
    usage = usage if isinstance(usage, dict) else {}
    return Completion(
        "" if error else text,
        error=error,
        input_tokens=_token_count(usage.get("prompt_tokens"), prompt.text),
        output_tokens=_token_count(usage.get("completion_tokens"), text),
    )


def _reason_without_answer(message: Mapping[str, Any], finish: Any, text: str) -> str | None:
    """Return why a message has no answer; None if it has one."""
    if message.get("refusal"):
        return "the model refused"
    if finish == "content_filter":
        return "a content filter stopped the answer"
    if text:
        return None
    if message.get("tool_calls") or message.get("function_call"):
        return "a tool call instead of an answer"
    return "the token limit came before an answer" if finish == "length" else "an empty answer"


def _token_count(reported: Any, text: str) -> int:
    """Return the count that a server reported; if it is missing or cannot be right, estimate it from `text`."""
    return reported if type(reported) is int and 0 < reported < 10**8 else estimated_tokens(text)


def _make(model: str, settings: config.Synthesis, loaded: Any) -> OpenAICompleter:
    # The stages check this before the first call and say what would be sent; here it holds for every caller.
    if not settings.allow_remote and (host := remote_host()) is not None:
        problem = f"prompts would be sent to {host}"
        raise InputError(problem, where="generator openai", way_out="allow it (allow_remote: true)")
    return OpenAICompleter(model, settings.concurrency)


GENERATORS.add(
    "openai",
    Generator(
        make=_make,
        host=remote_host,
        priced=True,
        about="openai:MODEL, any OpenAI-compatible endpoint (OPENAI_BASE_URL, OPENAI_API_KEY)",
    ),
)
