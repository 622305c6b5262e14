"""The report's charts: numbers in, inline SVG out. No text of a record is ever drawn.

Every function returns "" where there is nothing to draw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from relearn.report.labels import LOSS_PARTS, ON_UNIT_SCALE, metric_label
from relearn.report.svg import INK, RC, to_svg

_LINES = ("line1", "line2", "line3", "line4")
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
    """The loss by part over the steps of one training; a long run is drawn as its running mean over the bare values."""
    import matplotlib

    steps = curve["steps"]
    if not steps:
        return ""
    parts = curve["parts"] if len(curve["parts"]) > 1 else {"loss": curve["loss"]}
    with matplotlib.rc_context(RC):
        figure, axes = axes_of(9.6, 3.1)
        for index, (part, values) in enumerate(parts.items()):
            colour = INK[_LINES[index % len(_LINES)]]
            _line(axes, steps, values, LOSS_PARTS.get(part, part), colour)
        # Ascent has a loss below zero, which has to be seen.
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
    """Mean over a centred window that shrinks at both ends, so that the curve keeps its length."""
    import numpy as np

    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    reach = np.minimum(np.minimum(index, len(values) - 1 - index), window // 2)
    return (sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1)


def before_after(rows: Sequence[Mapping[str, Any]], name: str, title: str) -> str:
    """Metrics on the scale from 0 to 1, before and after, each with its interval."""
    import matplotlib

    shown = [row for row in rows if row["name"] in ON_UNIT_SCALE and (_value(row, "before") or _value(row, "after"))]
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
    """How many answers have which value, before and after, in ten bins from 0 to `upper`."""
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
