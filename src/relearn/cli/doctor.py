"""Check Python, packages, devices, built-in models and settings for `relearn doctor`, without network access."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import psutil
from packaging.requirements import Requirement
from rich.markup import escape
from rich.table import Table

from relearn.audits.attacks import gguf
from relearn.core import config, console
from relearn.core.errors import InputError
from relearn.core.files import cache_dir
from relearn.models.builtin import BUILTIN, BuiltinModel, check_content, installed_at

CheckStatus = Literal["ok", "missing", "warning"]

DISTRIBUTION = "relearn-llm"
OLDEST_PYTHON = (3, 11)
GIB = 1 << 30
MEMORY_NEEDED, DISK_NEEDED = 4 * GIB, 2 * GIB
# Optional packages and their purpose; each is installed by the extra of the same name.
EXTRAS = {
    "vllm": "generation on GPUs with vLLM",
    "sentence-transformers": "other embedding models for entity matching",
    "lm-eval": "MMLU, GSM8K and other general benchmarks",
    "liger-kernel": "training with fused kernels",
    "bitsandbytes": "8- and 4-bit models",
    "torchao": "quantised models",
}
COLOURS: dict[CheckStatus, str] = {"ok": "green", "missing": "red", "warning": "yellow"}


@dataclass(frozen=True)
class Check:
    """Store the result of one check. `way_out`: how to install or repair the part; `optional`: it may be missing."""

    name: str
    state: CheckStatus
    detail: str
    way_out: str = ""
    optional: bool = False


def checks() -> list[Check]:
    """Run all checks, in the order of the table."""
    return [
        _python(),
        *_same_name(),
        *_requirements(),
        _devices(),
        *(_builtin(model) for model in BUILTIN.values()),
        _cores(),
        _memory(),
        *_disks(),
        *(_extra(package, purpose) for package, purpose in EXTRAS.items()),
        _quantiser(),
        *_model_options(),
        *_settings(os.environ),
    ]


def is_healthy(results: Iterable[Check]) -> bool:
    """Return whether all required parts are present; warnings do not count."""
    return not any(check.state == "missing" and not check.optional for check in results)


def render(results: list[Check]) -> None:
    """Print a table of the results and, below it, one unwrapped line for each part to install or repair."""
    table = Table(box=None, pad_edge=False)
    for heading in ("what", "state", "found"):
        table.add_column(heading, overflow="fold")
    for check in results:
        table.add_row(escape(check.name), _shown_state(check), escape(check.detail))
    console.out.print(table)
    for title, optional in (("to do", False), ("optional, to get it", True)):
        actions = [check for check in results if check.way_out and check.optional is optional]
        width = max((len(check.name) for check in actions), default=0)
        lines = [f"\n[bold]{title}[/]"] if actions else []
        lines += [f"  {escape(check.name):<{width}}  {escape(check.way_out)}" for check in actions]
        for line in lines:
            console.out.print(line, soft_wrap=True)


def _shown_state(check: Check) -> str:
    if check.optional and check.state == "missing":
        return "[dim]optional[/]"
    return f"[{COLOURS[check.state]}]{check.state}[/]"


def _python() -> Check:
    version = platform.python_version()
    if sys.version_info < OLDEST_PYTHON:
        return Check("Python", "missing", version, "install Python 3.11 or newer")
    return Check("Python", "ok", f"{version} at {sys.executable}")


def _same_name() -> Iterator[Check]:
    """Warn about the unrelated package `relearn` of the package registry, which has the same import name."""
    try:
        version = metadata.version("relearn")
    except metadata.PackageNotFoundError:
        return
    yield Check(
        "package relearn",
        "warning",
        f"{version} is an unrelated project with the same import name; the two overwrite each other",
        f"pip uninstall relearn && pip install --force-reinstall --no-deps {DISTRIBUTION}",
    )


def _requirements() -> Iterator[Check]:
    """Check that every declared dependency is installed in its version range."""
    try:
        declared = [Requirement(line) for line in metadata.requires(DISTRIBUTION) or ()]
    except metadata.PackageNotFoundError:
        yield Check(DISTRIBUTION, "missing", "not installed; imported from its source folder", "pip install -e .")
        return
    needed = [entry for entry in declared if entry.marker is None or entry.marker.evaluate({"extra": ""})]
    for requirement in sorted(needed, key=lambda entry: entry.name.lower()):
        yield _requirement(requirement)


def _requirement(requirement: Requirement) -> Check:
    command = f"pip install '{requirement.name}{requirement.specifier}'"
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return Check(requirement.name, "missing", "not installed", command)
    if requirement.specifier.contains(version, prereleases=True):
        return Check(requirement.name, "ok", version)
    return Check(requirement.name, "warning", f"{version} is outside {requirement.specifier}", command)


def _devices() -> Check:
    try:
        import torch
    except (ImportError, OSError) as error:
        return Check("devices", "missing", f"torch cannot be imported: {error}", "reinstall torch")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        memory = torch.cuda.get_device_properties(0).total_memory / GIB
        return Check("devices", "ok", f"{len(names)} x {names[0]} ({memory:.0f} GiB), CUDA {torch.version.cuda}")
    if torch.backends.mps.is_available():
        return Check("devices", "ok", "Apple GPU (mps) and CPU")
    return Check("devices", "ok", "CPU only: enough for the demo, slow for models with billions of weights")


def _model_options() -> Iterator[Check]:
    """Check the recipe options that need a GPU or an optional package."""
    from relearn.models.load import check_machine

    for key, value in (("quantization", "nf4"), ("attention", "flash_attention_2"), ("liger", "on")):
        name = f"model.{key}: {value}"
        try:
            check_machine(config.Model.model_validate({"name": "any", key: value}))
        except InputError as error:
            detail, _, way_out = str(error).removeprefix(f"model.{key}: ").partition(" -> ")
            yield Check(name, "missing", detail, way_out, optional=True)
        else:
            yield Check(name, "ok", "can be used", optional=True)


def _builtin(model: BuiltinModel) -> Check:
    name = f"model {model.name}"
    source = installed_at(model)
    if source is None:
        return Check(name, "missing", "not installed", model.install_command)
    try:
        check_content(model, source)
    except InputError:
        return Check(name, "missing", f"what lies at {source} is not what is pinned", model.repair_command)
    except OSError as error:
        return Check(name, "missing", f"cannot be read: {error}", model.repair_command)
    return Check(name, "ok", f"{model.package} {model.version}, sha256 as pinned")


def _cores() -> Check:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if usable < 2:
        return Check("cores", "warning", "1: the demo takes twice as long")
    return Check("cores", "ok", str(usable))


def _memory() -> Check:
    memory = psutil.virtual_memory()
    detail = f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB free"
    if memory.available < MEMORY_NEEDED:
        return Check("memory", "warning", detail, f"the demo needs {MEMORY_NEEDED // GIB} GiB")
    return Check("memory", "ok", detail)


def _disks() -> Iterator[Check]:
    for name, folder in (("disk, here", Path.cwd()), ("disk, model cache", cache_dir())):
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(existing).free
        detail = f"{free / GIB:.1f} GiB free at {folder}"
        if not os.access(existing, os.W_OK):
            yield Check(name, "warning", f"{existing} cannot be written", "use another folder, or set RELEARN_CACHE")
        elif free < DISK_NEEDED:
            yield Check(name, "warning", detail, f"the demo needs {DISK_NEEDED // GIB} GiB")
        else:
            yield Check(name, "ok", detail)


def _extra(package: str, purpose: str) -> Check:
    try:
        return Check(package, "ok", f"{metadata.version(package)}: {purpose}", optional=True)
    except metadata.PackageNotFoundError:
        return Check(package, "missing", purpose, f"pip install '{DISTRIBUTION}[{package}]'", optional=True)


def _quantiser() -> Check:
    purpose = "Q4_K_M in the GGUF attack of an audit"
    try:
        return Check(gguf.TOOL, "ok", f"{gguf.find_tool()}: {purpose}", optional=True)
    except InputError:
        return Check(gguf.TOOL, "missing", purpose, "install llama.cpp and put it on the PATH", optional=True)


def _settings(environment: os._Environ[str] | dict[str, str]) -> Iterator[Check]:
    """Check the environment variables of hosted generators and of the model hub; their values are never shown."""
    for variable, purpose in (("OPENAI_API_KEY", "the key"), ("OPENAI_BASE_URL", "the address")):
        if environment.get(variable):
            yield Check(variable, "ok", "set", optional=True)
        else:
            yield Check(variable, "missing", f"not set: {purpose} for openai:MODEL", f"export {variable}=...", True)
    if environment.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        yield Check(
            "model hub", "warning", "HF_HUB_OFFLINE is set: only models on disk can be used", "unset HF_HUB_OFFLINE"
        )
    else:
        yield Check("model hub", "ok", "used for models that are not on disk (not tested here)")
