"""The table of generators: `templates`, `openai:MODEL`, `transformers:MODEL`, and whatever file joins them.

From a generator's name in a recipe to a completer with cache and budget.
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
from relearn.llm.completer import Budget, Completer


def _nowhere() -> str | None:
    return None


@dataclass(frozen=True)
class Generator:
    """How to make one kind of generator.

    `make(model, settings, loaded)` gets what stands after the colon in its name, the synthesis settings, and the model
    that is already in memory, if any. `host()` is the other machine that prompts would be sent to; None for none.
    `takes_model`: a model stands after the colon. `priced`: tokens may cost money, whatever the host.
    """

    make: Callable[[str, config.Synthesis, Any], Completer]
    host: Callable[[], str | None] = _nowhere
    takes_model: bool = True
    priced: bool = False
    about: str = ""


GENERATORS: Registry[Generator] = Registry("generator", "relearn.llm", "relearn.llm.templates")


def make_completer(
    name: str, settings: config.Synthesis, cache: Path | None, loaded: Any = None, budget: Budget | None = None
) -> CachedCompleter:
    """The generator `name` ("templates", "openai:MODEL", "transformers:MODEL") behind the answer cache at `cache`.

    `loaded` is a model in memory (models.load.Loaded): `transformers:` uses it when it is the one named. Raises
    InputError for an unknown name, a missing model or a missing key.
    """
    generator, model = find_generator(name)
    return CachedCompleter(generator.make(model, settings, loaded), cache, budget or budget_for(settings, cache))


def find_generator(name: str) -> tuple[Generator, str]:
    """The generator of a name and the model that stands after its colon."""
    kind, _, model = name.partition(":")
    generator = GENERATORS.get(kind)
    if generator.takes_model and not model:
        raise InputError(f"generator {name!r} names no model", way_out=f"write {kind}:MODEL")
    if model and not generator.takes_model:
        raise InputError(f"generator {kind!r} takes no model, not {model!r}", way_out=f"write {kind}")
    return generator, model


def budget_for(settings: config.Synthesis, cache: Path | None) -> Budget:
    """The budget of the settings, less what the answers already in the cache have cost."""
    calls = tokens = 0
    if cache is not None and cache.exists():
        store = AnswerStore(cache)
        calls, tokens = store.spent()
        store.close()
    return Budget(settings.max_calls, settings.max_tokens, calls, tokens)


def remote_host(name: str) -> str | None:
    """The other machine that a generator would send prompts to; None when they stay on this one."""
    return find_generator(name)[0].host()
