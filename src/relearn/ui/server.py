"""Serve the web page of `relearn ui` on 127.0.0.1: HTML, static files, and the JSON requests of its script."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from relearn.core.console import note
from relearn.core.errors import InputError, RelearnError
from relearn.ui.run_data import WORDS, OpenedRun, named_models, open_runs, table
from relearn.ui.security import INTERNAL_ERROR, SecurityMiddleware, error_response
from relearn.ui.session import AnswerStopped, Session, UnknownAnswer, Worker, call_in_loop

PAGE = Path(__file__).parent / "page"
MAX_BODY_BYTES = 64 << 10
MAX_QUESTION_CHARACTERS = 8_000
_CANNOT_LOAD = "the model cannot be loaded or asked; see the terminal for the reason"
ModelWork = TypeVar("ModelWork")
Line = Mapping[str, Any]


class RequestRefused(Exception):
    """Refuse a request with an error response of this HTTP status and a message of one line."""

    def __init__(self, status: int, text: str):
        super().__init__(text)
        self.status = status


class Server:
    """Handle the requests of the page. `agreed`: the user has agreed that models are loaded."""

    def __init__(self, runs: Sequence[OpenedRun], session: Session, worker: Worker):
        self._runs = runs
        self._models = named_models(runs)
        self._session = session
        self._worker = worker
        self._work: asyncio.Future[None] | None = None
        self._answering = False
        self.agreed = False

    async def page(self, _: Request) -> Response:
        html = self._template.render(
            runs=self._runs,
            models=self._models,
            columns=self._session.columns,
            agreed=self.agreed,
            words=WORDS,
            numbers=table([run.summary for run in self._runs], all(run.trained for run in self._runs)),
        )
        return HTMLResponse(html)

    async def load(self, request: Request) -> Response:
        await _body(request)
        self._check_able()
        self.agreed = True
        await self._do(self._session.load)
        return JSONResponse({"loaded": True})

    async def ask(self, request: Request) -> Response:
        body = await _body(request)
        question, form = body.get("question"), body.get("form", "chat")
        if not isinstance(question, str) or not question.strip():
            raise RequestRefused(400, "the question is empty")
        if len(question) > MAX_QUESTION_CHARACTERS:
            raise RequestRefused(413, f"the question has more than {MAX_QUESTION_CHARACTERS:,} characters")
        if form not in ("chat", "text"):
            raise RequestRefused(400, "the form of a question is chat or text")
        self._check_able(agreed=True)
        if self._answering:
            raise RequestRefused(409, "another question is being answered; ask again when it is done")
        stop = threading.Event()
        return _Stream(self._start(partial(self._session.ask, question, form), stop), stop)

    async def candidates(self, request: Request) -> Response:
        body = await _body(request)
        self._check_able(agreed=True, idle=True)
        return JSONResponse({"places": await self._do(lambda: self._session.candidates(str(body.get("answer"))))})

    async def layers(self, request: Request) -> Response:
        body = await _body(request)
        token = body.get("token")
        if not isinstance(token, int):
            raise RequestRefused(400, "a token is given by its number")
        self._check_able(agreed=True, idle=True)
        return JSONResponse({"layers": await self._do(lambda: self._session.layers(str(body.get("answer")), token))})

    def _check_able(self, *, agreed: bool = False, idle: bool = False) -> None:
        """Raise RequestRefused where the models cannot be used.

        That is the case where no run has models to load; with `agreed`, before the user has agreed that models are
        loaded; with `idle`, while an answer is generated.
        """
        if not self._session.columns:
            raise RequestRefused(409, "none of these runs can be asked")
        if agreed and not self.agreed:
            raise RequestRefused(403, "models are loaded only after you agree")
        if idle and self._answering:
            raise RequestRefused(409, "an answer is being written; try again when it is done")

    async def _do(self, work: Callable[[], ModelWork]) -> ModelWork:
        try:
            return await self._worker.do(work)
        except UnknownAnswer:
            raise RequestRefused(404, "this answer is no longer stored; ask again") from None
        except (RelearnError, OSError, RuntimeError, ValueError) as error:
            raise RequestRefused(422, _explain(error)) from None

    def _start(self, ask: Callable[..., None], stop: threading.Event) -> asyncio.Queue[Line | None]:
        """Start to generate the answers to a question; return a queue of lines for the page, with None at the end.

        Generation stops after `stop` is set, which happens when the client disconnects.
        """
        loop = asyncio.get_running_loop()
        lines: asyncio.Queue[Line | None] = asyncio.Queue()

        def emit(line: Line | None) -> None:
            call_in_loop(loop, lines.put_nowait, line)

        def work() -> None:
            try:
                ask(emit, stop)
                emit({"end": True})
            except AnswerStopped:
                pass
            except Exception as error:
                emit({"error": _explain(error)})
            finally:
                self._answering = False
                emit(None)

        self._answering = True
        self._work = asyncio.ensure_future(self._worker.do(work))
        return lines

    @cached_property
    def _template(self) -> Any:
        environment = Environment(
            loader=FileSystemLoader(PAGE),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        return environment.get_template("page.html")


class _Stream(StreamingResponse):
    """Stream lines of JSON; set `stop` when the response ends, also when the client disconnects."""

    def __init__(self, lines: asyncio.Queue[Line | None], stop: threading.Event):
        self._stop = stop
        super().__init__(_written(lines), media_type="application/x-ndjson")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._stop.set()


async def _written(lines: asyncio.Queue[Line | None]) -> AsyncIterator[str]:
    while (line := await lines.get()) is not None:
        yield json.dumps(line, ensure_ascii=False) + "\n"


def make_app(
    runs: Sequence[OpenedRun], *, token: str, port: int, session: Session | None = None, worker: Worker | None = None
) -> ASGIApp:
    """Create the web application for `runs`, to be served on 127.0.0.1:`port`."""
    server = Server(runs, session or Session(runs), worker or Worker())
    routes = [
        Route("/", server.page),
        Route("/api/load", server.load, methods=["POST"]),
        Route("/api/ask", server.ask, methods=["POST"]),
        Route("/api/candidates", server.candidates, methods=["POST"]),
        Route("/api/layers", server.layers, methods=["POST"]),
        Mount("/static", StaticFiles(directory=PAGE / "static")),
    ]
    handlers = {RequestRefused: _refused, HTTPException: _http_error, Exception: _internal_error}
    return SecurityMiddleware(Starlette(routes=routes, exception_handlers=handlers), token, port)


async def _body(request: Request) -> dict[str, Any]:
    """Read the body of a request, a JSON object of at most MAX_BODY_BYTES. Raises RequestRefused for any other body."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise RequestRefused(415, "the body must be JSON")
    raw = b""
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > MAX_BODY_BYTES:
            raise RequestRefused(413, "the body is too long")
    try:
        value = json.loads(raw)
    except ValueError:
        raise RequestRefused(400, "the body is not JSON") from None
    if not isinstance(value, dict):
        raise RequestRefused(400, "the body is not a mapping")
    return value


