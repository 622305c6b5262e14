"""Draw a circuit as SVG: tokens from left to right, layers from bottom to top, edges between states.

Edges in both models are grey, edges only in the start model dashed red, edges only in the other model blue.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_COLUMN, _ROW, _LEFT, _TOP, _FOOT = 34, 18, 52, 46, 92
_KINDS = {
    "kept": 'stroke="#8a9099" stroke-opacity="0.55"',
    "lost": 'stroke="#b3261e" stroke-dasharray="3 2.5"',
    "gained": 'stroke="#0b6bcb"',
}
_LEGEND = {"kept": "in both", "lost": "lost", "gained": "gained"}
# As in circuits.json: layer, kind, target, source.
CircuitEdge = Sequence[int | str]


def circuit_picture(
    tokens: Sequence[str], layers: int, edges: Iterable[CircuitEdge], start: Iterable[CircuitEdge] | None, title: str
) -> str:
    """Draw the circuit `edges`; with the start model's edges `start`, mark lost and gained edges. Escapes text."""
    own, other = {tuple(edge) for edge in edges}, {tuple(edge) for edge in (start if start is not None else edges)}
    sets = {"kept": own & other, "lost": other - own, "gained": own - other}
    width, bottom = _LEFT + _COLUMN * len(tokens) + 20, _TOP + _ROW * layers
    height = bottom + _FOOT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="9" role="img" aria-label="{escape(title)}">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="16" font-size="12" fill="#1b1d21">{escape(title)}</text>',
    ]
    parts += _legend(sets, start is not None)
    parts.append(f'<text x="{_LEFT - 22}" y="{_TOP - 11}" text-anchor="end" fill="#5d636b">layer</text>')
    parts += [
        f'<text x="{_LEFT - 22}" y="{bottom - _ROW * layer + 3}" text-anchor="end" fill="#5d636b">{layer}</text>'
        for layer in range(0, layers + 1, max(1, layers // 10))
    ]
    parts += [_line(edge, name, bottom) for name, found in sets.items() for edge in sorted(found, key=str)]
    parts += [
        f'<text transform="translate({_x(at) + 3} {bottom + 12}) rotate(60)" fill="#1b1d21">{_shown(token)}</text>'
        for at, token in enumerate(tokens)
    ]
    return "".join([*parts, "</svg>\n"])


def _legend(sets: dict[str, set], compared: bool) -> list[str]:
    if not compared:
        return []
    return [
        f'<line x1="{_LEFT + 110 * n}" x2="{_LEFT + 110 * n + 18}" y1="29" y2="29" stroke-width="1.6" {_KINDS[name]}/>'
        f'<text x="{_LEFT + 110 * n + 23}" y="32" fill="#5d636b">{_LEGEND[name]} ({len(found)})</text>'
        for n, (name, found) in enumerate(sets.items())
    ]


def _line(edge: tuple, name: str, bottom: float) -> str:
    """Draw an edge; attention and its residual end in the middle of a layer, the MLP and its residual at its top."""
    layer, kind, target, source = edge
    low = bottom - _ROW * layer - (0 if kind in ("residual", "attention") else _ROW / 2)
    ends = f"{_x(target):g} {low - _ROW / 2:g}"
    if kind == "mlp" or (kind == "attention" and source == target):
        aside = 7 if kind == "mlp" else -7
        path = f"M{_x(source):g} {low:g} Q{_x(source) + aside:g} {low - _ROW / 4:g} {ends}"
    else:
        path = f"M{_x(source):g} {low:g} L{ends}"
    return f'<path d="{path}" fill="none" stroke-width="1.1" {_KINDS[name]}/>'


def _x(token: int) -> float:
    return _LEFT + _COLUMN * token + _COLUMN / 2 - 10


def _shown(token: str) -> str:
    """Make a token printable: control characters, which XML cannot contain, become dots; long tokens are cut."""
    plain = "".join(letter if letter.isprintable() else "·" for letter in token)
    return escape(plain[:14] + "…" if len(plain) > 14 else plain) or "·"
