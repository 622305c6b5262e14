"""Limits on the numbers a method takes, in words a recipe's author can act on."""

from __future__ import annotations

from typing import Any


def positive(**numbers: Any) -> None:
    """Raises ValueError for the first number that is not above 0 (or no number at all: YAML reads 1e-1 as text)."""
    for name, value in numbers.items():
        if not isinstance(value, int | float) or not value > 0:
            raise ValueError(f"{name} is {value!r}: give a number above 0")


def not_negative(**numbers: Any) -> None:
    """Raises ValueError for the first number that is below 0 or no number at all."""
    for name, value in numbers.items():
        if not isinstance(value, int | float) or not value >= 0:
            raise ValueError(f"{name} is {value!r}: give a number of 0 or more")
