"""Register methods, metrics, attacks and generators by name.

A registry imports all modules of its `places` (packages with their sub-packages, or single modules) when it is first
read. Each module adds its items when it is imported, so a new item needs only a new file.
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
    """Look up items of one kind by name. An unknown name raises InputError with the nearest known name."""

    def __init__(self, kind: str, *places: str, nested: bool = True):
        """Create a registry of items of `kind`; with `nested`, modules of sub-packages are imported too."""
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
    """Suggest a name: "did you mean X?" for a similar known name, else the list of known names."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(known)) or 'none'}"
