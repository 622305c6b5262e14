"""Analyse the start model and unlearned models layer by layer, and the training (`relearn analyze`).

analysis/candidates.json     most probable tokens at every answer position
analysis/lens.json .svg      log-probability by layer, with the logit lens or a tuned lens (tuned_lens/)
analysis/patching.json .svg  log-probability restored by patching in the start model's states, by layer
analysis/circuits.json .svg  tokens and blocks that the answer is computed from, compared with the start model
analysis/adapter.json .svg   norm and effective rank of the adapter's update by layer, overlap between runs
analysis/dynamics.json       seesaw over the training (seesaw.svg), loss terms (loss.svg), gradient alignment
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from itertools import combinations
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
from relearn.core.files import write_json, write_text
from relearn.core.ownership import outputs_in, own_folder, refuse_overwrite
from relearn.core.run_dir import ADAPTER, ANALYSIS, MODEL_CARD, REPORT_HTML, REPORT_JSON, RunFolder, locked
from relearn.data.record import evenly
from relearn.engine.forward import TokenRow
from relearn.engine.generate import generate
from relearn.inference.run_models import ModelSet
from relearn.models.load import Loaded
from relearn.report.build import write_report
from relearn.report.circuit_plot import circuit_picture
from relearn.report.kfr_krr_plot import standalone
from relearn.report.plots import LINES, circuit_title, loss_picture, over_layers, seesaw_picture
from relearn.unlearning.data.encode import Example, encode

START = "start"
WRITTEN = (ANALYSIS, REPORT_JSON, REPORT_HTML, MODEL_CARD)
# Number of questions whose circuits are traced, and number of those that are plotted.
TRACED, PLOTTED = 6, 2


def analyze(
    folder: Path | str,
    others: Sequence[Path | str] = (),
    *,
    prompts: Sequence[str] = (),
    facts: int = 12,
    lens: Literal["logit", "tuned"] = "logit",
    lens_text: Path | None = None,
    trust_remote_code: bool = False,
) -> Path:
    """Analyse the run in `folder` and the runs `others` with the same start model; return FOLDER/analysis.

    The texts are the true answers of `facts` forget records and the start model's answers to `prompts`. A tuned lens is
    fitted to the start model on the rows of `lens_text`, by default on built-in generic rows. `trust_remote_code`: run
    code from the repository of the model. Raises InputError for a run that is not finished, for runs with different
    start models, and for a model whose layers cannot be read.
    """
    if lens_text is not None and lens != "tuned":
        raise InputError("only a tuned lens is fitted on text", where="--lens-text", way_out="add --lens tuned")
    runs = _by_name([RunFolder(path) for path in (folder, *others)])
    recipes = {name: _recipe(run, trust_remote_code) for name, run in runs.items()}
    first, *rest = recipes.values()
    if any((recipe.model, recipe.learn) != (first.model, first.learn) for recipe in rest):
        where = ", ".join(str(run.path) for run in runs.values())
        raise InputError("these runs began with different models", where=where)
    run = own_folder(folder)
    out = run / ANALYSIS
    refuse_overwrite(outputs_in(run.path, *WRITTEN), [lens_text])
    with locked(run):
        tuned = _TunedLens(out, lens_text, first.seed) if lens == "tuned" else None
        _RunAnalysis(out, runs, recipes, _examples(run, facts), prompts).write(tuned)
        write_report(run.path)
    return out


class _RunAnalysis:
    """Analyse one or more runs and write the files. `examples`: questions with the answers to analyse."""

    def __init__(
        self,
        out: Path,
        runs: Mapping[str, RunFolder],
        recipes: Mapping[str, Recipe],
        examples: Sequence[Example],
        prompts: Sequence[str],
    ):
        self._out = out
        self._runs = runs
        self._recipes = recipes
        self._models = {name: ModelSet.of_run(recipes[name], run.path) for name, run in runs.items()}
        self._examples = list(examples)
        self._prompts = prompts

    def write(self, tuned: _TunedLens | None = None) -> None:
        """Load and measure one model after the other, then write all files."""
        lens: dict[str, Any] = {}
        candidates: dict[str, Any] = {}
        patching: dict[str, Any] = {}
        first = next(iter(self._runs))
        with console.stage(f"look into {START}"):
            loaded = self._models[first].fresh("start")
            rows = self._rows(loaded)
            study = ModelMeasurements(loaded, rows)
            translators = tuned.fitted(loaded, study) if tuned else None
            lens[START], candidates[START] = study.lens(translators), study.top_tokens()
            states, start_logprobs = study.states(), study.answer_logprobs()
            circuits = _Circuits(study)
            del loaded, study
        for name, models in self._models.items():
            with console.stage(f"look into {name}"):
                study = ModelMeasurements(models.fresh("after"), rows)
                lens[name], candidates[name] = study.lens(translators), study.top_tokens()
                patching[name] = study.restored(states, start_logprobs)
                circuits.add(name, study)
                del study
        questions = {example.id: example.prompt for example in self._examples}
        self._save("candidates", {"questions": questions, "models": candidates})
        self._save_lens(lens, tuned.fit if tuned else {}, tuned is not None)
        shares = {name: measured["share"] for name, measured in patching.items()}
        self._save("patching", patching, **_layer_plot("patching", shares))
        self._save("circuits", circuits.numbers(), **circuits.plots())
        self._adapters()
        self._dynamics()

    def _save_lens(self, lens: Mapping[str, Any], fit: Mapping[str, Any], is_tuned: bool) -> None:
        self._save(
            "lens",
            {"lens": "tuned" if is_tuned else "logit", **({"fit": fit} if fit else {}), "models": lens},
            **_layer_plot("lens", {name: measured["logprob"] for name, measured in lens.items()}),
            **_layer_plot("lens_kl", {name: measured["kl_first"] for name, measured in lens.items()}),
            **_layer_plot("lens_fit", fit.get("held_out_kl", {})),
        )

    def _adapters(self) -> None:
        adapters = {name: read_updates(run / ADAPTER) for name, run in self._runs.items() if (run / ADAPTER).exists()}
        if adapters:
            layers = {name: _by_layer(own) for name, own in adapters.items()}
            norms = _layer_plot("adapter", {name: own["norm"] for name, own in layers.items()})
            self._save("adapter", {"layers": layers, "overlap": _overlaps(adapters)}, **norms)

    def _dynamics(self) -> None:
        by_run, plots = {}, {}
        for number, (name, run) in enumerate(self._runs.items(), start=1):
            with console.stage(f"look back at the training of {name}"):
                own = by_run[name] = dynamics(self._recipes[name], run.path)
            suffix = "" if number == 1 else f"_{number}"
            plots[f"seesaw{suffix}"] = seesaw_picture(own["seesaw"], f"seesaw{suffix}", name)
            plots[f"loss{suffix}"] = loss_picture(own["loss"], f"loss{suffix}", name)
        self._save("dynamics", by_run, **plots)

    def _rows(self, loaded: Loaded) -> list[TokenRow]:
        """Encode the examples; the start model's answers to the prompts are appended as examples."""
        recipe = next(iter(self._recipes.values()))
        answers = generate(loaded, list(self._prompts), recipe.generate, seed=recipe.seed) if self._prompts else []
        for number, (prompt, answer) in enumerate(zip(self._prompts, answers, strict=True), start=1):
            if answer:
                self._examples.append(Example(f"prompt {number}", prompt, answer))
        return encode(loaded.chat, self._examples)

    def _save(self, name: str, numbers: Mapping[str, Any], **plots: str) -> None:
        """Write NAME.json, and each non-empty plot as PLOT.svg."""
        write_json(self._out / f"{name}.json", numbers)
        for plot, svg in plots.items():
            if svg:
                write_text(self._out / f"{plot}.svg", svg if "xmlns" in svg[:20] else standalone(svg))


