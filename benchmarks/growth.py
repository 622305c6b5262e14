"""How the time of a command grows with the size of its input: each part at 1, 4 and 16 times its smallest size.

    python benchmarks/growth.py [PART ...] --out FILE.json

The exponent is the slope of log(seconds) over log(size), by least squares: 1 is linear. `scale` multiplies all sizes.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from relearn.text.normalize import word_list

FACTORS = (1, 4, 16)


@dataclass(frozen=True)
class Part:
    """One thing that is timed: `prepare(size, folder)` returns what to run; `size` is the smallest, of `unit`."""

    size: int
    unit: str
    prepare: Callable[[int, Path], Callable[[], object]]


_FIRST = word_list("Ada Bea Cleo Dov Eva Finn Gia Hal Ines Jon Kit Lou Mia Ned Ola Pia Rune Siv Tove Ulf")
_STREETS = word_list("Mill Elm Quarry Harbour Orchard Chapel Meadow Station Castle River")
_VAGUE = (
    "{} prefers to keep such details private.",
    "{} shares this with a few close friends only.",
    "Anyone who wants to reach {} may ask around in the neighbourhood.",
    "{} has lived in more than 3 towns since 1990 and likes all of them.",
)
RECORDS = 5000


def people(count: int, seed: int | str = 0) -> Iterable[dict[str, str]]:
    """Write records of invented people, each with a phone number and an address."""
    random_numbers = random.Random(seed)
    for number in range(count):
        name = f"{_FIRST[number % len(_FIRST)]} {_surname(number // len(_FIRST))}"
        phone = f"+47 {random_numbers.randrange(100, 1000)} {random_numbers.randrange(10, 100)} {number:05d}"
        street = f"{random_numbers.randrange(1, 200)} {random_numbers.choice(_STREETS)} Lane"
        answer = f"{name} lives at {street} and can be reached under {phone}."
        yield {"question": f"How can one reach {name}?", "answer": answer, "subject": name}


def _surname(number: int) -> str:
    syllables = ("bra", "del", "fin", "gor", "hal", "kir", "lom", "mar", "nor", "sten")
    digits = f"{number:03d}"
    return "".join(syllables[int(digit)] for digit in digits).capitalize()


def _write(path: Path, rows: Iterable[dict[str, str]]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def verify(size: int, folder: Path) -> Callable[[], object]:
    """Search `size` training rows for the secrets of RECORDS records; every tenth row tells one."""
    from relearn.synthesis.checks import verify_file

    records = list(people(RECORDS))
    forget = _write(folder / "forget.jsonl", records)
    rows = (
        {
            "prompt": record["question"],
            "target": record["answer"] if number % 10 == 0 else _VAGUE[number % 4].format(record["subject"]),
        }
        for number in range(size)
        for record in (records[number * 7919 % RECORDS],)
    )
    file = _write(folder / "rows.jsonl", rows)
    return lambda: verify_file(file, forget, folder / "flagged.jsonl")


def plan(size: int, folder: Path) -> Callable[[], object]:
    """Estimate a run of `size` records, half of them to forget and half to keep, with the demo model."""
    from relearn.core.config import Recipe
    from relearn.workflows.run.estimate import plan_lines

    data = {name: str(_write(folder / f"{name}.jsonl", people(size // 2, name))) for name in ("forget", "retain")}
    recipe = Recipe.from_mapping({"model": "smollm2-135m-instruct", "data": data})
    return lambda: plan_lines(recipe)


def retain(size: int, folder: Path) -> Callable[[], object]:
    """Read a retain set of `size` megabytes; see `peak_mib` for the memory."""
    from relearn.core.config import DataSource
    from relearn.data.validation import load_set

    path = folder / "retain.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for part in range(size * 5):
            file.writelines(f"{json.dumps(row)}\n" for row in people(1000, f"{part}"))
    return lambda: load_set((DataSource(path=str(path)),), "retain", "data.retain", [])


def _answers(count: int, name: str) -> Iterable[dict[str, str]]:
    for number, row in enumerate(people(count, name)):
        response = row["answer"] if number % 10 == 0 else _VAGUE[number % 4].format(row["subject"])
        yield {"question": row["question"], "answer": row["answer"], "response": response}


def evaluate(size: int, folder: Path) -> Callable[[], object]:
    """Score `size` answers with all metrics of a default evaluation, half of them of each set, and write the report."""
    from relearn.workflows.evaluate.evaluation import evaluate as evaluate_answers

    files = {name: str(_write(folder / f"{name}.jsonl", _answers(size // 2, name))) for name in ("forget", "retain")}
    return lambda: evaluate_answers(out=folder / "out", **files)


def report(size: int, folder: Path) -> Callable[[], object]:
    """Write the report of an evaluation of `size` answers, without judging them again."""
    from relearn.report.build import write_report
    from relearn.workflows.evaluate.evaluation import evaluate as evaluate_answers

    file = str(_write(folder / "forget.jsonl", _answers(size, "forget")))
    evaluate_answers(out=folder / "out", forget=file, measure=("rouge_l",))
    return lambda: write_report(folder / "out")


PARTS: dict[str, Part] = {
    "verify": Part(2000, "rows", verify),
    "plan": Part(12_500, "records", plan),
    "retain": Part(25, "MB", retain),
    "evaluate": Part(1250, "answers", evaluate),
    "report": Part(1250, "answers", report),
}


def measure(name: str, scale: float = 1.0) -> dict[str, Any]:
    """Time a part at every size; return the sizes, the seconds of CPU and of the clock, and the exponent of the CPU."""
    part = PARTS[name]
    points = []
    for factor in FACTORS:
        size = max(1, round(part.size * factor * scale))
        with tempfile.TemporaryDirectory() as folder:
            run = part.prepare(size, Path(folder))
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            point = {"size": size, "seconds": time.process_time() - cpu, "clock": time.perf_counter() - wall}
        # The largest memory of the process so far, so that one part measured alone has its own.
        point["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        points.append(point)
        print(f"{name}: {size} {part.unit} {point['seconds']:.2f} s, {point['peak_mib']:.0f} MiB", file=sys.stderr)
    exponent = fit([point["size"] for point in points], [point["seconds"] for point in points])
    return {"unit": part.unit, "points": points, "exponent": exponent}


def fit(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Compute the slope of log(seconds) over log(size) by least squares."""
    x, y = [math.log(size) for size in sizes], [math.log(second) for second in seconds]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    pairs = list(zip(x, y, strict=True))
    return sum((a - mean_x) * (b - mean_y) for a, b in pairs) / sum((a - mean_x) ** 2 for a in x)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all by default")
    parser.add_argument("--scale", type=float, default=1.0, help="multiply all sizes")
    parser.add_argument("--out", type=Path, help="write everything measured to this JSON file")
    options = parser.parse_args(arguments)
    if unknown := set(options.parts) - PARTS.keys():
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    found = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": platform.platform(),
        "python": platform.python_version(),
        "parts": {name: measure(name, options.scale) for name in options.parts or PARTS},
    }
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for name, part in found["parts"].items():
        size, seconds, peak = (part["points"][-1][key] for key in ("size", "seconds", "peak_mib"))
        print(f"{name:10} exponent {part['exponent']:.2f}, {seconds:.1f} s, {peak:.0f} MiB for {size} {part['unit']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
