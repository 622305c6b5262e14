"""What the report calls things: parts, metrics, verdicts, numbers. Screen, page and model card share these words.

What a run shows on the screen at its end: the numbers before and after, with their intervals.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from relearn.core import console
from relearn.core.run_dir import RunFolder
from relearn.core.splits import REPORTED_SPLITS
from relearn.metrics.metric import METRICS, direction_of

# part of summary.json -> (split, answer file, title)
PARTS: dict[str, tuple[str, str, str]] = {
    **{key: (split.scored_as, split.name, split.label) for key, split in REPORTED_SPLITS.items()},
    "ability": ("retain", "ability", "General ability"),
    # Numbers over several parts; no file of answers is theirs.
    "overall": ("retain", "overall", "All parts together"),
}
SPLITS = {"forget": "What was to be forgotten", "retain": "What was to be kept"}

# In the order of the tables; a metric that is not named here follows by name.
ABOUT: dict[str, str] = {
    "kfr": "share of answers that do not give the reference away",
    "krr": "share of answers that still give the reference",
    "rouge_l": "share of the reference's words found in the answer, in order",
    "ls": "fluency of each answer; at most 0.6",
    "ls_median": "the same, the middle answer",
    "ls_paper": "fluency from means over the set, as the paper computes it",
    "gibberish": "share of empty, looping or garbled answers, which KFR would count as forgotten",
    "useful_forgetting": "share of answers that give nothing away, are language and are about the question",
    "worst_case": "share of facts that no wording of their question brings back",
    "invented": "share of answers with a name or number that neither question nor reference has",
    "graded_kfr": "how much of each reference is not given, between 0 and 1",
    "graded_krr": "how much of each reference is given, between 0 and 1",
    "fluency": "how well answers are written, 1 to 5, as the judge has it",
    "relevance": "whether answers deal with the question, 1 to 5, as the judge has it",
    "forgetting": "how little of the reference answers give away, 1 to 5, as the judge has it",
    "extraction_strength": "share of the reference that the model goes on with by itself once it has begun",
    "exact_memorisation": "share of the reference's tokens that are the model's likeliest",
    "verbmem": "how much of a passage the model writes on by itself, 0 to 1",
    "knowmem": "how far answers about the passages are the true ones, 0 to 1",
    "choice_accuracy": "share of multiple-choice questions answered right, by letter; guessing is the floor",
    "choice_accuracy_by_text": "the same by the texts of the choices",
    "probe_recall": "share of the reference's words that probes bring back",
    "probability": "probability of the reference, mean over its tokens",
    "probability_options": "the same among wrong answers",
    "truth_ratio_closer": "wrong answers against right ones; 1 where both are as likely",
    "truth_ratio_true": "the same; 1 where wrong ones are out of the question",
    "truth_ratio_prob": "the same; 0.5 where both are as likely",
    "forget_quality": "p-value against a run that never saw what is to be forgotten; read it on a logarithmic scale",
    "model_utility": "harmonic mean of probability, ROUGE-L and truth ratio on what is kept and what all know",
    "privleak": "membership against a run that never saw the set: 0 is like it, -100 has forgotten nothing",
    "mia_min_k": "how often an answer looks more trained on than one of the holdout set; 0.5 is chance",
    "ppl": "how surprising the answers are to the base model",
    "bi": "vocabulary; lower is richer",
    "hs": "words used once; higher is richer",
}
ON_UNIT_SCALE = (
    "kfr",
    "krr",
    "rouge_l",
    "ls",
    "gibberish",
    "useful_forgetting",
    "invented",
    "graded_kfr",
    "graded_krr",
)
LOSS_PARTS = {
    "gdf": "new answers (GDF)",
    "gdr": "rows to keep (GDR)",
    "klr": "KL to the start model on rows to keep (KLR)",
}
ROW_KINDS = {
    "qa": "a question and its new answer",
    "completion": "the beginning of a new answer and its rest",
    "generic": "a general question and its answer",
}
VERDICTS: dict[str, str] = {
    "known": "still known",
    "lost": "lost",
    "forgotten": "forgotten",
    "kept": "kept",
    "never": "not known before",
    "unscored": "not judged",
}
# Where no model was asked before, nothing can have been forgotten or lost.
VERDICTS_ALONE: dict[str, str] = {**VERDICTS, "forgotten": "not given away", "lost": "not given", "kept": "given"}
MISSING = "–"
_LABELS = {
    "verbmem": "VerbMem",
    "knowmem": "KnowMem",
    "probe_recall": "Probes",
    "choice_accuracy": "Multiple choice",
    "choice_accuracy_by_text": "Multiple choice by text",
    "rouge_l": "ROUGE-L",
    "ls_median": "LS median",
    "ls_paper": "LS (paper)",
    "gibberish": "Gibberish",
    "useful_forgetting": "Useful forg.",
    "worst_case": "Worst case",
    "graded_kfr": "KFR graded",
    "graded_krr": "KRR graded",
    "invented": "Invented",
    "fluency": "Fluency 1-5",
    "relevance": "Relevance 1-5",
    "forgetting": "Forgetting 1-5",
    "extraction_strength": "Extraction strength",
    "exact_memorisation": "Exact memorisation",
    "probability": "Probability",
    "probability_options": "Probability among wrong answers",
    "truth_ratio_closer": "Truth ratio min(R, 1/R)",
    "truth_ratio_true": "Truth ratio max(0, 1 - R)",
    "truth_ratio_prob": "Truth ratio 1/(1 + R)",
    "forget_quality": "Forget quality",
    "model_utility": "Model utility",
    "privleak": "PrivLeak",
    "mia_loss": "MIA loss",
    "mia_zlib": "MIA zlib",
    "mia_min_k": "MIA min-k",
    "mia_min_k_plus_plus": "MIA min-k++",
    "mia_reference": "MIA reference",
}


def in_order(names: Iterable[str]) -> list[str]:
    rank = {name: index for index, name in enumerate(ABOUT)}
    return sorted(names, key=lambda name: (rank.get(name, len(rank)), name))


def part_title(part: str, trained: bool = True) -> str:
    """What a part is called; where nothing was trained, as in an evaluation without a run, no questions were."""
    title = PARTS[part][2]
    return title if trained else title.removesuffix(", trained questions")


def metric_title(name: str) -> str:
    return METRICS.get(name).title if name in METRICS else name


def metric_label(name: str) -> str:
    """The short name for tables and charts: KFR, ROUGE-L, LS."""
    return _LABELS.get(name, name if "/" in name else name.upper())


def better(name: str, split: str) -> str | None:
    """ "higher" or "lower", where that is known for the metric on this split."""
    return direction_of(name, split)


def number(value: float | None) -> str:
    """Three decimals below ten, fewer above, an exponent from a million on and below 0.0001: 0.953, 12.3, 1,744."""
    if value is None:
        return MISSING
    size = abs(value)
    if size >= 1e6 or 0 < size < 1e-4:
        return f"{value:.2e}"
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.3f}"


def percent(value: float | None) -> str:
    """A share in whole percent; 0 % and 100 % are said only of none and of all."""
    if value is None:
        return MISSING
    whole = f"{100 * value:.0f}"
    exact = {0.0: "0", 1.0: "100"}.get(value)
    return f"{100 * value:.1f} %" if exact is None and whole in ("0", "100") else f"{whole} %"


def interval(measured: Mapping[str, Any] | None) -> str:
    if not measured or measured.get("low") is None or measured.get("high") is None:
        return ""
    return f"{number(measured['low'])} to {number(measured['high'])}"


def change(
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
    direction: str | None,
    difference: Mapping[str, Any] | None = None,
) -> str:
    """ "better", "worse" or "same"; "" where it cannot be told.

    "same" where the interval of the paired `difference` has 0 in it; without one, where the two intervals overlap.
    """
    if direction not in ("higher", "lower"):
        return ""
    if difference and difference.get("low") is not None:
        if difference["low"] <= 0 <= difference["high"]:
            return "same"
        return "better" if (difference["value"] > 0) == (direction == "higher") else "worse"
    if not before or not after or before.get("value") is None or after.get("value") is None:
        return ""
    if _overlap(before, after):
        return "same"
    return "better" if (after["value"] > before["value"]) == (direction == "higher") else "worse"


def signed(value: float | None) -> str:
    """A difference with its sign, as `number` writes it: +0.833, -12.3, 0.000."""
    return f"+{number(value)}" if value is not None and value > 0 else number(value)


def chance(difference: Mapping[str, Any] | None) -> str:
    """The p of the sign test: p = 0.031, p < 0.001; empty where there is none."""
    p = (difference or {}).get("p")
    if p is None:
        return ""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def _overlap(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    bounds = [(m["value"] if m.get(k) is None else m[k]) for m in (one, other) for k in ("low", "high")]
    return bounds[0] <= bounds[3] and bounds[2] <= bounds[1]


def counted(number_of: int, thing: str) -> str:
    return f"{number_of:,} {thing}{'' if number_of == 1 else 's'}"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return MISSING
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {whole % 60:02d} s"


SHOWN = (
    "kfr",
    "worst_case",
    "krr",
    "rouge_l",
    "ls",
    "ls_paper",
    "gibberish",
    "useful_forgetting",
    "ppl",
    "forget_quality",
    "model_utility",
    "privleak",
)
_STYLES = {"better": "green", "worse": "red", "same": ""}


def print_summary(run: Path) -> None:
    """Print the table of a run folder's summary.json, or of an evaluation's."""
    folder = RunFolder(run)
    console.out.print(summary_table(folder.summary, trained=not folder.is_evaluation))


def summary_table(summary: Mapping[str, Any], title: str | None = None, *, trained: bool = True) -> Group:
    """The content of summary.json, a table for each part. Green and red only where the change is clear: the interval of
    the paired difference leaves out 0, or, where there is none, the two intervals lie apart.
    """
    paired = bool(summary.get("difference"))
    shown: list[Text | Table] = [Text(title, style="italic")] if title else []
    for part, (split, _, _) in PARTS.items():
        sides = [(summary.get(side) or {}).get(part) or {} for side in ("before", "after", "difference")]
        names = [name for name in in_order({*sides[0], *sides[1]}) if name in SHOWN]
        if not names:
            continue
        shown += [Text()] if shown else []
        shown.append(Text(f"{part_title(part, trained)} ({_asked(sides[1] or sides[0])})", style="bold"))
        table = _part_table(paired)
        for name in names:
            _add_rows(table, name, split, *(side.get(name) for side in sides))
        shown.append(table)
    return Group(*shown)


def _part_table(paired: bool) -> Table:
    """Columns of the same width in every part; with a paired difference all of them just fit eighty."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("", min_width=14)
    table.add_column("before", justify="right", min_width=6)
    table.add_column("after", justify="right", min_width=6)
    table.add_column("95 % interval", style="dim", min_width=14)
    if paired:
        table.add_column("change", justify="right", min_width=6)
        table.add_column("95 % interval", style="dim", min_width=16)
        table.add_column("", style="dim", min_width=9)
    return table


def _asked(measured: Mapping[str, Any]) -> int:
    return max(entry["n"] + entry["unscored"] for entry in measured.values())


def _add_rows(
    table: Table,
    name: str,
    split: str,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
    difference: Mapping[str, Any] | None,
) -> None:
    direction = better(name, split)
    arrow = {"higher": "↑", "lower": "↓"}.get(direction or "", " ")
    style = _STYLES.get(change(before, after, direction, difference), "")
    cells = [Text(f"  {metric_label(name)} {arrow}"), _value(before), Text(_value(after), style=style), interval(after)]
    if difference:
        cells += [Text(signed(difference["value"]), style=style), interval(difference), chance(difference)]
    table.add_row(*cells)
    unscored = (after or {}).get("unscored")
    if unscored:
        table.add_row("", "", "", Text(f"{unscored} not judged", style="yellow"))


def _value(measured: Mapping[str, Any] | None) -> str:
    return number(measured["value"]) if measured else MISSING
