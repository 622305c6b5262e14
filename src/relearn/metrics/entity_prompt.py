"""Entities named by a language model, as in the paper (arXiv 2502.11190, appendix C.5), behind any generator.

The answer must be one line parted by commas, or "None". Everything else is a failure: the item is then unscored.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from string import Template

from relearn.llm import Completer, Prompt
from relearn.text.entities import distinct, occurs_in

MAX_TOKENS = 256
_NONE = frozenset(("none", "n/a", "no entities"))
_LABEL = re.compile(r"^entities\s*:\s*", re.IGNORECASE)


class PromptedEntities:
    """Asks for every text once; a completer with a cache in front makes that once for all models and runs."""

    def __init__(self, completer: Completer):
        self.name = completer.name
        self._completer = completer

    def extract(self, texts: Sequence[str]) -> list[list[str] | None]:
        """None where the call failed or the answer could not be read. A text without words is not sent."""
        asked = [text for text in texts if any(map(str.isalnum, text))]
        completions = self._completer.complete([entity_prompt(text) for text in asked])
        given = {
            text: parse_entities(completion.text, text) if completion.ok else None
            for text, completion in zip(asked, completions, strict=True)
        }
        return [given.get(text, []) for text in texts]


def entity_prompt(text: str) -> Prompt:
    template = Template(resources.files("relearn.metrics").joinpath("prompts/entities.txt").read_text(encoding="utf-8"))
    return Prompt(template.substitute(text=text).rstrip(), "entities", {"text": text}, max_tokens=MAX_TOKENS)


def parse_entities(answer: str, text: str) -> list[str] | None:
    """The listed entities that `text` does contain; None for an answer that is not a list of any."""
    line = _LABEL.sub("", answer.strip()).rstrip(".")
    if line.lower() in _NONE:
        return []
    if not line or "\n" in line:
        return None
    entities = [entity.strip(" .\"'“”") for entity in line.split(",")]
    named = distinct(entity for entity in entities if entity.lower() not in _NONE)
    there = [entity for entity in named if _stands_in(entity, text)]
    return there or None


def _stands_in(entity: str, text: str) -> bool:
    """Its words stand in the text, in a row or, for a noun put into the singular, as the start of one."""
    return occurs_in(entity, text) or entity.casefold() in text.casefold()
