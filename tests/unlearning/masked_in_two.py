"""A masked training as one of several processes: `python masked_in_two.py MODEL FOLDER MASK [sharded]`.

Writes FOLDER/RANK.safetensors: weights before and after, and the rows that may move.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from relearn.core import config, distributed
from relearn.unlearning.masks.mask import make_mask
from unlearning.toy import FORGET, fresh, plan, trained, weights

Weights = dict[str, torch.Tensor]


def copied(model: Any, target: Path, name: str) -> tuple[Weights, Weights, Weights]:
    """Weights before, weights after, rows that may move: an adapter, data parallel."""
    batches = plan("grad_diff", batch_size=2, accumulation=2)
    before = weights(model)
    mask = make_mask(config.MaskConfig(name=name), model, batches)
    after, _ = trained(
        model, batches, target, method="grad_diff", accumulation=2, weight_decay=0.1, warmup=0.0, callbacks=[mask]
    )
    return before, after, mask.moving


def sharded(model: Any, target: Path, name: str) -> tuple[Weights, Weights, Weights]:
    """The same of a whole model whose matrices are split by rows among the processes, in a bare training loop."""
    before = weights(model)
    mask = make_mask(config.MaskConfig(name=name), model, plan("grad_diff", batch_size=2))
    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard(model)
    parameters = dict(model.named_parameters())
    assert all(isinstance(weight, DTensor) for weight in parameters.values())
    assert all(2 * weight.to_local().shape[0] == weight.shape[0] for weight in parameters.values())
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    state = SimpleNamespace(global_step=0)
    mask.on_train_begin(
        SimpleNamespace(distributed_state=SimpleNamespace(distributed_type=None), output_dir=str(target)),
        state,
        None,
        model=model,
    )
    for row in FORGET[:3]:
        ids = torch.tensor([row.ids])
        model(input_ids=ids, labels=ids).loss.backward()
        mask.on_pre_optimizer_step(None, state, None)
        optimiser.step()
        mask.on_optimizer_step(None, state, None)
        optimiser.zero_grad()
    after = {key: weight.full_tensor() for key, weight in weights(model).items()}  # pyright: ignore
    return before, after, mask.moving


def main(folder: Path, target: Path, name: str, split: bool) -> None:
    distributed.join()
    work = sharded if split else copied
    parts = zip(("before", "after", "moving"), work(fresh(folder, lora=not split), target, name), strict=True)
    found = {f"{part} {key}": value.contiguous() for part, table in parts for key, value in table.items()}
    save_file(found, target / f"{distributed.rank()}.safetensors")
    distributed.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], "sharded" in sys.argv[4:])
