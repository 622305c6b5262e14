"""llama.cpp's own tool that makes a GGUF file smaller, where it is installed: nothing else writes the K formats."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from relearn.core.errors import InputError

TOOL = "llama-quantize"


def tool() -> str:
    """Where the tool is. Raises InputError where it is not to be found."""
    found = shutil.which(TOOL)
    if found is None:
        raise InputError(f"{TOOL} is not on the PATH", way_out="install llama.cpp")
    return found


def quantise(source: Path, target: Path, kind: str) -> None:
    """Write the weights of `source` to `target` in a format by llama.cpp's name for it, Q4_K_M for one.

    Raises InputError where the tool is not to be found or fails, with what it said last.
    """
    command = [tool(), str(source), str(target), kind]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if done.returncode or not target.exists():
        said = (done.stderr or done.stdout).strip().splitlines()
        raise InputError(f"{TOOL} ended with code {done.returncode}: {said[-1] if said else 'it said nothing'}")