class _TunedLens:
    """Fit a tuned lens to the start model and save it in analysis/. `fit`: its training text and held-out KL."""

    def __init__(self, out: Path, text: Path | None, seed: int):
        self._out, self._text, self._seed = out, text, seed
        self.fit: dict[str, Any] = {}

    def fitted(self, loaded: Loaded, study: ModelMeasurements) -> Translators:
        """Fit the lens, or load a saved one for the same model and text."""
        with console.stage("fit the lens") as tick:
            tuned = study.tuned_lens(lens_rows(loaded.chat, self._text), self._out, self._seed, tick)
        source = "the generic rows that come with relearn" if self._text is None else self._text.name
        self.fit = {"text": source} | {key: value for key, value in tuned.metadata.items() if key != "key"}
        return tuned.translators


class _Circuits:
    """Collect the circuits of the start model and of models added later, or the reason why there are none."""

    def __init__(self, study: ModelMeasurements):
        self._tokens, self._layers = study.tokens(TRACED), study.layer_count
        self._by_model: dict[str, Circuits] = {}
        self._problem = ""
        self.add(START, study)

    def add(self, name: str, study: ModelMeasurements) -> None:
        if self._problem:
            return
        try:
            self._by_model[name] = study.circuits(TRACED)
        except InputError as error:
            self._problem = str(error)
            console.note(f"no circuits: {error}")

    def numbers(self) -> dict[str, Any]:
        start = self._by_model.get(START)
        if self._problem or start is None:
            return {"not_measured": self._problem}
        models = {
            name: compare_circuits(own, None if name == START else start, self._layers)
            for name, own in self._by_model.items()
        }
        return {"layers": self._layers, "tokens": self._tokens, "models": models}

    def plots(self) -> dict[str, str]:
        """Plot the circuits of the first questions for every model at the highest threshold, by file name."""
        if self._problem:
            return {}
        plots = {}
        for model, (name, own) in enumerate(self._by_model.items()):
            for number, (row, tokens) in enumerate(list(self._tokens.items())[:PLOTTED], start=1):
                start = None if name == START else _edges(self._by_model[START], row)
                plot = circuit_picture(tokens, self._layers, _edges(own, row), start, circuit_title(name))
                plots[f"circuit_{model}_{number}"] = plot
        return plots


