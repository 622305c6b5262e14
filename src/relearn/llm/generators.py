"""The table of generators: `templates`, `openai:MODEL`, `transformers:MODEL`, and whatever file joins them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from relearn.core import config
from relearn.core.registry import Registry
from relearn.llm.completer import Completer


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


GENERATORS: Registry[Generator] = Registry("generator", "relearn.llm")
