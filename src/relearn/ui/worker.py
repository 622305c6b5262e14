"""One thread that does all work on models, one piece after the other, so that the page stays quick meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


class Worker:
    """Starts with the first piece of work. The thread does not keep the program alive."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._start = threading.Lock()
        self._thread: threading.Thread | None = None

    async def do(self, work: Callable[[], Value]) -> Value:
        """What `work` returns or raises. Work whose asker has gone before it began is not done."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Value] = loop.create_future()

        def settle(value: Value | None, error: BaseException | None) -> None:
            if done.done():
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(value)  # pyright: ignore[reportArgumentType]

        def job() -> None:
            if done.cancelled():
                return
            try:
                value, error = work(), None
            except BaseException as found:
                value, error = None, found
            hand_over(loop, settle, value, error)

        self._put(job)
        return await done

    def _put(self, job: Callable[[], None]) -> None:
        with self._start:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="models", daemon=True)
                self._thread.start()
        self._work.put(job)

    def close(self, seconds: float) -> bool:
        """No more work; whether the last piece has come to its end in that time."""
        if self._thread is None:
            return True
        self._work.put(None)
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (job := self._work.get()) is not None:
            job()


def hand_over(loop: asyncio.AbstractEventLoop, call: Callable[..., object], *arguments: object) -> None:
    """Have `call` made in the loop's thread; nobody waits any more where the loop is closed."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(call, *arguments)
