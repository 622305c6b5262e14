"""Which metric sees what: true answers damaged step by step, and how far each metric falls.

    python research/studies/sensitivity.py --out docs/pictures --json results/sensitivity.json

Reads KnowUnDo (validation rows) and TOFU (forget10) from the folder RELEARN_DATA. Each step is compared with the true
answers on the same questions: the paired difference, with its interval over subjects and a sign test.

The truth ratio looks at a model and not at an answer: a model that knows the true answers is asked how likely the
damaged one is against the wrong ones, where the data have some (TOFU). `--learn 6` trains the demo model on the rows of
the study first, `--model` (and `--adapter`) names one that knows them. Without either it is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from damage import damaged, steps

from relearn.core import config
from relearn.data import Record, content_id
from relearn.data.loaders import read_rows
from relearn.data.record import evenly
from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.judges import Judges, make_judges
from relearn.metrics.metric import METRICS, direction_of
from relearn.metrics.paired import difference
from relearn.metrics.score import score
from relearn.report.kfr_krr_plot import standalone
from relearn.report.plots import INK, RC, to_svg
from relearn.text.subjects import find_subject

LEARNER = "smollm2-135m-instruct"
WANTED = ("kfr", "graded_kfr", "useful_forgetting", "rouge_l", "truth_ratio_prob", "gibberish")
# What a metric says is left of the answer; those of forgetting are turned over. The colours can be told apart on light
# and on dark ground, also by the colour-blind (Okabe and Ito 2008).
DRAWN = {
    "kfr": ("1 − KFR", "#d55e00"),
    "graded_kfr": ("1 − graded KFR", "#0072b2"),
    "rouge_l": ("ROUGE-L recall", "#009e73"),
    "truth_ratio_prob": ("truth ratio, P(right)", "#cc79a7"),
    "gibberish": ("share of gibberish", INK["muted"]),
}
TURNED = ("kfr", "graded_kfr")
# Only what lies on one road from whole to nothing is joined by a line.
ROADS = {
    "in full": ("true", "in other words"),
    "false": ("one wrong", "half wrong", "all wrong"),
    "less and less said": ("half removed", "vague", "refusal"),
    "off topic": ("other answer",),
    "no language": ("babble", "loop", "silence"),
}


def main() -> None:
    options = _options()
    settings = config.Metrics(entailment=options.entailment) if options.entailment else config.Metrics()
    judges = make_judges(settings)
    found = {}
    for name, read in (("KnowUnDo", knowundo), ("TOFU", tofu)):
        answers = read(Path(os.environ["RELEARN_DATA"]), options.rows)
        model = _model(options, answers) if answers.wrong else None
        found[name] = study(answers, settings, judges, model=model)
        print(f"\n{name}, {len(answers.rows)} answers\n\n" + "\n".join(table(found[name])), flush=True)
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)
            picture = standalone(chart(found[name], name))
            (options.out / f"sensitivity-{name.lower()}.svg").write_text(picture, encoding="utf-8")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=110, help="answers of each data set, spread evenly over it")
    parser.add_argument("--entailment", help="the judge, where it is not the default")
    parser.add_argument("--model", help="a model that knows the true answers, for the truth ratio")
    parser.add_argument("--adapter", help="its LoRA adapter")
    parser.add_argument("--learn", type=float, help="train it on the rows of the study first, for so many epochs")
    parser.add_argument("--device", default="auto", help="of that model")
    parser.add_argument("--out", type=Path, help="folder for the pictures")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    return parser.parse_args()


@dataclass(frozen=True)
class TrueAnswers:
    """`others`: by row id, the same answer in other words; `wrong`: wrong answers of like form."""

    rows: Sequence[AnswerRow]
    others: Mapping[str, str] = field(default_factory=dict)
    wrong: Mapping[str, Sequence[str]] = field(default_factory=dict)


def knowundo(data: Path, count: int) -> TrueAnswers:
    read = [row for _, row in read_rows(data / "knowundo" / "unlearn_val.json")]
    return TrueAnswers(evenly([_row(row["text"], row["labels"]) for row in read], count))


def tofu(data: Path, count: int) -> TrueAnswers:
    """20 questions each of 20 authors, in the file's order; the author of a question that names nobody is the place."""
    read = [row for _, row in read_rows(data / "tofu" / "forget10_perturbed.json")]
    rows = [_row(row["question"], row["answer"], f"author {at // 20}") for at, row in enumerate(read)]
    others = {row.id: source["paraphrased_answer"] for row, source in zip(rows, read, strict=True)}
    wrong = {row.id: source["perturbed_answer"] for row, source in zip(rows, read, strict=True)}
    return TrueAnswers(evenly(rows, count), others, wrong)


