"""What test_parallel.py has two processes do; also callable by one, for comparison.

accelerate launch --config_file recipes/accelerate/ddp-cpu-2.yaml tests/training/two_processes.py MODEL FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from safetensors.torch import save_file
from transformers import TrainerCallback

from relearn.core import config, distributed
from relearn.core.config import Generate
from relearn.core.errors import InputError, RelearnError
from relearn.core.files import write_json
from relearn.data import Record
from relearn.inference.answers import ask
from relearn.models.load import load
from relearn.unlearning.masks.mask import make_mask
from unlearning.toy import FORGET, fresh, plan, trained, weights

# name -> (method, options, batch size, accumulation, forget rows, more)
SCENARIOS: dict[str, tuple[str, dict[str, Any], int, int, int, dict[str, Any]]] = {
    "rows of a batch shared out": ("relearn", {}, 4, 1, 23, {}),
    "micro-batches shared out, few in the last step": ("relearn", {}, 2, 4, 21, {}),
    "pairs": ("relearn_dpo_gdr", {}, 2, 3, 23, {}),
    "weights without a gradient": ("rmu", {"layer": 0}, 4, 1, 24, {}),
    "numbers carried from step to step": ("pdu", {}, 2, 2, 24, {}),
    "everything trained": ("relearn", {}, 4, 2, 24, {"lora": False}),
    "recomputed": ("npo_gdr", {}, 2, 2, 24, {"gradient_checkpointing": True}),
    "masked": ("grad_diff", {}, 2, 2, 24, {"mask": "sure"}),
}
RATE = 1e-3


class StopAt(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        if state.global_step == 4:
            raise KeyboardInterrupt


def do(name: str, model_dir: Path, folder: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]], dict]:
    """(weights before, logged rows, weights after) of one scenario."""
    method, options, batch_size, accumulation, count, more = SCENARIOS[name]
    batches = plan(method, batch_size=batch_size, accumulation=accumulation, forget=FORGET[:count])
    model = fresh(model_dir, lora=more.get("lora", True))
    before = weights(model)
    callbacks = [make_mask(config.MaskConfig(name=more["mask"]), model, batches)] if "mask" in more else []
    after, logged = trained(
        model,
        batches,
        folder,
        method=method,
        options=options,
        rate=RATE,
        accumulation=accumulation,
        runaway_loss=1e6,
        callbacks=callbacks,
        gradient_checkpointing=more.get("gradient_checkpointing", False),
    )
    return before, logged, after


def interrupted(model_dir: Path, folder: Path) -> None:
    """A training that stops after its fourth step, the second checkpoint being complete after it."""
    try:
        resumed(model_dir, folder, callbacks=[StopAt()])
    except KeyboardInterrupt:
        distributed.barrier()
        return
    raise AssertionError("was to be interrupted")


def resumed(model_dir: Path, folder: Path, **more: Any) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    batches = plan("pdu", batch_size=2, accumulation=2)
    return trained(
        fresh(model_dir),
        batches,
        folder,
        method="pdu",
        rate=RATE,
        accumulation=2,
        runaway_loss=1e6,
        checkpoint_every=2,
        **more,
    )


def answers(model_dir: Path, temperature: float) -> list[dict]:
    """11 questions in batches of 3, so that one process has more of them."""
    loaded = load(config.Model(name=str(model_dir)))
    records = [
        Record(question=f"Where does {name} live, and since when?" + "?" * n, answer=f"In {name}borg.", id=name)
        for n, name in enumerate("abcdefghijk")
    ]
    settings = Generate(max_new_tokens=12, batch_size=3, temperature=temperature)
    return ask(loaded, records, settings, seed=3).rows


def failure(work: Any) -> str:
    try:
        work()
    except RelearnError as error:
        return f"{type(error).__name__} {error.shared} {error}"
    except ZeroDivisionError as error:
        return type(error).__name__
    return "nothing went wrong"


def _wrong() -> None:
    raise InputError("wrong on the main process", where="here")


def main(model_dir: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.join()
    rank = distributed.rank()
    failures = {
        "main only": failure(lambda: distributed.on_main(_wrong)),
        "a bug": failure(lambda: distributed.on_main(lambda: 1 / 0)),
        "runaway": failure(lambda: trained(fresh(model_dir), plan(), folder / "runaway", rate=RATE, runaway_loss=0.1)),
    }
    write_json(folder / "told.json", distributed.gather(failures))
    write_json(folder / "main.json", distributed.on_main(lambda: [distributed.rank(), distributed.processes()]))
    write_json(folder / "spread.json", distributed.spread("abcde", lambda letter: f"{letter}{rank}"))
    for temperature in (0.0, 1.0):
        write_json(folder / f"answers-{temperature}.json", answers(model_dir, temperature))
    for name in SCENARIOS:
        _, logged, after = do(name, model_dir, folder / name)
        everywhere = distributed.gather({key: float(weight.double().sum()) for key, weight in after.items()})
        write_json(
            folder / name / "log.json", {"log": logged, "same": all(sums == everywhere[0] for sums in everywhere)}
        )
        if distributed.is_main():
            save_file(after, folder / name / "weights.safetensors")
    after, logged = resumed(model_dir, folder / "one then two")
    write_json(folder / "one then two" / "log.json", logged)
    if distributed.is_main():
        save_file(after, folder / "one then two" / "weights.safetensors")
    interrupted(model_dir, folder / "two then one")
    distributed.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
