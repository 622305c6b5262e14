"""Register generators (`templates`, `openai:MODEL`, `transformers:MODEL`) and make a completer from a recipe's name.

A new generator is one module in this package that calls `GENERATORS.add(name, Generator(...))`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relearn.core import config
from relearn.core.errors import InputError
from relearn.core.registry import Registry
from relearn.llm.cache import AnswerStore, CachedCompleter
from relearn.llm.completer import CallBudget, Completer


def _no_host() -> str | None:
    return None


@dataclass(frozen=True)
class Generator:
    """How to make one kind of generator.

    `make(model, settings, loaded)` gets the model named after the colon, the synthesis settings, and the model that is
    already in memory, if any. `host()` returns the other machine that prompts are sent to, None for this one.
    `takes_model`: the name has a model after a colon. `priced`: tokens may cost money, whatever the host.
    """

    make: Callable[[str, config.Synthesis, Any], Completer]
    host: Callable[[], str | None] = _no_host
    takes_model: bool = True
    priced: bool = False
    about: str = ""


GENERATORS: Registry[Generator] = Registry("generator", "relearn.llm", "relearn.llm.templates")


def make_completer(
    name: str, settings: config.Synthesis, cache: Path | None, *, loaded: Any = None, budget: CallBudget | None = None
) -> CachedCompleter:
    """Make the generator `name` ("templates", "openai:MODEL", "transformers:MODEL") with the answer cache at `cache`.

    `loaded` is a model in memory (models.load.Loaded) that `transformers:` uses when it is the one named. Without a
    `budget` that of the settings applies. Raises InputError for an unknown name, a missing model or a missing key.
    """
    generator, model = find_generator(name)
    return CachedCompleter(generator.make(model, settings, loaded), cache, budget or budget_for(settings, cache))


def find_generator(name: str) -> tuple[Generator, str]:
    """Return the generator of a name and the model after its colon. Raises InputError for a name that fits none."""
    kind, _, model = name.partition(":")
    generator = GENERATORS.get(kind)
    if generator.takes_model and not model:
        raise InputError(f"generator {name!r} names no model", way_out=f"write {kind}:MODEL")
    if model and not generator.takes_model:
        raise InputError(f"generator {kind!r} takes no model, not {model!r}", way_out=f"write {kind}")
    return generator, model


def budget_for(settings: config.Synthesis, cache: Path | None) -> CallBudget:
    """Return the budget of the settings, with the answers in the cache counted as used."""
    calls = tokens = 0
    if cache is not None and cache.exists():
        store = AnswerStore(cache)
        calls, tokens = store.total_usage()
        store.close()
    return CallBudget(settings.max_calls, settings.max_tokens, calls, tokens)


def remote_host(name: str) -> str | None:
    """Return the other machine that a generator sends prompts to; None when they stay on this one."""
    return find_generator(name)[0].host()
