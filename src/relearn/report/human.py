"""Make a form in which people rate answers without knowing the run, and compute the results (`relearn human`).

The form is one HTML page without external resources. It shows the answers of several runs to the same questions in an
order shuffled by a seed, under blind numbers, and saves the grades as CSV. The key from numbers to runs is a second
file, which the raters do not get. Grades and rubrics are those of the judges (metrics/prompts/): forgetting (only for
sets to forget), relevance and fluency, from 1 to 5.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import permutations
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.table import Table
from rich.text import Text

from relearn.core import console
from relearn.core.errors import InputError
from relearn.core.files import read_json, write_json, write_text
from relearn.core.ownership import refuse_overwrite
from relearn.core.registry import suggest
from relearn.core.run_dir import RunFolder
from relearn.core.splits import SPLITS
from relearn.data.record import evenly
from relearn.metrics.answer_row import asked_first
from relearn.metrics.intervals import group, share_interval
from relearn.report.html import render_with_script
from relearn.report.labels import MISSING, counted, number

ASPECTS = ("forgetting", "relevance", "fluency")
GRADES = {str(grade): grade for grade in range(1, 6)}
COLUMNS = ("form", "rater", "item", *ASPECTS)
FORMAT = 1
NOT_ONE = "not measured: an agreement needs two raters of the same answers"
ALL_EQUAL = "not measured: all grades are equal"
# aspect -> item of the form -> rater -> grade
Ratings = dict[str, dict[str, dict[str, int]]]


@dataclass(frozen=True)
class FormItem:
    """Hold an answer to be rated, and where it comes from: the number of the run, the split, and the answer's row."""

    run: int
    split: str
    row: Mapping[str, Any]


def make_form(
    runs: Sequence[Path], out: Path, *, seed: int = 0, questions: int = 20, splits: Sequence[str] = ("forget",)
) -> Path:
    """Write the form `out` and its key beside it; return the path of the key.

    runs: folders of runs or evaluations. questions: the maximum number of questions of each split, chosen evenly from
    those that all runs answered. Raises InputError, before anything is written, for a folder without answers, runs
    without a common question, and a form that exists.
    """
    key_path = out.with_suffix(".key.json")
    for path in (out, key_path):
        if path.exists() or path.is_symlink():
            raise InputError("is there already", where=str(path), way_out="name a new --out, so that no key is lost")
    if questions < 1:
        raise InputError(f"is {questions}", where="--questions", way_out="at least 1")
    if doubled := [run for run, count in Counter(run.resolve() for run in runs).items() if count > 1]:
        raise InputError("is named twice", where=str(doubled[0]))
    items = [item for split in splits for item in _items(runs, split, questions)]
    random.Random(f"human {seed}").shuffle(items)
    width = len(str(len(items)))
    named = {f"a{place:0{width}}": item for place, item in enumerate(items, 1)}
    form = _form_id(seed, items)
    key = {
        "relearn_form": FORMAT,
        "form": form,
        "seed": seed,
        "runs": _names(runs),
        "items": {
            name: {"run": item.run, "split": item.split, "id": item.row["id"], "subject": item.row.get("subject")}
            for name, item in named.items()
        },
    }
    write_json(key_path, key)
    write_text(out, _page(form, named))
    return key_path


def _items(runs: Sequence[Path], split: str, questions: int) -> list[FormItem]:
    """Return the answers of all runs to evenly chosen questions of a split."""
    if split not in SPLITS:
        raise InputError(f"no set {split!r}", where="--sets", way_out=suggest(split, list(SPLITS)))
    answers = [_answers(run, split) for run in runs]
    common = [key for key in answers[0] if all(key in own for own in answers)]
    if not common:
        raise InputError(f"these runs have no {split} question in common", way_out="name runs on the same data")
    return [FormItem(run, split, own[key]) for key in evenly(common, questions) for run, own in enumerate(answers)]


def _answers(run: Path, split: str) -> dict[tuple[str, ...], dict[str, Any]]:
    """Return the answers after unlearning, by id, question and true answer."""
    folder = RunFolder.existing(run)
    rows = asked_first(folder.answers("after", split))
    if not rows:
        problem = "no answers there; the run is not finished, was purged, or has no such set"
        raise InputError(problem, where=str(folder.answers_path("after", split)), way_out="relearn run RECIPE --resume")
    return {(row["id"], row["question"], row["reference"]): row for row in rows}


