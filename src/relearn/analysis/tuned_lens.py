"""A tuned lens: an affine translator for every layer, so that what a layer holds is read in the last layer's terms.

The logit lens reads a layer as if the next ones changed nothing but the answer. Translators fitted on other text take
away what they do to any text (Belrose et al. 2023, arXiv 2303.08112): h -> A h + b, by the least forward KL of the
last layer's distribution to the translated one. They are fitted on the start model alone and read every other
model with it: a lens fitted to each model would hide the change that is looked for.

Shapes: L layers, H width, N places of text, V vocabulary.
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

from relearn.analysis.hooks import Inside
from relearn.core.files import read_json, replaced_dir, write_json
from relearn.engine.forward import TokenRow

FOLDER = "tuned_lens"
_WEIGHTS, _ABOUT = "translators.safetensors", "fit.json"
# Logits that exist at once, and bytes of weights that are fitted at once (with their gradients and moments).
_LOGITS = 1 << 24
_FITTED = 1 << 30
_SPLITS = ("fit", "stop", "held_out")


@dataclass(frozen=True)
class Settings:
    """`rate`: by how much of a state's spread one step may move it; `patience`: looks without a gain before a stop.

    A look is taken every `every` steps of `batch` places. `places`: of each split as many at most.
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
    """`change` (L, H, H) and `bias` (L, H), float32: place n reads h + change[n] h + bias[n], the last place h."""

    change: torch.Tensor
    bias: torch.Tensor

    @classmethod
    def identity(cls, layers: int, width: int) -> Translators:
        return cls(*(torch.zeros(shape, device="cpu") for shape in ((layers, width, width), (layers, width))))

    def __call__(self, place: int, states: torch.Tensor) -> torch.Tensor:
        """States (..., H) of a place (0: into the first layer) in the last layer's terms."""
        if place == len(self.change):
            return states
        return states + states @ self.change[place].T + self.bias[place]

    def to(self, device: torch.device) -> Translators:
        return Translators(self.change.to(device), self.bias.to(device))


@dataclass(frozen=True)
class Tuned:
    """Translators and how they were come by: `about` is fit.json."""

    translators: Translators
    about: dict[str, Any]


def tuned_lens(
    inside: Inside, rows: Sequence[TokenRow], folder: Path, settings: Settings = Settings(), *, tick: Any = None
) -> Tuned:
    """Translators of the model, read from FOLDER/tuned_lens where they were fitted with the same things before."""
    key = _key(inside, rows, settings)
    kept = _kept(folder / FOLDER, key)
    if kept is not None:
        return kept
    translators, about = fit(inside, rows, settings, tick=tick)
    about = {"key": key, **about}
    with replaced_dir(folder / FOLDER) as target:
        save_file({"change": translators.change, "bias": translators.bias}, target / _WEIGHTS)
        write_json(target / _ABOUT, about)
    return Tuned(translators, about)


