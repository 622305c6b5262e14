"""Draw the report's charts as inline SVG: metrics, distributions, losses, values over layers, circuits.

Functions return "" if there is nothing to draw. The SVG of matplotlib is rewritten for the page: inline styles, which
the page's content security policy forbids, are removed, and ids get the name of the chart as prefix. Charts are drawn
in the placeholder colours of `INK`; each becomes a CSS class, so that one chart works with light and dark colours. Only
circuits contain text of a record (tokens).
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from relearn.metrics.metric import METRICS
from relearn.report.circuit_plot import circuit_picture
from relearn.report.labels import LOSS_PARTS, metric_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK: dict[str, str] = {
    "ink": "#010203",
    "muted": "#020304",
    "grid": "#030405",
    "before": "#040506",
    "after": "#050607",
    "line1": "#060708",
    "line2": "#070809",
    "line3": "#08090a",
    "line4": "#090a0b",
}
RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9.5,
    "axes.edgecolor": INK["grid"],
    "axes.labelcolor": INK["muted"],
    "text.color": INK["ink"],
    "xtick.color": INK["grid"],
    "ytick.color": INK["grid"],
    "xtick.labelcolor": INK["muted"],
    "ytick.labelcolor": INK["muted"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": INK["grid"],
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
}
_NAMESPACE = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"
_CLASS_OF = {colour: name for name, colour in INK.items()}
_KEPT_STYLES = {
    "fill",
    "stroke",
    "stroke-width",
    "stroke-linecap",
    "stroke-linejoin",
    "stroke-dasharray",
    "stroke-dashoffset",
    "stroke-opacity",
    "fill-opacity",
    "opacity",
    "text-anchor",
    "font-size",
}


def to_svg(figure: Figure, name: str, title: str) -> str:
    """Convert the figure to an inline <svg> that scales with its container; `title` is its accessible name."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({**RC, "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return cleaned(buffer.getvalue().decode("utf-8"), name, title)


def cleaned(svg: str, name: str, title: str) -> str:
    root = ElementTree.fromstring(svg)
    _drop(root, {f"{_NAMESPACE}metadata", f"{_NAMESPACE}style"})
    used = {match for element in root.iter() for value in element.attrib.values() for match in _references(value)}
    for element in root.iter():
        element.tag = element.tag.removeprefix(_NAMESPACE)
        _plain_attributes(element, name, used)
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.attrib |= {"role": "img", "aria-label": title, "class": "chart"}
    return ElementTree.tostring(root, encoding="unicode")


def _drop(element: ElementTree.Element, tags: set[str]) -> None:
    for child in list(element):
        if child.tag in tags:
            element.remove(child)
        else:
            _drop(child, tags)


def _references(value: str) -> list[str]:
    return re.findall(r"url\(#([^)]+)\)", value) + ([value[1:]] if value.startswith("#") else [])


def _plain_attributes(element: ElementTree.Element, name: str, used: set[str]) -> None:
    styles = dict(part.split(":", 1) for part in element.attrib.pop("style", "").split(";") if ":" in part)
    for key, value in styles.items():
        if key.strip() in _KEPT_STYLES:
            element.set(key.strip(), value.strip())
    if (identity := element.attrib.pop("id", None)) in used:
        element.set("id", f"{name}-{identity}")
    if _LINK in element.attrib:
        element.set("href", f"#{name}-{element.attrib.pop(_LINK)[1:]}")
    if "clip-path" in element.attrib:
        element.set("clip-path", re.sub(r"url\(#", f"url(#{name}-", element.attrib["clip-path"]))
    classes = []
    for attribute in ("fill", "stroke"):
        colour = _CLASS_OF.get(element.attrib.get(attribute, ""))
        if colour:
            del element.attrib[attribute]
            classes.append(f"{attribute}-{colour}")
    if element.tag == "text" and not any(c.startswith("fill-") for c in classes):
        classes.append("fill-ink")
    if classes:
        element.set("class", " ".join(classes))


LINE_INKS = ("line1", "line2", "line3", "line4")
_SMOOTH_FROM = 60


def axes_of(width: float, height: float):
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
    axes.tick_params(length=0)
    return figure, axes


