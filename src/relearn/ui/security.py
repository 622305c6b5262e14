"""Check host, origin and token of requests to the page, and set security headers on responses.

Only the user of this machine may use the page. A website that the user visits can also send requests to 127.0.0.1. The
three checks refuse them: a host name that resolves to 127.0.0.1 (DNS rebinding) is not in the list of hosts, a request
from another page has another origin, and the token is a new random secret at every start.
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
INTERNAL_ERROR = "something went wrong; see the terminal for details"
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
    """Generate a random token for the address of the page."""
    return secrets.token_urlsafe(32)


@dataclass(frozen=True)
class SecurityMiddleware:
    """Refuse requests that do not come from the page, and set security headers on all responses.

    A refused request gets one line of JSON. The token is in the query string of the page's address and in the header
    TOKEN_HEADER of other requests; static files need no token.
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

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        refused = self._refused(scope)
        try:
            await (refused or self.app)(scope, receive, send_with_headers)
        except Exception as error:
            # The error message may contain paths, so it is printed in the terminal and not sent.
            note(f"relearn ui: {type(error).__name__}: {' '.join(str(error).split())}")
            if not started:
                await error_response(500, INTERNAL_ERROR)(scope, receive, send_with_headers)

    def _refused(self, scope: Scope) -> JSONResponse | None:
        headers, path = Headers(scope=scope), scope["path"]
        if not self._is_own_host(headers.getlist("host")):
            return error_response(421, "this page is served to 127.0.0.1 and localhost only")
        if not self._is_own_page(scope["method"], headers):
            return error_response(403, "this request comes from another page")
        if path.startswith(STATIC):
            return None
        token = QueryParams(scope["query_string"]).get("token", "") if path == "/" else headers.get(TOKEN_HEADER, "")
        if not secrets.compare_digest(token.encode(), self.token.encode()):
            return error_response(
                403, "the token in the address is missing or expired: open the address that relearn ui printed"
            )
        return None

    def _is_own_host(self, hosts: list[str]) -> bool:
        return len(hosts) == 1 and hosts[0].lower() in self._hosts

    def _is_own_page(self, method: str, headers: Headers) -> bool:
        """Return whether the header "origin" is this page; only GET and HEAD requests may lack it."""
        origins = headers.getlist("origin")
        if not origins:
            return method in ("GET", "HEAD")
        return len(origins) == 1 and origins[0] in {f"http://{host}" for host in self._hosts}

    @property
    def _hosts(self) -> set[str]:
        names = ("127.0.0.1", "localhost")
        # Browsers omit the default port of http.
        return {f"{name}:{self.port}" for name in names} | (set(names) if self.port == 80 else set())


def error_response(status: int, text: str) -> JSONResponse:
    """Return an error response in the JSON format of the page: {"error": text}."""
    content: dict[str, Any] = {"error": text}
    return JSONResponse(content, status_code=status)
