"""Remove chosen knowledge from a language model and measure the result. Imports neither torch nor transformers.

    recipe = relearn.Recipe.from_yaml("recipe.yaml")
    folder = relearn.run(recipe, "runs/mine")

The names below are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from relearn.core import __version__ as __version__

if TYPE_CHECKING:
    from relearn.core.config import Recipe
    from relearn.data import Record
    from relearn.metrics.entailment import load_entailment
    from relearn.synthesis.checks import verify_file as verify
    from relearn.workflows.analyze import analyze
    from relearn.workflows.ask import answers_before_and_after as ask
    from relearn.workflows.ask import export_merged as export
    from relearn.workflows.audit import audit
    from relearn.workflows.evaluate.evaluation import evaluate
    from relearn.workflows.run.pipeline import run, unlearn
    from relearn.workflows.synthesize import synthesize

__all__ = [
    "Recipe",
    "Record",
    "analyze",
    "ask",
    "audit",
    "evaluate",
    "export",
    "load_entailment",
    "run",
    "synthesize",
    "unlearn",
    "verify",
]

_PLACES = {
    "Recipe": "relearn.core.config:Recipe",
    "Record": "relearn.data:Record",
    "analyze": "relearn.workflows.analyze:analyze",
    "ask": "relearn.workflows.ask:answers_before_and_after",
    "audit": "relearn.workflows.audit:audit",
    "evaluate": "relearn.workflows.evaluate.evaluation:evaluate",
    "export": "relearn.workflows.ask:export_merged",
    "load_entailment": "relearn.metrics.entailment:load_entailment",
    "run": "relearn.workflows.run.pipeline:run",
    "synthesize": "relearn.workflows.synthesize:synthesize",
    "unlearn": "relearn.workflows.run.pipeline:unlearn",
    "verify": "relearn.synthesis.checks:verify_file",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'relearn' has no attribute {name!r}")
    module, attribute = _PLACES[name].split(":")
    return getattr(import_module(module), attribute)
