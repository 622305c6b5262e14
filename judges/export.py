"""Put a trained adapter into the package: `python judges/export.py --data DATA --adapter FILE`.

The temperature (arXiv 1706.04599) is set on rows of SNLI that training did not see.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
import torch.nn.functional as F
from check import all_logits
from lora import BASE, load_halves
from safetensors.torch import load_file
from train import Settings, material

from relearn.metrics.entailment_builtin.judge import HERE, BuiltinJudge
from relearn.metrics.entailment_builtin.model import add_adapter
from relearn.metrics.verdicts import LABELS
from relearn.models.packages import BUILTIN
from relearn.rundir import file_hash

VERSION = 1


def fitted_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The temperature at which the labels are likeliest."""
    log_temperature = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_temperature], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        found = F.cross_entropy(logits / log_temperature.exp(), labels)
        found.backward()
        return found

    optimizer.step(loss)
    return float(log_temperature.detach().exp())


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
    add_adapter(decider, load_file(given.adapter))
    judge = BuiltinJudge(encoder, decider, tokenizer, {"version": VERSION, "temperature": 1.0})
    development = material(given.data, settings).development
    logits = all_logits(judge, development)
    labels = torch.tensor([LABELS.index(pair.label) for pair in development])  # type: ignore[arg-type]
    shutil.copyfile(given.adapter, HERE / "adapter.safetensors")
    record = {
        "version": VERSION,
        "base": BASE,
        "base_sha256": BUILTIN[BASE].sha256,
        "sha256": file_hash(HERE / "adapter.safetensors"),
        "labels": list(LABELS),
        "inner": settings.inner,
        "temperature": round(fitted_temperature(logits, labels), 4),
        "training": trained,
    }
    # Plain files of a package, for everyone to read, unlike the files of a run.
    text = json.dumps(record, indent=1)
    (HERE / "adapter.json").write_text(f"{text}\n")
    print(text)


if __name__ == "__main__":
    main()
