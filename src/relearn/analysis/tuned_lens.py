"""Fit a tuned lens: one affine translator per layer, which maps its states into the last layer's space.

The logit lens decodes a layer as if later layers did not change the representation. A translator h -> A h + b is fitted
on other text; it minimises the forward KL of the last layer's distribution to the translated one, and so corrects for
changes that later layers make to every text (Belrose et al. 2023, arXiv 2303.08112). Translators are fitted on the
start model and used for all models, because a lens fitted to each model would hide the difference between them.

Shapes: L layers, H width, N text positions, V vocabulary. State 0 is the input of the first layer, state n the output
of layer n.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from relearn.analysis.hooks import HookedModel
from relearn.core.files import read_json, replaced_dir, write_json
from relearn.engine.forward import TokenRow

FOLDER = "tuned_lens"
_WEIGHTS, _METADATA = "translators.safetensors", "fit.json"
# Most logits in memory at a time, and most bytes of weights fitted together (with their gradients and moments).
_MAX_LOGITS = 1 << 24
_MAX_FITTED_BYTES = 1 << 30


@dataclass(frozen=True)
class LensSettings:
    """Set how a tuned lens is fitted.

    `rate`: how far one step may move a state, in standard deviations. `batch`: positions per step. `most_steps`: limit
    of steps. `every`: steps between measurements of the KL on the early-stopping part. `patience`: measurements without
    a lower KL after which the fit stops. `places`: most positions of each part of the text (fit, stop, held_out).
    """

    seed: int = 0
    rate: float = 0.1
    batch: int = 64
    most_steps: int = 300
    every: int = 20
    patience: int = 2
    places: tuple[int, int, int] = (8192, 256, 512)


@dataclass(frozen=True)
class Translators:
    """Map state n to h + change[n] h + bias[n]; the last state is unchanged.

    `change`: (L, H, H); `bias`: (L, H).
    """

    change: torch.Tensor
    bias: torch.Tensor

    @classmethod
    def identity(cls, layers: int, width: int) -> Translators:
        return cls(*(torch.zeros(shape, device="cpu") for shape in ((layers, width, width), (layers, width))))

    def __call__(self, index: int, states: torch.Tensor) -> torch.Tensor:
        """Map states (..., H) with state index `index` into the last layer's space."""
        if index == len(self.change):
            return states
        return states + states @ self.change[index].T + self.bias[index]

    def to(self, device: torch.device) -> Translators:
        return Translators(self.change.to(device), self.bias.to(device))


@dataclass(frozen=True)
class FittedLens:
    """Hold fitted translators and the metadata of the fit (fit.json)."""

    translators: Translators
    metadata: dict[str, Any]


def load_or_fit(
    hooked: HookedModel,
    rows: Sequence[TokenRow],
    folder: Path,
    settings: LensSettings = LensSettings(),
    *,
    tick: Any = None,
) -> FittedLens:
    """Load the model's lens from `folder`/tuned_lens if model, text and settings are the same, else fit and save it."""
    key = _key(hooked, rows, settings)
    stored = _load(folder / FOLDER, key)
    if stored is not None:
        return stored
    translators, metadata = fit(hooked, rows, settings, tick=tick)
    metadata = {"key": key, **metadata}
    with replaced_dir(folder / FOLDER) as target:
        save_file({"change": translators.change, "bias": translators.bias}, target / _WEIGHTS)
        write_json(target / _METADATA, metadata)
    return FittedLens(translators, metadata)


