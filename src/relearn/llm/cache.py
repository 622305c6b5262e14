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
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from relearn.core.errors import InputError, RunFailedError
from relearn.core.files import make_private_dir
from relearn.llm.completer import CallBudget, Completer, Completion, Prompt, usable_or_failed


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
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


class AnswerStore:
    """Store completions by cache key, and count calls, in an SQLite file that only its owner can read.

    If `path` is None, it is in memory. A call is counted before it is sent, so that a failed call, or one that was
    pending when the process was killed, counts in the next run too. Raises InputError for a file that is no cache,
    RunFailedError for one that cannot be read or written.
    """

    def __init__(self, path: Path | None):
        self.path = path
        with self._errors():
            if path is not None:
                make_private_dir(path.parent)
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            self._db = sqlite3.connect(path or ":memory:", timeout=30, isolation_level=None)
        self._run("PRAGMA journal_mode=WAL")
        self._run("PRAGMA synchronous=NORMAL")
        self._run(
            "CREATE TABLE IF NOT EXISTS answers "
            "(key TEXT PRIMARY KEY, text TEXT NOT NULL, input_tokens INTEGER, output_tokens INTEGER)"
        )
        self._run("CREATE TABLE IF NOT EXISTS calls (sent INTEGER NOT NULL, tokens_of_failed INTEGER NOT NULL)")
        # A cache of version 0.1 has no count: each of its answers took at least one call.
        self._run("INSERT INTO calls SELECT (SELECT count(*) FROM answers), 0 WHERE NOT EXISTS (SELECT 1 FROM calls)")

    def get(self, key: str) -> Completion | None:
        row = self._run("SELECT text, input_tokens, output_tokens FROM answers WHERE key = ?", key)
        # Version 0.1 stored empty answers, and token counts as the server reported them.
        if row is None or not isinstance(row[0], str) or not row[0].strip():
            return None
        input_tokens, output_tokens = (max(0, count or 0) for count in row[1:])
        return Completion(row[0], input_tokens=input_tokens, output_tokens=output_tokens, cached=True)

    def count_call(self) -> None:
        """Count a call that is about to be sent."""
        self._run("UPDATE calls SET sent = sent + 1")

    def put(self, key: str, completion: Completion) -> None:
        """Store an answer; of a failure, store only the tokens that it took."""
        tokens = (completion.input_tokens, completion.output_tokens)
        if completion.ok:
            self._run("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", key, completion.text, *tokens)
        elif any(tokens):
            self._run("UPDATE calls SET tokens_of_failed = tokens_of_failed + ?", sum(tokens))

    def total_usage(self) -> tuple[int, int]:
        """Return (calls, tokens) of all answers and failures."""
        sent, tokens_of_failed = self._run("SELECT sent, tokens_of_failed FROM calls")
        (tokens,) = self._run(
            "SELECT coalesce(sum(max(0, coalesce(input_tokens, 0)) + max(0, coalesce(output_tokens, 0))), 0) "
            "FROM answers"
        )
        return sent, tokens + tokens_of_failed

    def close(self) -> None:
        self._db.close()

    def _run(self, statement: str, *values: Any) -> Any:
        """Execute a statement and return the first row of its result."""
        with self._errors():
            return self._db.execute(statement, values).fetchone()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn the errors of the file and of SQLite into one line."""
        try:
            yield
        except (OSError, sqlite3.OperationalError) as error:
            problem = f"the answer cache cannot be used: {getattr(error, 'strerror', None) or error}"
            way_out = "see that the folder can be written and the disk has space, then start again"
            raise RunFailedError(problem, where=str(self.path), way_out=way_out) from None
        except sqlite3.DatabaseError as error:
            raise InputError(f"not an answer cache: {error}", where=str(self.path), way_out="move it away") from None


class CachedCompleter:
    """Complete prompts with a cache: send only prompts that are not cached, and equal prompts once.

    Failures are returned, but not cached; they count as calls. `on_arrival` is called once per distinct prompt, cached
    or new, and is used for progress bars.
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
                    self._store.count_call()
                    sent += 1
                    yield prompt

            for number, completion in _arrivals(self.inner, affordable()):
                key, prompt = unsent[number]
                completion = usable_or_failed(completion)
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