def _edges(circuits: Circuits, row: Any) -> list[Any]:
    return [astuple(edge) for edge in circuits[row][THRESHOLDS[-1]]]


def _examples(run: RunFolder, count: int) -> list[Example]:
    return [
        Example(row["id"], row["question"], row["reference"], row.get("form", "chat"), closed=False)
        for row in evenly(run.answers("before", "forget"), count)
    ]


def _recipe(run: RunFolder, trust_remote_code: bool) -> Recipe:
    recipe = run.recipe_to_load(trust_remote_code=trust_remote_code)
    run.require_answers("before")
    return recipe


def _by_name(runs: Sequence[RunFolder]) -> dict[str, RunFolder]:
    """Name each run after its folder; append a number if the name is taken or is the name of the start model."""
    named: dict[str, RunFolder] = {}
    for run in runs:
        base = name = run.path.resolve().name
        number = 2
        while name in named or name == START:
            name, number = f"{base} {number}", number + 1
        named[name] = run
    return named


def _layer_plot(name: str, lines: Mapping[str, Sequence[float]]) -> dict[str, str]:
    """Plot one line per model over the layers; returns file name -> SVG."""
    return {name: over_layers(lines, name.replace("_", "-"), *LINES[name])}


def _by_layer(module_updates: Sequence[LoraUpdate]) -> dict[str, list[Any]]:
    """Compute, by layer, the norm of the updates of all modules and their mean effective rank."""
    layers = sorted({update.layer for update in module_updates if update.layer is not None})
    of = {layer: [update for update in module_updates if update.layer == layer] for layer in layers}
    return {
        "layer": layers,
        "norm": [round(math.hypot(*(update.norm for update in of[layer])), 5) for layer in layers],
        "effective_rank": [
            round(sum(update.effective_rank for update in of[layer]) / len(of[layer]), 3) for layer in layers
        ],
    }


def _overlaps(adapters: Mapping[str, Sequence[LoraUpdate]]) -> list[dict[str, Any]]:
    """Compute, for each pair of runs, the mean overlap of their updates over the modules that both change."""
    overlaps = []
    for one, other in combinations(adapters, 2):
        modules = {update.module: update for update in adapters[other]}
        shares = [overlap(update, modules[update.module]) for update in adapters[one] if update.module in modules]
        defined = [share for share in shares if not math.isnan(share)]
        mean = round(sum(defined) / len(defined), 4) if defined else None
        overlaps.append({"runs": [one, other], "overlap": mean})
    return overlaps
