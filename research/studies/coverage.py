"""Whether the intervals of shares contain the true share, in a simulation of facts about subjects.

    python research/studies/coverage.py --json results/intervals/coverage.json

A data set has some subjects with 2 to 6 facts each (uniform). The share of a subject's facts that are 1 is drawn from a
beta distribution with the true rate as its mean, so that two facts of one subject have the given correlation. Measured
are the coverage and the mean width of `binomial_interval` and of the bootstrap over subjects. Two widths are beside
them, both Clopper-Pearson's with the share that was drawn: over the effective number of subjects, (sum of sizes)^2 /
(sum of squared sizes), and over the effective number of facts, which needs the true correlation: no interval from data
alone can have it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import betaincinv

from relearn.metrics.intervals import TAIL, binomial_interval, mean_interval

SUBJECTS = (8, 12)
FACTS = (2, 6)
RATES = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99)
CORRELATIONS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
# Other shapes of data, (subjects, least facts, most facts): one fact each, two authors, six persons, TOFU's forget10.
OTHERS = ((64, 1, 1), (2, 20, 20), (6, 10, 10), (20, 20, 20))
DRAWS = 200
COLUMNS = ("coverage", "coverage_bootstrap", "width", "ratio_to_effective_subjects", "ratio_to_effective_facts")


def main() -> None:
    arguments = read_arguments()
    shapes = [(subjects, *FACTS) for subjects in SUBJECTS] + list(OTHERS)
    cells = [
        cell(shape, rate, correlation, arguments)
        for shape in shapes
        for rate in RATES
        for correlation in (CORRELATIONS if shape[2] > 1 else (0.0,))
    ]
    content = {"data_sets": arguments.sets, "seed": arguments.seed, "draws": DRAWS, "cells": cells}
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(content, indent=1) + "\n")
    print(table(cells))


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=Path("results/intervals/coverage.json"))
    parser.add_argument("--sets", type=int, default=2000, help="data sets of each kind")
    parser.add_argument("--bootstrapped", type=int, default=400, help="of these, data sets for the bootstrap")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def cell(shape: tuple[int, int, int], rate: float, correlation: float, arguments: argparse.Namespace) -> dict[str, Any]:
    """Simulate data sets of one shape, rate and correlation."""
    rng = np.random.default_rng([arguments.seed, *shape, round(1000 * rate), round(1000 * correlation)])
    own, bootstrapped, by_subjects, by_facts = [], [], [], []
    for number in range(arguments.sets):
        values, labels = simulated(shape, rate, correlation, rng)
        share, *interval = binomial_interval(values, clusters=labels)
        own.append(interval)
        sizes = np.bincount(labels)
        mean_size = np.square(sizes).sum() / len(values)
        by_subjects.append(clopper_pearson(share, len(values) / mean_size))
        by_facts.append(clopper_pearson(share, len(values) / (1 + (mean_size - 1) * correlation)))
        if number < arguments.bootstrapped:
            bootstrapped.append(mean_interval(values, clusters=labels, resamples=DRAWS, seed=number)[1:])
    width = mean_width(own)
    return {
        "subjects": shape[0],
        "facts": list(shape[1:]),
        "rate": rate,
        "correlation": correlation,
        "coverage": covered(own, rate),
        "coverage_bootstrap": covered(bootstrapped, rate),
        "width": width,
        "width_bootstrap": mean_width(bootstrapped),
        "ratio_to_effective_subjects": round(width / mean_width(by_subjects), 3),
        "ratio_to_effective_facts": round(width / mean_width(by_facts), 3),
    }


def simulated(
    shape: tuple[int, int, int], rate: float, correlation: float, rng: np.random.Generator
) -> tuple[list[float], list[int]]:
    """Draw the values of all facts, 0 or 1, and the number of the subject of each."""
    subjects, least, most = shape
    sizes = rng.integers(least, most + 1, size=subjects)
    if correlation:
        total = 1 / correlation - 1
        shares = np.nan_to_num(rng.beta(rate * total, (1 - rate) * total, size=subjects), nan=rate)
    else:
        shares = np.full(subjects, rate)
    labels = np.repeat(np.arange(subjects), sizes)
    return (rng.random(len(labels)) < shares[labels]).astype(float).tolist(), labels.tolist()


def clopper_pearson(share: float, count: float) -> tuple[float, float]:
    ones, zeros = share * count, (1 - share) * count
    low = betaincinv(ones, zeros + 1, TAIL) if share > 0 else 0.0
    high = betaincinv(ones + 1, zeros, 1 - TAIL) if share < 1 else 1.0
    return float(low), float(high)


def covered(intervals: list[Any], rate: float) -> float:
    return round(float(np.mean([low <= rate <= high for low, high in intervals])), 4)


def mean_width(intervals: list[Any]) -> float:
    return round(float(np.mean([high - low for low, high in intervals])), 4)


def table(cells: list[dict[str, Any]]) -> str:
    """Format one line per shape and rate: the range over the correlations."""
    lines = ["| subjects x facts | rate | coverage | by bootstrap | width | of subjects | of facts |", "|---" * 7 + "|"]
    for shape in dict.fromkeys((one["subjects"], *one["facts"]) for one in cells):
        for rate in RATES:
            same = [one for one in cells if (one["subjects"], *one["facts"]) == shape and one["rate"] == rate]
            found = [[one[name] for one in same] for name in COLUMNS]
            ranges = [f"{min(own):.2f} to {max(own):.2f}" for own in found]
            facts = f"{shape[1]} to {shape[2]}" if shape[1] != shape[2] else str(shape[1])
            lines.append(f"| {shape[0]} x {facts} | {rate} | {' | '.join(ranges)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
