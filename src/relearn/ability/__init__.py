"""Measure general ability before and after unlearning: on local task files and through lm-eval."""

from relearn.ability.local_tasks import TaskScore
from relearn.ability.measure import ability_scores, check_ability, measure_ability

__all__ = ["TaskScore", "ability_scores", "check_ability", "measure_ability"]