def fit(
    inside: Inside, rows: Sequence[TokenRow], settings: Settings = Settings(), *, tick: Any = None
) -> tuple[Translators, dict[str, Any]]:
    """Fitted translators on the CPU; what they are worth on text they have not seen, place by place.

    Every third and sixth row of six are put aside: to know when to stop, and to measure.
    """
    splits = dict(zip(_SPLITS, _split(rows), strict=True))
    states = {
        name: _states(inside, own, most, settings.seed)
        for (name, own), most in zip(splits.items(), settings.places, strict=True)
    }
    layers, width = len(inside.layers), states["fit"].shape[-1]
    translators = Translators.identity(layers, width)
    steps = [0] * layers
    group = max(1, _FITTED // (16 * width * width))
    for first in range(0, layers, group):
        places = range(first, min(first + group, layers))
        for one in _fitted(inside, states, places, settings, tick):
            translators.change[one.place], translators.bias[one.place] = one.folded()
            steps[one.place] = one.best_step
    held = states["held_out"]
    about = {
        "settings": asdict(settings) | {"places": list(settings.places)},
        "rows": {name: len(own) for name, own in splits.items()},
        "places": {name: own.shape[1] for name, own in states.items()},
        "steps": steps,
        "held_out_kl": {
            "logit": _each_kl(inside, held, Translators.identity(layers, width)),
            "tuned": _each_kl(inside, held, translators),
        },
    }
    return translators, about


class _Layer:
    """One layer's translator while it is fitted.

    States differ by orders of magnitude from number to number, so the weights are over states of mean 0 and spread 1:
    h -> h + spread * (W (h - mean) / spread + c). `folded` takes that back into A and b.
    """

    def __init__(self, place: int, states: torch.Tensor, rate: float):
        self.place, self.states = place, states
        self._mean = states.mean(0)
        self._spread = states.std(0).clamp_min(1e-6 * float(states.abs().max()) + 1e-12)
        width = states.shape[-1]
        self._weight = torch.zeros(width, width, device=states.device, requires_grad=True)
        self._shift = torch.zeros(width, device=states.device, requires_grad=True)
        # Adam moves every weight by its rate; a state is the sum of `width` of them times numbers of size 1.
        self._adam = torch.optim.Adam(
            [{"params": [self._weight], "lr": rate / width**0.5 / 4}, {"params": [self._shift], "lr": rate}]
        )
        self._best: tuple[torch.Tensor, torch.Tensor] = (self._weight.detach().clone(), self._shift.detach().clone())
        self.best_step, self._least, self._waited = 0, float("inf"), 0

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        flat = (states - self._mean) / self._spread
        return states + self._spread * (flat @ self._weight.T + self._shift)

    def step(self, inside: Inside, last: torch.Tensor, at: torch.Tensor) -> None:
        parameters = [self._weight, self._shift]
        slopes = [torch.zeros_like(one) for one in parameters]
        for start, stop in _cuts(len(at), last.shape[-1]):
            logits = inside.decode(self(self.states[at[start:stop]]))
            loss = _kl(last[start:stop], logits).sum() / len(at)
            for slope, more in zip(slopes, torch.autograd.grad(loss, parameters), strict=True):
                slope += more
        for parameter, slope in zip(parameters, slopes, strict=True):
            parameter.grad = slope
        self._adam.step()

    def look(self, kl: float, step: int) -> None:
        """Remember the weights where they are the best so far."""
        if kl < self._least:
            self._least, self.best_step, self._waited = kl, step, 0
            self._best = (self._weight.detach().clone(), self._shift.detach().clone())
        else:
            self._waited += 1

    def done(self, patience: int) -> bool:
        return self._waited >= patience

    def folded(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The best so far as change (H, H) and bias (H,)."""
        weight, shift = self._best
        change = self._spread[:, None] * weight / self._spread
        return change.cpu(), (self._spread * shift - change @ self._mean).cpu()


def _fitted(
    inside: Inside, states: dict[str, torch.Tensor], places: range, settings: Settings, tick: Any
) -> list[_Layer]:
    """Layers fitted beside each other on the same batches, whose last layer is then read once for all of them."""
    device = inside.device
    layers = [_Layer(place, states["fit"][place].to(device).float(), settings.rate) for place in places]
    last, stop_last = (states[name][-1].to(device).float() for name in ("fit", "stop"))
    stop = {layer.place: states["stop"][layer.place].to(device).float() for layer in layers}
    draw = torch.Generator("cpu").manual_seed(settings.seed)
    going = layers
    for step in range(settings.most_steps + 1):
        if step % settings.every == 0 or step == settings.most_steps:
            seen = _kls(inside, stop_last, [(layer, stop[layer.place]) for layer in going])
            for layer, kl in zip(going, seen, strict=True):
                layer.look(kl, step)
            going = [layer for layer in going if not layer.done(settings.patience)]
            if tick:
                tick(places.start + len(layers) - len(going), len(inside.layers))
        if not going or step == settings.most_steps:
            return layers
        at = torch.randperm(len(last), generator=draw, device="cpu")[: settings.batch].to(device)
        with torch.no_grad():
            target = inside.decode(last[at]).log_softmax(-1)
        for layer in going:
            layer.step(inside, target, at)
    return layers


@torch.no_grad()
def _kls(inside: Inside, last: torch.Tensor, read: Sequence[tuple[Any, torch.Tensor]]) -> list[float]:
    """Mean KL(last layer || what a translator makes of states) for each of `read`, a translator and its states."""
    sums = [0.0] * len(read)
    vocabulary = inside.decode(last[:1]).shape[-1]
    for start, stop in _cuts(len(last), vocabulary):
        target = inside.decode(last[start:stop]).log_softmax(-1)
        for number, (translate, states) in enumerate(read):
            sums[number] += float(_kl(target, inside.decode(translate(states[start:stop]))).double().sum())
    return [total / len(last) for total in sums]


def _each_kl(inside: Inside, states: torch.Tensor, translators: Translators) -> list[float]:
    """Mean KL of every place (L + 1) on states (L + 1, N, H)."""
    device = inside.device
    last = states[-1].to(device).float()
    found = []
    for place, own in enumerate(states):
        single = _one(translators, place, device)
        found += _kls(inside, last, [(single, own.to(device).float())])
    return [round(value, 4) for value in found]


def _one(translators: Translators, place: int, device: torch.device) -> Any:
    """One place's translator on the model's device: all of them need not fit there."""
    if place == len(translators.change):
        return lambda states: states
    single = Translators(translators.change[place][None].to(device), translators.bias[place][None].to(device))
    return lambda states: single(0, states)


def _kl(last: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """KL of log-probabilities `last` (n, V) to logits (n, V): (n,)."""
    return (last.exp() * (last - logits.log_softmax(-1))).sum(-1)


def _cuts(count: int, vocabulary: int) -> list[tuple[int, int]]:
    step = max(1, _LOGITS // vocabulary)
    return [(start, min(start + step, count)) for start in range(0, count, step)]


def _split(rows: Sequence[TokenRow]) -> tuple[list[TokenRow], list[TokenRow], list[TokenRow]]:
    numbered = list(enumerate(rows))
    return (
        [row for number, row in numbered if number % 3 != 2],
        [row for number, row in numbered if number % 6 == 2],
        [row for number, row in numbered if number % 6 == 5],
    )


@torch.no_grad()
def _states(inside: Inside, rows: Sequence[TokenRow], most: int, seed: int) -> torch.Tensor:
    """(L + 1, N, H) on the CPU, as exact as the model's own: every place but those of a beginning that all rows share.

    The first token is left out too: models park attention there, and its states are like no others.
    """
    shared = _shared(rows)
    kind = inside.head.weight.dtype if inside.head.weight.is_floating_point() else torch.float32
    found = torch.cat([inside.states(row.ids)[:, shared:].to("cpu", kind) for row in rows], 1)
    if found.shape[1] <= most:
        return found
    draw = torch.Generator("cpu").manual_seed(seed)
    return found[:, torch.randperm(found.shape[1], generator=draw, device="cpu")[:most].sort().values]


def _shared(rows: Sequence[TokenRow]) -> int:
    """How many tokens all rows begin with; at least one, and of a single row one."""
    if len(rows) < 2:
        return 1
    columns = zip(*(row.ids for row in rows), strict=False)
    same = next((place for place, tokens in enumerate(columns) if len(set(tokens)) > 1), None)
    return 1 if same is None else max(1, same)


def _kept(folder: Path, key: str) -> Tuned | None:
    if not (folder / _ABOUT).exists() or not (folder / _WEIGHTS).exists():
        return None
    about = read_json(folder / _ABOUT)
    if about.get("key") != key:
        return None
    with safe_open(folder / _WEIGHTS, "pt") as file:
        return Tuned(Translators(file.get_tensor("change"), file.get_tensor("bias")), about)


def _key(inside: Inside, rows: Sequence[TokenRow], settings: Settings) -> str:
    """sha256 over the model's weights, the text as tokens, and the settings."""
    digest = hashlib.sha256(json.dumps([asdict(settings), [row.ids for row in rows]]).encode())
    for name, weight in sorted(inside.model.state_dict().items()):
        if isinstance(weight, torch.Tensor):
            digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
            digest.update(weight.detach().reshape(-1).contiguous().cpu().view(torch.uint8).numpy().data)
    return digest.hexdigest()
