"""Write the reference pages of the documentation site from registries, recipe keys, commands and docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from tables import listing, markdown


def write_reference(folder: Path) -> None:
    """Write every reference page into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        (folder / f"{name}.md").write_text(page(), encoding="utf-8")


def methods() -> str:
    parts = [
        "# Methods\n\nNames for `unlearn.method`, with their defaults (`unlearn.options`). "
        "The papers' settings are in [Methods and papers](../papers.md).\n"
    ]
    for row in listing("methods"):
        defaults = ", ".join(f"`{key}={value}`" for key, value in row["defaults"].items())
        facts = [
            ("family", row["family"]),
            ("paper", row["paper"]),
            ("training data", row["data"].replace("_", " ")),
            ("inputs", ", ".join(row["needs"]).replace("_", " ")),
            ("options", defaults or "none"),
        ]
        parts.append(f"## `{row['name']}`\n\n" + markdown(("", ""), facts))
    return "\n".join(parts)


def metrics() -> str:
    rows = listing("metrics")
    extra = [key for key in ("label", "description") if all(key in row for row in rows)]
    header = ("metric", *extra, "better on forget", "better on retain", "source")
    table = markdown(
        header,
        (
            (
                f"`{row['name']}`",
                *(_cell(row[key]) for key in extra),
                row["better"].get("forget", ""),
                row["better"].get("retain", ""),
                row["source"],
            )
            for row in rows
        ),
    )
    return f"# Metrics\n\nWhat each one sees and misses: [Metrics, explained](../metrics.md).\n\n{table}"


def attacks() -> str:
    table = markdown(
        ("attack", "what it does", "family", "decides a verdict", "source"),
        (
            (f"`{row['name']}`", _cell(row["about"]), row["family"], "yes" if row["counts"] else "no", row["source"])
            for row in listing("audits")
        ),
    )
    return f"# Attacks\n\nHow verdicts are made: [Audits](../audits.md).\n\n{table}"


def inputs() -> str:
    generators = markdown(
        ("generator", "what it is"), ((f"`{row['name']}`", _cell(row["about"])) for row in listing("generators"))
    )
    benchmarks = markdown(
        ("benchmark", "what it holds", "columns", "used as"),
        (
            (
                f"`{row['name']}`",
                _cell(row["what"]),
                ", ".join(f"`{column}`" for column in row["columns"]),
                f"`{row['recipe']}`",
            )
            for row in listing("benchmarks")
        ),
    )
    return (
        "# Generators and benchmark files\n\n## Generators\n\nValues of `synthesis.generator`.\n\n"
        f"{generators}\n## Benchmark files\n\nFiles that are recognised by their columns; more in "
        f"[Benchmarks from files](../benchmarks.md).\n\n{benchmarks}"
    )


def recipe() -> str:
    from relearn.core.config import Recipe

    parts = ["# Recipe keys\n\nEvery key of a recipe with its type and default. Unknown keys are refused.\n"]
    for path, model in _models(Recipe, ""):
        rows = [
            (f"`{name}`", f"`{_type(field.annotation)}`", _default(field)) for name, field in model.model_fields.items()
        ]
        doc = _escaped(inspect.cleandoc(model.__doc__ or ""))
        parts.append(
            f"## {f'`{path}`' if path else 'Top level'}\n\n{doc}\n\n" + markdown(("key", "type", "default"), rows)
        )
    return "\n".join(parts)


def commands() -> str:
    from relearn.cli.app import app

    text = app.generate_docs()
    table_of_contents = re.compile(r"## Table of Contents.*?(?=\*\*Commands\*\*)", flags=re.DOTALL)
    return "# Commands\n\n" + table_of_contents.sub("", text).partition("\n")[2].lstrip()


def python() -> str:
    import relearn

    parts = ["# Python\n\nThe names of `import relearn`; each is loaded when it is first used.\n"]
    for name in relearn.__all__:
        value = getattr(relearn, name)
        signature = "" if inspect.isclass(value) else str(inspect.signature(value)).replace("'", "")
        doc = _escaped(inspect.cleandoc(value.__doc__ or ""))
        parts.append(f"## `relearn.{name}`\n\n```python\nrelearn.{name}{signature}\n```\n\n{doc}\n")
    return "\n".join(parts)


def _models(model: type[BaseModel], path: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield every part of the recipe with its path, each kind of part once."""
    seen: set[type[BaseModel]] = set()
    queue = [(path, model)]
    while queue:
        path, model = queue.pop(0)
        if model in seen:
            continue
        seen.add(model)
        yield path, model
        for name, field in model.model_fields.items():
            queue += [(f"{path}.{name}" if path else name, inner) for inner in _inner(field.annotation)]


def _inner(annotation: Any) -> Iterator[type[BaseModel]]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _inner(argument)


def _type(annotation: Any) -> str:
    text = (
        annotation.__name__ if inspect.isclass(annotation) and not hasattr(annotation, "__args__") else str(annotation)
    )
    text = re.sub(r"Literal\[([^\]]*)\]", lambda match: match[1].replace(", ", " or "), text)
    return re.sub(r"\b(?:typing|relearn(?:\.\w+)+)\.", "", text).replace("|", "or").replace("NoneType", "None")


def _default(field: Any) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel) or value is PydanticUndefined:
        return ""
    return f"`{value!r}`" if value is not None else ""


def _cell(text: str) -> str:
    return _escaped(text).replace("|", "\\|")


def _escaped(text: str) -> str:
    return text.replace("<", "&lt;")


PAGES = {
    "methods": methods,
    "metrics": metrics,
    "attacks": attacks,
    "inputs": inputs,
    "recipe": recipe,
    "commands": commands,
    "python": python,
}
