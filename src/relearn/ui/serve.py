"""`relearn ui`: opens the folders, takes a port of 127.0.0.1, names the address and serves until Ctrl-C."""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from relearn.core.console import note
from relearn.core.errors import InputError
from relearn.ui.run_data import open_runs

HOST = "127.0.0.1"
# Open connections get so many seconds at the end.
_GRACE = 2


def serve(folders: Sequence[Path], port: int = 0, *, browser: bool = True) -> None:
    """Raises InputError for folders that cannot be shown and for a port that cannot be had; 0 takes a free one."""
    import uvicorn

    from relearn.ui.security import new_token
    from relearn.ui.server import make_app
    from relearn.ui.worker import Worker

    runs = open_runs(folders)
    token, worker = new_token(), Worker()
    with listening(port) as listener:
        number = listener.getsockname()[1]
        app = make_app(runs, token=token, port=number, worker=worker)
        config = uvicorn.Config(
            app, log_level="critical", access_log=False, server_header=False, proxy_headers=False, ws="none",
            lifespan="off", timeout_graceful_shutdown=_GRACE,
        )  # fmt: skip
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
