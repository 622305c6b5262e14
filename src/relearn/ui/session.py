"""Load the models of the opened runs, one in memory at a time, and stream their answers to the page.

`Session` generates answers with the model of every `Column` (a start model, or the unlearned model of a run). Runs with
the same start model use one copy of it with one adapter per run; with all adapters off it is the start model. `Worker`
runs all work on models in one thread, so that the page stays responsive. `TokenStream` decodes generated tokens.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import queue
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from relearn.core.config import Generate
from relearn.data import Form
from relearn.ui.run_data import OpenedRun

if TYPE_CHECKING:
    from relearn.models.load import Loaded

ThreadResult = TypeVar("ThreadResult")


class Worker:
    """Run jobs in one daemon thread, in order; the thread starts with the first job."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._start = threading.Lock()
        self._thread: threading.Thread | None = None

    async def do(self, work: Callable[[], ThreadResult]) -> ThreadResult:
        """Run `work` in the thread; return its result or raise its error. If cancelled before it starts, skip it."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[ThreadResult] = loop.create_future()

        def settle(value: ThreadResult | None, error: BaseException | None) -> None:
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
            except BaseException as raised:
                value, error = None, raised
            call_in_loop(loop, settle, value, error)

        self._put(job)
        return await done

    def _put(self, job: Callable[[], None]) -> None:
        with self._start:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="models", daemon=True)
                self._thread.start()
        self._work.put(job)

    def close(self, seconds: float) -> bool:
        """Stop the thread after the queued jobs; return whether it ended within `seconds`."""
        if self._thread is None:
            return True
        self._work.put(None)
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (job := self._work.get()) is not None:
            job()


def call_in_loop(loop: asyncio.AbstractEventLoop, call: Callable[..., object], *arguments: object) -> None:
    """Schedule `call` in the event loop from another thread; do nothing when the loop is closed."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(call, *arguments)


@dataclass(frozen=True)
class Column:
    """Describe a model that answers questions in a column of the page.

    `run`: index of its run. `group`: number of its start model, equal for runs with the same start model. `side`:
    "before" for the start model, "after" for the unlearned model.
    """

    key: str
    title: str
    run: int
    group: int
    side: Literal["before", "after"]


def columns(runs: Sequence[OpenedRun]) -> list[Column]:
    """List the columns of the page: each start model, followed by the unlearned models that were made from it."""
    askable = [number for number, run in enumerate(runs) if run.recipe is not None]
    starts = {number: runs[number].start for number in askable}
    groups = list(dict.fromkeys(starts.values()))
    result: list[Column] = []
    for group, start in enumerate(groups):
        members = [number for number in askable if starts[number] == start]
        title = "before" if len(groups) == 1 else f"before · {', '.join(runs[number].name for number in members)}"
        result.append(Column(f"before-{group}", title, members[0], group, "before"))
        for number in members:
            title = "after" if len(askable) == 1 else f"after · {runs[number].name}"
            result.append(Column(f"after-{number}", title, number, group, "after"))
    return result


Decode = Callable[[Sequence[int]], str]
# Replacement character, to which a tokenizer decodes an incomplete UTF-8 sequence.
_INCOMPLETE = "�"


class TokenStream:
    """Decode tokens while they are generated; text that later tokens can still change is not returned yet."""

    def __init__(self, decode: Decode):
        self._decode = decode
        self.tokens: list[int] = []
        self.text = ""

    def add(self, tokens: Sequence[int]) -> str:
        """Append token ids; return the text that they add to `text`."""
        self.tokens += tokens
        text = self._decode(self.tokens).lstrip().rstrip(_INCOMPLETE).rstrip()
        if not text.startswith(self.text):
            return ""
        added, self.text = text[len(self.text) :], text
        return added


def split_by_token(text: str, tokens: Sequence[int], decode: Decode) -> list[str]:
    """Split the answer `text` into one part per token; the parts joined are the text.

    The part of a token is empty where the token completes no character, or adds only white space at the beginning or
    end of the answer.
    """
    ends = [0]
    for count in range(1, len(tokens) + 1):
        so_far = decode(tokens[:count]).lstrip().rstrip(_INCOMPLETE)
        fits = text.startswith(so_far) or so_far.startswith(text)
        ends.append(max(ends[-1], min(len(so_far), len(text))) if fits else ends[-1])
    if tokens:
        ends[-1] = len(text)
    return [text[start:end] for start, end in pairwise(ends)]


