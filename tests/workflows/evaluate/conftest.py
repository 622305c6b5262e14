"""Facts in a folder of the test's own, a second tiny model, an adapter whose change can be seen."""

from __future__ import annotations

import pytest
import torch

from tiny import build_tiny_model
from workflows.evaluate.asked import PRIVATE, PUBLIC, records


@pytest.fixture
def facts(tmp_path, monkeypatch) -> list[str]:
    """The options that name the two sets of records, in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    records(tmp_path / "forget.jsonl", PRIVATE)
    records(tmp_path / "retain.jsonl", PUBLIC)
    return ["--forget", "forget.jsonl", "--retain", "retain.jsonl"]


@pytest.fixture(scope="session")
def other_model(tmp_path_factory) -> str:
    return str(build_tiny_model(tmp_path_factory.mktemp("other") / "model", seed=1))


@pytest.fixture(scope="session")
def adapter(tiny_model_dir, tmp_path_factory) -> str:
    """A LoRA adapter for the tiny model whose change can be seen in its answers."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_model_dir), LoraConfig(r=2, target_modules=["q_proj", "down_proj"])
    )
    torch.manual_seed(0)
    for name, weights in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weights, std=0.5)
    folder = tmp_path_factory.mktemp("adapter") / "adapter"
    model.save_pretrained(folder, safe_serialization=True)
    return str(folder)
