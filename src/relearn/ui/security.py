"""What stands in front of the page: who may ask, and what browsers are told.

The page is for this machine's user alone. A website that the user visits could ask 127.0.0.1 as well: by a name of its
own that leads there (DNS rebinding; the list of hosts), by a request from another page (the origin), or by guessing
(the token, new at every start). All three have to hold.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from relearn.core.console import note

TOKEN_HEADER = "x-relearn-token"
STATIC = "/static/"
UNFORESEEN = "something went wrong; the terminal says what"
_HEADERS: Mapping[str, str] = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}


def new_token() -> str:
    return secrets.token_urlsafe(32)


@dataclass(frozen=True)
class Guard:
    """Middleware: refuses with one line of JSON what does not come from the page itself, and sets the headers.

    The token comes in the address for the page, in a header for everything else; style and script hold no secret and
    need none.
    """

    app: ASGIApp
    token: str = field(repr=False)
    port: int

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            return
        started = False

        async def guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        refused = self._refused(scope)
        try:
            await (refused or self.app)(scope, receive, guarded)
        except Exception as error:
            # What went wrong is for the terminal alone: it may hold paths.
            note(f"relearn ui: {type(error).__name__}: {' '.join(str(error).split())}")
            if not started:
                await failed(500, UNFORESEEN)(scope, receive, guarded)

    def _refused(self, scope: Scope) -> JSONResponse | None:
        headers, path = Headers(scope=scope), scope["path"]
        if not self._is_own_host(headers.getlist("host")):
            return failed(421, "this page answers to 127.0.0.1 and localhost alone")
        if not self._is_own_page(scope["method"], headers):
            return failed(403, "this was asked by another page")
        if path.startswith(STATIC):
            return None
        given = QueryParams(scope["query_string"]).get("token", "") if path == "/" else headers.get(TOKEN_HEADER, "")
        if not secrets.compare_digest(given.encode(), self.token.encode()):
            return failed(
                403, "the secret in the address is missing or of an earlier start: use the one that relearn ui printed"
            )
        return None

    def _is_own_host(self, hosts: list[str]) -> bool:
        return len(hosts) == 1 and hosts[0].lower() in self._hosts

    def _is_own_page(self, method: str, headers: Headers) -> bool:
        """A request that asks for something says where it comes from; one that only reads need not."""
        origins = headers.getlist("origin")
        if not origins:
            return method in ("GET", "HEAD")
        return len(origins) == 1 and origins[0] in {f"http://{host}" for host in self._hosts}

    @property
    def _hosts(self) -> set[str]:
        names = ("127.0.0.1", "localhost")
        # Browsers leave out the port that http has by itself.
        return {f"{name}:{self.port}" for name in names} | (set(names) if self.port == 80 else set())


def failed(status: int, text: str) -> JSONResponse:
    """An error as every answer of the page gives it: one line."""
    content: dict[str, Any] = {"error": text}
    return JSONResponse(content, status_code=status)
