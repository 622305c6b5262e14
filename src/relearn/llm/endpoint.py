"""Send requests to an OpenAI-compatible endpoint, within limits of time and size, and describe every failure.

This module decides for all generators and judges whether an address is on this machine. Redirects are never followed,
because they could lead private prompts to another host. Neither messages of a server nor the login and the query of an
address are shown or logged, because they may contain a prompt or a key.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import math
import os
import socket
import ssl
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx

from relearn.core.errors import InputError

DEFAULT_URL = "https://api.openai.com/v1"
REQUEST_THREAD = "relearn-endpoint"
# httpx logs the address of every request, which may contain a key.
logging.getLogger("httpx").addFilter(lambda record: record.threadName != REQUEST_THREAD)


@dataclass(frozen=True)
class Limits:
    """Limit the requests of one prompt; times are in seconds.

    `tries`: requests, including the first. `request`: time of one request with its whole reply. `prompt`: time of all
    requests and waits. `first_wait`, `longest_wait`: backoff between requests. `body`: bytes of a reply.
    """

    tries: int = 6
    request: float = 180.0
    prompt: float = 300.0
    first_wait: float = 0.5
    longest_wait: float = 8.0
    body: int = 4 * 2**20


class RequestFailure(Exception):
    """Report a failed request; `reason` is shown.

    `endpoint`: the endpoint failed, not the prompt. `again`: the next try may succeed, after `wait` seconds if the
    server asks for it. `for_all`: the error of all prompts. `hint`: what to check. `details`: the error object of the
    server, which is never shown.
    """

    def __init__(
        self,
        reason: str,
        *,
        endpoint: bool = True,
        again: bool = False,
        wait: float | None = None,
        hint: str = "",
        for_all: InputError | None = None,
        details: Mapping[str, Any] | None = None,
    ):
        super().__init__(reason)
        self.reason, self.endpoint, self.again, self.wait = reason, endpoint, again, wait
        self.hint, self.for_all, self.details = hint, for_all, details or {}


class Endpoint:
    """Send chat completion requests for one model; threads may share an endpoint.

    Raises InputError for an invalid address, a missing key or wrong settings of a proxy. `where` names the endpoint in
    messages.
    """

    def __init__(self, model: str, limits: Limits):
        url = base_url()
        local = is_loopback(url)
        key = _api_key(local)
        address = httpx.URL(url)
        self.shown = _without_secrets(url)
        self.where = f"generator {model} at {self.shown}"
        self._model, self._limits = model, limits
        path = address.path.rstrip("/") + "/chat/completions"
        self._url = address.copy_with(path=path, userinfo=b"", fragment=None)
        login = (address.username, address.password) if address.userinfo else None
        headers = {"Accept-Encoding": "identity", "Content-Type": "application/json"}
        if key and login is None:
            headers["Authorization"] = f"Bearer {key}"
        unlimited = httpx.Limits(max_connections=None)
        try:
            # A client with its own transport ignores the proxies in the environment.
            transport = httpx.HTTPTransport(limits=unlimited) if local else None
            self._client = httpx.Client(transport=transport, auth=login, headers=headers, limits=unlimited)
        except (ValueError, ImportError, OSError, httpx.InvalidURL) as error:
            problem = f"cannot be reached with the settings of this machine ({type(error).__name__})"
            way_out = "check HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and SSL_CERT_FILE"
            raise InputError(problem, where=self.where, way_out=way_out) from None

    def post(self, options: Mapping[str, Any], deadline: float) -> Any:
        """Send one request and return the parsed reply. Raises RequestFailure."""
        until = min(deadline, time.monotonic() + self._limits.request)
        left = max(0.001, until - time.monotonic())
        timeout = httpx.Timeout(left, connect=min(left, 30.0))
        content = json.dumps(options)
        try:
            with self._client.stream(
                "POST", self._url, content=content, timeout=timeout, follow_redirects=False
            ) as response:
                body = self._read(response, until)
        except (httpx.HTTPError, OSError) as error:
            raise _connection_failure(error) from None
        if not response.is_success:
            raise self._refusal(response, body)
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            raise RequestFailure("a reply that is not JSON", again=True, hint="check OPENAI_BASE_URL") from None

    def _read(self, response: httpx.Response, until: float) -> bytes:
        """Read the body up to the limits of size and time; unpack gzip, which some servers send unasked."""
        body = bytearray()
        for chunk in response.iter_raw():
            body += chunk
            self._check_size(body)
            if time.monotonic() > until:
                raise RequestFailure("timed out", again=True)
        if response.headers.get("Content-Encoding", "").strip().lower() in ("", "identity"):
            return bytes(body)
        try:
            unpacked = zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(body, self._limits.body + 1)
        except zlib.error:
            raise RequestFailure("a reply in an unknown compression", again=True) from None
        self._check_size(unpacked)
        return unpacked

    def _check_size(self, body: bytes | bytearray) -> None:
        if len(body) > self._limits.body:
            raise RequestFailure(f"a reply of more than {self._limits.body // 2**20} MiB")

    def _refusal(self, response: httpx.Response, body: bytes) -> RequestFailure:
        """Describe a reply whose status is not 2xx."""
        status = response.status_code
        reason = f"HTTP {status}"
        if fault := self._fault_of_all(response):
            problem, way_out = fault
            error = InputError(f"{reason}: {problem}", where=self.where, way_out=way_out)
            return RequestFailure(reason, for_all=error)
        return RequestFailure(
            reason,
            endpoint=status not in (400, 413, 422),
            again=status in (408, 409, 425, 429) or status >= 500,
            wait=retry_after(response.headers.get("Retry-After")),
            details=_error_details(body) if status in (400, 422) else None,
        )

    def _fault_of_all(self, response: httpx.Response) -> tuple[str, str] | None:
        """Return (problem, way out) if every prompt would fail in the same way."""
        status = response.status_code
        if 300 <= status < 400:
            problem = f"redirects to {self._redirected_to(response)}; redirects are never followed"
            return problem, "set OPENAI_BASE_URL to the right address"
        if status in (401, 403):
            return "the key is not accepted", "check OPENAI_API_KEY"
        if status == 404:
            return f"no model {self._model!r} there", "check the name after openai: and OPENAI_BASE_URL"
        return None

    def _redirected_to(self, response: httpx.Response) -> str:
        try:
            target = self._url.join(response.headers["Location"])
        except (KeyError, ValueError, httpx.InvalidURL):
            return "an address that cannot be read"
        return f"{target.scheme}://{target.netloc.decode('ascii', 'replace')}"


def _connection_failure(error: Exception) -> RequestFailure:
    """Describe an error of httpx or of a socket in our own words, because its message may contain the address."""
    causes: list[BaseException] = [error]
    while cause := causes[-1].__cause__ or causes[-1].__context__:
        causes.append(cause)
    if isinstance(error, httpx.TimeoutException):
        return RequestFailure("timed out", again=True)
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        hint = "check http or https, and the endpoint's certificate (SSL_CERT_FILE)"
        return RequestFailure("no TLS connection", hint=hint)
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return RequestFailure("no connection: the host name is not found", again=True, hint="check OPENAI_BASE_URL")
    if isinstance(error, httpx.ConnectError | httpx.ProxyError):
        hint = "check that the endpoint runs, and OPENAI_BASE_URL"
        return RequestFailure("no connection", again=True, hint=hint)
    return RequestFailure("the connection broke", again=True)


def retry_after(header: str | None) -> float | None:
    """Parse Retry-After, a number of seconds or a date, to seconds from now; None unless it is positive."""
    try:
        seconds = float(header or "")
    except ValueError:
        try:
            date = parsedate_to_datetime(header or "")
            date = date if date.tzinfo else date.replace(tzinfo=UTC)
            seconds = (date - datetime.now(UTC)).total_seconds()
        except (TypeError, ValueError, IndexError, OverflowError):
            return None
    return None if math.isnan(seconds) or seconds <= 0 else seconds


def _error_details(body: bytes) -> dict[str, Any]:
    """Return the error object of a refused request, or {}."""
    try:
        reply = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    details = reply.get("error", reply) if isinstance(reply, dict) else {}
    return details if isinstance(details, dict) else {}


def base_url() -> str:
    """Return the endpoint: OPENAI_BASE_URL or DEFAULT_URL. Raises InputError unless it is an http(s) address."""
    url = os.environ.get("OPENAI_BASE_URL", "").strip() or DEFAULT_URL
    try:
        address = httpx.URL(url)
        usable = address.scheme in ("http", "https") and address.host != "" and urlsplit(url).hostname is not None
    except (ValueError, httpx.InvalidURL):
        usable = False
    # Programs disagree about where the host ends in an address with a backslash.
    if not usable or "\\" in url or any(sign.isspace() for sign in url):
        way_out = "export OPENAI_BASE_URL=http://localhost:8000/v1"
        raise InputError("not an http(s) address", where="OPENAI_BASE_URL", way_out=way_out)
    return url.rstrip("/")


def remote_host() -> str | None:
    """Return the host of the endpoint; None if it is on this machine."""
    url = base_url()
    return None if is_loopback(url) else httpx.URL(url).host


def is_loopback(url: str) -> bool:
    """Return whether `url` is on this machine: `localhost`, a loopback address, 0.0.0.0 or [::].

    Any other name is remote, also a.localhost, 127.1 and 2130706433: what they stand for is unknown until they are
    looked up.
    """
    host = httpx.URL(url).host
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified


def _without_secrets(url: str) -> str:
    """Return an address without its login, query and fragment."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _api_key(local: bool) -> str:
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not key and not local:
        way_out = "export OPENAI_API_KEY=..., or OPENAI_BASE_URL for an endpoint of your own"
        raise InputError("OPENAI_API_KEY is not set", where="generator openai", way_out=way_out)
    if not (key.isascii() and key.isprintable()):
        raise InputError("contains characters that no key has", where="OPENAI_API_KEY", way_out="copy the key again")
    return key