def _row(question: str, answer: str, subject: str | None = None) -> AnswerRow:
    return AnswerRow(content_id(question, answer), question, answer, "", subject or find_subject(question))


def study(answers: TrueAnswers, settings: config.Metrics, judges: Judges, *, model: Any = None) -> list[dict[str, Any]]:
    """One entry per step: its metrics as in summary.json, and under `difference` what they lost against the truth."""
    made = steps(answers.rows, judges.extractors[0], answers.others)
    names = [name for name in WANTED if name in METRICS and (model is not None or not name.startswith("truth_ratio"))]
    subjects = {row.id: row.subject for row in answers.rows}
    false = {} if model is None else wrong_logprobs(answers.rows, answers.wrong, model)
    entries: list[dict[str, Any]] = []
    true = None
    for step in made:
        said = damaged(answers.rows, step)
        said = said if model is None else with_logprobs(said, false, model)
        measured = dict(score(said, "forget", settings, judges=judges, names=names).measurements)
        true = true or measured
        changed = {
            name: difference(name, "forget", true[name], found, subjects, settings) for name, found in measured.items()
        }
        entries.append(
            {
                "step": step.name,
                "about": step.about,
                "answers": len(said),
                "metrics": {name: found.to_dict() for name, found in measured.items()},
                "difference": {name: found.to_dict() for name, found in changed.items() if found},
            }
        )
    return entries


def _model(options: argparse.Namespace, answers: TrueAnswers) -> Any:
    """None where neither --model nor --learn is given."""
    from relearn.models.load import load

    if not (options.model or options.learn):
        return None
    spec = config.Model(name=options.model or LEARNER, adapter=options.adapter, device=options.device, dtype="float32")
    return learned(spec, answers.rows, options.learn) if options.learn else load(spec)


def learned(spec: config.Model, rows: Sequence[AnswerRow], epochs: float) -> Any:
    """The model with the true answers in it: a LoRA adapter, merged."""
    from relearn.models.load import load
    from relearn.unlearning.train import learn

    records = [Record(row.question, row.reference, row.id) for row in rows]
    settings = config.Learn(data=(config.DataSource(path="rows in memory"),), epochs=epochs, precision="bfloat16")
    with tempfile.TemporaryDirectory() as folder:
        learn(load(spec), records, settings, folder=Path(folder), seed=0, log=lambda **_: None)
        return load(spec, adapters=(Path(folder) / "start",))


Wrong = Mapping[str, tuple[tuple[float, ...], ...]]


def wrong_logprobs(rows: Sequence[AnswerRow], wrong: Mapping[str, Sequence[str]], loaded: Any) -> Wrong:
    """By row id, the log-probabilities of every wrong answer; the same at every step."""
    texts = [(row, text) for row in rows for text in wrong.get(row.id, ())]
    found = iter(_logprobs(texts, loaded))
    return {row.id: tuple(next(found) for _ in wrong[row.id]) for row in rows if wrong.get(row.id)}


def with_logprobs(rows: Sequence[AnswerRow], wrong: Wrong, loaded: Any) -> list[AnswerRow]:
    """Each row with the log-probabilities of its response, in the place of the right answer, and of the wrong ones."""
    found = _logprobs([(row, row.response) for row in rows], loaded)
    return [
        replace(row, paraphrased_logprobs=own, perturbed_logprobs=wrong.get(row.id))
        for row, own in zip(rows, found, strict=True)
    ]


