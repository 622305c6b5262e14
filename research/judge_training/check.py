"""Score the built-in entailment judge on every set: `python research/judge_training/check.py --data DATA`.

Writes scores.json and calibration.svg beside this file. No set here was trained on: of SNLI the test part, of SICK the
test part, of the TOFU pairs those of the forget side, of the pairs about facts those of held-out wordings and words.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from facts import held_out_facts
from stories import held_out_stories

from data import Pair, read_pairs
from relearn.metrics.entailment_builtin.judge import BuiltinJudge, load_builtin
from relearn.metrics.nli import LABELS

HERE = Path(__file__).parent
BINS = 15
BATCH = 256


def sets(data: Path) -> dict[str, list[Pair]]:
    nli = data / "nli"
    tofu = [pair for pair, row in read_pairs(nli / "tofu_nli.jsonl") if row["source"] == "tofu_forget10"]
    return {
        "SNLI test": [pair for pair, _ in read_pairs(nli / "snli_test.jsonl.gz")],
        "SICK test": [pair for pair, _ in read_pairs(nli / "SICK_test_annotated.jsonl")],
        "TOFU forget10": tofu,
        "facts held out": held_out_facts(),
        "longer answers held out": held_out_stories(),
    }


def all_logits(judge: BuiltinJudge, pairs: Sequence[Pair]) -> torch.Tensor:
    """(pairs, 3), float64, before the temperature."""
    order = sorted(range(len(pairs)), key=lambda index: sum(map(len, pairs[index][:2])))
    found = torch.empty(len(pairs), len(LABELS), dtype=torch.float64)
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        found[torch.tensor(rows)] = judge.logits([pairs[row][:2] for row in rows]).double().cpu()
    return found


def scores(probabilities: np.ndarray, labels: np.ndarray) -> dict:
    """`confusion`: one row for each true label, one column for each answer, both in the order of the labels."""
    answers = probabilities.argmax(1)
    confusion = np.zeros((len(LABELS), len(LABELS)), dtype=int)
    np.add.at(confusion, (labels, answers), 1)
    right = np.diag(confusion)
    f1 = 2 * right / np.maximum(confusion.sum(0) + confusion.sum(1), 1)
    return {
        "pairs": len(labels),
        "accuracy": round(float(right.sum() / len(labels)), 4),
        "macro_f1": round(float(f1.mean()), 4),
        "commonest_label": round(float(confusion.sum(1).max() / len(labels)), 4),
        "confusion": confusion.tolist(),
    }


def reliability(probabilities: np.ndarray, labels: np.ndarray) -> list[tuple[float, float, int]]:
    """Mean confidence, share of right answers and number of pairs, for each bin of the top probability that has any."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    at = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return [
        (float(confidence[at == number].mean()), float(right[at == number].mean()), int((at == number).sum()))
        for number in np.unique(at)
    ]


def calibration_error(bins: Sequence[tuple[float, float, int]]) -> float:
    """The expected calibration error (arXiv 1706.04599): how far confidence is from accuracy, on average over pairs."""
    whole = sum(count for _, _, count in bins)
    return sum(count * abs(confidence - right) for confidence, right, count in bins) / whole


def plot(curves: dict[str, list[tuple[float, float, int]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams["svg.hashsalt"] = "calibration"
    figure, axes = plt.subplots(figsize=(5.4, 4.6), layout="constrained")
    axes.plot([1 / 3, 1], [1 / 3, 1], color="0.7", linewidth=1, label="as sure as right")
    for marker, (name, bins) in zip("osD^v", curves.items(), strict=False):
        shown = [(confidence, right) for confidence, right, count in bins if count >= 20]
        error = f"{name} (error {calibration_error(bins):.3f})"
        axes.plot(*zip(*shown, strict=True), marker=marker, markersize=4, linewidth=1.2, label=error)
    axes.set(
        xlabel="probability of the judge's answer", ylabel="share of right answers", xlim=(0.3, 1.02), ylim=(0, 1.02)
    )
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds nli/")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--fast", action="store_true", help="products in bfloat16, where the processor has them")
    given = parser.parse_args()
    torch.set_float32_matmul_precision("medium" if given.fast else "highest")
    judge = load_builtin()
    found: dict[str, dict] = {}
    curves = {}
    for name, pairs in sets(given.data).items():
        logits = all_logits(judge, pairs)
        labels = np.array([LABELS.index(pair.label) for pair in pairs])  # type: ignore[arg-type]
        softened = torch.softmax(logits / judge.temperature, dim=-1).numpy()
        curves[name] = reliability(softened, labels)
        raw = calibration_error(reliability(torch.softmax(logits, dim=-1).numpy(), labels))
        found[name] = scores(softened, labels) | {
            "calibration_error": round(calibration_error(curves[name]), 4),
            "calibration_error_without_temperature": round(raw, 4),
        }
        print(name, found[name], flush=True)
    record = {"judge": judge.name, "fast": given.fast, "labels": list(LABELS), "sets": found}
    (given.out / "scores.json").write_text(json.dumps(record, indent=1) + "\n")
    plot(curves, given.out / "calibration.svg")


if __name__ == "__main__":
    main()
