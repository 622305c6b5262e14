"""Make a language model forget, and show that it did. Importing this loads neither torch nor transformers.

    recipe = relearn.Recipe.from_yaml("recipe.yaml")
    folder = relearn.run(recipe, "runs/mine")

The names below are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from relearn.analyzing import analyze
    from relearn.asking import answers_before_and_after as ask
    from relearn.asking import export_merged as export
    from relearn.config import Recipe
    from relearn.evaluation.audit import audit
    from relearn.evaluation.run import evaluate
    from relearn.pipeline.run import run, synthesize, unlearn
    from relearn.records import Record
    from relearn.synthesis.verification import verify_file as verify

__version__ = "0.1.0"
__all__ = [
    "Recipe", "Record", "analyze", "ask", "audit", "evaluate", "export", "run", "synthesize", "unlearn", "verify",
]  # fmt: skip

_PLACES = {
    "Recipe": "relearn.config:Recipe",
    "Record": "relearn.records:Record",
    "analyze": "relearn.analyzing:analyze",
    "ask": "relearn.asking:answers_before_and_after",
    "audit": "relearn.evaluation.audit:audit",
    "evaluate": "relearn.evaluation.run:evaluate",
    "export": "relearn.asking:export_merged",
    "run": "relearn.pipeline.run:run",
    "synthesize": "relearn.pipeline.run:synthesize",
    "unlearn": "relearn.pipeline.run:unlearn",
    "verify": "relearn.synthesis.verification:verify_file",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'relearn' has no attribute {name!r}")
    module, attribute = _PLACES[name].split(":")
    return getattr(import_module(module), attribute)