MAX_ANSWERS = 32
Emit = Callable[[Mapping[str, Any]], None]


class AnswerStopped(Exception):
    """Stop generation, because the client has disconnected before the answer was complete."""


class UnknownAnswer(Exception):
    """Report that no answer is stored under a key, or that it has no token of this number."""


@dataclass(frozen=True)
class _Answer:
    """Store an answer: the token ids of its prompt and of the answer (`response`), and the column of its model."""

    column: Column
    prompt: tuple[int, ...]
    response: tuple[int, ...]


class Session:
    """Generate answers with the models of `runs`.

    Models are loaded by `load` and `ask`, which must be called only after the user has agreed.
    """

    def __init__(self, runs: Sequence[OpenedRun]):
        self._runs = runs
        self.columns = columns(runs)
        self._held: tuple[tuple[str, int], Loaded] | None = None
        self._answers: OrderedDict[str, _Answer] = OrderedDict()

    def load(self) -> None:
        """Load the model of the first column, so that the first question is answered faster."""
        with self._model_of(self.columns[0]):
            pass

    def ask(self, question: str, form: Form, emit: Emit, stop: threading.Event) -> None:
        """Generate the answer to a question with the model of every column, one after the other.

        `emit` is called with each new part of the text, then with the whole answer and its parts per token. Raises
        AnswerStopped when `stop` is set.
        """
        for column in self.columns:
            if stop.is_set():
                raise AnswerStopped
            if self._needs_load(column):
                emit({"column": column.key, "state": "loading"})
            with self._model_of(column) as loaded:
                if stop.is_set():
                    raise AnswerStopped
                emit({"column": column.key, "state": "answering"})
                emit(self._answer(column, loaded, question, form, emit, stop))

    def _answer(
        self, column: Column, loaded: Loaded, question: str, form: Form, emit: Emit, stop: threading.Event
    ) -> dict[str, Any]:
        from relearn.engine import generate as answering

        def decode(tokens: Sequence[int]) -> str:
            return loaded.tokenizer.decode(list(tokens), skip_special_tokens=True)

        stream = TokenStream(decode)

        def heard(tokens: Sequence[int]) -> None:
            if stop.is_set():
                raise AnswerStopped
            if text := stream.add(tokens):
                emit({"column": column.key, "piece": text})

        settings, seed = self._settings(column)
        said = answering.respond(loaded, [question], settings, form=form, seed=seed, on_tokens=heard)[0]
        text = answering.CUT_OFF if said.cut_off else said.text
        if text != stream.text and text.startswith(stream.text):
            emit({"column": column.key, "piece": text[len(stream.text) :]})
        stops = answering.stop_ids(loaded)
        response = tuple(stream.tokens[:-1] if stream.tokens[-1:] and stream.tokens[-1] in stops else stream.tokens)
        prompt = loaded.tokenizer(loaded.chat.prompt(question, form), add_special_tokens=False).input_ids
        # The positions of the answer follow the thoughts.
        prompt, response = (*prompt, *response[: said.thought_tokens]), response[said.thought_tokens :]
        key = self._store(_Answer(column, prompt, response))
        return {"column": column.key, "answer": key, "text": text, "tokens": split_by_token(text, response, decode)}

    def candidates(self, key: str) -> list[dict[str, Any]]:
        """Compute probability, rank and the most likely tokens at the position of every token of a stored answer.

        `said` marks the token of the answer among the most likely ones. Raises UnknownAnswer where no answer is stored
        under `key`, InputError for a model whose layers cannot be read.
        """
        from relearn.analysis.hooks import HookedModel
        from relearn.analysis.logit_lens import top_tokens
        from relearn.engine.forward import TokenRow

        answer = self._stored(key)
        if not answer.response:
            return []
        row = TokenRow("answer", (*answer.prompt, *answer.response), len(answer.prompt))
        with self._model_of(answer.column) as loaded:
            decode = loaded.tokenizer.decode
            return [
                {
                    "probability": position.probability,
                    "rank": position.rank,
                    "top": [
                        {"text": decode([token]), "probability": value, "said": token == position.token}
                        for token, value in position.top
                    ],
                }
                for position in top_tokens(HookedModel(loaded.model), row)
            ]

    def layers(self, key: str, token: int) -> list[dict[str, Any]]:
        """Compute the logit lens of a token: the prediction of every layer at its position, the last layer first.

        `token`: index of the token in the answer. Layer 0 is the embedding. `likeliest`: the most likely token;
        `probability`, `rank`: of the token itself. Raises UnknownAnswer where there is no such answer or token.
        """
        from relearn.analysis.hooks import HookedModel
        from relearn.analysis.logit_lens import lens
        from relearn.engine.forward import TokenRow

        answer = self._stored(key)
        if not 0 <= token < len(answer.response):
            raise UnknownAnswer
        ids = (*answer.prompt, *answer.response[: token + 1])
        with self._model_of(answer.column) as loaded:
            reading = lens(HookedModel(loaded.model), TokenRow("token", ids, len(ids) - 1))
            rows = [
                {
                    "layer": number,
                    "likeliest": loaded.tokenizer.decode([int(reading.likeliest[number, 0])]),
                    "rank": int(reading.rank[number, 0]),
                    "probability": float(reading.logprob[number, 0].exp()),
                }
                for number in range(len(reading.rank))
            ]
        return rows[::-1]

    def _store(self, answer: _Answer) -> str:
        key = secrets.token_hex(8)
        self._answers[key] = answer
        if len(self._answers) > MAX_ANSWERS:
            self._answers.popitem(last=False)
        return key

    def _stored(self, key: str) -> _Answer:
        if key not in self._answers:
            raise UnknownAnswer
        return self._answers[key]

    def _settings(self, column: Column) -> tuple[Generate, int]:
        recipe = self._runs[column.run].recipe
        assert recipe is not None
        # vLLM needs a copy of the model and does not stream.
        return recipe.generate.model_copy(update={"backend": "transformers"}), recipe.seed

    def _memory_key(self, column: Column) -> tuple[str, int]:
        """Return the key of the model that a column needs in memory: its kind, and the number of a group or run.

        "adapters": start model of a group with the adapters of its runs; "start": start model of a run; "run": start
        and unlearned model of a run, or the unlearned model alone where it is a model of its own.
        """
        result = self._runs[column.run].result
        if result == "adapter":
            return "adapters", column.group
        return ("start" if result == "model" and column.side == "before" else "run"), column.run

    def _needs_load(self, column: Column) -> bool:
        return self._held is None or self._held[0] != self._memory_key(column)

    @contextmanager
    def _model_of(self, column: Column) -> Iterator[Loaded]:
        """Yield the model of a column; inside the block its adapter is on for "after" and off for "before"."""
        from relearn.unlearning.reference_model import adapter_off

        loaded = self._hold(self._memory_key(column))
        if column.side == "before":
            with adapter_off(loaded.model):
                yield loaded
            return
        if self._runs[column.run].result == "adapter":
            loaded.model.set_adapter(_adapter(column.run))
        yield loaded

    def _hold(self, key: tuple[str, int]) -> Loaded:
        if self._held is None or self._held[0] != key:
            self._held = None
            gc.collect()
            self._held = key, self._load(*key)
        return self._held[1]

    def _load(self, kind: str, number: int) -> Loaded:
        from relearn.inference.run_models import ModelSet

        if kind == "adapters":
            return self._with_adapters(number)
        run = self._runs[number]
        assert run.recipe is not None
        models = ModelSet.of_run(run.recipe, run.path)
        return models.start() if kind == "start" else models.unlearned()

    def _with_adapters(self, group: int) -> Loaded:
        """Load the start model of a group with the adapters of all its runs."""
        from relearn.inference.run_models import ModelSet
        from relearn.models.lora import attach_adapter

        members = {column.run for column in self.columns if column.group == group}
        numbers = sorted(number for number in members if self._runs[number].result == "adapter")
        first = self._runs[numbers[0]]
        assert first.recipe is not None
        loaded = ModelSet.of_run(first.recipe, first.path).start()
        for number in numbers:
            loaded.model = attach_adapter(loaded.model, self._runs[number].path / "adapter", _adapter(number))
        return loaded


def _adapter(number: int) -> str:
    return f"run{number}"