def fit(
    hooked: HookedModel, rows: Sequence[TokenRow], settings: LensSettings = LensSettings(), *, tick: Any = None
) -> tuple[Translators, dict[str, Any]]:
    """Fit translators; return them on the CPU, with metadata such as the KL per state on held-out text.

    Of every six rows the third is for early stopping and the sixth is held out.
    """
    splits = {
        "fit": [row for number, row in enumerate(rows) if number % 3 != 2],
        "stop": rows[2::6],
        "held_out": rows[5::6],
    }
    states = {
        name: _sample_states(hooked, own, most, settings.seed)
        for (name, own), most in zip(splits.items(), settings.places, strict=True)
    }
    layers, width = len(hooked.layers), states["fit"].shape[-1]
    translators = Translators.identity(layers, width)
    steps = [0] * layers
    group = max(1, _MAX_FITTED_BYTES // (16 * width * width))
    for first in range(0, layers, group):
        indices = range(first, min(first + group, layers))
        for layer in _fit_layers(hooked, states, indices, settings, tick):
            translators.change[layer.index], translators.bias[layer.index] = layer.translator()
            steps[layer.index] = layer.best_step
    metadata = {
        "settings": asdict(settings) | {"places": list(settings.places)},
        "rows": {name: len(own) for name, own in splits.items()},
        "places": {name: own.shape[1] for name, own in states.items()},
        "steps": steps,
        "held_out_kl": {
            "logit": _kl_per_state(hooked, states["held_out"], Translators.identity(layers, width)),
            "tuned": _kl_per_state(hooked, states["held_out"], translators),
        },
    }
    return translators, metadata


class _LayerFit:
    """Fit the translator of one layer.

    Dimensions of a state differ by orders of magnitude, so the weights act on standardised states:
    h -> h + spread * (W (h - mean) / spread + c). `translator` converts W and c to `change` and `bias`.
    """

    def __init__(self, index: int, states: torch.Tensor, rate: float):
        self.index, self.states = index, states
        self._mean = states.mean(0)
        self._spread = states.std(0).clamp_min(1e-6 * float(states.abs().max()) + 1e-12)
        width = states.shape[-1]
        self._weight = torch.zeros(width, width, device=states.device, requires_grad=True)
        self._shift = torch.zeros(width, device=states.device, requires_grad=True)
        # Adam moves every weight by about its rate; an output is a sum of `width` weights times values of size 1.
        self._adam = torch.optim.Adam(
            [{"params": [self._weight], "lr": rate / width**0.5 / 4}, {"params": [self._shift], "lr": rate}]
        )
        self._best: tuple[torch.Tensor, torch.Tensor] = (self._weight.detach().clone(), self._shift.detach().clone())
        self.best_step, self._best_kl, self._without_gain = 0, float("inf"), 0

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        standardised = (states - self._mean) / self._spread
        return states + self._spread * (standardised @ self._weight.T + self._shift)

    def step(self, hooked: HookedModel, last: torch.Tensor, at: torch.Tensor) -> None:
        """Take one Adam step on the positions `at`; `last`: the last layer's log-probabilities (n, V) there."""
        parameters = [self._weight, self._shift]
        gradients = [torch.zeros_like(parameter) for parameter in parameters]
        for start, stop in _chunks(len(at), last.shape[-1]):
            logits = hooked.decode(self(self.states[at[start:stop]]))
            loss = _kl(last[start:stop], logits).sum() / len(at)
            for gradient, part in zip(gradients, torch.autograd.grad(loss, parameters), strict=True):
                gradient += part
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        self._adam.step()

    def record(self, kl: float, step: int) -> None:
        """Keep a copy of the weights if `kl` is the lowest so far."""
        if kl < self._best_kl:
            self._best_kl, self.best_step, self._without_gain = kl, step, 0
            self._best = (self._weight.detach().clone(), self._shift.detach().clone())
        else:
            self._without_gain += 1

    def is_done(self, patience: int) -> bool:
        return self._without_gain >= patience

    def translator(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the weights with the lowest KL as change (H, H) and bias (H,)."""
        weight, shift = self._best
        change = self._spread[:, None] * weight / self._spread
        return change.cpu(), (self._spread * shift - change @ self._mean).cpu()


def _fit_layers(
    hooked: HookedModel, states: dict[str, torch.Tensor], indices: range, settings: LensSettings, tick: Any
) -> list[_LayerFit]:
    """Fit several layers on the same batches, so that the last layer is decoded only once for all of them."""
    device = hooked.device
    layers = [_LayerFit(index, states["fit"][index].to(device).float(), settings.rate) for index in indices]
    last, stop_last = (states[name][-1].to(device).float() for name in ("fit", "stop"))
    stop_states = {layer.index: states["stop"][layer.index].to(device).float() for layer in layers}
    draw = torch.Generator("cpu").manual_seed(settings.seed)
    active = layers
    for step in range(settings.most_steps + 1):
        if step % settings.every == 0 or step == settings.most_steps:
            kls = _mean_kls(hooked, stop_last, [(layer, stop_states[layer.index]) for layer in active])
            for layer, kl in zip(active, kls, strict=True):
                layer.record(kl, step)
            active = [layer for layer in active if not layer.is_done(settings.patience)]
            if tick:
                tick(indices.start + len(layers) - len(active), len(hooked.layers))
        if not active or step == settings.most_steps:
            return layers
        at = torch.randperm(len(last), generator=draw, device="cpu")[: settings.batch].to(device)
        with torch.no_grad():
            target = hooked.decode(last[at]).log_softmax(-1)
        for layer in active:
            layer.step(hooked, target, at)
    return layers


@torch.no_grad()
def _mean_kls(hooked: HookedModel, last: torch.Tensor, translated: Sequence[tuple[Any, torch.Tensor]]) -> list[float]:
    """Compute the mean KL(last layer || translated states) for each pair (translator, states)."""
    sums = [0.0] * len(translated)
    vocabulary = hooked.decode(last[:1]).shape[-1]
    for start, stop in _chunks(len(last), vocabulary):
        target = hooked.decode(last[start:stop]).log_softmax(-1)
        for number, (translate, states) in enumerate(translated):
            sums[number] += float(_kl(target, hooked.decode(translate(states[start:stop]))).double().sum())
    return [total / len(last) for total in sums]


def _kl_per_state(hooked: HookedModel, states: torch.Tensor, translators: Translators) -> list[float]:
    """Compute the mean KL(last layer || translated state) for each of the states (L + 1, N, H)."""
    device = hooked.device
    last = states[-1].to(device).float()
    kls = []
    for index, own in enumerate(states):
        translate = _single_translator(translators, index, device)
        kls += _mean_kls(hooked, last, [(translate, own.to(device).float())])
    return [round(value, 4) for value in kls]


def _single_translator(translators: Translators, index: int, device: torch.device) -> Any:
    """Move the translator of one state to the model's device, which may lack the memory for all of them."""
    if index == len(translators.change):
        return lambda states: states
    single = Translators(translators.change[index][None].to(device), translators.bias[index][None].to(device))
    return lambda states: single(0, states)


def _kl(last: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Compute KL(last || logits) (n,) from log-probabilities `last` (n, V) and logits (n, V)."""
    return (last.exp() * (last - logits.log_softmax(-1))).sum(-1)


def _chunks(count: int, vocabulary: int) -> list[tuple[int, int]]:
    step = max(1, _MAX_LOGITS // vocabulary)
    return [(start, min(start + step, count)) for start in range(0, count, step)]


@torch.no_grad()
def _sample_states(hooked: HookedModel, rows: Sequence[TokenRow], most: int, seed: int) -> torch.Tensor:
    """Return states (L + 1, N, H) on the CPU in the model's dtype, at up to `most` positions drawn with `seed`.

    Omits the prefix that all rows share and the first token. The first token is an attention sink, whose states differ
    from those of all other tokens.
    """
    prefix = _shared_prefix(rows)
    dtype = hooked.head.weight.dtype if hooked.head.weight.is_floating_point() else torch.float32
    states = torch.cat([hooked.states(row.ids)[:, prefix:].to("cpu", dtype) for row in rows], 1)
    if states.shape[1] <= most:
        return states
    draw = torch.Generator("cpu").manual_seed(seed)
    return states[:, torch.randperm(states.shape[1], generator=draw, device="cpu")[:most].sort().values]


def _shared_prefix(rows: Sequence[TokenRow]) -> int:
    """Count the tokens that all rows begin with: at least 1, and 1 for a single row."""
    if len(rows) < 2:
        return 1
    columns = zip(*(row.ids for row in rows), strict=False)
    shared = next((position for position, tokens in enumerate(columns) if len(set(tokens)) > 1), None)
    return 1 if shared is None else max(1, shared)


def _load(folder: Path, key: str) -> FittedLens | None:
    if not (folder / _METADATA).exists() or not (folder / _WEIGHTS).exists():
        return None
    metadata = read_json(folder / _METADATA)
    if metadata.get("key") != key:
        return None
    with safe_open(folder / _WEIGHTS, "pt") as file:
        return FittedLens(Translators(file.get_tensor("change"), file.get_tensor("bias")), metadata)


def _key(hooked: HookedModel, rows: Sequence[TokenRow], settings: LensSettings) -> str:
    """Hash the model's weights, the text as tokens, and the settings."""
    digest = hashlib.sha256(json.dumps([asdict(settings), [row.ids for row in rows]]).encode())
    for name, weight in sorted(hooked.model.state_dict().items()):
        if isinstance(weight, torch.Tensor):
            digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
            digest.update(weight.detach().reshape(-1).contiguous().cpu().view(torch.uint8).numpy().data)
    return digest.hexdigest()
