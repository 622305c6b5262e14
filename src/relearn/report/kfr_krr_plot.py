"""Draw the KFR-KRR plane as SVG: one point per method, or the checkpoints of trainings (arXiv 2502.11190, Figure 10).

The colour of a method's point is its fluency. The checkpoints of a training are joined by a line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relearn.report.plots import INK, LINE_INKS, RC, to_svg

# In units of the axes: height of a label, distance from its point, width of a letter, width of a marker.
_LABEL_GAP = 0.038
_LABEL_SHIFT = 0.022
_LETTER = 0.0135
_MARKER = 0.024
TEMPLATES = Path(__file__).parent / "templates"
_STRIPS = 40
_PIXELS = 4 / 3
_EDGE = 12
_MOVES = [sign * step * 0.01 for step in range(40) for sign in (1, -1)]

Bounds = tuple[float, float] | None


@dataclass(frozen=True)
class Point:
    """Hold the KFR, KRR and LS of a method; None if not measured.

    `kfr_range`, `krr_range`: 95 % intervals. `ceiling`: draw the point with another marker.
    """

    name: str
    kfr: float | None
    krr: float | None
    ls: float | None
    kfr_range: Bounds = None
    krr_range: Bounds = None
    ceiling: bool = False


def plane(points: Sequence[Point], name: str, title: str) -> str:
    """Draw the plane as inline <svg>; "" if no point has both KFR and KRR."""
    import matplotlib
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    shown = [point for point in points if point.kfr is not None and point.krr is not None]
    if not shown:
        return ""
    fluency = [point.ls for point in shown if point.ls is not None] or [0.0]
    low, high = min(fluency), max(fluency)
    norm = Normalize(low, high if high > low else low + 0.01)
    colours = matplotlib.colormaps["viridis"]
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(7.2, 5.6))
        axes = figure.add_axes((0.09, 0.1, 0.74, 0.88))
        axes.tick_params(length=0)
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel="KFR: forgotten →", ylabel="KRR: kept →")
        axes.grid()
        for point in shown:
            _draw(axes, point, INK["muted"] if point.ls is None else colours(norm(point.ls)))
        for point, (x, y, side) in zip(shown, label_places(shown), strict=True):
            axes.plot(
                [point.kfr or 0.0, x], [point.krr or 0.0, y], color=INK["muted"], linewidth=0.6, alpha=0.6, zorder=2
            )
            axes.text(x, y, f" {point.name} ", ha=side, va="center", color=INK["ink"], fontsize=8.5)
        _scale(figure, norm, colours)
    return to_svg(figure, name, f"{title}: KFR against KRR, fluency as colour")


def checkpoints(log: Iterable[Mapping[str, Any]], stage: str = "unlearn") -> list[dict[str, Any]]:
    """Collect the evaluations of a training from its log, by step; a step repeated by a resumed run counts once."""
    rows = {row["step"]: row for row in log if row.get("stage") == stage and row.get("kind") == "evaluation"}
    names = ("step", "score", "kfr", "krr")
    return [{name: rows[step][name] for name in names if name in rows[step]} for step in sorted(rows)]


def checkpoint_curves(curves: Mapping[str, Sequence[Mapping[str, Any]]], name: str, title: str) -> str:
    """Draw the checkpoints of trainings as curves: a square at the start, a diamond at the end.

    A curve alone has its steps as labels; several have the name at the end of each. "" if no training has two
    checkpoints with KFR and KRR.
    """
    import matplotlib
    from matplotlib.figure import Figure

    paths = {key: [one for one in curve if {"kfr", "krr"} <= one.keys()] for key, curve in curves.items()}
    paths = {key: path for key, path in paths.items() if len(path) > 1}
    if not paths:
        return ""
    labelled = [
        Point(str(one["step"]) if len(paths) == 1 else key, one["kfr"], one["krr"], None)
        for key, path in paths.items()
        for one in (path if len(paths) == 1 else path[-1:])
    ]
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(6.4, 5.2))
        axes = figure.add_axes((0.1, 0.1, 0.88, 0.88))
        axes.tick_params(length=0)
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel="KFR: forgotten →", ylabel="KRR: kept →")
        axes.grid()
        for number, path in enumerate(paths.values()):
            style = ("-", "--", ":")[number // len(LINE_INKS) % 3]
            _draw_path(axes, path, INK[LINE_INKS[number % len(LINE_INKS)]], style)
        for point, (x, y, side) in zip(labelled, label_places(labelled), strict=True):
            axes.text(x, y, f" {point.name} ", ha=side, va="bottom", color=INK["ink"], fontsize=8.5)
    return to_svg(figure, name, f"{title}: KFR against KRR at the checkpoints")


def _draw_path(axes: Any, path: Sequence[Mapping[str, Any]], colour: str, style: str) -> None:
    xs, ys = [one["kfr"] for one in path], [one["krr"] for one in path]
    axes.plot(xs, ys, style, color=colour, linewidth=1.3, marker="o", markersize=4, zorder=2)
    axes.plot(xs[:1], ys[:1], "s", color=colour, markersize=8, zorder=3)
    axes.plot(xs[-1:], ys[-1:], "D", color=colour, markersize=8, zorder=3)


def _scale(figure: Any, norm: Any, colours: Any) -> None:
    """Draw the colour scale as overlapping bars, because the cells of a mesh show gaps in SVG."""
    low, high = norm.vmin, norm.vmax
    strip = (high - low) / _STRIPS
    axes = figure.add_axes((0.88, 0.25, 0.025, 0.5))
    for number in range(_STRIPS):
        bottom = low + number * strip
        axes.bar(0, strip * (1 if number == _STRIPS - 1 else 1.5), 1, bottom, color=colours(norm(bottom + strip / 2)))
    axes.set(xlim=(-0.5, 0.5), ylim=(low, high), xticks=[])
    axes.set_title("LS", fontsize=9.5)
    axes.yaxis.tick_right()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _draw(axes: Any, point: Point, colour: Any) -> None:
    for ends, along in ((point.kfr_range, "x"), (point.krr_range, "y")):
        if ends:
            xs, ys = (ends, (point.krr, point.krr)) if along == "x" else ((point.kfr, point.kfr), ends)
            axes.plot(xs, ys, color=INK["muted"], linewidth=0.9, alpha=0.3, zorder=1)
    marker, size = ("D", 8) if point.ceiling else ("o", 9)
    axes.plot(
        point.kfr,
        point.krr,
        marker,
        color=colour,
        markersize=size,
        markeredgecolor=INK["muted"],
        markeredgewidth=0.6,
        zorder=3,
    )


def label_places(points: Sequence[Point]) -> list[tuple[float, float, str]]:
    """Place labels near their points without overlap with other labels and points.

    Returns (x, y, alignment) per point, in order; alignment is "left" or "right".
    """
    places: dict[int, tuple[float, float, str]] = {}
    taken: list[LabelBox] = []
    spots = [(point.kfr or 0.0, point.krr or 0.0) for point in points]
    for at in sorted(range(len(points)), key=lambda at: spots[at][::-1]):
        x, y = spots[at]
        side = "right" if x > 0.6 else "left"
        x += -_LABEL_SHIFT if side == "right" else _LABEL_SHIFT
        width = _LETTER * (len(points[at].name) + 2)
        left = x - width if side == "right" else x
        others = [spot for number, spot in enumerate(spots) if number != at]
        boxes = (LabelBox(left, left + width, y + move, _LABEL_GAP) for move in _MOVES)
        box = next((box for box in boxes if box.free(taken, others)), LabelBox(left, left + width, y, _LABEL_GAP))
        taken.append(box)
        places[at] = (x, box.y, side)
    return [places[at] for at in range(len(points))]


@dataclass(frozen=True)
class LabelBox:
    """Hold the box of a label, from `left` to `right`, with `height` centred on `y`."""

    left: float
    right: float
    y: float
    height: float

    def free(self, labels: Sequence[LabelBox], points: Sequence[tuple[float, float]]) -> bool:
        near = [label for label in labels if abs(label.y - self.y) < self.height]
        if not -0.02 < self.y < 1.03 or any(label.left < self.right and self.left < label.right for label in near):
            return False
        reach = (self.height + _MARKER) / 2
        return not any(
            abs(y - self.y) < reach and self.left - _MARKER < x < self.right + _MARKER / 2 for x, y in points
        )


def standalone(svg: str) -> str:
    """Convert an inline <svg> to the text of an SVG file, with size, background, and light and dark colours."""
    if not svg:
        return ""
    box = re.search(r'viewBox="([\d.]+) ([\d.]+) ([\d.]+) ([\d.]+)"', svg)
    assert box is not None
    x, y, width, height = (float(number) for number in box.groups())
    x, y, width, height = x - _EDGE, y - _EDGE, width + 2 * _EDGE, height + 2 * _EDGE
    size = f'width="{width * _PIXELS:g}" height="{height * _PIXELS:g}"'
    opening, rest = svg.replace(box[0], f'viewBox="{x:g} {y:g} {width:g} {height:g}"').split(">", 1)
    opening = opening.replace("<svg ", f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" ', 1)
    light, dark = _page_inks()
    rules = _rules(light, "#ffffff") + f"@media (prefers-color-scheme: dark) {{ {_rules(dark, '#14161a')} }}"
    ground = f'<rect class="ground" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"/>'
    return f"{opening}><style>{rules}</style>{ground}{rest}\n"


def _page_inks() -> list[dict[str, str]]:
    """Read the colours of charts from report.css, for a light and for a dark page."""
    blocks = re.findall(r":root {(.*?)}", (TEMPLATES / "report.css").read_text(encoding="utf-8"), re.DOTALL)
    variables = [dict(re.findall(r"--(\w+): (#\w+);", block)) for block in blocks]
    return [{name: block["line" if name == "grid" else name] for name in INK} for block in variables if "ink" in block]


def _rules(inks: dict[str, str], ground: str) -> str:
    rules = [f".fill-{name} {{ fill: {ink}; }} .stroke-{name} {{ stroke: {ink}; }}" for name, ink in inks.items()]
    return " ".join([*rules, f".ground {{ fill: {ground}; }}"])