def _names(runs: Sequence[Path]) -> list[str]:
    """Name each run by its folder, or by the whole path if two folders have one name."""
    names = [run.resolve().name for run in runs]
    return names if len(set(names)) == len(names) else [str(run) for run in runs]


def _form_id(seed: int, items: Sequence[FormItem]) -> str:
    content = [seed, [[item.run, item.split, item.row["id"], item.row["response"]] for item in items]]
    return f"form-{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]}"


def aspects_of(split: str) -> tuple[str, ...]:
    """Return the aspects that are rated on a split: without forgetting where nothing is to be forgotten."""
    return ASPECTS if SPLITS[split].scored_as == "forget" else ASPECTS[1:]


def _page(form: str, items: Mapping[str, FormItem]) -> str:
    shown = [{**item.row, "name": name, "aspects": aspects_of(item.split)} for name, item in items.items()]
    rubrics = {aspect: _rubric(aspect) for aspect in ASPECTS}
    return render_with_script("human.html", form=form, items=shown, rubrics=rubrics)


def _rubric(aspect: str) -> tuple[str, list[str]]:
    """Read what an aspect is about and what its five grades mean from the judges' prompt."""
    text = resources.files("relearn.metrics").joinpath("prompts", f"{aspect}.txt").read_text(encoding="utf-8")
    first, *lines = text.splitlines()
    about = first.partition("You grade ")[2]
    return about, [line for line in lines if re.match(r"[1-5]: ", line)]


def human_results(forms: Sequence[Path], key_path: Path, out: Path | None = None) -> dict[str, Any]:
    """Compute means, intervals and agreement of the filled-in `forms` (CSV); write them to `out` if it is given.

    Raises InputError for a file that is no key or no form of this key, and for a grade that is not 1 to 5.
    """
    if out is not None:
        refuse_overwrite([out], [*forms, key_path])
    key = _read_key(key_path)
    ratings: Ratings = {aspect: {} for aspect in ASPECTS}
    places: dict[tuple[str, str], str] = {}
    for path in forms:
        _read_form(path, key, ratings, places)
    if not any(ratings.values()):
        raise InputError("no grade given", where=", ".join(map(str, forms)), way_out="rate answers, then save the form")
    splits = {item["split"] for item in key["items"].values()}
    asked = {aspect: ratings[aspect] for aspect in ASPECTS if any(aspect in aspects_of(split) for split in splits)}
    results = {"form": key["form"], "measured": _measured(key, ratings), "agreement": _agreement(asked)}
    if out is not None:
        write_json(out, results)
    return results


def _read_key(path: Path) -> dict[str, Any]:
    key = read_json(path)
    if not isinstance(key, dict) or key.get("relearn_form") != FORMAT:
        raise InputError("is no key of a form", where=str(path), way_out="FORM.key.json, written beside the form")
    return key


def _read_form(path: Path, key: Mapping[str, Any], ratings: Ratings, places: dict[tuple[str, str], str]) -> None:
    """Add the grades of one file to `ratings`; `places` has the place of each rater's row of an item."""
    for line, row in _csv_rows(path):
        where = f"{path}, line {line}"
        if row["form"] != key["form"]:
            problem = f"is of the form {row['form']!r}, the key of {key['form']!r}"
            raise InputError(problem, where=where, way_out="give the key of this form with --key")
        if (item := key["items"].get(row["item"])) is None:
            raise InputError(f"the form has no answer {row['item']!r}", where=where)
        rater = row["rater"].strip() or path.stem
        if (first := places.setdefault((rater, row["item"]), where)) != where:
            problem = f"{rater!r} has rated answer {row['item']!r} before, in {first}"
            raise InputError(problem, where=where, way_out="give every rater another name in the column rater")
        for aspect in ASPECTS:
            if value := row[aspect].strip():
                ratings[aspect].setdefault(row["item"], {})[rater] = _grade(value, aspect, item["split"], where)


