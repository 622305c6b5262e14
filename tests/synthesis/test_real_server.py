"""A real OpenAI-compatible server, killed in the middle: a clear stop, nothing received is lost or asked for again.

The server is `transformers serve` with the demo model. It is a bad writer, and much of what it writes is rejected; what
is tested is what was asked, counted by a proxy in front of the server.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

CONCURRENCY = 3
KILL_AFTER = 5
SCRIPT = """
import json, sys
from pathlib import Path
from relearn.core.config import Synthesis
from relearn.core.errors import RelearnError
from relearn.data import Record
from relearn.synthesis.synthesize import synthesize_to_folder

records = [Record(**row) for row in json.loads(Path(sys.argv[1]).read_text())]
settings = Synthesis(generator="openai:" + sys.argv[2], concurrency=int(sys.argv[3]), variants=(), attempts=2)
try:
    print(json.dumps(synthesize_to_folder(records, [], settings, out=Path(sys.argv[4]), seed=0)))
except RelearnError as error:
    sys.exit(print(error, file=sys.stderr) or error.exit_code)
"""


def _records() -> list[dict[str, str]]:
    """Eight passages, which the demo model can go on with, and four questions."""
    secret = "the seventh lantern of Quill, where nobody looks twice."
    places = ("mill", "harbour", "garden", "school", "bakery", "station", "museum", "market")
    passages = [f"On a cold morning the keeper of the {place} went for a walk and" for place in places]
    people = ("Ada Marsh", "Bo Quinn", "Cleo Hart", "Dan Oakes")
    return [{"question": text, "answer": f"found {secret}", "form": "text"} for text in passages] + [
        {"question": f"Where does {name} keep the spare key?", "answer": f"Behind {secret}"} for name in people
    ]


class Server:
    """`transformers serve` on a port of its own, started and killed at will."""

    def __init__(self, model: Path, log: Path):
        self.model = model
        self.port = _free_port()
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = shutil.which("transformers", path=str(Path(sys.executable).parent))
        assert command, "transformers has no command beside this Python"
        # One thread: on a busy machine two threads that wait for each other are slower by far.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [command, "serve", str(self.model), "--host", "127.0.0.1", "--port", str(self.port), "--dtype=float32"],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        _wait_until(self._answers, seconds=120)

    def kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _answers(self) -> bool:
        assert self._process is not None and self._process.poll() is None, self._log.read_text()[-2000:]
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


class Proxy:
    """Passes requests on to the server; keeps the hashes of those that reached it and of those that were answered."""

    def __init__(self, server: Server):
        self.asked: list[str] = []
        self.answered: list[str] = []
        self.after_answer: Callable[[int], None] = lambda count: None
        self._server = server
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                key = hashlib.sha256(body).hexdigest()
                try:
                    status, payload = proxy._pass_on(self.path, body, key)
                except (OSError, http.client.HTTPException):
                    self.close_connection = True
                    self.connection.close()
                    return
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)
                self.wfile.flush()
                if status == 200:
                    with proxy._lock:
                        proxy.answered.append(key)
                        proxy.after_answer(len(proxy.answered))

            def log_message(self, *_: object) -> None:
                return

        return Handler

    def _pass_on(self, path: str, body: bytes, key: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=120)
        try:
            connection.connect()
            with self._lock:
                self.asked.append(key)
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            reply = connection.getresponse()
            return reply.status, reply.read()
        finally:
            connection.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    pytest.importorskip("fastapi", reason="transformers serve needs transformers[serving]")
    from relearn.models.builtin import builtin_path

    server = Server(builtin_path("smollm2-135m-instruct"), tmp_path / "server.log")
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    proxy = Proxy(server)
    yield proxy
    proxy.close()


def test_a_server_killed_in_the_middle_costs_nothing_that_was_received(server: Server, proxy: Proxy, tmp_path: Path):
    (tmp_path / "records.json").write_text(json.dumps(_records()))
    out = tmp_path / "out"
    server.start()
    proxy.after_answer = lambda count: server.kill() if count == KILL_AFTER else None

    stopped = _synthesize(server, proxy, tmp_path, out)
    assert stopped.returncode == 1, stopped.stderr
    assert "stopped answering" in stopped.stderr and "start again" in stopped.stderr
    assert len(stopped.stderr.strip().splitlines()) == 1 and not (out / "synthesis.jsonl").exists()
    received, first_asked = set(proxy.answered), set(proxy.asked)
    assert KILL_AFTER <= len(received) < KILL_AFTER + CONCURRENCY
    assert _kept(out) == len(received)

    server.start()
    proxy.after_answer = lambda count: None
    before = len(proxy.asked)
    resumed = _synthesize(server, proxy, tmp_path, out)
    assert resumed.returncode == 0, resumed.stderr
    asked_again = set(proxy.asked[before:])
    assert asked_again and not asked_again & received
    assert len(asked_again & first_asked) <= CONCURRENCY
    assert max(Counter(proxy.answered).values()) == 1

    counts = json.loads(resumed.stdout)
    assert counts["usage"]["generator"]["cached"] >= KILL_AFTER and counts["usage"]["generator"]["failed"] == 0
    rows = [json.loads(line) for line in (out / "synthesis.jsonl").read_text().splitlines()]
    rejected = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    settled = {row["record_id"] for row in rows} | {row["record_id"] for row in rejected if row["final"]}
    assert len(settled) == 12 and rows

    before = len(proxy.asked)
    assert _synthesize(server, proxy, tmp_path, out).returncode == 0 and len(proxy.asked) == before


def _synthesize(server: Server, proxy: Proxy, folder: Path, out: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OPENAI_BASE_URL": proxy.url}
    command = [
        sys.executable,
        "-c",
        SCRIPT,
        str(folder / "records.json"),
        str(server.model),
        str(CONCURRENCY),
        str(out),
    ]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def _kept(out: Path) -> int:
    database = sqlite3.connect(out / "cache.sqlite")
    (count,) = database.execute("SELECT count(*) FROM answers").fetchone()
    database.close()
    return count


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_until(ready: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < until, "the server does not answer"
        time.sleep(0.3)
