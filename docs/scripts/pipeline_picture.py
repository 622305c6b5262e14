"""Draw the pipeline for README: `python docs/scripts/pipeline_picture.py` writes docs/pictures/pipeline.svg."""

from __future__ import annotations

from html import escape
from pathlib import Path

TARGET = Path(__file__).resolve().parents[1] / "pictures" / "pipeline.svg"
WIDTH, HEIGHT = 960, 366
BOX_WIDTH, BOX_HEIGHT = 168, 84
INK, FAINT, DATA, STEP, RESULT = "#1f2933", "#52606d", "#fdf3d8", "#e3eefb", "#e2f3e6"

# (column, row, fill, title, lines below)
BOXES = (
    (0, 0, DATA, "forget rows", ("questions whose", "answers must go")),
    (0, 1, DATA, "retain rows", ("questions whose", "answers must stay")),
    (1, 0, STEP, "1  write answers", ("new, vague, on the", "subject; many forms")),
    (2, 0, STEP, "2  check for leaks", ("no secret may be in", "a training row")),
    (2, 1, STEP, "3  train adapter", ("NLL + retain NLL + KL", "(or 29 other methods)")),
    (3, 0, STEP, "4  ask both models", ("the same questions,", "before and after")),
    (3, 1, STEP, "5  attack", ("other wordings, 4 bits,", "relearning ...")),
    (4, 0, RESULT, "scores", ("KFR, KRR, LS with", "95 % intervals")),
    (4, 1, RESULT, "verdict per fact", ("gone, hidden", "or still there")),
)
NOTE = "Every answer is kept in the run folder: each step can resume, and report.html shows the change item by item."
COLUMNS, ROWS = (20, 208, 396, 584, 772), (66, 226)
# (from box, to box); a box is (column, row)
ARROWS = (
    ((0, 0), (1, 0)),
    ((1, 0), (2, 0)),
    ((2, 0), (2, 1)),
    ((0, 1), (2, 1)),
    ((2, 1), (3, 1)),
    ((2, 1), (3, 0)),
    ((3, 0), (4, 0)),
    ((3, 1), (4, 1)),
)


def picture() -> str:
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="Helvetica, Arial, sans-serif" role="img" aria-labelledby="title">',
        '<title id="title">New answers are written, checked, trained, measured, attacked</title>',
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0 L10 5 L0 10 z" fill="{FAINT}"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="10" fill="#ffffff"/>',
        *(
            f'<text x="{x}" y="38" font-size="15" font-weight="bold" fill="{FAINT}">{label}</text>'
            for x, label in ((20, "you give"), (208, "relearn does"), (772, "you get"))
        ),
        *(_arrow(start, end) for start, end in ARROWS),
        *(_box(*box) for box in BOXES),
        f'<text x="20" y="350" font-size="13" fill="{FAINT}">{NOTE}</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _box(column: int, row: int, fill: str, title: str, lines: tuple[str, ...]) -> str:
    x, y = COLUMNS[column], ROWS[row]
    texts = [f'<text x="{x + 12}" y="{y + 26}" font-size="14" font-weight="bold" fill="{INK}">{escape(title)}</text>']
    texts += [
        f'<text x="{x + 12}" y="{y + 48 + 18 * number}" font-size="13" fill="{INK}">{escape(line)}</text>'
        for number, line in enumerate(lines)
    ]
    frame = f'<rect x="{x}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="8" fill="{fill}" stroke="{FAINT}"/>'
    return frame + "".join(texts)


def _arrow(start: tuple[int, int], end: tuple[int, int]) -> str:
    x1, y1 = COLUMNS[start[0]], ROWS[start[1]] + BOX_HEIGHT // 2
    x2, y2 = COLUMNS[end[0]], ROWS[end[1]] + BOX_HEIGHT // 2
    if start[0] == end[0]:
        middle = x1 + BOX_WIDTH // 2
        points = ((middle, ROWS[start[1]] + BOX_HEIGHT), (middle, ROWS[end[1]]))
    elif y1 == y2:
        points = ((x1 + BOX_WIDTH, y1), (x2, y2))
    else:
        points = ((x1 + BOX_WIDTH - 40, ROWS[start[1]]), (x2 + 40, ROWS[end[1]] + BOX_HEIGHT))
    path = " L".join(f"{x} {y}" for x, y in points)
    return f'<path d="M{path}" fill="none" stroke="{FAINT}" stroke-width="1.6" marker-end="url(#tip)"/>'


if __name__ == "__main__":
    TARGET.write_text(picture(), encoding="utf-8")
