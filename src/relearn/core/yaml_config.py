"""Read YAML that a user wrote, replace `${NAME}` with environment variables, shorten pydantic errors to one line."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic import BaseModel, ValidationError
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from relearn.core.errors import InputError
from relearn.core.files import NO_TEXT
from relearn.core.registry import suggest

# Limits of a file: characters, depth of nesting, and nodes, those that an alias repeats included.
MAX_CHARACTERS, MAX_DEPTH, MAX_NODES = 1_000_000, 40, 50_000
_MAX_INTEGER = 1 << 63


class _Loader(yaml.SafeLoader):
    """Read dates as text; refuse double keys, nodes that contain themselves, and files over the limits."""

    yaml_implicit_resolvers: ClassVar = {
        first: [resolver for resolver in resolvers if resolver[0] != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str):
        super().__init__(text)
        self._nodes, self._depth = 0, 0
        self._sizes: dict[int, int] = {}  # id of a complete node -> number of nodes in it

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        is_alias, mark, before = self.check_event(yaml.AliasEvent), self.peek_event().start_mark, self._nodes
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ComposerError(problem=f"nested deeper than {MAX_DEPTH} levels", problem_mark=mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if is_alias and id(node) not in self._sizes:
            raise ComposerError(problem="an anchor contains itself", problem_mark=mark)
        self._nodes += self._sizes[id(node)] if is_alias else 1
        self._sizes.setdefault(id(node), self._nodes - before)
        if self._nodes > MAX_NODES:
            raise ComposerError(problem=f"more than {MAX_NODES:,} values, aliases expanded", problem_mark=mark)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if double := next((name for name, count in Counter(names).items() if count > 1), None):
            raise ConstructorError(problem=f"the key {double!r} is there twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, where: str, *, several: bool = False) -> Any:
    """Parse YAML that a user wrote: plain values with text keys. `where`: the file or the option of the text.

    With `several`, return a list of the documents in the text.

    Raises InputError for all other text: no YAML, unknown tags, numbers that cannot be read, double keys, anchors that
    contain themselves, more than the limits, NUL and lone surrogate characters.
    """
    try:
        value = list(yaml.load_all(text, _Loader)) if several else yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{where}:{mark.line + 1}" if mark and not where.startswith("--") else where
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or type(error).__name__
        raise InputError(f"not YAML: {problem}", where=place) from None
    except (ValueError, TypeError, OverflowError, RecursionError, AttributeError, LookupError) as error:
        # Raised by the constructors of numbers, such as 0x_.
        way_out = "put a text that looks like a number in quotes"
        raise InputError(f"a value cannot be read: {error}", where=where, way_out=way_out) from None
    _check_plain(value, where, key="")
    return value


def _check_plain(value: Any, where: str, key: str) -> None:
    """Raise InputError for a value of another type than text, number, boolean, null, list or mapping."""
    if isinstance(value, dict):
        for name, entry in value.items():
            if not isinstance(name, str):
                problem = f"the key {name!r} of {key or 'the file'} is not a text"
                raise InputError(problem, where=where, way_out=f'put it in quotes: "{name}"')
            _check_plain(name, where, key)
            _check_plain(entry, where, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for entry in value:
            _check_plain(entry, where, key)
    else:
        _check_scalar(value, where, key)


def _check_scalar(value: Any, where: str, key: str) -> None:
    if isinstance(value, str):
        if odd := NO_TEXT.search(value):
            raise InputError(f"{key!r} has the character U+{ord(odd[0]):04X}", where=where, way_out="remove it")
    elif isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{key!r} is {value}", where=where, way_out="give a finite number")
    elif isinstance(value, int) and abs(value) >= _MAX_INTEGER:
        raise InputError(f"{key!r} is a number of {len(str(value))} digits", where=where, way_out="give a smaller one")
    elif value is not None and not isinstance(value, int | float):
        way_out = "give a text, a number, a list or a mapping"
        raise InputError(f"{key!r} is a {type(value).__name__}", where=where, way_out=way_out)


def read_text(path: Path) -> str:
    """Read a text file that a user wrote. Raises InputError where it cannot be read or is over MAX_CHARACTERS."""
    where = str(path)
    try:
        with Path(path).open("rb") as file:
            text = file.read(4 * MAX_CHARACTERS).decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError("no such recipe", where=where) from None
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8: byte {error.start}", where=where, way_out="save it as UTF-8") from None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read: {getattr(error, 'strerror', None) or error}", where=where) from None
    if len(text) > MAX_CHARACTERS:
        raise InputError(f"has more than {MAX_CHARACTERS:,} characters", where=where, way_out="is it the right file?")
    return text


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file that contains a mapping; variables are not replaced.

    Raises InputError for a file that is missing, unreadable, not YAML, or not a mapping.
    """
    loaded = parse_yaml(read_text(path), str(path))
    if not isinstance(loaded, dict):
        raise InputError("a recipe is a mapping of keys", where=str(path), way_out="see recipes/ for examples")
    return loaded


def apply_change(values: dict[str, Any], change: str) -> None:
    """Set a key of nested `values` from a string such as "unlearn.epochs=2".

    Raises InputError where the string has no "=", its value is not YAML, or a parent key has no parts.
    """
    key, equals, text = change.partition("=")
    if not equals or not key.strip():
        raise InputError(f"cannot read {change!r}", where="--set", way_out="write --set unlearn.epochs=2")
    *parents, last = key.strip().split(".")
    for parent in parents:
        below = values.get(parent)
        if isinstance(below, str) and parent == "model":
            below = values[parent] = {"name": below}
        elif below is None:
            below = values[parent] = {}
        if not isinstance(below, dict):
            raise InputError(f"{parent!r} has no parts", where=f"--set {key}")
        values = below
    values[last] = parse_yaml(text, where=f"--set {key}")


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


def names_variable(value: Any) -> bool:
    """Return whether a text in a value is a `${NAME}`."""
    return _VARIABLE.search(str(value)) is not None


def _variable(name: str, where: str) -> str:
    if name not in os.environ:
        raise InputError(f"${{{name}}} is not set", where=where, way_out=f"export {name}=...")
    _check_plain(os.environ[name], where, f"${{{name}}}")
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
    problem = first["msg"].removeprefix("Value error, ").lower()
    quoted = f'put it in quotes: "{value}"' if first["type"] == "string_type" and value[:1] not in "[{N" else None
    return InputError(f"{dotted!r} is {shown}: {problem}{more}", where=where, way_out=quoted)


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
