"""Register generators (`templates`, `openai:MODEL`, `transformers:MODEL`) and make a completer by generator name.

To add a generator, write a module in this package that calls `GENERATORS.add(name, Generator(...))`.
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
    """Describe one kind of generator.

    `make(model, settings, loaded)` makes the completer from the model name after the colon, the synthesis settings, and
    a loaded model or None. `host()` returns the remote host that prompts are sent to, None for this machine.
    `takes_model`: the generator name has a model name after a colon. `priced`: tokens may cost money.
    """

    make: Callable[[str, config.Synthesis, Any], Completer]
    host: Callable[[], str | None] = _no_host
    takes_model: bool = True
    priced: bool = False
    about: str = ""


GENERATORS: Registry[Generator] = Registry("generator", "relearn.llm")


def make_completer(
    name: str, settings: config.Synthesis, cache: Path | None, *, loaded: Any = None, budget: CallBudget | None = None
) -> CachedCompleter:
    """Make the completer of generator `name` ("templates", "openai:MODEL", ...) with the SQLite cache at `cache`.

    `loaded`: a loaded model (models.load.Loaded), which `transformers:` uses if its name is the same. `budget` None
    uses the limits of the settings. Raises InputError for an unknown name, a missing model or a missing key.
    """
    generator, model = find_generator(name)
    return CachedCompleter(generator.make(model, settings, loaded), cache, budget or budget_for(settings, cache))


def find_generator(name: str) -> tuple[Generator, str]:
    """Return the generator and the model name of "KIND:MODEL". Raises InputError for an unknown or wrong name."""
    kind, _, model = name.partition(":")
    generator = GENERATORS.get(kind)
    if generator.takes_model and not model:
        raise InputError(f"generator {name!r} names no model", way_out=f"write {kind}:MODEL")
    if model and not generator.takes_model:
        raise InputError(f"generator {kind!r} takes no model, not {model!r}", way_out=f"write {kind}")
    return generator, model


def budget_for(settings: config.Synthesis, cache: Path | None) -> CallBudget:
    """Return the budget of the settings; calls and tokens of earlier runs, in the cache, count as used."""
    calls = tokens = 0
    if cache is not None and cache.exists():
        store = AnswerStore(cache)
        calls, tokens = store.total_usage()
        store.close()
    return CallBudget(settings.max_calls, settings.max_tokens, calls, tokens)


def remote_host(name: str) -> str | None:
    """Return the remote host that a generator sends prompts to; None if prompts stay on this machine."""
    return find_generator(name)[0].host()
