"""What one small step of every objective does, told to first order and measured; then a few steps more.

    python studies/theory.py runs/demo --out results/theory

Takes the start model of a finished run (it knows the facts), a fresh LoRA adapter, and a few forget and retain rows.
The change is told by a Jacobian-vector product along the step (the empirical neural tangent kernel of the adapter's
weights times the residual). The length of a step is chosen so that the mean told change over all watched places is
`--size` nats. With `--steps` the same model then takes so many steps of Adam.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from learning_dynamics import agreement, descent, logprobs, moved, norm, predicted, runners_up, trained

from relearn.core.config import Recipe
from relearn.core.run_dir import read_json, read_jsonl, write_json, write_text
from relearn.data.record import evenly
from relearn.data.validation import load_all
from relearn.engine.forward import TokenRow
from relearn.engine.model_support import evaluating
from relearn.inference.run_models import RunModels
from relearn.models.lora import add_lora
from relearn.report.kfr_krr_plot import standalone
from relearn.report.plots import over_steps
from relearn.synthesis.rows import TrainingRow
from relearn.unlearning.data.batches import MicroBatch
from relearn.unlearning.data.encode import encode, record_example
from relearn.unlearning.data.streams import TrainingData
from relearn.unlearning.method import METHODS, Objective
from relearn.unlearning.step import make_reference, step_loss
from relearn.unlearning.train import unlearn_batches

METHODS_TOLD = (
    "ga",
    "grad_diff",
    "ga_klr",
    "npo",
    "npo_gdr",
    "npo_klr",
    "simnpo",
    "idk_nll",
    "idk_dpo",
    "relearn_gdf",
    "relearn",
)
METHODS_WALKED = ("ga", "grad_diff", "npo_gdr", "simnpo", "relearn_gdf", "relearn")
# Smaller changes of a log-probability are rounding in float32: their signs say nothing.
ROUNDING = 1e-4
PLACES = ("answer", "second", "following", "other prompts")


@dataclass
class Scene:
    """A model with a fresh adapter, the rows that are watched, and their candidates at the start."""

    model: Any
    forget: list[TokenRow]
    kept: list[TokenRow]
    others: dict[str, torch.Tensor]


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    began = time.process_time()
    recipe = Recipe.from_yaml(options.run / "recipe.yaml")
    loaded = RunModels(recipe, options.run).start()
    loaded.model.set_attn_implementation("eager")
    data = load_all(recipe.data)
    material = TrainingData(
        evenly(data.forget, options.rows),
        [TrainingRow(**row) for row in read_jsonl(options.run / "synthesis.jsonl")],
        evenly(data.retain, options.rows * 2),
    )
    # Trained retain rows are the first half of them, watched ones the other: a step on a row tells nothing of others.
    material, watched = replace(material, retain=material.retain[::2]), material.retain[1::2]
    model = add_lora(loaded.model, recipe.unlearn.lora, seed=recipe.seed)
    forget = encode(loaded.chat, [record_example(record) for record in material.records])
    kept = encode(loaded.chat, [record_example(record) for record in watched])
    scene = Scene(model, forget, kept, {row.id: runners_up(model, row) for row in (*forget, *kept)})
    start = {row.id: logprobs(model, row, scene.others[row.id]) for row in (*forget, *kept)}
    told: dict[str, Any] = {}
    settings = {"steps": options.steps, "learning_rate": options.rate, "rows": options.rows, "every": options.every}
    walked = _walked_before(options.out / "walk.json", settings)
    for name in () if options.walk_only else METHODS_TOLD:
        objective, batch = _batch(name, loaded.chat, material, recipe)
        told[name] = one_step(scene, objective, batch, start, options.size)
        print(name, json.dumps(told[name]["agreement"]), flush=True)
    if told:
        write_json(options.out / "one_step.json", {"size": options.size, "rows": options.rows, "methods": told})
    for name in [name for name in options.methods if name not in walked] if options.steps else ():
        objective, batch = _batch(name, loaded.chat, material, recipe)
        walked[name] = walk(scene, objective, batch, options)
        print(name, {key: values[-1] for key, values in walked[name].items()}, flush=True)
        write_json(options.out / "walk.json", settings | {"methods": walked})
    if walked:
        for name, found in walked.items():
            lines = {key: found[key] for key in ("true token", "second candidate", "other prompts")}
            picture = over_steps(found["step"], lines, f"walk-{name}", f"{name}: mean probabilities", "probability")
            write_text(options.out / f"walk-{name}.svg", standalone(picture))
    print(f"{time.process_time() - began:.0f} s of processor time")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="a finished run folder whose start model knows the facts")
    parser.add_argument("--out", type=Path, default=Path("results/theory"))
    parser.add_argument("--rows", type=int, default=4, help="forget rows, retain rows trained on, retain rows watched")
    parser.add_argument("--size", type=float, default=0.02, help="mean told change over watched places, in nats")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--every", type=int, default=2, help="look at every so many steps of the walk")
    parser.add_argument("--methods", nargs="*", default=METHODS_WALKED, choices=METHODS_WALKED, help="of the walk")
    parser.add_argument("--walk-only", action="store_true", help="leave out the one step")
    parser.add_argument("--rate", type=float, default=1e-3)
    return parser.parse_args()


def _walked_before(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The methods that have walked with the same settings already; OUT is to belong to one start model."""
    found = read_json(path) if path.exists() else {}
    return found.pop("methods", {}) if {key: found.get(key) for key in settings} == settings else {}