def loss_curves(curve: Mapping[str, Any], name: str) -> str:
    """Draw the loss by part over the steps of one training; with 60 steps or more, a running mean over faint values."""
    import matplotlib

    steps = curve["steps"]
    if not steps:
        return ""
    parts = curve["parts"] if len(curve["parts"]) > 1 else {"loss": curve["loss"]}
    with matplotlib.rc_context(RC):
        figure, axes = axes_of(9.6, 3.1)
        for index, (part, values) in enumerate(parts.items()):
            colour = INK[LINE_INKS[index % len(LINE_INKS)]]
            _line(axes, steps, values, LOSS_PARTS.get(part, part), colour)
        # The axis starts at 0 unless a loss is negative, as in gradient ascent.
        below = any(value is not None and value < 0 for values in parts.values() for value in values)
        axes.set(xlabel="optimiser step", ylabel="loss", xlim=(min(steps), max(*steps, min(steps) + 1)))
        axes.set(ylim=(None if below else 0, None))
        axes.grid(axis="y")
        axes.spines["left"].set_visible(False)
        if len(parts) > 1:
            axes.legend(frameon=False, labelcolor=INK["ink"])
    return to_svg(figure, name, f"Loss by part while training: {curve['stage']}")


def _line(axes, steps: Sequence[int], values: Sequence[float | None], label: str, colour: str) -> None:
    import numpy as np

    kept = [(step, value) for step, value in zip(steps, values, strict=True) if value is not None]
    if not kept:
        return
    xs, ys = (np.array(column, dtype=float) for column in zip(*kept, strict=True))
    if len(xs) >= _SMOOTH_FROM:
        axes.plot(xs, ys, color=colour, alpha=0.22, linewidth=0.8)
        ys = _running_mean(ys, max(3, len(ys) // 15))
    axes.plot(xs, ys, color=colour, linewidth=1.7, label=label)


def _running_mean(values, window: int):
    """Compute a running mean whose centred window shrinks at both ends, so that the curve keeps its length."""
    import numpy as np

    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    reach = np.minimum(np.minimum(index, len(values) - 1 - index), window // 2)
    return (sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1)


def before_after(rows: Sequence[Mapping[str, Any]], name: str, title: str) -> str:
    """Draw the metrics marked for the chart before and after unlearning, on a scale from 0 to 1, with intervals."""
    import matplotlib

    shown = [row for row in rows if _in_chart(row["name"]) and (_value(row, "before") or _value(row, "after"))]
    if not shown:
        return ""
    with matplotlib.rc_context(RC):
        figure, axes = axes_of(4.6, 0.55 + 0.42 * len(shown))
        for place, row in enumerate(shown):
            for side, offset in (("before", -0.14), ("after", 0.14)):
                _point(axes, row[side], place + offset, INK[side])
        axes.set(xlim=(-0.02, 1.02), ylim=(len(shown) - 0.5, -0.5), xticks=[0, 0.25, 0.5, 0.75, 1])
        axes.set_yticks(range(len(shown)), [metric_label(row["name"]) for row in shown])
        axes.tick_params(axis="y", labelcolor=INK["ink"])
        axes.grid(axis="x")
        axes.spines[["left", "bottom"]].set_visible(False)
    return to_svg(figure, name, f"{title}: metrics before and after, with 95 % intervals")


def _in_chart(name: str) -> bool:
    return name in METRICS and "chart" in METRICS.get(name).shown_in


def _value(row: Mapping[str, Any], side: str) -> bool:
    return bool(row[side]) and row[side]["value"] is not None


def _point(axes, measured: Mapping[str, Any] | None, height: float, colour: str) -> None:
    if not measured or measured["value"] is None:
        return
    low, high = (measured["value"] if measured[end] is None else measured[end] for end in ("low", "high"))
    axes.plot([low, high], [height, height], color=colour, linewidth=2.4, alpha=0.45, solid_capstyle="round")
    axes.plot(measured["value"], height, "o", color=colour, markersize=6)


def distribution(
    before: Sequence[float | None], after: Sequence[float | None], name: str, label: str, upper: float = 1.0
) -> str:
    """Draw a histogram of one value per answer, before and after unlearning, in ten bins from 0 to `upper`."""
    import matplotlib
    import numpy as np
    from matplotlib.ticker import MaxNLocator

    sides = {"before": [v for v in before if v is not None], "after": [v for v in after if v is not None]}
    if not any(sides.values()):
        return ""
    edges = np.linspace(0, upper, 11)
    width = upper / 10
    with matplotlib.rc_context(RC):
        figure, axes = axes_of(2.7, 1.7)
        for side, shift in (("before", 0.06), ("after", 0.5)):
            counts, _ = np.histogram(np.clip(sides[side], 0, upper), edges)
            axes.bar(edges[:-1] + shift * width, counts, width * 0.44, align="edge", color=INK[side])
        axes.set(xlim=(0, upper), xticks=[0, upper / 2, upper], xlabel=label, ylabel="answers")
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.grid(axis="y")
        axes.spines["left"].set_visible(False)
    return to_svg(figure, name, f"{label}: how many answers have which value, before and after")


def sorted_p_values(p_values: Mapping[str, Sequence[float]], name: str) -> str:
    """Draw the sorted p-values of each model against the line of uniform ones, which a model that never knew has."""
    import matplotlib

    if not p_values:
        return ""
    title = "p-values of the facts, sorted: below the line they are smaller than by chance"
    with matplotlib.rc_context(RC):
        figure, axes = axes_of(6.4, 3.0)
        axes.plot((0, 1), (0, 1), color=INK["muted"], linewidth=1, label="uniform")
        for side, colour in (("before", "before"), ("after", "after"), ("control", "line3")):
            own = p_values.get(side, ())
            places = [(number + 0.5) / len(own) for number in range(len(own))]
            axes.plot(places, own, "o-", color=INK[colour], markersize=3, linewidth=1.2, label=side)
        axes.set_title(title, loc="left", fontsize=9.5)
        axes.set(xlabel="share of the facts", ylabel="p", xlim=(0, 1), ylim=(-0.02, 1.02))
        axes.grid(axis="y")
        axes.spines["left"].set_visible(False)
        axes.legend(frameon=False, labelcolor=INK["ink"])
    return to_svg(figure, name, title)


# First the start model's colour, then colours of other models; when all are used, the next line style follows.
_COLOURS = ("before", "after", "line3", "line4")
START = "start"
_SEESAW = {"true": "true token", "next_1": "likeliest other", "next_2": "second other"}
_STYLES = ("-", "--", ":", "-.")

# Chart -> (title, axis label).
LINES = {
    "lens": ("How likely the true answer is when a layer is read as the last", "mean log-probability (nats)"),
    "lens_kl": ("How far each layer is from the last, at the answer's first token", "KL to the last layer (nats)"),
    "lens_fit": ("Each layer against the last, by either lens, on text that was not fitted on", "mean KL (nats)"),
    "patching": ("What comes back with the start model's states at the prompt, layer by layer", "share brought back"),
    "adapter": ("Size of the adapter's update by layer", "norm of the update"),
}


def analysis_charts(analysis: Mapping[str, Any] | None) -> dict[str, str]:
    """Draw all charts of the analysis, by name; {} without an analysis."""
    if analysis is None:
        return {}
    charts = {name: over_layers(analysis["lines"].get(name, {}), f"inside-{name}", *LINES[name]) for name in LINES}
    for number, (run, seesaw) in enumerate(analysis.get("seesaw", {}).items()):
        charts[f"seesaw {number}"] = seesaw_picture(seesaw, f"inside-seesaw-{number}", run)
    for number, one in enumerate(analysis["circuits"]):
        title = circuit_title(one["model"])
        charts[f"circuit {number}"] = circuit_picture(one["tokens"], one["layers"], one["edges"], one["start"], title)
    return charts


def circuit_title(model: str) -> str:
    return f"{model}: circuit of the answer"


def over_layers(lines: Mapping[str, Sequence[float]], name: str, title: str, label: str) -> str:
    """Draw one value per layer (0: the embeddings) for every model."""
    drawn = {model: (range(len(values)), values) for model, values in lines.items() if values}
    return _lines(drawn, name, title, "layer", label) if drawn else ""


def seesaw_picture(seesaw: Mapping[str, Any] | None, name: str, run: str) -> str:
    """Draw, over a training, the probability of the first token of forget answers and of its likeliest alternatives."""
    if not seesaw or "forget" not in seesaw:
        return ""
    lines = {label: seesaw["forget"][key] for key, label in _SEESAW.items()}
    return over_steps(seesaw["step"], lines, name, f"{run}: the first token of answers to be forgotten", "probability")


def loss_picture(loss: Mapping[str, Any], name: str, run: str) -> str:
    """Draw the loss of an unlearning run by part, over the steps."""
    parts: Mapping[str, Sequence[float | None]] = loss["parts"]
    lines = {LOSS_PARTS.get(part, part): values for part, values in parts.items()}
    return over_steps(loss["step"], lines, name, f"{run}: loss by part while unlearning", "loss")


def over_steps(
    steps: Sequence[int], lines: Mapping[str, Sequence[float | None]], name: str, title: str, label: str
) -> str:
    """Draw named lines over the steps of a training; None leaves a gap."""
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