def _explain(error: Exception) -> str:
    """Print an error in the terminal; return a general message for the page, because the error may contain a path."""
    name = "" if isinstance(error, RelearnError) else f"{type(error).__name__}: "
    note(f"relearn ui: {name}{' '.join(str(error).split())}")
    return _CANNOT_LOAD


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestRefused)
    return error_response(error.status, str(error))


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return error_response(
        error.status_code, {404: "not found", 405: "method not allowed"}.get(error.status_code, "bad request")
    )


async def _internal_error(_: Request, __: Exception) -> Response:
    """Respond to an unexpected error; Starlette raises it again, and SecurityMiddleware prints it."""
    return error_response(500, INTERNAL_ERROR)


HOST = "127.0.0.1"
# Seconds to wait for open connections to end after Ctrl-C.
_GRACE = 2


def serve(folders: Sequence[Path], port: int = 0, *, browser: bool = True, trust_remote_code: bool = False) -> None:
    """Read the run folders, print the address of the page and serve it until Ctrl-C.

    `port`: 0 for any free port. `trust_remote_code`: run code from the repositories of the models. Raises InputError
    for a folder that cannot be read and a port that is not available.
    """
    import uvicorn

    from relearn.ui.security import new_token
    from relearn.ui.session import Worker

    runs = open_runs(folders, trust_remote_code=trust_remote_code)
    token, worker = new_token(), Worker()
    with listening(port) as listener:
        number = listener.getsockname()[1]
        app = make_app(runs, token=token, port=number, worker=worker)
        config = uvicorn.Config(
            app,
            # The log configuration of uvicorn would close handlers of other libraries, and with them stderr.
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            lifespan="off",
            timeout_graceful_shutdown=_GRACE,
        )
        address = f"http://{HOST}:{number}/?token={token}"
        print(address, flush=True)
        note("this address contains a secret token, so do not share it; stop with Ctrl-C")
        if browser:
            # In a thread, because some browsers block until they are closed.
            threading.Thread(target=_open_browser, args=(address,), daemon=True).start()
        try:
            uvicorn.Server(config).run(sockets=[listener])
        finally:
            # Generation stops at the next token, but loading a model cannot be interrupted, so the process is ended.
            if not worker.close(_GRACE):
                sys.stderr.flush()
                os._exit(130)


def _open_browser(address: str) -> None:
    if not webbrowser.open(address):
        note("no browser found: open the address yourself")


def listening(port: int) -> socket.socket:
    """Bind and return a socket on 127.0.0.1. Raises InputError for a port that is not available."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        # Without this option the port stays in use for a minute after the server has ended.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen()
    except (OSError, OverflowError) as error:
        listener.close()
        raise _port_error(port, error) from None
    return listener


def _port_error(port: int, error: OSError | OverflowError) -> InputError:
    why = {errno.EADDRINUSE: "is in use", errno.EACCES: "needs administrator rights"}.get(
        getattr(error, "errno", None) or 0, "is not between 0 and 65535"
    )
    return InputError(f"port {port} {why}", where="--port", way_out="leave it out to use a free port")
