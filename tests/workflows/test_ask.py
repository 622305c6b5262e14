"""Export: the saved model is the run's model in the form of the recipe's model, or there is no folder."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from people import people
from relearn.core.config import Lora, Model, Recipe
from relearn.core.errors import RunFailedError
from relearn.core.run_dir import RunFolder
from relearn.inference.run_models import ModelSet
from relearn.models.load import load
from relearn.models.lora import add_lora, probe_logits, save_adapter
from relearn.workflows import ask
from relearn.workflows.ask import export_merged
from tiny import save_tiny

IDS = [40, 90, 140, 190, 240, 290]


def finished(folder, source, *, target, full: bool = False) -> tuple[Recipe, RunFolder]:
    """A run folder with what a training of large steps leaves: an adapter, or all weights."""
    private = people(folder / "private.jsonl", "private", 1)
    unlearn = {"full": True} if full else {"lora": {"r": 2, "target": target}}
    recipe = Recipe.from_mapping({"model": str(source), "data": {"forget": private}, "unlearn": unlearn})
    run = RunFolder(folder / "run")
    run.path.mkdir()
    (run / "recipe.yaml").write_text(recipe.to_yaml())
    run.update_manifest()
    loaded = load(recipe.model)
    model = loaded.model if full else add_lora(loaded.model, recipe.unlearn.lora, seed=0)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if full or "lora_B" in name:
                weight.add_(0.05 * torch.randn_like(weight))
    if full:
        model.save_pretrained(run / "model")
        loaded.tokenizer.save_pretrained(run / "model")
    else:
        save_adapter(model, run / "adapter")
    return recipe, run


@pytest.mark.parametrize(
    ("target", "full"), [("all-linear", False), (["lm_head"], False), (["embed_tokens", "q_proj"], False), (None, True)]
)
def test_the_export_is_the_runs_model_in_the_form_of_its_start(tmp_path, target, full):
    """In float32 the run computes, in bfloat16 the model lies; its tokenizer has no pad token, and gets none."""
    source = save_tiny(tmp_path / "model", "Llama", dtype=torch.bfloat16, pad=False)
    recipe, run = finished(tmp_path, source, target=target, full=full)
    expected = probe_logits(ModelSet.of_run(recipe, run.path).unlearned().model, IDS)
    export_merged(run.path, tmp_path / "out")
    names = {file.name for file in source.iterdir()}
    assert {file.name for file in (tmp_path / "out").iterdir()} == names
    untied = target is not None and target != "all-linear"
    for name in names - {"model.safetensors"} - ({"config.json"} if untied else set()):
        assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes(), name
    before, after = (json.loads((place / "config.json").read_text()) for place in (source, tmp_path / "out"))
    assert after == {**before, "tie_word_embeddings": not untied}
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    found = probe_logits(load(Model(name=str(tmp_path / "out"))).model, IDS)
    assert torch.allclose(found, expected, atol=0.03)


@pytest.mark.parametrize("fault", ["not merged", "half"])
def test_an_export_that_is_not_the_runs_model_leaves_no_folder(tmp_path, monkeypatch, fault):
    source = save_tiny(tmp_path / "model", "Llama")
    _, run = finished(tmp_path, source, target="all-linear")

    def wrong(_model, _spec, target):
        for file in source.iterdir():
            shutil.copyfile(file, target / file.name)
        if fault == "half":
            raise OSError(28, "No space left on device")
        return torch.float32

    monkeypatch.setattr(ask, "save_like", wrong)
    message = {"not merged": r"out: the merged model is not the run's model", "half": r"out: the disk is full"}[fault]
    before = sorted(tmp_path.iterdir())
    with pytest.raises(RunFailedError, match=message):
        export_merged(run.path, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


def test_experts_are_exported_with_their_adapters(tmp_path):
    source = save_tiny(tmp_path / "model", "Qwen2Moe")
    recipe, run = finished(tmp_path, source, target="all-linear")
    assert recipe.unlearn.lora == Lora(r=2)
    expected = probe_logits(ModelSet.of_run(recipe, run.path).unlearned().model, IDS)
    export_merged(run.path, tmp_path / "out")
    before, after = (load_file(place / "model.safetensors") for place in (source, tmp_path / "out"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert set(before) == set(after) and sum(".experts." in name for name in changed) == 2 * 4 * 3
    assert torch.allclose(probe_logits(load(Model(name=str(tmp_path / "out"))).model, IDS), expected, atol=1e-4)
