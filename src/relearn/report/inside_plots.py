"""Pictures of what is inside a model: lines over its layers, one per model. No text of a record is ever drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from relearn.report.plots import axes_of
from relearn.report.svg import INK, RC, to_svg

_COLOURS = ("before", "after", "line2", "line3", "line4", "line1")
_STYLES = ("-", "-", "--", ":", "-.", (0, (1, 3)))


def over_layers(lines: Mapping[str, Sequence[float]], name: str, title: str, label: str, *, log: bool = False) -> str:
    """One value per layer (0: the embeddings) for every model; "" where there is nothing to draw."""
    import matplotlib

    drawn = {model: values for model, values in lines.items() if values}
    if not drawn:
        return ""
    with matplotlib.rc_context(RC):
        figure, axes = axes_of(6.4, 3.0)
        for number, (model, values) in enumerate(drawn.items()):
            colour, style = INK[_COLOURS[number % len(_COLOURS)]], _STYLES[number % len(_STYLES)]
            axes.plot(range(len(values)), values, color=colour, linestyle=style, linewidth=1.7, label=model)
        if log:
            axes.set_yscale("log")
        axes.set(xlabel="layer", ylabel=label, xlim=(0, max(map(len, drawn.values())) - 1))
        axes.grid(axis="y")
        axes.spines["left"].set_visible(False)
        if len(drawn) > 1:
            axes.legend(frameon=False, labelcolor=INK["ink"])
    return to_svg(figure, name, title)
