"""The models behind the page, one in memory at a time, and what they are asked.

All work on models is done by one thread. Runs that share a start model share it in memory too, each with its adapter;
with all adapters off it is the start model.
"""

from __future__ import annotations

import gc
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from relearn.core.config import Generate
from relearn.data import Form
from relearn.ui.columns import Column, columns
from relearn.ui.pieces import Pieces, cut
from relearn.ui.run_data import Opened

if TYPE_CHECKING:
    from relearn.models.load import Loaded

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
        text = answering.generate(loaded, [question], settings, form=form, seed=seed, heard=heard)[0]
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
        from relearn.inference.run_models import RunModels

        if kind == "adapters":
            return self._with_adapters(number)
        run = self._runs[number]
        assert run.recipe is not None
        models = RunModels(run.recipe, run.path)
        return models.start() if kind == "start" else models.unlearned()

    def _with_adapters(self, group: int) -> Loaded:
        """A start model with the adapters of all runs that began with it."""
        from peft import PeftModel

        from relearn.inference.run_models import RunModels
        from relearn.models.load import check_adapter

        members = {column.run for column in self.columns if column.group == group}
        numbers = sorted(number for number in members if self._runs[number].result == "adapter")
        first = self._runs[numbers[0]]
        assert first.recipe is not None
        loaded = RunModels(first.recipe, first.path).start()
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