def _logprobs(texts: Sequence[tuple[AnswerRow, str]], loaded: Any) -> list[tuple[float, ...]]:
    from relearn.engine.forward import answer_logprobs
    from relearn.unlearning.data.encode import Example, encode

    encoded = encode(loaded.chat, [Example(row.id, row.question, text) for row, text in texts])
    return [tuple(piece.tolist()) for piece in answer_logprobs(loaded.model, encoded)]


def table(entries: Sequence[dict[str, Any]]) -> list[str]:
    """Markdown: the value of every metric at every step; a star where it differs from the true answers' (interval of
    the paired difference without 0)."""
    names = [name for name in WANTED if name in entries[0]["metrics"]]
    lines = ["| answers | n | " + " | ".join(names) + " |", "|---|---:|" + "---:|" * len(names)]
    for entry in entries:
        cells = [_cell(entry, name) for name in names]
        lines.append(f"| {entry['step']} | {entry['answers']} | " + " | ".join(cells) + " |")
    arrows = {"higher": "↑", "lower": "↓"}
    better = ", ".join(f"{name} {arrows.get(direction_of(name, 'forget') or '', '')}" for name in names)
    return [*lines, "", f"Better for a set to forget: {better}."]


def _cell(entry: dict[str, Any], name: str) -> str:
    measured, changed = entry["metrics"][name], entry["difference"].get(name, {})
    if measured["value"] is None:
        return "–"
    clear = changed.get("low") is not None and not changed["low"] <= 0 <= changed["high"]
    left_out = f" ({measured['unscored']} unscored)" if measured["unscored"] else ""
    return f"{measured['value']:.2f}{'*' if clear else ''}{left_out}"


def chart(entries: Sequence[dict[str, Any]], title: str) -> str:
    """What is left of the answer by each metric, over the steps, with 95 % intervals."""
    import matplotlib
    from matplotlib.figure import Figure

    roads = [[at for at, entry in enumerate(entries) if entry["step"] in names] for names in ROADS.values()]
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(9.0, 4.2), layout="constrained")
        axes = figure.add_subplot()
        axes.tick_params(length=0)
        for step, (metric, (label, ink)) in enumerate(DRAWN.items()):
            if not any(_left(entry, metric) for entry in entries):
                continue
            axes.plot([], [], "s" if metric == "gibberish" else "o", color=ink, markersize=4, label=label)
            for road in roads:
                _draw_road(axes, [(at, *(_left(entries[at], metric) or ())) for at in road], metric, ink, step)
        for name, road in zip(ROADS, roads, strict=True):
            if road:
                axes.text((road[0] + road[-1]) / 2, 1.07, name, ha="center", color=INK["muted"])
                axes.axvline(road[-1] + 0.5, color=INK["grid"], linewidth=1)
        axes.set(xlim=(-0.5, len(entries) - 0.5), ylim=(-0.04, 1.14), ylabel=f"{title}: what is left, by each metric")
        axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
        axes.set_xticks(range(len(entries)), [entry["step"].replace(" ", "\n") for entry in entries], va="top")
        axes.grid(axis="y")
        axes.legend(frameon=False, labelcolor=INK["ink"], loc="lower left", bbox_to_anchor=(0, 1), ncols=len(DRAWN))
    return to_svg(figure, f"sensitivity-{title.lower()}", f"{title}: what each metric says is left of damaged answers")


def _draw_road(axes: Any, points: Sequence[tuple[float, ...]], metric: str, ink: str, step: int) -> None:
    """Side by side, so that metrics that say the same can both be seen."""
    known = [point for point in points if len(point) > 1]
    if not known:
        return
    places, values, lows, highs = zip(*known, strict=True)
    xs = [at + 0.09 * (step - (len(DRAWN) - 1) / 2) for at in places]
    style = "s:" if metric == "gibberish" else "o-"
    axes.plot(xs, values, style, color=ink, markersize=4, linewidth=1.4)
    axes.vlines(xs, lows, highs, color=ink, alpha=0.5, linewidth=1)


def _left(entry: dict[str, Any], metric: str) -> tuple[float, float, float] | None:
    found = entry["metrics"].get(metric)
    if not found or found["value"] is None:
        return None
    values = found["value"], found["low"], found["high"]
    return (1 - values[0], 1 - values[2], 1 - values[1]) if metric in TURNED else values


if __name__ == "__main__":
    main()
