"""Load plug-ins: files and installed packages that register methods, metrics or attacks from outside the package.

A plug-in is a Python file named on the command line (`relearn --plugin my_loss.py run ...`) or an installed package
with an entry point of the group `relearn.plugins`. No other code is imported; a recipe or run folder cannot name code.
The manifest of a run lists the plug-ins that it used, with a hash or a version; `require` compares them on resume.
"""

from __future__ import annotations

import hashlib
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import Any

from relearn.core import distributed
from relearn.core.errors import InputError
from relearn.core.registry import Registry

GROUP = "relearn.plugins"


@dataclass(frozen=True)
class Plugin:
    """Describe a loaded plug-in.

    `name`: file name or distribution name. `source`: path, or name and version, for display. `registers`: kind of a
    registry -> names that the plug-in added to it. `sha256`: hash of the file; None for a distribution. `version`:
    version of the distribution; None for a file.
    """

    name: str
    source: str
    registers: Mapping[str, Sequence[str]]
    sha256: str | None = None
    version: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the entry in manifest.json."""
        identity = {"sha256": self.sha256} if self.sha256 else {"version": self.version}
        return {
            "name": self.name,
            **identity,
            "registers": {kind: list(names) for kind, names in self.registers.items()},
        }


# Plug-ins loaded in this process, in order.
LOADED: list[Plugin] = []


def load_file(path: Path, registries: Sequence[Registry[Any]]) -> Plugin:
    """Run the Python file at `path` as a plug-in; a file that is already loaded is not run again.

    Raises InputError for a file that cannot be read or run, registers nothing, or registers a name that exists.
    """
    try:
        code = path.read_bytes()
    except OSError as error:
        raise _refusal(f"cannot be read: {error.strerror}", str(path), "give a Python file") from None
    digest = hashlib.sha256(code).hexdigest()
    for plugin in LOADED:
        if plugin.sha256 == digest and plugin.name == path.name:
            return plugin
    registers = _registered_by(lambda: _execute(path, code, digest), registries, str(path), path)
    return _loaded(Plugin(path.name, str(path), registers, sha256=digest))


def load_installed(registries: Callable[[], Sequence[Registry[Any]]]) -> list[Plugin]:
    """Import the installed packages with an entry point of the group `relearn.plugins`.

    `registries` is called only when there is such a package. Raises InputError like `load_file`.
    """
    entry_points = [entry for entry in metadata.entry_points(group=GROUP) if entry.dist is not None]
    entry_points.sort(key=lambda entry: (_distribution(entry), entry.name))
    plugins = []
    for (name, version), entries in groupby(entry_points, key=_distribution):
        if any(plugin.name == name for plugin in LOADED):
            continue
        source = f"{name} {version}"
        imports = list(entries)
        registers = _registered_by(lambda imports=imports: [one.load() for one in imports], registries(), source)
        plugins.append(_loaded(Plugin(name, source, registers, version=version)))
    return plugins


def _distribution(entry: metadata.EntryPoint) -> tuple[str, str]:
    assert entry.dist is not None
    return entry.dist.name, entry.dist.version


def _loaded(plugin: Plugin) -> Plugin:
    LOADED.append(plugin)
    return plugin


def _execute(path: Path, code: bytes, digest: str) -> None:
    """Run the code as a new module in `sys.modules`, where dataclasses and type hints look it up."""
    module = ModuleType(f"relearn_plugin_{path.stem}_{digest[:8]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    exec(compile(code, str(path), "exec"), module.__dict__)


def _registered_by(
    run: Callable[[], Any], registries: Sequence[Registry[Any]], source: str, path: Path | None = None
) -> dict[str, list[str]]:
    """Call `run` and return the names that are new in each registry."""
    before = {registry.kind: set(registry) for registry in registries}
    try:
        run()
    except (Exception, SystemExit) as error:
        place, line = _place(error, path)
        where = f"{source}, line {line}" if place == str(path) else f"{source}: {place}, line {line}"
        way_out = "choose another name" if "registered twice" in str(error) else None
        raise _refusal(f"{type(error).__name__}: {error}", where, way_out) from None
    registers = {registry.kind: sorted(set(registry) - before[registry.kind]) for registry in registries}
    registers = {kind: names for kind, names in registers.items() if names}
    if not registers:
        raise _refusal("registers nothing", source, "decorate a function with @method, @metric or @attack")
    return registers


def _refusal(what: str, source: str, way_out: str | None) -> InputError:
    # Every process of a distributed run loads the same plug-ins and raises the same error.
    return distributed.everywhere(InputError(what, where=f"plug-in {source}", way_out=way_out))


def _place(error: BaseException, path: Path | None) -> tuple[str, int | None]:
    """Return file and line of an error: the innermost frame in the file `path`, else the innermost frame."""
    if isinstance(error, SyntaxError) and error.filename:
        return error.filename, error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == str(path)]
    return (own or frames)[-1].filename, (own or frames)[-1].lineno


def origin(kind: str, name: str) -> str | None:
    """Return the source of the plug-in that registered `name`; None for a name of this package."""
    return next((plugin.source for plugin in LOADED if name in plugin.registers.get(kind, ())), None)


def used_by(method: str) -> Iterator[Plugin]:
    """Yield the loaded plug-ins that can change a run with this method.

    Plug-ins that register only other methods or attacks are left out.
    """
    for plugin in LOADED:
        if method in plugin.registers.get("method", ()) or set(plugin.registers) - {"method", "audit"}:
            yield plugin


def require(recorded: Iterable[Mapping[str, Any]], folder: Path) -> None:
    """Raise InputError where a plug-in in the manifest of the run in `folder` is not loaded or has changed."""
    for entry in recorded:
        name, version = entry.get("name"), entry.get("version")
        same_name = [plugin for plugin in LOADED if plugin.name == name]
        if any((plugin.sha256, plugin.version) == (entry.get("sha256"), version) for plugin in same_name):
            continue
        if same_name:
            what = f"the plug-in {name} has changed since this run began"
            way_out = f"pip install '{name}=={version}'" if version else "restore the file"
            way_out += ", or start anew with another --out"
        else:
            what = f"this run was begun with the plug-in {name}, which is not loaded"
            way_out = f"pip install '{name}=={version}'" if version else f"relearn --plugin {name} run ... --resume"
        raise InputError(what, where=str(folder), way_out=way_out)
