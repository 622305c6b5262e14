"""Read YAML files, replace `${NAME}` with environment variables, and shorten pydantic errors to one line."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from relearn.core.errors import InputError
from relearn.core.registry import suggest


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file that contains a mapping; variables are not replaced.

    Raises InputError for a file that is missing, unreadable, not YAML, or not a mapping.
    """
    path = Path(path)
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("no such recipe", where=str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {error}", where=str(path)) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise InputError(f"not YAML: {getattr(error, 'problem', error)}", where=where) from None
    if not isinstance(loaded, dict):
        raise InputError("a recipe is a mapping of keys", where=str(path), way_out="see recipes/ for examples")
    return loaded


def apply_change(values: dict[str, Any], change: str) -> None:
    """Set a key of nested `values` from a string such as "unlearn.epochs=2".

    Raises InputError where the string has no "=" or a parent key has no parts.
    """
    key, equals, text = change.partition("=")
    if not equals or not key.strip():
        raise InputError(f"cannot read {change!r}", where="--set", way_out="write --set unlearn.epochs=2")
    *parents, last = key.strip().split(".")
    for parent in parents:
        below = values.setdefault(parent, {})
        if isinstance(below, str) and parent == "model":
            below = values[parent] = {"name": below}
        if not isinstance(below, dict):
            raise InputError(f"{parent!r} has no parts", where=f"--set {key}")
        values = below
    values[last] = yaml.safe_load(text)


_VARIABLE = re.compile(r"\$\{(\w+)\}")


def expand(value: Any, where: str) -> Any:
    """Replace `${NAME}` with the environment variable in all strings of a value.

    Raises InputError for a variable that is not set.
    """
    if isinstance(value, Mapping):
        return {key: expand(entry, where) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [expand(entry, where) for entry in value]
    if isinstance(value, str):
        return _VARIABLE.sub(lambda match: _variable(match.group(1), where), value)
    return value


def _variable(name: str, where: str) -> str:
    if name not in os.environ:
        raise InputError(f"${{{name}}} is not set", where=where, way_out=f"export {name}=...")
    return os.environ[name]


def readable(error: ValidationError, model: type[BaseModel], where: str) -> InputError:
    """Convert a pydantic error to an InputError with the first problem in one line and, if known, how to solve it."""
    first = error.errors()[0]
    path = [str(step) for step in first["loc"]]
    dotted = ".".join(path)
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        known = _known_keys(model, path[:-1])
        return InputError(f"unknown key {dotted!r}{more}", where=where, way_out=suggest(path[-1], known))
    if first["type"] == "missing":
        return InputError(f"{dotted!r} is missing{more}", where=where)
    value = repr(first.get("input"))
    shown = value if len(value) <= 80 else value[:77] + "..."
    return InputError(f"{dotted!r} is {shown}: {first['msg'].lower()}{more}", where=where)


def _known_keys(model: type[BaseModel], path: list[str]) -> list[str]:
    for step in path:
        field = model.model_fields.get(step)
        inner = _part_in(field.annotation) if field else None
        if inner is not None:
            model = inner
    return list(model.model_fields)


def _part_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if (found := _part_in(inner)) is not None:
            return found
    return None
