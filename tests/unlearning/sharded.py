"""What test_fsdp.py has two processes do: train a model whose weights are split between them by torch's fully_shard.

accelerate launch --config_file recipes/accelerate/ddp-cpu-2.yaml tests/training/sharded.py MODEL FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

from relearn.core import distributed
from relearn.core.distributed import is_sharded, whole_state
from relearn.core.files import write_json
from relearn.engine.forward import answer_logprobs, predict
from relearn.engine.model_support import bare, can_pack, decoder_layers, plain_head
from relearn.models.lora import save_adapter
from relearn.unlearning.data.batches import own_accumulation, share
from relearn.unlearning.method import METHODS
from relearn.unlearning.step import make_reference, step_loss
from unlearning.toy import FORGET, RETAIN, fresh, plan

CASES = {"adapter": ("relearn", True), "everything": ("npo_gdr", False)}
STEPS = 4


def shard(model: Any) -> Any:
    """Every decoder layer apart, the rest with the whole, as FSDP does it."""
    from torch.distributed.fsdp import fully_shard

    for layer in decoder_layers(model):
        fully_shard(layer)
    return fully_shard(model)


def losses(model: Any, method: str, reference_of: Any = None) -> list[float]:
    """The loss of the first steps under plain gradient descent, summed over the processes."""
    objective = METHODS.get(method).objective({})
    own = share(plan(method), 1, rank=distributed.rank(), processes=distributed.processes())[:STEPS]
    assert own_accumulation(1, distributed.processes()) == 1
    reference = make_reference(model, own, objective)
    model = reference_of(model) if reference_of else model
    optimiser = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.1)
    found = []
    for micro in own:
        loss, _ = step_loss(model, micro, objective, reference)
        found.append(sum(distributed.gather(float(loss.detach()))))
        (loss * distributed.processes()).backward()
        optimiser.step()
        optimiser.zero_grad()
    return found


def main(model_dir: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.join()
    told: dict[str, Any] = {}
    for name, (method, lora) in CASES.items():
        model = fresh(model_dir, lora=lora)
        told[name] = {"losses": losses(model, method, shard)}
        told[name]["shards"] = {
            key: [list(weight.shape), list(weight.to_local().shape)]
            for key, weight in model.named_parameters()
            if isinstance(weight, DTensor)
        }
        told[name]["whole"] = [key for key, weight in model.named_parameters() if not isinstance(weight, DTensor)]
        told[name]["path"] = [is_sharded(model), plain_head(model) is None, can_pack(model)]
        state = whole_state(model)
        if distributed.is_main():
            assert state is not None
            save_file({key: weight.clone() for key, weight in state.items()}, folder / f"{name}.safetensors")
        if lora:
            (folder / "saved").mkdir(exist_ok=True)
            save_adapter(model, folder / "saved" if distributed.is_main() else folder / "dropped")
    # A model that was never asked anything before it was split.
    model = shard(fresh(model_dir, lora=False))
    torch.manual_seed(0)
    with torch.no_grad():
        told["unseen"] = [predict(model, FORGET[:3]).logits is not None, can_pack(model), type(bare(model)).__name__]
        said = answer_logprobs(model, [*FORGET, *RETAIN], batch_tokens=10**6)
    told["logprobs"] = [piece.tolist() for piece in said]
    write_json(folder / "told.json", distributed.gather(told))
    distributed.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
