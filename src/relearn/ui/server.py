"""The page's web application: the page itself, its script and style, and what the script may ask for.

`relearn ui`: opens the folders, takes a port of 127.0.0.1, names the address and serves until Ctrl-C.
"""

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
from relearn.ui.run_data import WORDS, Opened, named_models, open_runs, table
from relearn.ui.security import UNFORESEEN, Guard, failed
from relearn.ui.session import Desk, Stopped, Unknown, Worker, hand_over

PAGE = Path(__file__).parent / "page"
LONGEST_BODY = 64 << 10
LONGEST_QUESTION = 8_000
_CANNOT_LOAD = "the model cannot be loaded or asked; the terminal says why"
Value = TypeVar("Value")
Line = Mapping[str, Any]


class Refused(Exception):
    """A request that is answered with a status and one line."""

    def __init__(self, status: int, text: str):
        super().__init__(text)
        self.status = status


class Server:
    """What stands behind the routes. `agreed`: the user has said that models may be loaded."""

    def __init__(self, runs: Sequence[Opened], desk: Desk, worker: Worker):
        self._runs = runs
        self._models = named_models(runs)
        self._desk = desk
        self._worker = worker
        self._work: asyncio.Future[None] | None = None
        self._answering = False
        self.agreed = False

    async def page(self, _: Request) -> Response:
        html = self._template.render(
            runs=self._runs,
            models=self._models,
            columns=self._desk.columns,
            agreed=self.agreed,
            words=WORDS,
            numbers=table([run.summary for run in self._runs], all(run.trained for run in self._runs)),
        )
        return HTMLResponse(html)

    async def load(self, request: Request) -> Response:
        await _body(request)
        self._able()
        self.agreed = True
        await self._do(self._desk.load)
        return JSONResponse({"loaded": True})

    async def ask(self, request: Request) -> Response:
        body = await _body(request)
        question, form = body.get("question"), body.get("form", "chat")
        if not isinstance(question, str) or not question.strip():
            raise Refused(400, "the question is empty")
        if len(question) > LONGEST_QUESTION:
            raise Refused(413, f"the question has more than {LONGEST_QUESTION:,} characters")
        if form not in ("chat", "text"):
            raise Refused(400, "a question is asked as chat or as text")
        self._able(agreed=True)
        if self._answering:
            raise Refused(409, "another question is being answered; ask again when it is done")
        stop = threading.Event()
        return _Stream(self._start(partial(self._desk.ask, question, form), stop), stop)

    async def candidates(self, request: Request) -> Response:
        body = await _body(request)
        self._able(agreed=True, idle=True)
        return JSONResponse({"places": await self._do(lambda: self._desk.candidates(str(body.get("answer"))))})

    async def layers(self, request: Request) -> Response:
        body = await _body(request)
        token = body.get("token")
        if not isinstance(token, int):
            raise Refused(400, "a token is named by its number")
        self._able(agreed=True, idle=True)
        return JSONResponse({"layers": await self._do(lambda: self._desk.layers(str(body.get("answer")), token))})

    def _able(self, *, agreed: bool = False, idle: bool = False) -> None:
        """Raises Refused where no run can be asked, or nobody agreed, or an answer is being written."""
        if not self._desk.columns:
            raise Refused(409, "none of these runs can be asked")
        if agreed and not self.agreed:
            raise Refused(403, "no model is loaded before you agree to it")
        if idle and self._answering:
            raise Refused(409, "an answer is being written; look inside when it is done")

    async def _do(self, work: Callable[[], Value]) -> Value:
        try:
            return await self._worker.do(work)
        except Unknown:
            raise Refused(404, "this answer is not kept any more; ask again") from None
        except (RelearnError, OSError, RuntimeError, ValueError) as error:
            raise Refused(422, _explain(error)) from None

    def _start(self, ask: Callable[..., None], stop: threading.Event) -> asyncio.Queue[Line | None]:
        """Have a question answered; the lines of the answer as they come, None at the end.

        Whoever goes away sets `stop`; the work itself says when it is over.
        """
        loop = asyncio.get_running_loop()
        lines: asyncio.Queue[Line | None] = asyncio.Queue()

        def tell(line: Line | None) -> None:
            hand_over(loop, lines.put_nowait, line)

        def work() -> None:
            try:
                ask(tell, stop)
                tell({"end": True})
            except Stopped:
                pass
            except Exception as error:
                tell({"error": _explain(error)})
            finally:
                self._answering = False
                tell(None)

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
    """Lines of JSON. However it ends, the work that makes them is told to stop."""

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
    runs: Sequence[Opened], *, token: str, port: int, desk: Desk | None = None, worker: Worker | None = None
) -> ASGIApp:
    """The application for `runs`, to be served on 127.0.0.1:`port`. Raises InputError for a folder it cannot show."""
    server = Server(runs, desk or Desk(runs), worker or Worker())
    routes = [
        Route("/", server.page),
        Route("/api/load", server.load, methods=["POST"]),
        Route("/api/ask", server.ask, methods=["POST"]),
        Route("/api/candidates", server.candidates, methods=["POST"]),
        Route("/api/layers", server.layers, methods=["POST"]),
        Mount("/static", StaticFiles(directory=PAGE / "static")),
    ]
    handlers = {Refused: _refused, HTTPException: _http_error, Exception: _unforeseen}
    return Guard(Starlette(routes=routes, exception_handlers=handlers), token, port)


