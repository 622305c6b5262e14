"""The models behind the page, one in memory at a time, and what they are asked.

All work on models is done by one thread. Runs that share a start model share it in memory too, each with its adapter;
with all adapters off it is the start model.

One thread that does all work on models, one piece after the other, so that the page stays quick meanwhile.

Who answers on the page: the start model, and every run's unlearned one beside it.

Tokens that come one by one as text that can be shown at once, and the finished answer cut into its tokens.
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
from relearn.ui.run_data import Opened

if TYPE_CHECKING:
    from relearn.models.load import Loaded

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


@dataclass(frozen=True)
class Column:
    """One model that answers. `run`: the place of its run among all; `group`: runs with one start model share it."""

    key: str
    title: str
    run: int
    group: int
    side: Literal["before", "after"]


def columns(runs: Sequence[Opened]) -> list[Column]:
    """A column for every start model, and after it one for each run that began with it and can be asked."""
    able = [number for number, run in enumerate(runs) if run.recipe is not None]
    starts = {number: runs[number].start for number in able}
    groups = list(dict.fromkeys(starts.values()))
    found = []
    for group, start in enumerate(groups):
        members = [number for number in able if starts[number] == start]
        title = "before" if len(groups) == 1 else f"before · {', '.join(runs[number].name for number in members)}"
        found.append(Column(f"before-{group}", title, members[0], group, "before"))
        for number in members:
            title = "after" if len(able) == 1 else f"after · {runs[number].name}"
            found.append(Column(f"after-{number}", title, number, group, "after"))
    return found


Decode = Callable[[Sequence[int]], str]
# What a tokenizer writes for bytes that are no whole character yet.
_HALF = "�"


class Pieces:
    """The pieces that `add` gives follow one another; what may still change is held back."""

    def __init__(self, decode: Decode):
        self._decode = decode
        self.tokens: list[int] = []
        self.said = ""

    def add(self, tokens: Sequence[int]) -> str:
        self.tokens += tokens
        text = self._decode(self.tokens).lstrip().rstrip(_HALF).rstrip()
        if not text.startswith(self.said):
            return ""
        piece, self.said = text[len(self.said) :], text
        return piece


def cut(text: str, tokens: Sequence[int], decode: Decode) -> list[str]:
    """The answer `text` in as many pieces as there are tokens, which together are the text.

    A token that ends no character, or only white space at either end of the answer, has an empty piece.
    """
    ends = [0]
    for count in range(1, len(tokens) + 1):
        so_far = decode(tokens[:count]).lstrip().rstrip(_HALF)
        fits = text.startswith(so_far) or so_far.startswith(text)
        ends.append(max(ends[-1], min(len(so_far), len(text))) if fits else ends[-1])
    if tokens:
        ends[-1] = len(text)
    return [text[start:end] for start, end in pairwise(ends)]


KEPT = 32
Tell = Callable[[Mapping[str, Any]], None]


class Stopped(Exception):
    """Nobody waits for the answer any more."""


class Unknown(Exception):
    """There is no such answer, or no such token in it."""


@dataclass(frozen=True)
class _Answer:
    column: Column
    prompt: tuple[int, ...]
    said: tuple[int, ...]


class Desk:
    """Asks the columns of `runs`. Nothing is loaded before `load` or `ask`; these are called once the user agreed."""

    def __init__(self, runs: Sequence[Opened]):
        self._runs = runs
        self.columns = columns(runs)
        self._held: tuple[tuple[str, int], Loaded] | None = None
        self._answers: OrderedDict[str, _Answer] = OrderedDict()

    def load(self) -> None:
        """The model of the first column, so that a first question need not wait for it."""
        with self._speaking(self.columns[0]):
            pass

    def ask(self, question: str, form: Form, tell: Tell, stop: threading.Event) -> None:
        """Every column in turn. `tell` gets pieces of text as they come, then each whole answer with its tokens."""
        for column in self.columns:
            if stop.is_set():
                raise Stopped
            if self._needs_load(column):
                tell({"column": column.key, "state": "loading"})
            with self._speaking(column) as loaded:
                if stop.is_set():
                    raise Stopped
                tell({"column": column.key, "state": "answering"})
                tell(self._answer(column, loaded, question, form, tell, stop))

    def _answer(
        self, column: Column, loaded: Loaded, question: str, form: Form, tell: Tell, stop: threading.Event
    ) -> dict[str, Any]:
        from relearn.engine import generate as answering

        def decode(tokens: Sequence[int]) -> str:
            return loaded.tokenizer.decode(list(tokens), skip_special_tokens=True)

        pieces = Pieces(decode)

        def heard(tokens: Sequence[int]) -> None:
            if stop.is_set():
                raise Stopped
            if piece := pieces.add(tokens):
                tell({"column": column.key, "piece": piece})

        settings, seed = self._settings(column)
        text = answering.generate(loaded, [question], settings, form=form, seed=seed, on_tokens=heard)[0]
        if text != pieces.said and text.startswith(pieces.said):
            tell({"column": column.key, "piece": text[len(pieces.said) :]})
        stops = answering.stop_ids(loaded)
        said = tuple(pieces.tokens[:-1] if pieces.tokens[-1:] and pieces.tokens[-1] in stops else pieces.tokens)
        prompt = loaded.tokenizer(loaded.chat.prompt(question, form), add_special_tokens=False).input_ids
        key = self._keep(_Answer(column, tuple(prompt), said))
        return {"column": column.key, "answer": key, "text": text, "tokens": cut(text, said, decode)}

    def candidates(self, key: str) -> list[dict[str, Any]]:
        """Of every token of an answer its probability, its rank and the likeliest tokens in its place."""
        from relearn.ui.token_view import places

        answer = self._kept(key)
        with self._speaking(answer.column) as loaded:
            return places(loaded, answer.prompt, answer.said)

    def layers(self, key: str, token: int) -> list[dict[str, Any]]:
        """What every layer would say in place of a token, and how likely that token is to it; the last layer first."""
        from relearn.ui.token_view import layers

        answer = self._kept(key)
        if not 0 <= token < len(answer.said):
            raise Unknown
        with self._speaking(answer.column) as loaded:
            return layers(loaded, (*answer.prompt, *answer.said[: token + 1]))

    def _keep(self, answer: _Answer) -> str:
        key = secrets.token_hex(8)
        self._answers[key] = answer
        if len(self._answers) > KEPT:
            self._answers.popitem(last=False)
        return key

    def _kept(self, key: str) -> _Answer:
        if key not in self._answers:
            raise Unknown
        return self._answers[key]

    def _settings(self, column: Column) -> tuple[Generate, int]:
        recipe = self._runs[column.run].recipe
        assert recipe is not None
        # vLLM takes a copy of the model and tells nothing before its end.
        return recipe.generate.model_copy(update={"backend": "transformers"}), recipe.seed

    def _place(self, column: Column) -> tuple[str, int]:
        """What has to be in memory for a column: a kind and a number."""
        result = self._runs[column.run].result
        if result == "adapter":
            return "adapters", column.group
        return ("start" if result == "model" and column.side == "before" else "run"), column.run

    def _needs_load(self, column: Column) -> bool:
        return self._held is None or self._held[0] != self._place(column)

    @contextmanager
    def _speaking(self, column: Column) -> Iterator[Loaded]:
        """The model of a column, in memory and switched to its side for as long as the block lasts."""
        from relearn.unlearning.reference_model import adapter_off

        loaded = self._hold(self._place(column))
        if column.side == "before":
            with adapter_off(loaded.model):
                yield loaded
            return
        if self._runs[column.run].result == "adapter":
            loaded.model.set_adapter(_adapter(column.run))
        yield loaded

    def _hold(self, place: tuple[str, int]) -> Loaded:
        if self._held is None or self._held[0] != place:
            self._held = None
            gc.collect()
            self._held = place, self._load(*place)
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
        """A start model with the adapters of all runs that began with it."""
        from peft import PeftModel

        from relearn.inference.run_models import ModelSet
        from relearn.models.load import check_adapter

        members = {column.run for column in self.columns if column.group == group}
        numbers = sorted(number for number in members if self._runs[number].result == "adapter")
        first = self._runs[numbers[0]]
        assert first.recipe is not None
        loaded = ModelSet.of_run(first.recipe, first.path).start()
        for number in numbers:
            adapter = self._runs[number].path / "adapter"
            check_adapter(adapter)
            if isinstance(loaded.model, PeftModel):
                loaded.model.load_adapter(str(adapter), adapter_name=_adapter(number))
            else:
                loaded.model = PeftModel.from_pretrained(
                    loaded.model, str(adapter), adapter_name=_adapter(number), use_safetensors=True
                )
        loaded.model.eval()
        return loaded


def _adapter(number: int) -> str:
    return f"run{number}"
