"""The prompts, kept as plain text files in prompts/; $name stands for what is put in."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from string import Template


@lru_cache
def _template(name: str) -> str:
    return resources.files("relearn.synthesis").joinpath("prompts", f"{name}.txt").read_text(encoding="utf-8")


def prompt_text(name: str, **values: str) -> str:
    """The prompt of prompts/<name>.txt with `values` put in, in one pass: a "$" or brace in a value stays as it is."""
    return Template(_template(name)).substitute(values).strip()


def prompt_lines(name: str, drop: tuple[str, ...], **values: str) -> str:
    """The same without the lines that begin with one of the words in `drop` and a colon."""
    unwanted = tuple(f"{word}:" for word in drop)
    kept = [line for line in _template(name).splitlines() if not line.startswith(unwanted)]
    return Template("\n".join(kept)).substitute(values).strip()
