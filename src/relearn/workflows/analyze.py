"""`relearn analyze RUN`: the start model and the unlearned ones looked into, one after the other; numbers and pictures.

analysis/candidates.json     the likeliest tokens at every answer position
analysis/lens.json .svg      every layer read as if it were the last, or through a tuned lens (tuned_lens/)
analysis/patching.json .svg  the start model's states put into the unlearned one, layer by layer
analysis/circuits.json .svg  which tokens and blocks the answer is built from, against the start model
analysis/adapter.json .svg   size and spectrum of the adapter by layer, overlap between runs
analysis/dynamics.json       seesaw over the training (seesaw.svg), loss parts (loss.svg), gradient alignment
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any, Literal

from relearn.analysis.adapter_spectrum import LoraUpdate, overlap, read_updates
from relearn.analysis.circuits import THRESHOLDS, Circuits, compare_circuits
from relearn.analysis.logit_lens import lens_rows
from relearn.analysis.measurements import ModelMeasurements
from relearn.analysis.training_dynamics import dynamics
from relearn.analysis.tuned_lens import Translators
from relearn.core import console
from relearn.core.config import Recipe
from relearn.core.errors import InputError
from relearn.core.run_dir import (
    RunDir,
    existing_run,
    locked,
    outputs_in,
    own_folder,
    read_jsonl,
    refuse_overwrite,
    write_json,
    write_text,
)
from relearn.data.record import evenly
from relearn.engine.forward import TokenRow
from relearn.engine.generate import generate
from relearn.inference.run_models import AuditModels
from relearn.models.load import Loaded
from relearn.report.build import write_report
from relearn.report.circuit_plot import circuit_picture
from relearn.report.kfr_krr_plot import standalone
from relearn.report.plots import LINES, circuit_title, loss_picture, over_layers, seesaw_picture
from relearn.unlearning.data.encode import Example, encode

START = "start"
WRITTEN = ("analysis", "report.json", "report.html", "model_card.md")
# Circuits are traced for so many questions, drawn for fewer.
TRACED, DRAWN = 6, 2


def analyze(
    folder: Path | str,
    others: Sequence[Path | str] = (),
    *,
    prompts: Sequence[str] = (),
    facts: int = 12,
    lens: Literal["logit", "tuned"] = "logit",
    lens_text: Path | None = None,
) -> Path:
    """Look into the run in `folder`, and into `others` of the same start model; returns FOLDER/analysis.

    Looked at are `facts` of the forget records with their true answers, and `prompts`, whose answers are the start
    model's own. `lens` "tuned" is fitted to the start model on generic rows, or on those of `lens_text`. Raises
    InputError for a run that is not finished, and for a model whose layers cannot be read.
    """
    if lens_text is not None and lens != "tuned":
        raise InputError("only a tuned lens is fitted on text", where="--lens-text", way_out="add --lens tuned")
    folder = Path(folder)
    runs = _named([folder, *map(Path, others)])
    recipes = {name: _recipe(path) for name, path in runs.items()}
    first, *rest = recipes.values()
    if any((recipe.model, recipe.learn) != (first.model, first.learn) for recipe in rest):
        raise InputError("these runs began with different models", where=", ".join(map(str, runs.values())))
    own_folder(folder)
    refuse_overwrite(outputs_in(folder, *WRITTEN), [lens_text])
    with locked(RunDir(folder)):
        study = _Comparison(folder, runs, recipes, _examples(folder, facts), prompts)
        study.write(_TunedLens(folder / "analysis", lens_text, first.seed) if lens == "tuned" else None)
        write_report(folder)
    return folder / "analysis"


class _Comparison:
    def __init__(
        self,
        folder: Path,
        runs: Mapping[str, Path],
        recipes: Mapping[str, Recipe],
        examples: Sequence[Example],
        prompts: Sequence[str],
    ):
        self._out = folder / "analysis"
        self._runs = runs
        self._recipes = recipes
        self._examples = list(examples)
        self._prompts = prompts

    def write(self, tuned: _TunedLens | None = None) -> None:
        lens: dict[str, Any] = {}
        places: dict[str, Any] = {}
        patching: dict[str, Any] = {}
        first = next(iter(self._runs))
        with console.stage(f"look into {START}"):
            loaded = AuditModels(self._recipes[first], self._runs[first]).fresh("start")
            rows = self._rows(loaded)
            study = ModelMeasurements(loaded, rows)
            translators = tuned.fitted(loaded, study) if tuned else None
            lens[START], places[START] = study.lens(translators), study.top_tokens()
            donor, known = study.states(), study.answer_logprobs()
            circuits = _Circuits(study)
            del loaded, study
        for name, path in self._runs.items():
            with console.stage(f"look into {name}"):
                study = ModelMeasurements(AuditModels(self._recipes[name], path).fresh("after"), rows)
                lens[name], places[name] = study.lens(translators), study.top_tokens()
                patching[name] = study.restored(donor, known)
                circuits.add(name, study)
                del study
        self._keep("candidates", {"questions": {one.id: one.prompt for one in self._examples}, "models": places})
        fit = tuned.about if tuned else {}
        self._keep(
            "lens",
            {"lens": "tuned" if tuned else "logit", **({"fit": fit} if fit else {}), "models": lens},
            **_drawn("lens", {name: found["logprob"] for name, found in lens.items()}),
            **_drawn("lens_kl", {name: found["kl_first"] for name, found in lens.items()}),
            **_drawn("lens_fit", fit.get("held_out_kl", {})),
        )
        shares = {name: found["share"] for name, found in patching.items()}
        self._keep("patching", patching, **_drawn("patching", shares))
        self._keep("circuits", circuits.numbers(), **circuits.pictures())
        adapters = {
            name: read_updates(path / "adapter") for name, path in self._runs.items() if (path / "adapter").exists()
        }
        if adapters:
            numbers = {name: _by_layer(found) for name, found in adapters.items()}
            norms = _drawn("adapter", {name: found["norm"] for name, found in numbers.items()})
            self._keep("adapter", {"layers": numbers, "overlap": _overlaps(adapters)}, **norms)
        self._dynamics()

    def _dynamics(self) -> None:
        found, pictures = {}, {}
        for number, (name, path) in enumerate(self._runs.items(), start=1):
            with console.stage(f"look back at the training of {name}"):
                own = found[name] = dynamics(self._recipes[name], path)
            end = "" if number == 1 else f"_{number}"
            pictures[f"seesaw{end}"] = seesaw_picture(own["seesaw"], f"seesaw{end}", name)
            pictures[f"loss{end}"] = loss_picture(own["loss"], f"loss{end}", name)
        self._keep("dynamics", found, **pictures)

    def _rows(self, loaded: Loaded) -> list[TokenRow]:
        recipe = next(iter(self._recipes.values()))
        answers = generate(loaded, list(self._prompts), recipe.generate, seed=recipe.seed) if self._prompts else []
        for number, (prompt, answer) in enumerate(zip(self._prompts, answers, strict=True), start=1):
            if answer:
                self._examples.append(Example(f"prompt {number}", prompt, answer))
        return encode(loaded.chat, self._examples)

    def _keep(self, name: str, numbers: Mapping[str, Any], **pictures: str) -> None:
        write_json(self._out / f"{name}.json", numbers)
        for picture, svg in pictures.items():
            if svg:
                write_text(self._out / f"{picture}.svg", svg if "xmlns" in svg[:20] else standalone(svg))


class _TunedLens:
    """A lens fitted to the start model, kept in analysis/; `about`: on what, and what it is worth."""

    def __init__(self, out: Path, text: Path | None, seed: int):
        self._out, self._text, self._seed = out, text, seed
        self.about: dict[str, Any] = {}

    def fitted(self, loaded: Loaded, study: ModelMeasurements) -> Translators:
        with console.stage("fit the lens") as tick:
            found = study.tuned_lens(lens_rows(loaded.chat, self._text), self._out, self._seed, tick)
        source = "the generic rows that come with relearn" if self._text is None else self._text.name
        self.about = {"text": source} | {key: value for key, value in found.metadata.items() if key != "key"}
        return found.translators


class _Circuits:
    """The circuits of the start model and then of one model after the other; why not, where there are none."""

    def __init__(self, study: ModelMeasurements):
        self._tokens, self._layers = study.tokens(TRACED), study.layer_count
        self._found: dict[str, Circuits] = {}
        self._why = ""
        self.add(START, study)

    def add(self, name: str, study: ModelMeasurements) -> None:
        if self._why:
            return
        try:
            self._found[name] = study.circuits(TRACED)
        except InputError as error:
            self._why = str(error)
            console.note(f"no circuits: {error}")

    def numbers(self) -> dict[str, Any]:
        start = self._found.get(START)
        if self._why or start is None:
            return {"not_measured": self._why}
        models = {
            name: compare_circuits(own, None if name == START else start, self._layers)
            for name, own in self._found.items()
        }
        return {"layers": self._layers, "tokens": self._tokens, "models": models}

    def pictures(self) -> dict[str, str]:
        """By file name, the first questions of every model at the higher threshold."""
        if self._why:
            return {}
        drawn = {}
        for model, (name, own) in enumerate(self._found.items()):
            for number, (row, tokens) in enumerate(list(self._tokens.items())[:DRAWN], start=1):
                edges = [astuple(edge) for edge in own[row][THRESHOLDS[-1]]]
                start = None if name == START else [astuple(edge) for edge in self._found[START][row][THRESHOLDS[-1]]]
                picture = circuit_picture(tokens, self._layers, edges, start, circuit_title(name))
                drawn[f"circuit_{model}_{number}"] = picture
        return drawn


def _examples(folder: Path, count: int) -> list[Example]:
    rows = evenly(read_jsonl(folder / "before" / "forget.jsonl"), count)
    return [
        Example(row["id"], row["question"], row["reference"], row.get("form", "chat"), closed=False) for row in rows
    ]


def _recipe(folder: Path) -> Recipe:
    recipe = Recipe.from_yaml(existing_run(folder, "recipe.yaml") / "recipe.yaml")
    if not (folder / "before" / "forget.jsonl").exists():
        raise InputError(
            "this run is not finished, or was purged", where=str(folder), way_out="relearn run ... --resume"
        )
    return recipe


def _named(folders: Sequence[Path]) -> dict[str, Path]:
    """Each run by the name of its folder; one that is taken, or is the start model's, gets a number."""
    named: dict[str, Path] = {}
    for folder in folders:
        name, number = folder.resolve().name, 2
        while name in named or name == START:
            name, number = f"{folder.resolve().name} {number}", number + 1
        named[name] = folder
    return named