async def _body(request: Request) -> dict[str, Any]:
    """The request's JSON mapping."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise Refused(415, "this is asked in JSON")
    raw = b""
    async for piece in request.stream():
        raw += piece
        if len(raw) > LONGEST_BODY:
            raise Refused(413, "this is too long")
    try:
        value = json.loads(raw)
    except ValueError:
        raise Refused(400, "this is not JSON") from None
    if not isinstance(value, dict):
        raise Refused(400, "this is not a mapping")
    return value


def _explain(error: Exception) -> str:
    """For the terminal all of it, for the page nothing that may hold a path."""
    name = "" if isinstance(error, RelearnError) else f"{type(error).__name__}: "
    note(f"relearn ui: {name}{' '.join(str(error).split())}")
    return _CANNOT_LOAD


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return failed(error.status, str(error))


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return failed(
        error.status_code,
        {404: "there is nothing here", 405: "not in this way"}.get(error.status_code, "this cannot be answered"),
    )


async def _unforeseen(_: Request, __: Exception) -> Response:
    """The guard, which it is raised to afterwards, names it in the terminal."""
    return failed(500, UNFORESEEN)


HOST = "127.0.0.1"
# Open connections get so many seconds at the end.
_GRACE = 2


def serve(folders: Sequence[Path], port: int = 0, *, browser: bool = True) -> None:
    """Raises InputError for folders that cannot be shown and for a port that cannot be had; 0 takes a free one."""
    import uvicorn

    from relearn.ui.security import new_token
    from relearn.ui.session import Worker

    runs = open_runs(folders)
    token, worker = new_token(), Worker()
    with listening(port) as listener:
        number = listener.getsockname()[1]
        app = make_app(runs, token=token, port=number, worker=worker)
        config = uvicorn.Config(
            app,
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
        note("this address holds a secret and is for you alone; Ctrl-C ends it")
        if browser:
            # Some browsers keep whoever calls them waiting, and the page has to be served meanwhile.
            threading.Thread(target=_show, args=(address,), daemon=True).start()
        try:
            uvicorn.Server(config).run(sockets=[listener])
        finally:
            # An answer ends at its next token, a model that is being loaded does not; nothing is lost with either.
            if not worker.close(_GRACE):
                sys.stderr.flush()
                os._exit(130)


def _show(address: str) -> None:
    if not webbrowser.open(address):
        note("no browser was found: open the address yourself")


def listening(port: int) -> socket.socket:
    """A socket on 127.0.0.1 and nowhere else."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        # Else a port stays taken for a minute after its server has ended.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen()
    except (OSError, OverflowError) as error:
        listener.close()
        raise _no_port(port, error) from None
    return listener


def _no_port(port: int, error: OSError | OverflowError) -> InputError:
    why = {errno.EADDRINUSE: "is taken", errno.EACCES: "is not for ordinary users"}.get(
        getattr(error, "errno", None) or 0, "is no port from 0 to 65535"
    )
    return InputError(f"port {port} {why}", where="--port", way_out="leave it out, and a free one is taken")
