"""A registry is a name -> thing table that a module fills when it is imported.

A new method, metric or generator is one new file: every module of the places a registry names (packages or single
modules) is imported, so nothing else has to name it.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from relearn.core.errors import InputError

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to things of one kind; unknown names end in an `InputError` with the nearest known name."""

    def __init__(self, kind: str, *places: str, nested: bool = True):
        """nested: import the modules of sub-packages too."""
        self.kind = kind
        self._modules = pkgutil.walk_packages if nested else pkgutil.iter_modules
        self._places = places
        self._items: dict[str, T] = {}
        self._discovered = False

    def add(self, name: str, item: T) -> T:
        if name in self._items:
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        self._items[name] = item
        return item

    def register(self, name: str) -> Callable[[T], T]:
        return lambda item: self.add(name, item)

    def get(self, name: str) -> T:
        self._discover()
        if name not in self._items:
            raise InputError(f"unknown {self.kind} {name!r}", way_out=suggest(name, list(self)))
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        self._discover()
        return iter(sorted(self._items))

    def __contains__(self, name: str) -> bool:
        self._discover()
        return name in self._items

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True
        for place in self._places:
            package = importlib.import_module(place)
            for module in self._modules(getattr(package, "__path__", []), f"{place}."):
                importlib.import_module(module.name)


def suggest(name: str, known: list[str]) -> str:
    """'did you mean X?' when a known name is close, else the list of what there is."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(known)) or 'none'}"