def _csv_rows(path: Path) -> Iterable[tuple[int, dict[str, str]]]:
    """Yield line number and row; spreadsheets may have changed the separator to a semicolon."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        header = text.partition("\n")[0]
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=";" if ";" in header else ",", restval="")
        rows = [(reader.line_num, row) for row in reader]
    except FileNotFoundError:
        raise InputError("no such file", where=str(path)) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot be read as CSV: {error}", where=str(path)) from None
    if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
        problem = f"has no column {missing[0]!r}"
        raise InputError(problem, where=str(path), way_out=f"a file saved by the form: {', '.join(COLUMNS)}")
    return [(line, {name: row[name] for name in COLUMNS}) for line, row in rows]


def _grade(value: str, aspect: str, split: str, where: str) -> int:
    if value not in GRADES:
        raise InputError(f"{aspect} is {value!r}", where=where, way_out="a whole number from 1 to 5, or nothing")
    if aspect not in aspects_of(split):
        raise InputError(f"{aspect} is not asked about {SPLITS[split].label!r}", where=where, way_out="leave it empty")
    return GRADES[value]


def _measured(key: Mapping[str, Any], ratings: Ratings) -> list[dict[str, Any]]:
    """Compute the mean grade of every run, split and aspect: of each answer over its raters, then over the answers."""
    entries = []
    for split in dict.fromkeys(item["split"] for item in key["items"].values()):
        for number_of, run in enumerate(key["runs"]):
            own = {
                name: item for name, item in key["items"].items() if (item["run"], item["split"]) == (number_of, split)
            }
            names = sorted(own, key=lambda name: str(own[name]["id"]))
            for aspect in aspects_of(split):
                rated = [name for name in names if name in ratings[aspect]]
                means = [fmean(ratings[aspect][name].values()) for name in rated]
                subjects = [own[name]["subject"] for name in rated]
                entry = {"run": run, "split": split, "aspect": aspect, **_mean(means, subjects)}
                entries.append({**entry, "n": len(rated), "unrated": len(names) - len(rated)})
    return entries


def _mean(means: Sequence[float], subjects: Sequence[str | None]) -> dict[str, Any]:
    if not means:
        return {"mean": None, "low": None, "high": None, "clusters": 0}
    value, low, high = share_interval(means, clusters=subjects, bounds=(1.0, 5.0))
    return {"mean": value, "low": low, "high": high, "clusters": group(subjects, len(means)).count}


def _agreement(ratings: Ratings) -> dict[str, dict[str, Any]]:
    """Compute the agreement of the raters in each aspect; a note says why it was not measured."""
    found = {}
    for aspect, by_item in ratings.items():
        units = [list(by_rater.values()) for by_rater in by_item.values()]
        shared = [unit for unit in units if len(unit) > 1]
        alpha = krippendorff_alpha(shared)
        raters = {rater for by_rater in by_item.values() for rater in by_rater}
        found[aspect] = {"alpha": alpha, "raters": len(raters), "answers": len(shared)}
        if alpha is None:
            found[aspect]["note"] = ALL_EQUAL if shared else NOT_ONE
    return found


def krippendorff_alpha(units: Iterable[Sequence[int]]) -> float | None:
    """Compute Krippendorff's alpha of ordinal grades; `units`: the grades of each answer.

    1: the raters agree; 0: as by chance; below: they agree less. None if no answer has two grades, or all grades are
    equal. The squared distance of two grades is that of their ranks: the number of grades from one to the other, the
    two ends counted half.
    """
    paired = [unit for unit in units if len(unit) > 1]
    counts = Counter(grade for unit in paired for grade in unit)

    def distance(one: int, other: int) -> float:
        between = sum(count for grade, count in counts.items() if min(one, other) <= grade <= max(one, other))
        return (between - (counts[one] + counts[other]) / 2) ** 2

    observed = sum(sum(distance(*pair) for pair in permutations(unit, 2)) / (len(unit) - 1) for unit in paired)
    expected = sum(counts[one] * counts[other] * distance(one, other) for one, other in permutations(counts, 2))
    return 1 - observed * (counts.total() - 1) / expected if expected else None


def print_human(results: Mapping[str, Any]) -> None:
    """Print the mean grades by run and set, and the agreement of the raters."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    for name in ("run", "set", "aspect", "mean", "95 % interval", "answers", "unrated"):
        table.add_column(name, justify="left" if name in ("run", "set", "aspect") else "right", overflow="fold")
    for entry in results["measured"]:
        interval = MISSING if entry["low"] is None else f"{entry['low']:.2f} to {entry['high']:.2f}"
        mean = "not rated" if entry["mean"] is None else f"{entry['mean']:.2f}"
        cells = (entry["run"], entry["split"], entry["aspect"], mean, interval, entry["n"], entry["unrated"])
        table.add_row(*(Text(console.visible(str(cell))) for cell in cells))
    console.out.print(table)
    for aspect, found in results["agreement"].items():
        shown = found.get("note") or f"{number(found['alpha'])} over {found['answers']} answers"
        line = f"agreement in {aspect} (Krippendorff's alpha, {counted(found['raters'], 'rater')}): {shown}"
        console.out.print(line, markup=False, soft_wrap=True)
