"""Cache completions in an SQLite file, so that no prompt is sent, or paid for, twice.

Each completion is committed when it is received. If the process is killed, only the pending prompts are lost. The file
contains the completions and hashes of the prompts, not the prompts.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from relearn.core.errors import InputError
from relearn.core.files import make_private_dir
from relearn.llm.completer import CallBudget, Completer, Completion, Prompt


@runtime_checkable
class StreamingCompleter(Protocol):
    """Define a completer that yields (position, completion) when received, and reads a prompt when it can send it."""

    name: str

    def stream(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion]]: ...


@dataclass
class Usage:
    """Count prompts and tokens: `asked` prompts were sent, `cached` were found in the cache, `failed` got an error."""

    asked: int = 0
    cached: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def to_dict(self) -> dict[str, int]:
        return asdict(self)

    def add(self, completion: Completion) -> None:
        self.asked += 1
        self.failed += not completion.ok
        self.input_tokens += completion.input_tokens
        self.output_tokens += completion.output_tokens


def cache_key(name: str, prompt: Prompt) -> str:
    """Compute the cache key: sha256 of the completer name and of all prompt fields that affect the completion."""
    parts = {
        "completer": name,
        "text": prompt.text,
        "max_tokens": prompt.max_tokens,
        "temperature": prompt.temperature,
        "attempt": prompt.attempt,
        "seed": prompt.seed if prompt.temperature > 0 else None,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class AnswerStore:
    """Store completions by cache key in an SQLite file that only its owner can read; in memory if `path` is None.

    Raises InputError if the file is not such a cache.
    """

    def __init__(self, path: Path | None):
        self.path = path
        if path is not None:
            make_private_dir(path.parent)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        try:
            self._db = sqlite3.connect(path or ":memory:", timeout=30, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS answers "
                "(key TEXT PRIMARY KEY, text TEXT NOT NULL, input_tokens INTEGER, output_tokens INTEGER)"
            )
        except sqlite3.DatabaseError as error:
            raise InputError(f"not an answer cache: {error}", where=str(path), way_out="move it away") from None

    def get(self, key: str) -> Completion | None:
        row = self._db.execute("SELECT text, input_tokens, output_tokens FROM answers WHERE key = ?", (key,)).fetchone()
        return Completion(row[0], input_tokens=row[1], output_tokens=row[2], cached=True) if row else None

    def put(self, key: str, completion: Completion) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)",
            (key, completion.text, completion.input_tokens, completion.output_tokens),
        )

    def total_usage(self) -> tuple[int, int]:
        """Return (calls, tokens) that generating the stored completions took."""
        return self._db.execute(
            "SELECT count(*), coalesce(sum(input_tokens + output_tokens), 0) FROM answers"
        ).fetchone()

    def close(self) -> None:
        self._db.close()


class CachedCompleter:
    """Complete prompts with a cache: send only prompts that are not cached, and equal prompts once.

    Failures are returned, but not cached. `on_arrival` is called once per distinct prompt, cached or new, and is used
    for progress bars.
    """

    def __init__(self, inner: Completer, path: Path | None, budget: CallBudget | None = None):
        self.inner = inner
        self.name = inner.name
        self.usage = Usage()
        self.budget = budget or CallBudget()
        self.on_arrival: Callable[[], None] = ignore_arrival
        self._store = AnswerStore(path)

    def complete(self, prompts: Sequence[Prompt]) -> list[Completion]:
        """Complete prompts in order. Raises BudgetError if the budget is used up; received completions are cached."""
        keys = [cache_key(self.name, prompt) for prompt in prompts]
        answers: dict[str, Completion] = {}
        missing: dict[str, Prompt] = {}
        for key, prompt in zip(keys, prompts, strict=True):
            if key in answers or key in missing:
                self.usage.cached += 1
            elif (stored := self._store.get(key)) is not None:
                answers[key] = stored
                self.usage.cached += 1
                self.on_arrival()
            else:
                missing[key] = prompt
        for key, completion in self._send(list(missing.items())):
            answers[key] = completion
            self.on_arrival()
        returned: set[str] = set()
        completions = []
        for key in keys:
            repeated = key in returned and answers[key].ok
            completions.append(replace(answers[key], cached=True) if repeated else answers[key])
            returned.add(key)
        return completions

    def stored(self, prompts: Sequence[Prompt]) -> list[Completion | None]:
        """Return the cached completion of each prompt, or None; no prompt is sent."""
        return [self._store.get(cache_key(self.name, prompt)) for prompt in prompts]

    def close(self) -> None:
        self._store.close()

    def _send(self, unsent: list[tuple[str, Prompt]]) -> Iterator[tuple[str, Completion]]:
        """Send the prompts within the budget; retry the others after actual token counts have replaced the reserved."""
        while unsent:
            sent = 0

            def affordable(unsent: list[tuple[str, Prompt]] = unsent) -> Iterator[Prompt]:
                nonlocal sent
                for _, prompt in unsent:
                    if not self.budget.reserve(prompt):
                        return
                    sent += 1
                    yield prompt

            for number, completion in _arrivals(self.inner, affordable()):
                key, prompt = unsent[number]
                if completion.ok:
                    self._store.put(key, completion)
                self.budget.settle(prompt, completion)
                self.usage.add(completion)
                yield key, completion
            if not sent:
                raise self.budget.error()
            unsent = unsent[sent:]


def _arrivals(inner: Completer, prompts: Iterator[Prompt]) -> Iterator[tuple[int, Completion]]:
    if isinstance(inner, StreamingCompleter):
        return inner.stream(prompts)
    return enumerate(inner.complete(list(prompts)))


def ignore_arrival() -> None:
    """Do nothing; default of `on_arrival`."""
