"""Check the options of methods and masks against the values their annotations allow.

`Positive` and `NotNegative` annotate numbers; `float`, `int`, `bool` and `Literal[...]` work as they are, and
`Annotated[T, Allowed(text, accepts)]` describes anything else. Every refusal is a ValueError that names the option, its
value and what to give instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin


@dataclass(frozen=True)
class Allowed:
    """The values an option may have: `text` completes "give ..." in the error message."""

    text: str
    accepts: Callable[[Any], bool]

    def check(self, name: str, value: Any) -> None:
        """Raise ValueError when the value is not allowed."""
        if not self.accepts(value):
            raise ValueError(f"{name} is {value!r}: give {self.text}")


# YAML reads 1e-1 as text, so numbers are checked for their type as well.
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
    """Raise ValueError when the annotation of an option does not allow the value; other annotations allow all."""
    if get_origin(annotation) is Literal:
        # By their text: YAML reads 1 as a number.
        choices = [str(choice) for choice in get_args(annotation)]
        Allowed(" or ".join(choices), lambda given: str(given) in choices).check(name, value)
    for allowed in (_PLAIN.get(annotation), *getattr(annotation, "__metadata__", ())):
        if isinstance(allowed, Allowed):
            allowed.check(name, value)


def positive(**numbers: Any) -> None:
    """Raise ValueError for the first number that is not above 0, or no number at all."""
    for name, value in numbers.items():
        _POSITIVE.check(name, value)


def not_negative(**numbers: Any) -> None:
    """Raise ValueError for the first number that is below 0, or no number at all."""
    for name, value in numbers.items():
        _NOT_NEGATIVE.check(name, value)
