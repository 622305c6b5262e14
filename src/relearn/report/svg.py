"""matplotlib's SVG made fit for the page: no inline styles (the page's policy forbids them), colours by class.

Charts are drawn in the marker colours of `INK`; each becomes a CSS class, so that one picture serves the light and the
dark scheme. Ids get the picture's name in front, as several pictures share one page.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

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
    "fill", "stroke", "stroke-width", "stroke-linecap", "stroke-linejoin", "stroke-dasharray", "stroke-dashoffset",
    "stroke-opacity", "fill-opacity", "opacity", "text-anchor", "font-size",
}  # fmt: skip


def to_svg(figure: Figure, name: str, title: str) -> str:
    """The figure as an inline <svg> that scales with its place; `title` is what a screen reader says."""
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
