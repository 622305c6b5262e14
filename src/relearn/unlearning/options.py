"""Check the options of methods and masks against the values that their annotations allow.

`Positive` and `NotNegative` annotate numbers. `float`, `int`, `bool` and `Literal[...]` are checked too, and
`Annotated[T, Allowed(text, accepts)]` defines any other set of values. The ValueError for a value that is not allowed
has the option, its value and the allowed values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin


@dataclass(frozen=True)
class Allowed:
    """Define the allowed values of an option; `text` completes "give ..." in the error message."""

    text: str
    accepts: Callable[[Any], bool]

    def check(self, name: str, value: Any) -> None:
        """Raise ValueError when the value is not allowed."""
        if not self.accepts(value):
            raise ValueError(f"{name} is {value!r}: give {self.text}")


# YAML reads 1e-1 as text, so the type is checked too.
_POSITIVE = Allowed("a number above 0", lambda value: isinstance(value, int | float) and value > 0)
_NOT_NEGATIVE = Allowed("a number of 0 or more", lambda value: isinstance(value, int | float) and value >= 0)
Positive = Annotated[float, _POSITIVE]
NotNegative = Annotated[float, _NOT_NEGATIVE]
_PLAIN = {
    bool: Allowed("true or false", lambda value: isinstance(value, bool)),
    int: Allowed("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    float: Allowed("a number", lambda value: isinstance(value, int | float)),
}


def check_option(name: str, value: Any, annotation: Any) -> None:
    """Raise ValueError when the annotation of an option does not allow the value; unknown annotations allow all."""
    if get_origin(annotation) is Literal:
        # Values are compared as text, because YAML reads 1 as a number.
        choices = [str(choice) for choice in get_args(annotation)]
        Allowed(" or ".join(choices), lambda given: str(given) in choices).check(name, value)
    for allowed in (_PLAIN.get(annotation), *getattr(annotation, "__metadata__", ())):
        if isinstance(allowed, Allowed):
            allowed.check(name, value)


def positive(**numbers: Any) -> None:
    """Raise ValueError for the first value that is not a number above 0."""
    for name, value in numbers.items():
        _POSITIVE.check(name, value)


def not_negative(**numbers: Any) -> None:
    """Raise ValueError for the first value that is not a number of at least 0."""
    for name, value in numbers.items():
        _NOT_NEGATIVE.check(name, value)
