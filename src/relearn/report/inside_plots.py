"""Pictures of what is inside a model: lines over its layers, one per model, and the circuits of its answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from relearn.report.circuit_plot import circuit_picture
from relearn.report.labels import LOSS_PARTS
from relearn.report.plots import axes_of
from relearn.report.svg import INK, RC, to_svg

# The start model's colour, then those of the others; where they run out, a broken line tells two of a colour apart.
_COLOURS = ("before", "after", "line3", "line4")
START = "start"
_SEESAW = {"true": "true token", "next_1": "likeliest other", "next_2": "second other"}
_STYLES = ("-", "--", ":", "-.")

# By picture: what it shows, and the name of its axis.
LINES = {
    "lens": ("How likely the true answer is when a layer is read as the last", "mean log-probability (nats)"),
    "lens_kl": ("How far each layer is from the last, at the answer's first token", "KL to the last layer (nats)"),
    "lens_fit": ("Each layer against the last, by either lens, on text that was not fitted on", "mean KL (nats)"),
    "patching": (
        "What comes back with the start model's states at the prompt, layer by layer", "share brought back",
    ),
    "adapter": ("Size of the adapter's update by layer", "norm of the update"),
}  # fmt: skip


def inside_charts(inside: Mapping[str, Any] | None) -> dict[str, str]:
    """All pictures of the report's part, by name, drawn from its numbers alone."""
    if inside is None:
        return {}
    charts = {name: over_layers(inside["lines"].get(name, {}), f"inside-{name}", *LINES[name]) for name in LINES}
    for number, (run, seesaw) in enumerate(inside.get("seesaw", {}).items()):
        charts[f"seesaw {number}"] = seesaw_picture(seesaw, f"inside-seesaw-{number}", run)
    for number, one in enumerate(inside["circuits"]):
        title = circuit_title(one["model"])
        charts[f"circuit {number}"] = circuit_picture(one["tokens"], one["layers"], one["edges"], one["start"], title)
    return charts


def circuit_title(model: str) -> str:
    return f"{model}: circuit of the answer"


def over_layers(lines: Mapping[str, Sequence[float]], name: str, title: str, label: str) -> str:
    """One value per layer (0: the embeddings) for every model; "" where there is nothing to draw."""
    drawn = {model: (range(len(values)), values) for model, values in lines.items() if values}
    return _lines(drawn, name, title, "layer", label) if drawn else ""


def seesaw_picture(seesaw: Mapping[str, Any] | None, name: str, run: str) -> str:
    """What becomes of the forget answers' first token and of those beside it while a run trains; "" without a trace."""
    if not seesaw or "forget" not in seesaw:
        return ""
    lines = {label: seesaw["forget"][key] for key, label in _SEESAW.items()}
    return over_steps(seesaw["step"], lines, name, f"{run}: the first token of answers to be forgotten", "probability")


def loss_picture(loss: Mapping[str, Any], name: str, run: str) -> str:
    """The loss of a run by part."""
    parts: Mapping[str, Sequence[float | None]] = loss["parts"]
    lines = {LOSS_PARTS.get(part, part): values for part, values in parts.items()}
    return over_steps(loss["step"], lines, name, f"{run}: loss by part while unlearning", "loss")


def over_steps(
    steps: Sequence[int], lines: Mapping[str, Sequence[float | None]], name: str, title: str, label: str
) -> str:
    """Named values over the steps of a training; "" where there is nothing to draw. None leaves a gap."""
    if not steps or not lines:
        return ""
    drawn = {
        line: (steps, [math.nan if value is None else value for value in values]) for line, values in lines.items()
    }
    return _lines(drawn, name, title, "optimiser step", label)


def _lines(
    drawn: Mapping[str, tuple[Sequence[int], Sequence[float]]], name: str, title: str, across: str, label: str
) -> str:
    import matplotlib
    from matplotlib.ticker import MaxNLocator

    places = [place for along, _ in drawn.values() for place in along]
    with matplotlib.rc_context(RC):
        figure, axes = axes_of(6.4, 3.0)
        for number, (line, (along, values)) in enumerate(drawn.items(), start=0 if START in drawn else 1):
            colour = INK[_COLOURS[number % len(_COLOURS)]]
            style = _STYLES[number // len(_COLOURS) % len(_STYLES)]
            axes.plot(along, values, color=colour, linestyle=style, linewidth=1.7, label=line)
        axes.set_title(title, loc="left", fontsize=9.5)
        axes.set(xlabel=across, ylabel=label, xlim=(min(places), max(max(places), min(places) + 1)))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y")
        axes.spines["left"].set_visible(False)
        if len(drawn) > 1:
            axes.legend(frameon=False, labelcolor=INK["ink"])
    return to_svg(figure, name, title)
