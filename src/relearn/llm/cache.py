"""Cache completions in an sqlite file, so that no prompt is sent, or paid for, twice.

Every answer is committed when it arrives: a killed process loses only the prompts in flight. The file holds hashes of
prompts and the answers to them, not the prompts.
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
    """A completer that yields (position, completion) on arrival and takes a prompt only when it can send it."""

    name: str

    def stream(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion]]: ...


@dataclass
class Usage:
    """Counts of prompts: `asked` were sent, `cached` answered from the cache, `failed` sent without an answer."""

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
    """Return the sha256 of the completer's name and all of the prompt that shapes its answer."""
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
    """A key -> answer table in an sqlite file that only its owner can read; in memory when `path` is None.

    Raises InputError when the file is no answer cache.
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
        """Return the (calls, tokens) that the stored answers took when they were written."""
        return self._db.execute(
            "SELECT count(*), coalesce(sum(input_tokens + output_tokens), 0) FROM answers"
        ).fetchone()

    def close(self) -> None:
        self._db.close()


class CachedCompleter:
    """A completer with a cache: sends only prompts that are not stored, equal ones once.

    Failures are returned and not stored. `on_arrival` is called once per distinct prompt, stored or new (progress
    bars).
    """

    def __init__(self, inner: Completer, path: Path | None, budget: CallBudget | None = None):
        self.inner = inner
        self.name = inner.name
        self.usage = Usage()
        self.budget = budget or CallBudget()
        self.on_arrival: Callable[[], None] = ignore_arrival
        self._store = AnswerStore(path)

    def complete(self, prompts: Sequence[Prompt]) -> list[Completion]:
        """Answer prompts in order. Raises BudgetError when the budget is used up; every answer received is stored."""
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
        """Return what the cache holds for each prompt, without sending any."""
        return [self._store.get(cache_key(self.name, prompt)) for prompt in prompts]

    def close(self) -> None:
        self._store.close()

    def _send(self, unsent: list[tuple[str, Prompt]]) -> Iterator[tuple[str, Completion]]:
        """Send the prompts that the budget covers; try the rest again once true counts have replaced the reserves."""
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
    """Do nothing: the default `on_arrival`."""
