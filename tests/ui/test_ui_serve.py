"""The command itself: the address it prints, the port it takes, and how it ends."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
import uvicorn
from ui_runs import make_run

from relearn.cli import run_command
from relearn.ui.server import listening

ADDRESS = re.compile(r"http://127\.0\.0\.1:(\d+)/\?token=([\w-]{43,})\n")


def test_a_taken_port_is_one_line(plain_run, capsys):
    with listening(0) as taken:
        port = taken.getsockname()[1]
        assert run_command(["ui", str(plain_run), "--no-browser", "--port", str(port)]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err == (
        f"relearn: --port: port {port} is in use -> leave it out to use a free port\n"
    )


@pytest.mark.parametrize("port", ["-1", "65536", "http"])
def test_what_is_no_port_is_one_line(plain_run, port, capsys):
    assert run_command(["ui", str(plain_run), "--no-browser", "--port", port]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_it_listens_on_this_machine_alone():
    with listening(0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize(("arguments", "opened"), [([], True), (["--no-browser"], False)])
def test_the_browser_is_opened_at_the_printed_address(plain_run, monkeypatch, capsys, arguments, opened):
    seen, shown = [], threading.Event()
    monkeypatch.setattr("webbrowser.open", lambda address: seen.append(address) or shown.set() or True)
    monkeypatch.setattr(uvicorn.Server, "run", lambda *_, **__: shown.wait(10 if opened else 0))
    assert run_command(["ui", str(plain_run), *arguments]) == 0
    printed = capsys.readouterr().out
    assert ADDRESS.fullmatch(printed)
    assert seen == ([printed.strip()] if opened else [])


@contextmanager
def started(run) -> Iterator[tuple[subprocess.Popen, str, str]]:
    """The command as a process, its page's root, and its token."""
    command = [sys.executable, "-m", "relearn", "ui", str(run), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as ui:
        assert ui.stdout is not None
        found = ADDRESS.fullmatch(ui.stdout.readline())
        assert found
        yield ui, f"http://127.0.0.1:{found[1]}", found[2]


def ends_well(ui: subprocess.Popen, token: str) -> None:
    ui.send_signal(signal.SIGINT)
    assert ui.wait(60) in (0, 130)
    assert ui.stderr is not None
    said = ui.stderr.read()
    assert said.count("\n") == 1 and token not in said, said


@pytest.mark.slow
def test_ctrl_c_ends_it_without_a_traceback(plain_run):
    with started(plain_run) as (ui, root, token):
        assert httpx.get(f"{root}/?token={token}", timeout=60).status_code == 200
        assert httpx.get(root, timeout=60).status_code == 403
        ends_well(ui, token)


@pytest.mark.slow
def test_ctrl_c_ends_it_in_the_middle_of_an_answer(tiny_model_dir, tmp_path):
    run = make_run(tmp_path / "long", tiny_model_dir, generate={"max_new_tokens": 900})
    with started(run) as (ui, root, token):
        own = {"origin": root, "x-relearn-token": token}
        assert httpx.post(f"{root}/api/load", json={}, headers=own, timeout=300).json() == {"loaded": True}
        with httpx.stream("POST", f"{root}/api/ask", json={"question": "Who?"}, headers=own, timeout=300) as answer:
            assert '"answering"' in next(answer.iter_lines())
            ends_well(ui, token)