def _drawn(name: str, lines: Mapping[str, Sequence[float]]) -> dict[str, str]:
    """A picture by its file name."""
    return {name: over_layers(lines, name.replace("_", "-"), *LINES[name])}


def _by_layer(found: Sequence[LoraUpdate]) -> dict[str, list[Any]]:
    """Norm over all modules of a layer, and the mean effective rank of their updates."""
    layers = sorted({one.layer for one in found if one.layer is not None})
    of = {layer: [one for one in found if one.layer == layer] for layer in layers}
    return {
        "layer": layers,
        "norm": [round(math.hypot(*(one.norm for one in of[layer])), 5) for layer in layers],
        "effective_rank": [round(sum(one.effective_rank for one in of[layer]) / len(of[layer]), 3) for layer in layers],
    }


def _overlaps(adapters: Mapping[str, Sequence[LoraUpdate]]) -> list[dict[str, Any]]:
    """For each pair of runs, the mean overlap of what they write into, over modules that both change."""
    names = list(adapters)
    pairs = [(one, other) for place, one in enumerate(names) for other in names[place + 1 :]]
    found = []
    for one, other in pairs:
        modules = {update.module: update for update in adapters[other]}
        shares = [overlap(update, modules[update.module]) for update in adapters[one] if update.module in modules]
        known = [share for share in shares if not math.isnan(share)]
        found.append({"runs": [one, other], "overlap": round(sum(known) / len(known), 4) if known else None})
    return found
