"""Put a trained adapter into the package: `python research/judge_training/export.py --data DATA --adapter FILE`.

What its calls need and the temperature (calibrate.py) are set on rows of SNLI that training did not see.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from calibrate import PRECISION, deductions, fitted_temperature
from check import all_logits
from lora import BASE, load_halves
from safetensors.torch import load_file, save_file
from torch import Tensor
from train import Settings, material

from relearn.core.files import file_hash
from relearn.metrics.entailment_builtin.judge import HERE, BuiltinJudge
from relearn.metrics.entailment_builtin.model import add_adapter
from relearn.metrics.nli import LABELS
from relearn.models.builtin import BUILTIN

VERSION = 2
BIAS = "labels.bias"


def deducted(adapter: dict[str, Tensor], taken: Tensor) -> dict[str, Tensor]:
    """The adapter with `taken` off its three logits; that bias in float32, since what is taken is small beside it."""
    return adapter | {BIAS: adapter[BIAS].float() - taken.float()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds nli/")
    parser.add_argument(
        "--adapter", type=Path, required=True, help="an adapter that train.py wrote, beside settings.json"
    )
    given = parser.parse_args()
    trained = json.loads((given.adapter.parent / "settings.json").read_text())
    settings = Settings(**trained)
    encoder, decider, tokenizer = load_halves(settings.inner)
    adapter = load_file(given.adapter)
    add_adapter(decider, adapter)
    judge = BuiltinJudge(encoder, decider, tokenizer, {"version": VERSION, "temperature": 1.0})
    development = material(given.data, settings).development
    logits = all_logits(judge, development)
    labels = torch.tensor([LABELS.index(pair.label) for pair in development])  # type: ignore[arg-type]
    taken = deductions(logits, labels)
    save_file(deducted(adapter, taken), HERE / "adapter.safetensors")
    (HERE / "adapter.safetensors").chmod(0o644)  # safetensors writes for the owner alone
    record = {
        "version": VERSION,
        "base": BASE,
        "base_sha256": BUILTIN[BASE].sha256,
        "sha256": file_hash(HERE / "adapter.safetensors"),
        "labels": list(LABELS),
        "inner": settings.inner,
        "precision": PRECISION,
        "deducted": [round(value, 4) for value in taken.tolist()],
        "temperature": round(fitted_temperature(logits - taken, labels), 4),
        "training": trained,
    }
    # Plain files of a package, for everyone to read, unlike the files of a run.
    text = json.dumps(record, indent=1)
    (HERE / "adapter.json").write_text(f"{text}\n")
    print(text)


if __name__ == "__main__":
    main()
