"""What is set after the built-in judge's training: how much evidence its calls need, and the temperature."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[2] / "research" / "judge_training"))

from calibrate import deductions, fitted_temperature

ENTAILMENT, NEUTRAL, CONTRADICTION = range(3)


def called(margins: list[float], call: int) -> torch.Tensor:
    """Logits of pairs in which `call` lies so far above neutral, and the third far below both."""
    logits = torch.zeros(len(margins), 3, dtype=torch.float64)
    logits[:, 2 - call] = -50
    logits[:, call] = torch.tensor(margins, dtype=torch.float64)
    return logits


def test_the_deduction_leaves_the_most_calls_that_are_right_often_enough():
    """Contradictions by margins 5 4 3 2 1, of which 5 4 2 are: right are 1/1, 2/2, 2/3, 3/4, 3/5. For 3/4 the last one
    has to go, so something between 2 and 1 comes off; for 4/5 all but two, something between 4 and 3. Entailments are
    right as they are."""
    logits = torch.cat([called([5, 4, 3, 2, 1], CONTRADICTION), called([3, 2], ENTAILMENT)])
    labels = torch.tensor([CONTRADICTION, CONTRADICTION, NEUTRAL, CONTRADICTION, NEUTRAL, ENTAILMENT, ENTAILMENT])
    assert deductions(logits, labels, 0.75).tolist() == [0, 0, 1.5]
    assert deductions(logits, labels, 0.8).tolist() == [0, 0, 3.5]
    assert deductions(logits, labels, 0.6).tolist() == [0, 0, 0]


def test_both_calls_reach_the_precision_when_one_drives_pairs_to_the_other():
    torch.manual_seed(1)
    labels = torch.randint(0, 3, (3000,))
    logits = torch.randn(3000, 3, dtype=torch.float64) + 1.2 * torch.nn.functional.one_hot(labels, 3)
    taken = deductions(logits, labels, 0.8)
    answers = (logits - taken).argmax(1)
    assert taken[NEUTRAL] == 0
    for call in (ENTAILMENT, CONTRADICTION):
        assert taken[call] > 0
        right = (labels[answers == call] == call).double().mean()
        # As low as it may be: one pair of some hundreds more would be too many.
        assert 0.8 <= right < 0.81
    assert deductions(logits - taken, labels, 0.8).tolist() == [0, 0, 0]


def test_a_precision_out_of_reach_is_an_error():
    logits = torch.cat([called([2, 1], CONTRADICTION), called([1], ENTAILMENT)])
    with pytest.raises(ValueError, match="no number of calls of contradiction"):
        deductions(logits, torch.tensor([NEUTRAL, CONTRADICTION, ENTAILMENT]), 0.9)


def test_the_temperature_by_hand():
    """Two answers by ln 9, right in 3 of 4: softened to 3:1 they are as sure as right, so 9^(1/T) = 3 and T = 2."""
    logits = torch.tensor([[math.log(9), 0.0]] * 4, dtype=torch.float64)
    assert fitted_temperature(logits, torch.tensor([0, 0, 0, 1])) == pytest.approx(2, abs=1e-4)