def _batch(name: str, chat: Any, material: TrainingData, recipe: Recipe) -> tuple[Objective, MicroBatch]:
    """One step over the chosen records: as many rows of the method's own data as there are records."""
    method = METHODS.get(name)
    ids = {record.id for record in material.records}
    rows = [row for row in material.rows if row.record_id in ids]
    picked = replace(material, rows=evenly(rows, len(material.records)))
    settings = recipe.unlearn.model_copy(
        update={
            "method": name,
            "batch_size": len(material.records),
            "accumulation": 1,
            "epochs": 1,
            "token_budget": None,
        }
    )
    return method.objective({}), unlearn_batches(chat, method, picked, settings=settings, seed=recipe.seed)[0]


def one_step(scene: Scene, objective: Objective, batch: MicroBatch, start: Any, size: float) -> dict[str, Any]:
    """Told and measured changes at every kind of place, and how far they agree."""
    model = scene.model
    with evaluating(model):
        loss, _ = step_loss(model, batch, objective, make_reference(model, [batch], objective))
    direction = descent(model, loss)
    rows = (*scene.forget, *scene.kept)
    told = {row.id: predicted(model, row, scene.others[row.id], direction) for row in rows}
    mean = torch.cat([change.abs().flatten() for change in told.values()]).mean()
    scale = size / float(mean) if mean > 0 else 0.0
    with moved(model, direction, scale):
        seen = {row.id: logprobs(model, row, scene.others[row.id]) - start[row.id] for row in rows}
    told_at = _places(scene, {key: change * scale for key, change in told.items()})
    seen_at = _places(scene, seen)
    everywhere = [[value for place in PLACES for value in found[place]] for found in (told_at, seen_at)]
    return {
        "loss": round(float(loss.detach()), 6),
        "gradient_norm": norm(direction),
        "rate": scale,
        "told": {place: round(statistics.mean(told_at[place]), 6) for place in PLACES},
        "measured": {place: round(statistics.mean(seen_at[place]), 6) for place in PLACES},
        "agreement": {place: agreement(told_at[place], seen_at[place], ROUNDING) for place in PLACES}
        | {"all": agreement(*everywhere, ROUNDING)},  # pyright: ignore[reportCallIssue]
    }


def _places(scene: Scene, changes: dict[str, torch.Tensor]) -> dict[str, list[float]]:
    """The changes (answer tokens, 2) by the kind of place."""
    forget = [changes[row.id] for row in scene.forget]
    return {
        "answer": [float(change[0, 0]) for change in forget],
        "second": [float(value) for change in forget for value in change[:, 1]],
        "following": [float(value) for change in forget for value in change[1:, 0]],
        "other prompts": [float(value) for row in scene.kept for value in changes[row.id][:, 0]],
    }


def walk(scene: Scene, objective: Objective, batch: MicroBatch, options: argparse.Namespace) -> dict[str, list[float]]:
    """`options.steps` steps of Adam on the one batch; mean probabilities on the way. The model is put back."""
    model, weights = scene.model, trained(scene.model)
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    reference = make_reference(model, [batch], objective)
    adam = torch.optim.AdamW(list(weights.values()), lr=options.rate, weight_decay=0.0)
    found: dict[str, list[float]] = {"step": [], "loss": [], "true token": [], "second candidate": [], "top": []}
    found |= {"entropy": [], "other prompts": [], "gradient norm": []}
    for step in range(options.steps + 1):
        with evaluating(model):
            loss, _ = step_loss(model, batch, objective, reference)
        down = descent(model, loss)
        if step % options.every == 0 or step == options.steps:
            found["gradient norm"].append(round(norm(down), 5))
            _look(scene, found, step, float(loss.detach()))
        if step < options.steps:
            for name, weight in weights.items():
                weight.grad = -down[name]
            adam.step()
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(before[name])
            weight.grad = None
    return found


@torch.no_grad()
def _look(scene: Scene, found: dict[str, list[float]], step: int, loss: float) -> None:
    kept = [logprobs(scene.model, row, scene.others[row.id])[:, 0].exp() for row in scene.kept]
    own, second, top, entropy = [], [], [], []
    for row in scene.forget:
        with evaluating(scene.model):
            ids = torch.tensor([row.ids], device=next(scene.model.parameters()).device)
            logits = scene.model(ids).logits[0, row.answer_start - 1 : -1]
        chances = logits.softmax(-1)
        own.append(chances.gather(1, ids[0, row.answer_start :, None])[:, 0])
        second.append(chances.gather(1, scene.others[row.id][:, None])[:, 0])
        top.append(chances.max(-1).values)
        entropy.append(torch.special.entr(chances).sum(-1))
    values = {"true token": own, "second candidate": second, "top": top, "entropy": entropy, "other prompts": kept}
    found["step"].append(step)
    found["loss"].append(round(loss, 5))
    for name, parts in values.items():
        found[name].append(round(float(torch.cat(parts).mean()), 5))


if __name__ == "__main__":
    main()
